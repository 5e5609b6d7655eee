//! Without root: in a user, network and mount namespace of one's own, as `unshare -rnm` makes it.

use std::process::{Command, Stdio};

use lab::{DEADLINE, Lab, Outcome, binary, case, collect, sys};

/// host-helper with these words in such namespaces, /run/hawser a tmpfs of their own.
fn run(lab: &Lab, words: &str) -> Outcome {
    let script = format!(
        "mkdir -p /run/hawser && mount -t tmpfs -o mode=0700 run /run/hawser && exec {} {}",
        binary().display(),
        words.replace("ROOTFS", &lab.rootfs.to_string_lossy())
    );
    let mut command = Command::new("unshare");
    command
        .args(["-rnm", "sh", "-c", &script])
        .stdin(Stdio::null());
    if lab.real_root {
        // As a human has them; in such a namespace they cannot be given up.
        sys::with_groups(&mut command, &[27, 1000]);
    }
    collect(command, DEADLINE)
}

/// A script in such namespaces, for which `$HAWSER` and `$ROOTFS` are there.
fn with_hawser(lab: &Lab, script: &str) -> Outcome {
    let script =
        format!("mkdir -p /run/hawser && mount -t tmpfs -o mode=0700 run /run/hawser\n{script}");
    let mut command = Command::new("unshare");
    command
        .args(["-rnm", "sh", "-c", &script])
        .env("HAWSER", binary())
        .env("ROOTFS", &lab.rootfs)
        .stdin(Stdio::null());
    collect(command, DEADLINE)
}

#[test]
fn a_container_with_a_network() {
    case(|lab| {
        for (network, gateway) in [("bridge", "172.19.0.1"), ("ptp", "10.0.0.1")] {
            let words =
                format!("run --network {network} --rootfs ROOTFS -- ping -c 1 -W 2 {gateway}");
            let text = run(lab, &words).ok();
            assert!(text.contains("1 packets received"), "{network}: {text}");
        }
        assert_eq!(
            run(lab, "run --network none --rootfs ROOTFS -- sh -c 'exit 7'").code,
            7
        );
        run(lab, "run --rootfs ROOTFS -- no-such-command").exits(127);
        run(lab, "run -t --rootfs ROOTFS -- tty").exits(0);
    });
}

/// The kernel gives no socket there as much room as an answer may need.
#[test]
fn a_long_command_is_told_whole() {
    case(|lab| {
        let script = r#"
            word=$(head -c 122880 /dev/zero | tr '\0' x)
            set -- $word $word $word $word $word $word $word $word
            "$HAWSER" run -d --network none --name big --rootfs "$ROOTFS" -- sh -c 'sleep 1000' "$@" >/dev/null || exit
            "$HAWSER" inspect big | tail -c 2; "$HAWSER" exec big true && "$HAWSER" ls | grep -o '^big' && "$HAWSER" stop --grace 0 big"#;
        assert_eq!(with_hawser(lab, script).ok(), "}\nbig");
    });
}

/// Such a namespace has limits of its own for the namespaces in it, which are the kernel's exact count of them.
#[test]
fn the_last_namespace_of_a_container_goes() {
    case(|lab| {
        let script = r#"
            # The least limit of a kind with which one more can be made.
            least() { for limit in $(seq 0 40); do
                echo $limit >/proc/sys/user/max_$1_namespaces; unshare $2 true 2>/dev/null && break; done; echo $limit; }
            kinds='net:-n mnt:-m pid:-pf ipc:-i uts:-u cgroup:-C'
            run() { "$HAWSER" run --rootfs "$ROOTFS" "$@" || exit; }
            for kind in $kinds; do
                name=${kind%:*}; eval first_$name=$(least $name ${kind#*:})
                echo 1000 >/proc/sys/user/max_${name}_namespaces
            done
            for round in $(seq 10); do
                run -- true; run -p 8080:80 --init -- true; run --network ptp -- true; run --network none -- true
                "$HAWSER" run --rootfs "$ROOTFS" -- no-such-command 2>/dev/null && exit 1
                run -d --name web -- sleep 1000 >/dev/null
                "$HAWSER" exec web true && "$HAWSER" port add web 8081:80 >/dev/null && "$HAWSER" stop web && "$HAWSER" rm web || exit
                mkfifo /run/hawser-guest; unshare -n sh -c 'echo >/run/hawser-guest; exec sleep 1000' & guest=$!
                read -r ready </run/hawser-guest; rm /run/hawser-guest
                "$HAWSER" attach $guest >/dev/null && "$HAWSER" detach $guest || exit
                { kill $guest; wait $guest; } 2>/dev/null
            done
            # They go when whoever outlives the containers has gone, and the kernel has the time.
            for kind in $kinds; do
                name=${kind%:*}; eval first=\$first_$name
                echo $first >/proc/sys/user/max_${name}_namespaces
                tries=0
                until unshare ${kind#*:} true 2>/dev/null; do
                    tries=$((tries + 1)); [ $tries -lt 5000 ] || { echo "$name: more than $first"; exit 1; }
                done
                echo $name $first
            done"#;
        let said = with_hawser(lab, script).ok();
        assert_eq!(said.lines().count(), 6, "{said}");
    });
}

#[test]
fn it_is_no_more_than_its_user() {
    case(|lab| {
        let status = run(lab, "run --rootfs ROOTFS -- cat /proc/self/status").ok();
        for line in [
            "CapEff:\t00000000a80425fb",
            "CapBnd:\t00000000a80425fb",
            "NoNewPrivs:\t1",
        ] {
            assert!(status.contains(line), "{line}: {status}");
        }
    });
}

#[test]
fn what_needs_more_is_refused_with_the_reason() {
    case(|lab| {
        run(lab, "run -- true").refused(&["--rootfs"]);
        let outcome = run(lab, "run -u 1000 --rootfs ROOTFS -- true").exits(125);
        assert_eq!(outcome.err().lines().count(), 1, "{outcome}");
    });
}

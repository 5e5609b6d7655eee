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

//! After a run: no veth, no mount, no file, no process. Bridge and tables stay: they are the network.

use lab::{Snapshot, Watch, case, packets, sh, strace};

#[test]
fn nothing_is_left_of_a_run() {
    packets(|lab| {
        let before = lab.with_network();
        lab.run(&[], &["true"]).ok();
        lab.run(
            &["--name", "web", "--ip", "172.19.0.9"],
            &["sh", "-c", "exit 5"],
        )
        .exits(5);
        lab.run(&["--network", "none"], &["true"]).ok();
        lab.run(&["--network", "host"], &["true"]).ok();
        lab.run(&[], &["no-such-command"]).exits(127);
        lab.run(&["-v", "/run/lab:/srv", "--tmpfs", "/tmp"], &["true"])
            .ok();
        lab.run(&["-t"], &["true"]).exits(0);
        before.assert_back();
    });
}

#[test]
fn the_first_run_leaves_the_network_and_nothing_else() {
    case(|lab| {
        let links = sh("ip -o link | wc -l");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
        let watch = Watch::new();
        lab.run(&[], &["true"]).ok();
        let one_more = (links.trim().parse::<u32>().expect("a number") + 1).to_string();
        watch.until(|| sh("ip -o link | wc -l").trim() == one_more);
        assert_eq!(
            sh("ip -o link | wc -l").trim(),
            one_more,
            "hawser0: {}",
            sh("ip -o link")
        );
        assert_eq!(sh("nft list tables").lines().count(), 1, "inet hawser");
        assert_eq!(
            std::fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo"),
            mounts
        );
        let files: Vec<_> = std::fs::read_dir("/run/hawser")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert!(
            files
                .iter()
                .all(|name| !name.to_string_lossy().ends_with(".sock")),
            "{files:?}"
        );
    });
}

#[test]
fn nothing_is_left_of_a_ptp_run() {
    case(|lab| {
        let _stays = lab.start_idle(&["--network", "ptp"]);
        let before = Snapshot::take();
        lab.run(&["--network", "ptp"], &["true"]).ok();
        before.assert_back();
    });
}

#[test]
fn run_hawser_is_roots_alone() {
    case(|lab| {
        let _one = lab.start_idle(&[]);
        assert_eq!(sh("stat -c '%a %u' /run/hawser"), "700 0\n");
    });
}

#[test]
fn nothing_is_left_of_a_refused_first_run() {
    case(|lab| {
        let before = Snapshot::take();
        lab.hawser(&["run", "--rootfs", "/no/such/place", "--", "true"])
            .exits(125);
        lab.run(&["--ip", "10.99.0.1"], &["true"]).exits(125);
        lab.run(&["--mtu", "1"], &["true"]).exits(125);
        lab.run(&["-u", "stranger"], &["true"]).exits(125);
        before.assert_back();
    });
}

/// Stops the helper with a signal at the first, third, fifth... of its system calls, up to the last.
fn interrupted(lab: &lab::Lab, signal: &str, options: &[&str]) {
    lab.run(options, &["true"]).ok();
    lab.settle();
    let before = Snapshot::take();
    let plain = lab.run_command(options, &["true"]);
    let file = lab.dir.join("trace");
    let path = file.to_string_lossy();
    let outcome = lab::collect(strace::traced(&plain, &[], &path), lab::DEADLINE);
    assert_eq!(outcome.code, 0, "{outcome}");
    let calls = std::fs::read_to_string(&file)
        .expect("the trace")
        .lines()
        .count();
    assert!(calls > 20, "a run makes more than {calls} system calls");
    let mut ended_early = 0;
    for at in (2..=calls).step_by(3) {
        let inject = format!("inject=all:signal={signal}:when={at}");
        let command = strace::traced(
            &lab.run_command(options, &["true"]),
            &["-e", &inject],
            &path,
        );
        let outcome = lab::collect(command, lab::DEADLINE);
        ended_early += i32::from(outcome.code != 0);
        if signal != "KILL" {
            assert!(
                [0, 125, 128 + 2, 128 + 15, -2, -15].contains(&outcome.code),
                "{signal} at call {at}: {outcome}"
            );
        }
        let _ = std::fs::remove_file(&file);
        if signal == "KILL" {
            // A dead helper leaves its socket behind; that is a stale name, and the next start of that name takes it.
            for entry in std::fs::read_dir("/run/hawser")
                .into_iter()
                .flatten()
                .flatten()
            {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        before.assert_back_after(&format!("{signal} at system call {at} of {calls}"));
    }
    assert!(ended_early > 0, "not one of them was interrupted");
}

#[test]
fn an_interrupt_at_any_moment_leaves_nothing() {
    case(|lab| interrupted(lab, "INT", &["--name", "web"]));
}

#[test]
fn a_termination_at_any_moment_leaves_nothing() {
    case(|lab| interrupted(lab, "TERM", &["--ip", "172.19.0.9"]));
}

#[test]
fn a_kill_at_any_moment_leaves_nothing_but_a_stale_name() {
    case(|lab| interrupted(lab, "KILL", &["--name", "web", "--ip", "172.19.0.9"]));
}

//! No process but the command is ever executed; and what a start says to the kernel, and waits for.

use lab::{DEADLINE, Lab, case, collect, strace};

/// The lines of the successful execs of a run.
fn execs(lab: &Lab, options: &[&str], command: &[&str]) -> Vec<String> {
    let trace = lab.dir.join("trace");
    let _ = std::fs::remove_file(&trace);
    let plain = lab.run_command(options, command);
    let traced = strace::traced(
        &plain,
        &[
            "-f",
            "-qq",
            "-e",
            "trace=execve,execveat",
            "-e",
            "signal=none",
        ],
        &trace.to_string_lossy(),
    );
    collect(traced, DEADLINE).exits(0);
    let text = std::fs::read_to_string(&trace).expect("the trace");
    text.lines()
        .filter(|line| line.trim_end().ends_with("= 0"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn one_exec_of_init_and_one_of_the_command() {
    case(|lab| {
        for options in [
            &[][..],
            &["--network", "ptp"],
            &["--network", "none"],
            &["-t"],
            &["-u", "0", "--name", "web"],
        ] {
            let execs = execs(lab, options, &["/bin/true"]);
            assert_eq!(
                execs.len(),
                3,
                "{options:?}: host-helper itself, init, the command: {execs:#?}"
            );
            assert!(execs[0].contains("host-helper"), "{execs:#?}");
            assert!(execs[2].contains("/bin/true"), "{execs:#?}");
        }
    });
}

#[test]
fn nor_by_the_first_run_nor_up_nor_down() {
    case(|lab| {
        for arguments in [&["up"][..], &["ls"], &["down"]] {
            let trace = lab.dir.join("trace");
            let traced = strace::traced(
                &lab.command(arguments),
                &["-f", "-qq", "-e", "trace=execve,execveat"],
                &trace.to_string_lossy(),
            );
            collect(traced, DEADLINE).exits(0);
            let text = std::fs::read_to_string(&trace).expect("the trace");
            assert_eq!(
                text.lines().filter(|line| line.contains("exec")).count(),
                1,
                "{text}"
            );
        }
    });
}

#[test]
fn nothing_of_ours_runs_inside_beside_the_command() {
    case(|lab| {
        let seen = lab
            .run_sh(
                &[],
                "for p in /proc/[0-9]*; do read name < $p/comm && echo $name; done; true",
            )
            .ok();
        assert_eq!(seen, "sh", "{seen}");
    });
}

/// What a start on a network that is there may say: today 70 netlink messages (23 of them look whether our chains are there, in one
/// go) by 27 system calls.
const MESSAGES: usize = 80;
const SENDS: usize = 30;

#[test]
fn a_start_says_little_and_waits_for_events_alone() {
    case(|lab| {
        lab.with_network();
        let trace = lab.dir.join("trace");
        let calls = "trace=sendto,sendmsg,poll,ppoll,select,pselect6,epoll_wait,epoll_pwait,nanosleep,clock_nanosleep,execve";
        let traced = strace::traced(
            &lab.run_command(&[], &["/bin/true"]),
            &["-f", "-v", "-qq", "-e", "signal=none", "-e", calls],
            &trace.to_string_lossy(),
        );
        collect(traced, DEADLINE).exits(0);
        let text = std::fs::read_to_string(&trace).expect("the trace");
        let messages = text.matches("nlmsg_len=").count();
        assert!((1..=MESSAGES).contains(&messages), "{messages}: {text}");
        let sends = text.lines().filter(|line| line.contains("nlmsg_len="));
        assert!((1..=SENDS).contains(&sends.count()), "{text}");
        assert!(!text.contains("nanosleep("), "{text}");
        assert!(!text.contains("select"), "{text}");
        let (start, _) = text.split_once("execve(\"/bin/true\"").expect("its exec");
        let polls = start.lines().filter_map(|line| {
            let (_, rest) = line.split_once(" poll(")?;
            let (_, timeout) = rest.split_once("], ")?;
            let timeout = timeout.split([')', '<', ' ']).nth(1)?;
            Some((timeout.trim().parse::<i32>().expect("milliseconds"), line))
        });
        let polls: Vec<_> = polls.collect();
        assert!(polls.len() > 2, "{text}");
        for (timeout, line) in polls {
            // Behind `ready` it waits until it may begin to follow the host's resolvers.
            let is_no_try = matches!(timeout, -1 | 0 | 400..=500);
            assert!(is_no_try, "{line} waits by the clock");
        }
    });
}

#[test]
fn ports_take_no_walk_through_connections_of_others() {
    case(|lab| {
        lab.with_network();
        let client = std::net::UdpSocket::bind("127.0.0.1:0").expect("a client");
        client.send_to(b"x", "127.0.0.1:9").expect("send");
        let count = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
        assert_ne!(count.expect("how many").trim(), "0");
        let trace = lab.dir.join("trace");
        let traced = strace::traced(
            &lab.run_command(&["-p", "8080:80"], &["/bin/true"]),
            &["-f", "-v", "-qq", "-e", "signal=none", "-e", "trace=sendto"],
            &trace.to_string_lossy(),
        );
        collect(traced, DEADLINE).exits(0);
        let text = std::fs::read_to_string(&trace).expect("the trace");
        assert!(text.contains("IPCTNL_MSG_CT_GET_STATS"), "{text}");
        assert!(!text.contains("IPCTNL_MSG_CT_GET,"), "{text}");
    });
}

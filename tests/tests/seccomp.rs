//! The filter of system calls: what it refuses, that it is the filter that refuses it, and what works under it.

use lab::{Lab, Outcome, case, sh};

/// `attempt` in a container: a dynamic program of the C library's, with the host's libraries.
fn attempt(lab: &Lab, options: &[&str], names: &[&str]) -> Outcome {
    let program = format!("{}:/attempt:ro", env!("CARGO_BIN_EXE_attempt"));
    let binds: Vec<String> = ["/lib", "/lib64", "/usr"]
        .iter()
        .filter(|path| std::path::Path::new(path).exists())
        .map(|path| format!("{path}:{path}:ro"))
        .chain([program])
        .collect();
    let binds = binds.iter().flat_map(|bind| ["-v", bind.as_str()]);
    let options: Vec<&str> = options.iter().copied().chain(binds).collect();
    lab.run(&options, &[&["/attempt"], names].concat())
}

/// What became of each.
fn answers(lab: &Lab, options: &[&str], names: &[&str]) -> Vec<String> {
    let text = attempt(lab, options, names).ok();
    text.lines().map(str::to_owned).collect()
}

/// None of these needs a capability to come as far as it does here: what stands before it is the filter.
const REFUSED: [&str; 15] = [
    "add_key",
    "request_key",
    "keyctl",
    "clone",
    "unshare",
    "setns",
    "mount",
    "umount2",
    "open_tree",
    "io_uring_setup",
    "userfaultfd",
    "perf_event_open",
    "kcmp",
    "pidfd_getfd",
    "personality",
];

#[test]
fn what_is_refused_is_refused_by_the_filter() {
    case(|lab| {
        let expected = REFUSED.map(|name| format!("{name} EPERM"));
        assert_eq!(answers(lab, &[], &REFUSED), expected);
        for name in REFUSED {
            let answer = answers(lab, &["--seccomp=unconfined"], &[name]);
            assert!(!answer[0].ends_with("EPERM"), "without it: {answer:?}");
        }
    });
}

/// What the caller's session holds, keys of its file systems say, is not for containers; nor is one's what another's is.
#[test]
fn each_container_has_a_session_keyring_of_its_own() {
    case(|lab| {
        let inside = || answers(lab, &["--seccomp=unconfined"], &["session_keyring"]).remove(0);
        let hosts = sh(&format!(
            "{} session_keyring",
            env!("CARGO_BIN_EXE_attempt")
        ));
        let (one, another) = (inside(), inside());
        for answer in [&hosts, &one, &another] {
            let number = answer.trim().strip_prefix("session_keyring ");
            assert!(
                number.is_some_and(|number| number.parse::<u32>().is_ok()),
                "{answer}"
            );
        }
        assert!(
            hosts.trim() != one && hosts.trim() != another && one != another,
            "{hosts} {one} {another}"
        );
    });
}

#[test]
fn a_namespace_of_users_is_out_of_reach() {
    case(|lab| {
        let script = "unshare -Ur id -u";
        let refused = lab.run_sh(&[], script);
        assert!(refused.code != 0 && refused.out().is_empty(), "{refused}");
        assert_eq!(lab.run_sh(&["--seccomp=unconfined"], script).ok(), "0");
    });
}

#[test]
fn families_of_sockets() {
    case(|lab| {
        let names = [
            "AF_ALG",
            "AF_VSOCK",
            "AF_DECnet",
            "AF_NOBODY",
            "pair of AF_NOBODY",
        ];
        let refused = names.map(|name| format!("{name} EPERM"));
        assert_eq!(answers(lab, &[], &names), refused);
        assert_eq!(answers(lab, &["--cap-add=all"], &names), refused);
        assert_eq!(answers(lab, &[], &["AF_NETLINK"]), ["AF_NETLINK done"]);
        let seen = answers(lab, &["--seccomp=unconfined"], &names);
        assert!(seen.iter().all(|line| !line.ends_with("EPERM")), "{seen:?}");
    });
}

#[test]
fn what_everybody_may_is_the_kernels_to_judge() {
    case(|lab| {
        let mut names = vec!["statmount", "listmount"];
        names.extend(cfg!(target_arch = "x86_64").then_some("modify_ldt"));
        let seen = answers(lab, &[], &names);
        assert_eq!(seen, answers(lab, &["--seccomp=unconfined"], &names));
        assert!(seen.iter().all(|line| !line.ends_with("EPERM")), "{seen:?}");
    });
}

#[test]
fn what_a_capability_is_for_comes_with_it() {
    case(|lab| {
        if !lab.real_root {
            return lab::skip("the kernel asks for these capabilities in its first namespace");
        }
        for (capability, call, beyond) in [
            ("dac_read_search", "open_by_handle_at", "EFAULT"),
            ("bpf", "bpf", "EFAULT"),
            ("perfmon", "perf_event_open", "EINVAL"),
            ("sys_admin", "clone", "done"),
            ("sys_admin", "setns", "EBADF"),
            ("sys_admin", "clone3", "EINVAL"),
            ("sys_admin", "lsm_list_modules", "EFAULT"),
            ("sys_ptrace", "pidfd_getfd", "EBADF"),
        ] {
            let without = answers(lab, &[], &[call]);
            let refused = [format!("{call} EPERM"), format!("{call} ENOSYS")];
            assert!(refused.contains(&without[0]), "{without:?}");
            let with = answers(lab, &["--cap-add", capability], &[call]);
            assert_ne!(with, without, "{capability}");
            // Not every kernel has these.
            if !["bpf", "lsm_list_modules"].contains(&call) {
                assert_eq!(with, [format!("{call} {beyond}")], "{capability}");
            }
        }
        assert_eq!(
            answers(lab, &["--cap-drop=sys_chroot"], &["chroot"]),
            ["chroot EPERM"]
        );
        // With every capability too.
        let never = ["add_key", "io_uring_setup", "kexec_load", "userfaultfd"];
        for line in answers(lab, &["--cap-add=all"], &never) {
            assert!(line.ends_with("EPERM"), "{line}");
        }
    });
}

#[test]
fn what_is_newer_is_unknown_so_that_programs_do_without() {
    case(|lab| {
        assert_eq!(answers(lab, &[], &["clone3"]), ["clone3 ENOSYS"]);
        let unconfined = ["--seccomp=unconfined"];
        assert_eq!(answers(lab, &unconfined, &["clone3"]), ["clone3 EINVAL"]);
    });
}

#[test]
fn threads_and_children_and_debuggers_work() {
    case(|lab| {
        let names = ["threads", "ptrace", "PER_LINUX32", "chroot"];
        let seen = answers(lab, &[], &names);
        assert_eq!(seen, names.map(|name| format!("{name} done")));
    });
}

#[test]
fn programs_of_musl_work() {
    case(|lab| {
        let source = lab.dir.join("threads.c");
        let text = "#include <pthread.h>\n#include <stdio.h>\n#include <sys/wait.h>\n#include <unistd.h>\n\
            static void *run(void *at) { *(int *)at = 1; return 0; }\n\
            int main(void) {\n\
                pthread_t thread; int one = 0, status;\n\
                if (pthread_create(&thread, 0, run, &one) || pthread_join(thread, 0) || !one) return 1;\n\
                pid_t child = fork();\n\
                if (!child) execl(\"/bin/true\", \"true\", (char *)0);\n\
                if (waitpid(child, &status, 0) != child || status) return 2;\n\
                FILE *shell = popen(\"echo said\", \"r\"); char line[9];\n\
                return !fgets(line, 9, shell) || puts(line) < 0;\n\
            }\n";
        std::fs::write(&source, text).expect("write a program");
        let program = lab.rootfs.join("threads");
        sh(&format!(
            "musl-gcc -static -o {} {}",
            program.display(),
            source.display()
        ));
        assert_eq!(lab.run(&[], &["/threads"]).ok(), "said");
    });
}

#[test]
fn a_shell_does_its_work() {
    case(|lab| {
        let script = "mkfifo /tmp/f; (echo a | tr a b > /tmp/f) & cat /tmp/f; mknod /tmp/n p; chown 0 /tmp/n; ln -s f /tmp/l; \
            stat -c %u /tmp/n; timeout 5 sh -c 'kill -9 $$'; echo $?; find /proc/self/ -maxdepth 1 -name status; rm -r /tmp/*";
        let seen = lab.run_sh(&[], script);
        assert!(
            seen.out().starts_with("b\n0\n137\n/proc/self/status\n"),
            "{seen}"
        );
    });
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_32_bit_call_ends_the_program() {
    case(|lab| {
        let outcome = attempt(lab, &[], &["getpid", "int80"]);
        // SIGSYS. The first word was in a buffer.
        assert_eq!(outcome.code, 128 + 31, "{outcome}");
    });
}

#[test]
fn exec_is_under_the_filter_of_its_container() {
    case(|lab| {
        let filters = |name: &str| {
            let text = lab
                .hawser(&[
                    "exec",
                    "--no-tty",
                    name,
                    "grep",
                    "Seccomp",
                    "/proc/self/status",
                ])
                .ok();
            let numbers: Vec<String> = text
                .lines()
                .filter_map(|line| line.split('\t').nth(1).map(str::to_owned))
                .collect();
            numbers.join(" ")
        };
        for (name, option, expected) in [
            ("shut", "--seccomp=default", "2 1"),
            ("open", "--seccomp=unconfined", "0 0"),
        ] {
            lab.run(&["-d", "--name", name, option], &["sleep", "1000"])
                .ok();
            assert_eq!(filters(name), expected, "{name}");
            let own = lab.run_sh(&[option], "grep Seccomp /proc/1/status").ok();
            let mode = expected.split(' ').next().unwrap_or_default();
            assert!(own.starts_with(&format!("Seccomp:\t{mode}")), "{own}");
        }
        let script = "unshare -Ur id -u";
        assert_ne!(lab.hawser(&["exec", "shut", "sh", "-c", script]).code, 0);
        assert_eq!(lab.hawser(&["exec", "open", "sh", "-c", script]).ok(), "0");
    });
}

#[test]
fn it_needs_no_no_new_privileges_and_holds_for_every_user() {
    case(|lab| {
        let all = ["--no-new-privileges=off"];
        let status = lab
            .run_sh(&all, "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status")
            .ok();
        assert_eq!(status, "NoNewPrivs:\t0\nSeccomp:\t2");
        assert_eq!(
            lab.run(&["--init"], &["grep", "Seccomp:", "/proc/1/status"])
                .ok(),
            "Seccomp:\t2"
        );
        if !lab.real_root {
            return lab::skip("another user id needs real root");
        }
        assert_eq!(
            answers(lab, &["-u", "1000"], &["unshare", "threads"]),
            ["unshare EPERM", "threads done"]
        );
    });
}

#[test]
fn another_word_is_refused() {
    case(|lab| {
        lab.run(&["--seccomp=some"], &["true"])
            .refused(&["some", "default, unconfined"])
    });
}

//! No process but the command is ever executed.

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

//! init in the place of docker-init, of podman-init, of podman's pause program, and of an image's entry point: with the
//! real dockerd and podman, by nothing but a link.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use lab::{
    DEADLINE, Lab, Running, Runtime, case, children, collect, init_binary, sys, wait_for_end,
};

/// What a command sees as its PID 1, in three lines: the program, its arguments, and that they are its own.
const LOOK: &str = "readlink /proc/1/exe; tr '\\0' ' ' </proc/1/cmdline; echo; echo $PPID; exit 7";

/// What `--init` promises, with either runtime; `path` is where it puts the program.
fn stands_in(runtime: &Runtime, path: &str) {
    let outcome = runtime
        .run(&["--rm", "--init", "box", "sh", "-c", LOOK])
        .exits(7);
    let out = outcome.out();
    let wanted = [path.to_owned(), format!("{path} -- sh -c"), "1".to_owned()];
    for (line, wanted) in out.lines().zip(&wanted) {
        assert!(line.starts_with(wanted.as_str()), "{wanted}: {outcome}");
    }
    assert!(
        outcome.stderr.is_empty(),
        "nothing is said that the command does not say: {outcome}"
    );
    runtime.run(&["--rm", "--init", "box", "true"]).ok();
    runtime
        .run(&["--rm", "--init", "box", "sh", "-c", "kill -9 $$"])
        .exits(137);
    runtime
        .run(&["--rm", "--init", "box", "no-such-command"])
        .exits(127);
    runtime
        .run(&["--rm", "--init", "box", "/etc/passwd"])
        .exits(126);
}

/// Starts a container with a name that says "up".
fn start(runtime: &Runtime, name: &str, options: &[&str], script: &str) -> Running {
    let words = [&["--rm", "--name", name], options, &["sh", "-c", script]].concat();
    let mut command = runtime.run_command(&words);
    command.stdin(Stdio::null());
    let mut running = Running::spawn(command);
    running.until("up");
    running
}

/// TERM reaches the command, and the container ends with the command's own code as soon as the command has.
fn stops(runtime: &Runtime) {
    for (script, code) in [
        (
            "trap 'echo closing; exit 6' TERM; echo up; sleep 1000 & wait",
            6,
        ),
        ("echo up; exec sleep 1000", 143),
    ] {
        let running = start(runtime, "web", &["--init", "box"], script);
        let outcome = runtime.call(&["stop", "--time", "10", "web"]).exits(0);
        assert!(
            outcome.elapsed.as_secs() < 8,
            "not after the ten seconds: {outcome}"
        );
        let ended = running.end().exits(code);
        assert_eq!(ended.out().contains("closing"), code == 6, "{ended}");
    }
}

fn first_process(runtime: &Runtime, name: &str) -> i32 {
    let pid = runtime
        .call(&["inspect", "--format", "{{.State.Pid}}", name])
        .ok();
    pid.parse().expect("a process id")
}

/// PID 1 is ours, whatever it is called, and reaps what the command has left.
fn reaps(runtime: &Runtime) {
    let script = "sh -c 'sleep 1000 >/dev/null 2>&1 &'; trap 'echo synced' WINCH; trap 'exit 0' TERM; echo up; \
        sleep 1000 >/dev/null 2>&1 & while :; do wait; done";
    let mut running = start(runtime, "web", &["--init", "box"], script);
    let first = first_process(runtime, "web");
    assert_ours(first);
    let below = children(first);
    let [_, orphan] = below[..] else {
        panic!("the command and an orphan, not {below:?}")
    };
    end_orphan(orphan);
    // SIGCHLD has a lower number and is taken first; the second is passed on when that is done with.
    for _ in 0..2 {
        runtime.call(&["kill", "--signal", "WINCH", "web"]).exits(0);
        running.until("synced");
    }
    assert!(
        !Path::new(&format!("/proc/{orphan}")).exists(),
        "a zombie is left"
    );
    runtime.call(&["stop", "web"]).exits(0);
    running.end().exits(0);
}

fn end_orphan(orphan: i32) {
    let process = sys::pidfd(orphan).expect("pidfd of an orphan");
    sys::pidfd_signal(&process, libc::SIGKILL).expect("kill it");
    wait_for_end(orphan);
}

/// The program of a process is this init, byte for byte.
#[track_caller]
fn assert_ours(pid: i32) {
    let ours = fs::read(init_binary()).expect("read init");
    let theirs = fs::read(format!("/proc/{pid}/exe")).expect("read the program of a process");
    assert!(ours == theirs, "process {pid} is another program");
}

fn import(runtime: &Runtime, archive: &Path, image: &str, changes: &[&str]) {
    let mut words = vec!["import"];
    for change in changes {
        words.extend(["--change", change]);
    }
    let archive = archive.to_string_lossy();
    runtime
        .call(&[&words[..], &[&archive, image]].concat())
        .exits(0);
}

#[test]
fn docker_takes_it_for_its_own_init() {
    case(|lab| {
        let Some(docker) = lab.docker(Some(&lab.link("docker-init"))) else {
            return;
        };
        let version = docker.call(&["version"]).ok();
        let (_, init) = version
            .split_once("docker-init:")
            .expect("docker version says it");
        let number = format!("Version:          {}", env!("CARGO_PKG_VERSION"));
        assert!(
            init.contains(&number),
            "it understands what --version says: {init}"
        );
        let info = docker.call(&["info"]).exits(0);
        assert!(info.out().contains("Init Binary:"), "{info}");
        assert!(!info.err().contains("init"), "no warning about it: {info}");
        import(&docker, &lab.archive("box", &[]), "box", &[]);
        stands_in(&docker, "/sbin/docker-init");
        stops(&docker);
        reaps(&docker);
        docker.end();
    });
}

#[test]
fn podman_takes_it_for_its_own_init() {
    case(|lab| {
        let Some(mut podman) = lab.podman() else {
            return;
        };
        let link = lab
            .link("podman-init")
            .to_string_lossy()
            .into_owned()
            .leak();
        podman.options = vec!["--init-path", link];
        import(&podman, &lab.archive("box", &[]), "box", &[]);
        stands_in(&podman, "/run/podman-init");
        stops(&podman);
        reaps(&podman);
    });
}

/// podman makes the image of a pod's first container from the program `catatonit`, and runs it as `/catatonit -P`.
#[test]
fn podman_pauses_with_it() {
    case(|lab| {
        let Some(podman) = lab.podman() else { return };
        import(&podman, &lab.archive("box", &[]), "box", &[]);
        podman
            .call(&["pod", "create", "--name", "pod", "--share", "ipc,uts"])
            .exits(0);
        podman.call(&["pod", "start", "pod"]).exits(0);
        let infra = podman
            .call(&["pod", "inspect", "--format", "{{.InfraContainerID}}", "pod"])
            .ok();
        let pause = first_process(&podman, &infra);
        assert_ours(pause);
        let words =
            fs::read_to_string(format!("/proc/{pause}/cmdline")).expect("read its arguments");
        assert_eq!(words, "/catatonit\0-P\0");
        let script = "readlink /proc/self/ns/ipc";
        let outcome = podman.run(&["--rm", "--pod", "pod", "box", "sh", "-c", script]);
        let place =
            fs::read_link(format!("/proc/{pause}/ns/ipc")).expect("a namespace of the pause");
        assert_eq!(
            outcome.ok(),
            place.to_string_lossy(),
            "it holds the pod's namespaces"
        );
        let outcome = podman
            .call(&["pod", "stop", "--time", "10", "pod"])
            .exits(0);
        assert!(
            outcome.elapsed.as_secs() < 8,
            "not after the ten seconds: {outcome}"
        );
        let code = podman
            .call(&["inspect", "--format", "{{.State.ExitCode}}", &infra])
            .ok();
        assert_eq!(code, "0", "TERM ends it well");
        podman.call(&["pod", "rm", "pod"]).exits(0);
    });
}

/// For an ordinary user podman keeps a user namespace by `catatonit -P`, which it looks for in fixed places.
#[test]
fn podman_without_root_pauses_with_it() {
    case(|lab| {
        let Some(podman) = lab.podman() else {
            return;
        };
        let home = lab.dir.join("podman");
        for place in ["/usr/libexec/podman/catatonit", "/usr/bin/catatonit"] {
            let _ = fs::remove_file(place);
            fs::copy(init_binary(), place).expect("put it in the place of catatonit");
        }
        std::os::unix::fs::chown(&home, Some(1000), Some(1000)).expect("give a directory away");
        let call = |arguments: &[&str]| {
            let mut command = podman.command(arguments);
            command
                .env("HOME", &home)
                .env("XDG_RUNTIME_DIR", &home)
                .current_dir(&home);
            // Whatever it leaves in the background has nothing of ours open.
            sys::as_user(&mut command, 1000);
            collect(command, DEADLINE)
        };
        let words = ["unshare", "readlink", "/proc/self/ns/user"];
        let first = call(&words).exits(0);
        let pid =
            fs::read_to_string(home.join("libpod/tmp/pause.pid")).expect("podman says who pauses");
        let pause: i32 = pid.trim().parse().expect("a process id");
        assert_ours(pause);
        let held = fs::read_link(format!("/proc/{pause}/ns/user")).expect("its user namespace");
        assert_eq!(first.out().trim(), held.to_string_lossy());
        assert_eq!(
            call(&words).exits(0).out(),
            first.out(),
            "the next one joins it"
        );
        call(&["system", "migrate"]).exits(0);
        wait_for_end(pause);
    });
}

/// The same image twice, but for the program at one place.
#[test]
fn an_entry_point_is_switched_by_a_link() {
    case(|lab: &mut Lab| {
        let Some(docker) = lab.docker(None) else {
            return;
        };
        let ours = init_binary();
        for (name, theirs, entry) in [
            (
                "tini",
                "/usr/bin/tini-static",
                r#"["/usr/bin/tini", "-g", "--"]"#,
            ),
            (
                "catatonit",
                "/usr/bin/catatonit",
                r#"["/usr/bin/catatonit", "--"]"#,
            ),
            ("dumb-init", "", r#"["/usr/bin/dumb-init", "-r", "15:15"]"#),
        ] {
            let place = format!("usr/bin/{name}");
            for (image, program) in [("theirs", Path::new(theirs)), ("ours", &ours)] {
                if program.as_os_str().is_empty() {
                    // Debian's is dynamic: it would need more in the image than itself.
                    continue;
                }
                let archive = lab.archive(&format!("{name}-{image}"), &[(&place, program)]);
                let image = format!("{name}:{image}");
                import(
                    &docker,
                    &archive,
                    &image,
                    &[
                        &format!("ENTRYPOINT {entry}"),
                        r#"CMD ["sh", "-c", "exit 3"]"#,
                    ],
                );
                docker.run(&["--rm", &image]).exits(3);
                let outcome = docker.run(&["--rm", &image, "sh", "-c", LOOK]).exits(7);
                assert!(
                    outcome.out().starts_with(&format!("/{place}\n/{place} ")),
                    "{outcome}"
                );
                // Without a handler: Debian's static shell was now and then ended by SIGSEGV in its own, which is not looked for here.
                let running = start(&docker, "web", &[&image], "echo up; exec sleep 1000");
                docker.call(&["stop", "web"]).exits(0);
                running.end().exits(128 + libc::SIGTERM);
            }
        }
        docker.end();
    });
}

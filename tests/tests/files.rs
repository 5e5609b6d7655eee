//! The container's files: binds, tmpfs, read-only, working directory.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use lab::strace::Stopped;
use lab::{DEADLINE, case, children, collect, sh, wait_untold};

#[test]
fn a_bind_is_seen_and_written_through() {
    case(|lab| {
        let source = lab.dir.join("data");
        fs::create_dir(&source).expect("a directory");
        fs::write(source.join("in"), "from the host").expect("a file");
        let bind = format!("{}:/srv", source.display());
        assert_eq!(
            lab.run_sh(
                &["-v", &format!("{bind}:rw")],
                "cat /srv/in; echo back > /srv/out"
            )
            .ok(),
            "from the host"
        );
        assert_eq!(
            fs::read_to_string(source.join("out")).expect("written inside"),
            "back\n"
        );
        assert_eq!(
            fs::read_dir(lab.rootfs.join("srv")).expect("list").count(),
            0,
            "and not into the root filesystem"
        );
    });
}

#[test]
fn a_read_only_bind_cannot_be_written() {
    case(|lab| {
        let source = lab.dir.join("data");
        fs::create_dir(&source).expect("a directory");
        let bind = format!("{}:/srv:ro", source.display());
        let outcome = lab.run_sh(&["-v", &bind], "touch /srv/new").exits(1);
        assert!(outcome.err().contains("Read-only"), "{outcome}");
    });
}

#[test]
fn a_file_is_bound_and_its_target_made() {
    case(|lab| {
        let source = lab.dir.join("settings");
        fs::write(&source, "answer=42\n").expect("a file");
        fs::write(lab.rootfs.join("etc/settings"), "").expect("a target");
        let bind = format!("{}:/etc/settings", source.display());
        assert_eq!(
            lab.run(&["-v", &bind], &["cat", "/etc/settings"]).ok(),
            "answer=42"
        );
        let bind = format!("{}:/opt/app/settings:ro", source.display());
        assert_eq!(
            lab.run(&["-v", &bind], &["cat", "/opt/app/settings"]).ok(),
            "answer=42"
        );
    });
}

#[test]
fn binds_and_tmpfs_can_be_many_and_stack() {
    case(|lab| {
        for name in ["a", "b"] {
            fs::create_dir(lab.dir.join(name)).expect("a directory");
            fs::write(lab.dir.join(name).join("name"), name).expect("a file");
        }
        let (a, b) = (
            format!("{}:/srv", lab.dir.join("a").display()),
            format!("{}:/home:ro", lab.dir.join("b").display()),
        );
        let seen = lab
            .run_sh(
                &["-v", &a, "-v", &b, "--tmpfs", "/tmp", "--tmpfs", "/run"],
                "cat /srv/name /home/name; grep -c ' /tmp tmpfs\\| /run tmpfs' /proc/mounts",
            )
            .ok();
        assert_eq!(seen, "ab2");
    });
}

#[test]
fn a_mount_point_that_cannot_be_made_is_said_to_be_missing() {
    case(|lab| {
        sh("cd /run/lab; mount --bind rootfs rootfs; mount -o remount,bind,ro rootfs");
        lab.run(&["--resolv=off", "-v", "/run/lab:/nowhere"], &["true"])
            .refused(&["/run/lab on /nowhere", "EROFS", "in the root file system"]);
        sh("umount /run/lab/rootfs");
    });
}

/// A container has the directory in which the place for another one's volume is to be made.
#[test]
fn a_fifo_in_the_place_of_a_file_that_is_about_to_be_made() {
    case(|lab| {
        let shared = lab.dir.join("shared");
        fs::create_dir(&shared).expect("make a directory");
        let fifo = shared.join("new");
        let volume = format!("{}:/srv", shared.display());
        let options = ["-v", &volume, "-v", "/bin/busybox:/srv/new"];
        for make in ["mkfifo", "mkdir"] {
            let command = lab.run_command(&options, &["test", "-f", "/srv/new"]);
            let start = Stopped::at_message(1, &command, &lab.dir.join("trace"));
            assert!(start.is_stopped, "it sends something");
            // The child has found nothing there, and waits for leave to make it.
            wait_untold("the child waits", || {
                children(start.pid()).into_iter().any(|pid| {
                    let read = |name| fs::read_to_string(format!("/proc/{pid}/{name}"));
                    let [mounts, call] = ["mountinfo", "syscall"]
                        .map(read)
                        .map(Result::unwrap_or_default);
                    let waits = [libc::SYS_poll, libc::SYS_ppoll].map(|call| format!("{call} "));
                    mounts.contains("/srv ") && waits.iter().any(|wait| call.starts_with(wait))
                })
            });
            sh(&format!("{make} {}", fifo.display()));
            let outcome = start.go_on().end();
            if make == "mkfifo" {
                outcome.exits(0);
            } else {
                outcome.refused(&["/srv/new", "EISDIR"]);
            }
            sh(&format!("rm -r {}", fifo.display()));
        }
    });
}

#[test]
fn bad_binds_are_refused() {
    case(|lab| {
        let before = lab.with_network();
        lab.run(&["-v", "/no/such/source:/srv"], &["true"])
            .refused(&["/no/such/source"]);
        lab.run(&["-v", "/run"], &["true"]).refused(&["/run"]);
        lab.run(&["-v", "/run:srv"], &["true"]).refused(&["srv"]);
        lab.run(&["-v", "/run:/srv:rw,maybe"], &["true"])
            .refused(&["maybe"]);
        lab.run(&["--tmpfs", "srv"], &["true"]).refused(&["srv"]);
        lab.run(&["-v", ":/srv"], &["true"])
            .refused(&[":/srv", "names nothing of the host"]);
        let mut command = lab.command(&["run", "-v"]);
        command.args([OsStr::from_bytes(b"/no\xff:/srv"), OsStr::new("true")]);
        collect(command, DEADLINE).refused(&["\"/no\\xFF:/srv\"", "no UTF-8"]);
        before.assert_back();
    });
}

#[test]
fn targets_are_resolved_inside_the_root() {
    case(|lab| {
        let (source, outside) = (lab.dir.join("data"), lab.dir.join("outside"));
        fs::create_dir(&source).expect("a directory");
        fs::create_dir(&outside).expect("a directory");
        fs::write(source.join("mark"), "bound").expect("a file");
        std::os::unix::fs::symlink(&outside, lab.rootfs.join("link")).expect("a link");
        std::os::unix::fs::symlink("../../../../../run/lab/outside", lab.rootfs.join("srv/up"))
            .expect("a link");
        for target in ["/link/new", "/srv/up/new", "/../../run/lab/outside/newer"] {
            let bind = format!("{}:{target}", source.display());
            let _ = lab.run_sh(&["-v", &bind], "true");
            let _ = lab.run_sh(&["--tmpfs", target], "true");
            assert_eq!(
                fs::read_dir(&outside).expect("list").count(),
                0,
                "{target}: made outside of the root"
            );
        }
    });
}

#[test]
fn read_only_is_read_only_but_for_what_is_mounted() {
    case(|lab| {
        let data = lab.dir.join("data");
        fs::create_dir(&data).expect("a directory");
        let bind = format!("{}:/srv", data.display());
        let options = ["--read-only", "-v", &bind, "--tmpfs", "/tmp"];
        let script = "touch /x 2>&1; touch /etc/x 2>&1; touch /srv/a /tmp/a /dev/shm/a && cat /etc/resolv.conf | grep -c nameserver";
        let outcome = lab.run_sh(&options, script).exits(0);
        assert_eq!(outcome.out().matches("Read-only").count(), 2, "{outcome}");
        assert!(outcome.out().ends_with("1\n"), "{outcome}");
        assert!(!lab.rootfs.join("x").exists());
    });
}

#[test]
fn without_read_only_the_root_filesystem_is_written() {
    case(|lab| {
        lab.run(&[], &["touch", "/home/kept"]).ok();
        assert!(lab.rootfs.join("home/kept").exists());
    });
}

#[test]
fn the_working_directory_is_the_one_asked_for() {
    case(|lab| {
        assert_eq!(lab.run(&[], &["pwd"]).ok(), "/");
        assert_eq!(lab.run(&["-w", "/srv"], &["pwd"]).ok(), "/srv");
        lab.run(&["-w", "/no/such/place"], &["true"])
            .refused(&["/no/such/place"]);
        std::fs::write(lab.rootfs.join("srv/tool"), "#!/bin/sh\necho relative\n")
            .expect("a script");
        lab::sh(&format!("chmod 755 {}/srv/tool", lab.rootfs.display()));
        assert_eq!(lab.run(&["-w", "/srv"], &["./tool"]).ok(), "relative");
    });
}

#[test]
fn a_relative_root_filesystem_and_one_behind_a_link_work() {
    case(|lab| {
        std::os::unix::fs::symlink("rootfs", lab.dir.join("link")).expect("a link");
        for path in [
            "rootfs",
            "./rootfs",
            "link",
            "/run/lab/link",
            "/run/lab/../lab/rootfs/",
        ] {
            assert_eq!(
                lab.hawser(&["run", "--rootfs", path, "--", "echo", "here"])
                    .ok(),
                "here",
                "{path}"
            );
        }
    });
}

#[test]
fn two_runs_share_one_root_filesystem() {
    case(|lab| {
        let mut one = lab.start(
            &["--hostname", "one", "--dns", "192.0.2.1"],
            &[
                "sh",
                "-c",
                "echo up; read x; cat /etc/resolv.conf; hostname",
            ],
        );
        one.until("up");
        let two = lab
            .run_sh(
                &["--hostname", "two", "--dns", "192.0.2.2"],
                "cat /etc/resolv.conf; hostname",
            )
            .ok();
        assert!(
            two.contains("192.0.2.2") && !two.contains("192.0.2.1\n") && two.ends_with("two"),
            "{two}"
        );
        one.say("\n");
        let one = one.end().exits(0).out();
        assert!(
            one.contains("192.0.2.1") && !one.contains("192.0.2.2") && one.ends_with("one\n"),
            "{one}"
        );
        assert_eq!(
            fs::read_to_string(lab.rootfs.join("etc/resolv.conf")).unwrap_or_default(),
            "",
            "the shared file stays empty"
        );
    });
}

#[test]
fn no_two_mounts_for_one_place() {
    case(|lab| {
        let before = lab.with_network();
        for places in [
            ["-v", "/etc:/srv", "-v", "/usr:/srv/"],
            ["--tmpfs", "/srv", "-v", "/usr:/srv:ro"],
            ["--tmpfs", "/srv", "--tmpfs", "/srv"],
        ] {
            lab.run(&places, &["true"])
                .refused(&["--volume and --tmpfs", "/srv", "leave one"]);
        }
        before.assert_back();
        // One below the other is none of that.
        lab.run(
            &["--tmpfs", "/srv", "-v", "/usr:/srv/usr"],
            &["ls", "/srv/usr/bin"],
        )
        .exits(0);
    });
}

/// Whichever way round they are written: the outer one would hide the inner one.
#[test]
fn what_is_mounted_below_another_mount_is_seen() {
    case(|lab| {
        let (outer, inner) = (lab.dir.join("outer"), lab.dir.join("inner"));
        std::fs::create_dir_all(outer.join("cache/of-the-host")).expect("a directory");
        std::fs::create_dir_all(inner.join("of-the-inner-one")).expect("a directory");
        let (outer_to, inner_to) = (
            format!("{}:/srv", outer.display()),
            format!("{}:/srv/cache", inner.display()),
        );
        let listed = |options: &[&str]| lab.run(options, &["ls", "/srv/cache"]).ok();
        assert_eq!(listed(&["--tmpfs", "/srv/cache", "-v", &outer_to]), "");
        assert_eq!(
            listed(&["-v", &inner_to, "-v", &outer_to]),
            "of-the-inner-one"
        );
    });
}

#[test]
fn the_hosts_mounts_are_not_seen() {
    case(|lab| {
        let mounts = lab.run(&[], &["cat", "/proc/self/mounts"]).ok();
        let targets: Vec<_> = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .collect();
        assert_eq!(
            targets.iter().filter(|target| **target == "/").count(),
            1,
            "one root: {mounts}"
        );
        for target in targets {
            let expected = [
                "/",
                "/proc",
                "/sys",
                "/dev",
                "/etc/resolv.conf",
                "/etc/hosts",
                "/etc/hostname",
            ];
            let below = ["/proc/", "/sys/", "/dev/"];
            let known =
                expected.contains(&target) || below.iter().any(|prefix| target.starts_with(prefix));
            assert!(known, "{target} in the container: {mounts}");
        }
    });
}

#[test]
fn a_root_whose_path_is_not_utf8() {
    case(|lab| {
        let path = lab.dir.join(OsStr::from_bytes(b"r\xff"));
        std::os::unix::fs::symlink(&lab.rootfs, &path).expect("a link");
        let mut command = lab.command(&["run", "--rootfs"]);
        command.arg(&path).args(["--", "cat", "/etc/group"]);
        let outcome = collect(command, DEADLINE).exits(0);
        assert!(outcome.out().contains("wheel"), "{outcome}");
    });
}

#[test]
fn a_command_line_that_would_fill_a_socket() {
    case(|lab| {
        // MAX_ARG_STRLEN of linux/binfmts.h is 128 KiB for one word.
        let word = "x".repeat(120 * 1024);
        let words = [&["sh", "-c", "echo $#: ${#1}"][..], &[word.as_str(); 8]].concat();
        assert_eq!(lab.run(&[], &words).ok(), format!("7: {}", word.len()));
    });
}

#[test]
fn a_root_that_the_host_has_mounted_read_only_stays_so() {
    case(|lab| {
        let view = lab.dir.join("view");
        fs::create_dir(&view).expect("a directory");
        let (from, to) = (lab.rootfs.display(), view.display());
        lab::sh(&format!(
            "rm -f {from}/etc/hosts; mount --bind {from} {to} && mount -o remount,bind,ro {to}"
        ));
        let view = view.display().to_string();
        let words = ["run", "--network", "none", "--rootfs", &view, "--read-only"];
        lab.hawser(&[&words[..], &["-v", "/etc/passwd:/new/file", "--", "true"]].concat())
            .refused(&["EROFS"]);
        assert!(!lab.rootfs.join("new").exists());
    });
}

#[test]
fn no_place_inside_leads_up() {
    case(|lab| {
        for options in [["--tmpfs", "/.."], ["-v", "/srv:/tmp/.."]] {
            lab.run(&options, &["true"]).refused(&[options[1], ".."]);
        }
    });
}

/// It would make a directory of that name, and no size.
#[test]
fn a_place_inside_has_no_options() {
    case(|lab| {
        lab.run(&["--tmpfs", "/srv:size=1m"], &["true"])
            .refused(&["/srv:size=1m", "no options"]);
        assert!(!lab.rootfs.join("srv:size=1m").exists());
    });
}

/// Nobody inside would see it.
#[test]
fn what_would_lie_under_our_files_is_refused() {
    case(|lab| {
        let own = lab.dir.join("own");
        fs::write(&own, "nameserver 192.0.2.1\n").expect("a file");
        for place in ["/etc/resolv.conf", "/etc//hosts"] {
            let bind = format!("{}:{place}", own.display());
            lab.run(&["-v", &bind], &["true"])
                .refused(&[place, "--resolv=off"]);
            let shown = lab.run(&["-v", &bind, "--resolv=off"], &["cat", place]);
            assert_eq!(shown.ok(), "nameserver 192.0.2.1");
        }
        for (option, value) in [
            ("--add-host", "db:192.0.2.7"),
            ("--dns-search", "example.org"),
            ("--dns-option", "ndots:2"),
        ] {
            lab.run(&[option, value, "--resolv=off"], &["true"])
                .refused(&[option, "--resolv=off"]);
        }
        let options = ["--dns", "192.0.2.53", "--egress", "dns", "--resolv=off"];
        lab.run(&options, &["true"]).ok();
    });
}

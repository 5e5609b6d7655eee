//! Who and where the command is: environment, user, host name, name.

use std::collections::BTreeMap;

use lab::{DEADLINE, Lab, case, collect, sh};

fn environment(lab: &Lab, options: &[&str]) -> BTreeMap<String, String> {
    let mut command = lab.run_command(options, &["env"]);
    command
        .env("SECRET", "of the host")
        .env("TERM", "vt220")
        .env("LD_PRELOAD", "")
        .env("HOSTNAME", "outside");
    let text = collect(command, DEADLINE).ok();
    text.lines()
        .map(|line| line.split_once('=').expect("K=V"))
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect()
}

#[test]
fn the_environment_starts_clean() {
    case(|lab| {
        let environment = environment(lab, &["--hostname", "box"]);
        assert_eq!(
            environment.keys().collect::<Vec<_>>(),
            ["HOME", "HOSTNAME", "PATH", "TERM"],
            "{environment:?}"
        );
        assert_eq!(environment["HOME"], "/root");
        assert_eq!(environment["HOSTNAME"], "box");
        assert_eq!(
            environment["PATH"],
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        );
        assert!(!environment["TERM"].is_empty());
    });
}

#[test]
fn variables_are_added_and_replaced() {
    case(|lab| {
        let environment = environment(
            lab,
            &[
                "-e",
                "A=b=c",
                "-e",
                "EMPTY=",
                "-e",
                "TERM=dumb",
                "-e",
                "A=d",
            ],
        );
        assert_eq!(environment["A"], "d", "the last one wins");
        assert_eq!(environment["EMPTY"], "");
        assert_eq!(environment["TERM"], "dumb");
        assert_eq!(environment.len(), 6, "{environment:?}");
        lab.run(&["-e", "=b"], &["true"]).refused(&["=b"]);
    });
}

#[test]
fn users_by_number_and_by_name() {
    case(|lab| {
        assert!(
            lab.run(&[], &["id"])
                .ok()
                .starts_with("uid=0(root) gid=0(root)")
        );
        assert_eq!(lab.run(&["-u", "root"], &["id", "-u"]).ok(), "0");
        if !lab.real_root {
            return lab::skip("another user id needs real root");
        }
        for (user, wanted) in [
            ("1000", "uid=1000(worker) gid=1000(worker)"),
            ("01000", "uid=1000(worker) gid=1000(worker)"),
            ("1000:1000", "uid=1000(worker) gid=1000(worker)"),
            ("worker", "uid=1000(worker) gid=1000(worker)"),
            ("1000:27", "uid=1000(worker) gid=27(wheel)"),
            ("4711:4712", "uid=4711 gid=4712"),
        ] {
            let seen = lab.run(&["-u", user], &["id"]).ok();
            assert!(seen.starts_with(wanted), "-u {user}: {seen}");
            assert!(
                !seen.contains("(root)"),
                "no group of root's is left: {seen}"
            );
        }
        let seen = lab.run(&["-u", "worker"], &["id"]).ok();
        assert!(
            seen.contains("27(wheel)"),
            "its groups of the container's /etc/group: {seen}"
        );
        assert_eq!(environment(lab, &["-u", "worker"])["HOME"], "/home");
    });
}

#[test]
fn unknown_users_are_refused() {
    case(|lab| {
        lab.run(&["-u", "stranger"], &["true"])
            .refused(&["stranger"]);
        lab.run(&["-u", "daemon"], &["true"]).refused(&["daemon"]);
        lab.run(&["-u", "1000:x:y"], &["true"]).refused(&["x:y"]);
        lab.run(&["-u", "99999999999"], &["true"])
            .refused(&["99999999999"]);
        // The last number means "leave alone" in the kernel's calls.
        let last = "last:x:4294967295:0::/:\n";
        std::fs::write(lab.rootfs.join("etc/passwd"), last).expect("write passwd");
        lab.run(&["-u", "last"], &["true"])
            .refused(&["run as user", "last", "/etc/passwd"]);
        std::fs::remove_file(lab.rootfs.join("etc/passwd")).expect("unlink");
        lab.run(&["-u", "worker"], &["true"]).refused(&["worker"]);
        lab.run(&["-u", "0"], &["true"]).ok();
    });
}

#[test]
fn the_host_name_is_the_containers_own() {
    case(|lab| {
        let outside = sh("cat /proc/sys/kernel/hostname");
        assert_eq!(
            lab.run(&["--hostname", "box.example.test"], &["hostname"])
                .ok(),
            "box.example.test"
        );
        assert_eq!(
            lab.run(&["--name", "web"], &["hostname"]).ok(),
            "web",
            "else it is the name"
        );
        assert_eq!(sh("cat /proc/sys/kernel/hostname"), outside);
        lab.run(&["--hostname", &"x".repeat(65)], &["true"])
            .exits(125);
    });
}

#[test]
fn the_containers_own_name_resolves() {
    case(|lab| {
        let hosts = lab
            .run(
                &["--hostname", "box", "--ip", "172.19.0.9"],
                &["cat", "/etc/hosts"],
            )
            .ok();
        assert!(
            hosts
                .lines()
                .any(|line| line.split_whitespace().collect::<Vec<_>>() == ["172.19.0.9", "box"]),
            "{hosts}"
        );
        assert!(
            hosts
                .lines()
                .any(|line| line.starts_with("127.0.0.1") && line.contains("localhost")),
            "{hosts}"
        );
        assert!(
            hosts
                .lines()
                .any(|line| line.starts_with("::1") && line.contains("localhost")),
            "{hosts}"
        );
        lab.run_sh(
            &["--hostname", "box"],
            "ping -c 1 -W 2 box && ping -c 1 -W 2 localhost",
        )
        .ok();
    });
}

#[test]
fn a_name_is_leased_while_its_container_lives() {
    case(|lab| {
        let running = lab.start_idle(&["--name", "web", "--ip", "172.19.0.9"]);
        let pid = lab.pid_of("web").to_string();
        assert!(sh("ip -o link show dev web").contains("hwac130009"));
        lab.run(&["--name", "web"], &["true"])
            .refused(&["web", &pid]);
        lab.run(&["--name", "web", "--network", "none"], &["true"])
            .refused(&["web", &pid]);
        running.end().exits(0);
        lab.run(&["--name", "web"], &["true"]).ok();
    });
}

#[test]
fn every_container_has_a_name() {
    case(|lab| {
        let _one = lab.start_idle(&[]);
        let _two = lab.start_idle(&[]);
        let all = lab.list();
        assert_eq!(all.len(), 2);
        let (one, two) = (
            all[0]["name"].as_str().unwrap_or_default(),
            all[1]["name"].as_str().unwrap_or_default(),
        );
        assert!(!one.is_empty() && !two.is_empty() && one != two, "{all:?}");
    });
}

#[test]
fn bad_names_are_refused() {
    case(|lab| {
        for name in [
            "",
            "a/b",
            "/",
            ".",
            "..",
            "eth0",
            "eth",
            "enp3s0",
            "wlan0",
            "wwan0",
            "lo",
            "two words",
            "new\nline",
        ] {
            let outcome = lab.run(&["--name", name], &["true"]).exits(125);
            assert_eq!(
                outcome.err().lines().count(),
                1,
                "--name {name:?}: {outcome}"
            );
        }
        lab.run(&["--name", &"n".repeat(128)], &["true"])
            .refused(&["127"]);
        lab.run(&["--name", "a-good_name.1"], &["true"]).ok();
        lab.run(&["--name", &"n".repeat(127)], &["true"]).ok();
    });
}

/// Half a list would make somebody else of a user.
#[test]
fn lists_of_users_are_read_whole_or_refused() {
    case(|lab| {
        let [passwd, group] = ["passwd", "group"].map(|name| lab.rootfs.join("etc").join(name));
        let long = "# a comment, as long as a line of a list may be\n".repeat(40_000);
        let last = "late:x:0:0::/late:\nfar:x:70000:70001::/far:\n";
        std::fs::write(&passwd, format!("{long}{last}")).expect("write passwd");
        std::fs::write(&group, format!("{long}wheel:x:27:far\n")).expect("write group");
        assert_eq!(environment(lab, &["-u", "late"])["HOME"], "/late");
        if lab.real_root {
            for user in ["far", "70000"] {
                let seen = lab.run(&["-u", user], &["id"]).ok();
                let wanted = ["uid=70000", "gid=70001", "27(wheel)"];
                let is_whole = wanted.iter().all(|word| seen.contains(word));
                assert!(is_whole, "-u {user}: {seen}");
            }
        }
        // What cannot be read is no file without the name.
        let path = passwd.display().to_string();
        let command = lab.run_command(&["--network", "none", "-u", "late"], &["true"]);
        let options = ["-f", "-P", &path, "-e", "inject=read:error=EIO"];
        let trace = lab.dir.join("trace").display().to_string();
        let outcome = collect(lab::strace::traced(&command, &options, &trace), DEADLINE);
        outcome.refused(&["read", "etc/passwd", "EIO"]);
        let file = std::fs::File::options().write(true).open(&group);
        let grown = file.and_then(|file| file.set_len((64 << 20) + 1));
        grown.expect("a longer group");
        lab.run(&["-u", "late"], &["true"])
            .refused(&["read", "etc/group", "64 MiB"]);
    });
}

/// init's message takes 256, and the kernel 65,536.
#[test]
fn more_groups_than_a_command_gets() {
    case(|lab| {
        if !lab.real_root {
            return lab::skip("another user id needs real root");
        }
        let groups = |count: u32| {
            let lines = (0..count).map(|n| format!("g{n}:x:{}:worker\n", 2000 + n));
            let text: String = lines.collect();
            std::fs::write(lab.rootfs.join("etc/group"), text).expect("write group");
        };
        groups(256);
        let seen = lab.run(&["-u", "worker"], &["id", "-G"]).ok();
        assert_eq!(seen.split_whitespace().count(), 257, "{seen}");
        groups(257);
        lab.run(&["-u", "worker"], &["true"]).refused(&[
            "run as user",
            "worker",
            "257 groups",
            "-u worker:GROUP",
        ]);
        let seen = lab.run(&["-u", "worker:g7"], &["id", "-G"]).ok();
        assert_eq!(seen, "2007");
    });
}

/// What the container sees is what counts, and not what is under it.
#[test]
fn users_are_those_of_a_volume_over_their_list() {
    case(|lab| {
        let etc = lab.dir.join("other");
        std::fs::create_dir(&etc).expect("make a directory");
        std::fs::write(etc.join("passwd"), "app:x:0:0::/app:\n").expect("write passwd");
        let list = format!("{}/passwd:/etc/passwd", etc.display());
        let all = format!("{}:/etc/", etc.display());
        let off = "--resolv=off";
        for volume in [
            &["-v", &list][..],
            &["-v", &all, off],
            &["-v", &list, "--tmpfs", "/etc", off],
        ] {
            let home = &environment(lab, &[volume, &["-u", "app"]].concat())["HOME"];
            assert_eq!(home, "/app", "{volume:?}");
            lab.run(&[volume, &["-u", "worker"]].concat(), &["true"])
                .refused(&["worker", "/etc/passwd"]);
        }
        lab.run(&["--tmpfs", "/etc", off, "-u", "worker"], &["true"])
            .refused(&["worker", "/etc/passwd"]);
    });
}

/// What stands in the place of a file may be a device of the host's, and its driver would hear of an open.
#[test]
fn only_a_file_is_opened_for_names() {
    case(|lab| {
        let path = lab.dir.join("trace").display().to_string();
        let command = lab.run_command(&["--network", "none", "-u", "5"], &["true"]);
        let options = ["-f", "-e", "trace=openat2"];
        collect(lab::strace::traced(&command, &options, &path), DEADLINE).exits(0);
        let trace = std::fs::read_to_string(&path).expect("the trace");
        let opened: Vec<&str> = trace
            .lines()
            .filter(|line| line.contains("etc/passwd"))
            .collect();
        let is_harmless = |line: &&str| line.contains("O_PATH");
        assert!(
            !opened.is_empty() && opened.iter().all(is_harmless),
            "{trace}"
        );
    });
}

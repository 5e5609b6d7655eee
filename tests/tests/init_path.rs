//! Which init a container gets: --init-path, else the installed one, else the one inside host-helper.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use lab::{DEADLINE, Lab, binary, case, collect, init_binary};

#[test]
fn the_one_that_is_named() {
    case(|lab| {
        let init = init_binary();
        lab.run(&["--init-path", &init.to_string_lossy()], &["true"])
            .ok();
        lab.run(&["--init-path", "/no/such/init"], &["true"])
            .refused(&["/no/such/init"]);
        lab.run(&["--init-path", "/etc"], &["true"])
            .refused(&["/etc"]);
        lab.run(&["--init-path", "/etc/passwd"], &["true"])
            .refused(&["/etc/passwd", "EACCES", "chmod +x"]);
        // It has the x bit.
        let mount = lab.dir.join("mount");
        fs::create_dir(&mount).expect("a directory");
        lab::sh(&format!(
            "mount -t tmpfs -o noexec none {}",
            mount.display()
        ));
        let there = mount.join("init");
        fs::copy(&init, &there).expect("copy init");
        lab.run(&["--init-path", &there.to_string_lossy()], &["true"])
            .refused(&["mount/init", "EACCES", "noexec"]);
        let text = lab.dir.join("text");
        fs::write(&text, "no program\n").expect("a file");
        fs::set_permissions(&text, fs::Permissions::from_mode(0o755)).expect("make it executable");
        lab.run(&["--init-path", &text.to_string_lossy()], &["true"])
            .refused(&["execute init", "ENOEXEC", "--init-path"]);
    });
}

/// It is there, and what it needs is not.
#[test]
fn a_dynamic_one_is_said_to_be_one() {
    case(|lab| {
        lab.run(&["--init-path", env!("CARGO_BIN_EXE_hostile")], &["true"])
            .refused(&["execute init", "its interpreter", "static"]);
    });
}

fn installed(lab: &Lab) -> lab::Outcome {
    called_by(lab, "prefix/bin/host-helper")
}

fn called_by(lab: &Lab, path: &str) -> lab::Outcome {
    let mut command = std::process::Command::new(lab.dir.join(path));
    command
        .args(["run", "--rootfs"])
        .arg(&lab.rootfs)
        .args(["--", "echo", "ran"]);
    collect(command, DEADLINE)
}

#[test]
fn the_installed_one_before_the_one_inside() {
    case(|lab| {
        let prefix = lab.dir.join("prefix");
        fs::create_dir_all(prefix.join("bin")).expect("a directory");
        fs::create_dir_all(prefix.join("libexec/hawser")).expect("a directory");
        fs::copy(binary(), prefix.join("bin/host-helper")).expect("install host-helper");
        assert_eq!(installed(lab).ok(), "ran", "without one the embedded one");
        let init = prefix.join("libexec/hawser/init");
        fs::copy(init_binary(), &init).expect("install init");
        assert_eq!(installed(lab).ok(), "ran");
        // One that cannot start, and nothing else is tried in its place.
        fs::write(&init, "no program\n").expect("install something else");
        let outcome = installed(lab);
        assert!(
            outcome.code == 125 && outcome.stdout.is_empty(),
            "{outcome}"
        );
        // But one that somebody else may have written is none.
        for mode in [0o775, 0o757] {
            fs::set_permissions(&init, fs::Permissions::from_mode(mode)).expect("change its mode");
            assert_eq!(installed(lab).ok(), "ran", "{mode:o}");
        }
    });
}

#[test]
fn the_one_beside_the_program_itself_whatever_link_leads_there() {
    case(|lab| {
        for directory in [
            "prefix/bin",
            "prefix/libexec/hawser",
            "other/bin",
            "other/libexec/hawser",
            "linked",
        ] {
            fs::create_dir_all(lab.dir.join(directory)).expect("a directory");
        }
        let program = lab.dir.join("prefix/bin/host-helper");
        fs::copy(binary(), &program).expect("install host-helper");
        let links = [
            "other/bin/host-helper",
            "by-directory/host-helper",
            "linked/bin/host-helper",
        ];
        symlink(&program, lab.dir.join(links[0])).expect("a link to the program");
        let directory = program.parent().expect("its directory");
        symlink(directory, lab.dir.join("by-directory")).expect("a link to its directory");
        symlink(directory, lab.dir.join("linked/bin")).expect("another");
        // What cannot start says which one is taken.
        let [here, there] =
            ["prefix", "other"].map(|at| lab.dir.join(at).join("libexec/hawser/init"));
        fs::copy(init_binary(), &here).expect("install init");
        fs::write(&there, "no program\n").expect("install something else");
        for link in links {
            assert_eq!(called_by(lab, link).ok(), "ran", "{link}");
        }
        fs::write(&here, "no program\n").expect("install something else");
        fs::copy(init_binary(), &there).expect("install init");
        for link in links {
            let outcome = called_by(lab, link);
            assert_eq!(outcome.code, 125, "{link}: {outcome}");
        }
    });
}

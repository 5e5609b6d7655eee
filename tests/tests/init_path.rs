//! Which init a container gets: --init-path, else the installed one, else the one inside host-helper.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

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
    });
}

fn installed(lab: &Lab) -> lab::Outcome {
    let mut command = std::process::Command::new(lab.dir.join("prefix/bin/host-helper"));
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

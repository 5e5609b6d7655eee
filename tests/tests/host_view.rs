//! Without --rootfs: a throw-away view of the host's own files.

use std::path::Path;

use lab::{case, packets};

#[test]
fn the_hosts_files_are_there_and_what_is_written_is_thrown_away() {
    case(|lab| {
        if !lab.real_root {
            return lab::skip("the kernel refuses an overlay over / in a user namespace");
        }
        let before = lab.with_network();
        let script = "test -x /bin/busybox && echo there; echo x > /hawser-test-file && cat /hawser-test-file; rm /etc/passwd; ls /run/lab 2>&1";
        let outcome = lab.hawser(&["run", "--", "sh", "-c", script]);
        assert!(outcome.out().starts_with("there\nx\n"), "{outcome}");
        assert!(
            !outcome.out().contains("rootfs"),
            "other mounts of the host are not shown: {outcome}"
        );
        assert!(
            !Path::new("/hawser-test-file").exists() && Path::new("/etc/passwd").exists(),
            "nothing reached the host"
        );
        before.assert_back();
        let again = lab.hawser(&["run", "--", "test", "-e", "/hawser-test-file"]);
        assert_eq!(again.code, 1, "each run starts anew: {again}");
    });
}

#[test]
fn it_has_the_network_and_its_own_resolv_conf() {
    packets(|lab| {
        if !lab.real_root {
            return lab::skip("the kernel refuses an overlay over / in a user namespace");
        }
        lab.serve();
        let script = "grep -v '^#' /etc/resolv.conf; busybox wget -q -O - http://web.example.test/";
        let seen = lab.hawser(&["run", "--", "sh", "-c", script]).ok();
        assert_eq!(seen, "nameserver 198.51.100.53\nhello from the internet");
    });
}

#[test]
fn read_only_holds_for_it_too() {
    case(|lab| {
        if !lab.real_root {
            return lab::skip("the kernel refuses an overlay over / in a user namespace");
        }
        let outcome = lab.hawser(&["run", "--read-only", "--", "touch", "/hawser-test-file"]);
        assert!(
            outcome.code == 1 && outcome.err().contains("Read-only"),
            "{outcome}"
        );
    });
}

//! A root filesystem with nothing but busybox in it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Debian's busybox-static.
pub const BUSYBOX: &str = "/bin/busybox";

const DIRECTORIES: &str = "bin proc sys dev etc tmp run root home srv";
const APPLETS: &str = "ash arping awk base64 basename cat chmod chown cp cut date dd df dirname echo env expr false find grep \
    groups head hexdump hostname httpd id ifconfig ip kill killall ln ls md5sum mkdir mkfifo mknod mount mv nc nslookup od \
    pidof ping printf ps pwd readlink realpath rm rmdir route sed seq setsid sh sleep sort stat stty sync sysctl tail tee \
    test time timeout touch tr traceroute true tty umount uname unshare usleep vi wc wget whoami xargs yes";

/// Makes one at `path`. Users: root, and `worker` with 1000:1000 and the group `wheel` (27).
pub fn make(path: &Path) {
    for directory in DIRECTORIES.split_whitespace() {
        fs::create_dir_all(path.join(directory)).expect("make a directory of the root filesystem");
    }
    assert!(
        Path::new(BUSYBOX).is_file(),
        "{BUSYBOX} is missing: install busybox-static, or run `make test`"
    );
    fs::copy(BUSYBOX, path.join("bin/busybox")).expect("copy busybox");
    for applet in APPLETS.split_whitespace() {
        symlink("busybox", path.join("bin").join(applet)).expect("link an applet");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000:worker:/home:/bin/sh\n";
    fs::write(path.join("etc/passwd"), passwd).expect("write passwd");
    fs::write(
        path.join("etc/group"),
        "root:x:0:\nworker:x:1000:\nwheel:x:27:worker\n",
    )
    .expect("write group");
}

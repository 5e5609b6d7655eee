//! What other programs find an attached container by: a name for `ip netns`, a file with its address.

use std::fs::{self, File};
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::target::Target;
use crate::error::{Doing, Result};

/// Where names of network namespaces are (ip-netns(8)).
pub const NAMES: &str = "/run/netns";

/// Gives the namespace a name for `ip netns`.
///
/// Undone by [`withdraw_export`].
///
/// # Errors
/// The name is taken; what the kernel refuses.
pub fn export(name: &str, target: &Target) -> Result<()> {
    let path = Path::new(NAMES).join(name);
    let doing = || format!("name the network namespace {}", path.display());
    fs::create_dir_all(NAMES).doing(doing)?;
    let mut options = File::options();
    let made = options.write(true).create_new(true).mode(0o444).open(&path);
    made.doing(doing).map_err(|error| {
        let cure = format!("choose another --name, or ip netns del {name}");
        error.cure(Errno::EEXIST, &cure)
    })?;
    let source = format!("/proc/self/fd/{}", target.netns.as_raw_fd());
    let nothing = None::<&str>;
    let bind = || mount(Some(&*source), &path, nothing, MsFlags::MS_BIND, nothing);
    let done = share_names().and_then(|()| bind()).doing(doing);
    done.inspect_err(|_| {
        let _ = fs::remove_file(&path);
    })
}

/// The directory is a shared mount, as ip-netns(8) makes it: done by somebody later, a copy of each name would lie over ours, and neither could
/// be removed.
fn share_names() -> nix::Result<()> {
    let nothing = None::<&str>;
    let share = || {
        let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
        mount(nothing, NAMES, nothing, flags, nothing)
    };
    match share() {
        // It is no mount yet.
        Err(Errno::EINVAL) => {
            let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(NAMES), NAMES, nothing, flags, nothing)?;
            share()
        }
        done => done,
    }
}

/// Writes a container's address for others to read, whole from its first moment.
///
/// Undone by [`withdraw_ip_file`].
///
/// # Errors
/// What the file system refuses.
pub fn write_ip_file(path: &Path, address: Ipv4Addr) -> Result<()> {
    let new = unfinished(path);
    let put = || -> std::io::Result<()> {
        // Of one who was killed.
        let _ = fs::remove_file(&new);
        let mut options = File::options();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&new)?;
        std::io::Write::write_all(&mut file, format!("{address}\n").as_bytes())?;
        fs::rename(&new, path)
    };
    put()
        .inspect_err(|_| drop(fs::remove_file(&new)))
        .doing(|| format!("write the container's address to {}", path.display()))
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_os_string();
    name.push(".hawser-new");
    name.into()
}

/// Removes it as long as it says that address.
pub fn withdraw_ip_file(path: &Path, address: Ipv4Addr) {
    let read = || -> std::io::Result<String> {
        let mut text = String::new();
        File::open(path)?.take(64).read_to_string(&mut text)?;
        Ok(text)
    };
    if read().is_ok_and(|text| text == format!("{address}\n")) {
        let _ = fs::remove_file(path);
    }
    let _ = fs::remove_file(unfinished(path));
}

/// Takes the name back, when it is one of this namespace; gone already is success.
pub fn withdraw_export(name: &str, netns: u64) {
    let path = Path::new(NAMES).join(name);
    if fs::metadata(&path).is_ok_and(|found| found.ino() == netns) {
        let _ = umount2(&path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&path);
    }
}

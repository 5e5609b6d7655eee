//! The files in the view that are ours: `/etc/resolv.conf` and `/etc/hosts`.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::error::{Doing, Result};
use crate::inside::{Kind, Parents, Permission, open_or_make};
use crate::sys::{attach_tree, clone_tree};
use crate::users::UserMap;

/// Below a root.
pub const RESOLV: &str = "etc/resolv.conf";

/// Below a root.
pub const HOSTS: &str = "etc/hosts";

/// Makes a file of our own, bound over the image's: two containers may share one root file system. init fills it.
pub(super) fn bind_file(
    root: &OwnedFd,
    scratch: &OwnedFd,
    path: &'static str,
    map: Option<UserMap>,
    permission: &Permission,
) -> Result<OwnedFd> {
    let doing = || format!("bind a file of our own on /{path}");
    let name = CString::new(path.replace('/', "-")).unwrap_or_default();
    let flags = OFlag::O_CREAT | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let file = openat(scratch, &*name, flags, Mode::from_bits_truncate(0o644)).doing(doing)?;
    if let Some(map) = map {
        map.own(&file).doing(doing)?;
    }
    let place = open_place(root, path, permission)?;
    let tree = clone_tree(scratch, &name, false).doing(doing)?;
    attach_tree(tree, &place).doing(doing)?;
    Ok(file)
}

/// The place of a file that is to be mounted over, which is made where it is missing.
///
/// # Errors
/// It cannot be made.
pub fn open_place(root: &OwnedFd, path: &'static str, permission: &Permission) -> Result<OwnedFd> {
    let place = open_or_make(
        root,
        Path::new(path),
        Kind::File,
        Parents::MustExist,
        permission,
    );
    place
        .doing(|| format!("bind a file of our own on /{path}"))
        .map_err(|error| {
            let cure = "make an empty file there in the root file system, or use --resolv=off";
            [
                Errno::EROFS,
                Errno::ENOENT,
                Errno::ENOTDIR,
                Errno::EACCES,
                Errno::EISDIR,
                Errno::ELOOP,
            ]
            .into_iter()
            .fold(error, |error, errno| error.cure(errno, cure))
        })
}

//! Paths of the container: opened and made inside its root, whatever links an image has (`openat2(2)` with
//! `RESOLVE_IN_ROOT`).

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{Mode, SFlag, mkdirat};

use crate::users::make_in;

/// A file or a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Directory,
}

pub fn open_path(path: &Path) -> nix::Result<OwnedFd> {
    openat(
        AT_FDCWD,
        path,
        OFlag::O_PATH | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
}

pub fn open_if_there(under: &OwnedFd, path: &CStr) -> nix::Result<Option<OwnedFd>> {
    match openat(
        under,
        path,
        OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW,
        Mode::empty(),
    ) {
        Err(Errno::ENOENT) => Ok(None),
        opened => opened.map(Some),
    }
}

pub fn open_directory(under: &OwnedFd, path: &str) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(under, path, flags, Mode::empty())
}

pub fn is_directory(fd: &OwnedFd) -> nix::Result<bool> {
    let mode = nix::sys::stat::fstat(fd)?.st_mode;
    Ok(mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits())
}

/// Opens a path of the container: symbolic links, absolute ones too, end inside `root`.
///
/// # Errors
/// As openat2(2).
pub fn open_in_root(root: impl AsFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    loop {
        // EAGAIN: something was renamed meanwhile, and the kernel could not prove that ".." stayed inside.
        match openat2(root.as_fd(), path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            opened => return opened,
        }
    }
}

/// Opens a file of the container for reading. Nothing else: the host's driver behind a device node of an image would hear of that.
///
/// # Errors
/// As openat2(2); `EINVAL`: it is no regular file.
pub fn open_file_in_root(root: impl AsFd, path: &Path) -> nix::Result<std::fs::File> {
    let place = open_in_root(root, path, OFlag::O_PATH)?;
    let mode = nix::sys::stat::fstat(&place)?.st_mode;
    if mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        return Err(Errno::EINVAL);
    }
    let path = format!("/proc/self/fd/{}", place.as_raw_fd());
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    openat(AT_FDCWD, path.as_str(), flags, Mode::empty()).map(Into::into)
}

/// Reads a file of a directory.
///
/// # Errors
/// What the kernel says.
pub fn read_below(directory: &OwnedFd, name: &str) -> std::io::Result<String> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    std::io::read_to_string(std::fs::File::from(openat(
        directory,
        name,
        flags,
        Mode::empty(),
    )?))
}

/// The number of the mount that a file was opened on; `ourselves` is `/proc/self`.
///
/// # Errors
/// What the kernel says.
pub fn mount_of(ourselves: &OwnedFd, file: &OwnedFd) -> std::io::Result<String> {
    let info = read_below(ourselves, &format!("fdinfo/{}", file.as_raw_fd()))?;
    let number = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    Ok(number.unwrap_or_default().trim().to_string())
}

/// What to do about missing directories on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parents {
    /// They are made.
    Make,
    /// They must be there.
    MustExist,
}

/// Opens a path of the container, and makes it, empty, when it is missing; a symbolic link that leads nowhere is
/// followed inside the root, and what it names is made.
pub fn open_or_make(
    root: &OwnedFd,
    path: &Path,
    kind: Kind,
    parents: Parents,
    permission: &Permission,
) -> nix::Result<OwnedFd> {
    Maker { root, permission }.make(path.to_path_buf(), kind, parents, 0)
}

struct Maker<'a> {
    root: &'a OwnedFd,
    permission: &'a Permission<'a>,
}

impl Maker<'_> {
    fn make(
        &self,
        path: PathBuf,
        kind: Kind,
        parents: Parents,
        depth: u32,
    ) -> nix::Result<OwnedFd> {
        const DEEPEST: u32 = 40; // as many links as the kernel follows, path_resolution(7)
        match open_in_root(self.root, &path, OFlag::O_PATH) {
            Ok(found) if is_directory(&found)? == (kind == Kind::Directory) => return Ok(found),
            Ok(_) => {
                return Err(if kind == Kind::Directory {
                    Errno::ENOTDIR
                } else {
                    Errno::EISDIR
                });
            }
            Err(Errno::ENOENT) if depth < DEEPEST => {}
            Err(errno) => return Err(errno),
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::ENOENT);
        };
        let above = if parent.as_os_str().is_empty() {
            Path::new("/")
        } else {
            parent
        };
        let directory = match open_in_root(self.root, above, OFlag::O_PATH) {
            Err(Errno::ENOENT) if parents == Parents::Make => {
                self.make(parent.to_path_buf(), Kind::Directory, parents, depth + 1)?
            }
            opened => opened?,
        };
        let name = CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL)?;
        if let Ok(target) = readlinkat(&directory, name.as_c_str()) {
            // Its way was never there: a link that dangles says where the file is to be, and so its directories.
            return self.make(parent.join(target), kind, Parents::Make, depth + 1);
        }
        self.permission.wait()?;
        match kind {
            Kind::Directory => {
                let mode = Mode::from_bits_truncate(0o755);
                match make_in(&directory, || mkdirat(&directory, name.as_c_str(), mode)) {
                    Err(Errno::EEXIST) => {}
                    made => made?,
                }
            }
            Kind::File => {
                let mode = Mode::from_bits_truncate(0o644);
                // What another container has put there meanwhile is not opened: of a FIFO that would wait.
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                let make = || openat(&directory, name.as_c_str(), flags, mode);
                match make_in(&directory, make) {
                    Err(Errno::EEXIST) => {}
                    made => drop(made?),
                }
            }
        }
        // Whoever was faster may have made something else.
        self.make(path, kind, parents, depth + 1)
    }
}

/// The pipe of the config message. What changes a root file system, which may be shared and stays, waits until
/// something is in it: everything that can be refused has been accepted then.
pub struct Permission<'a>(pub BorrowedFd<'a>);

impl Permission<'_> {
    /// Waits for it.
    ///
    /// # Errors
    /// The other end is closed.
    pub fn wait(&self) -> nix::Result<()> {
        let mut fds = [PollFd::new(self.0, PollFlags::POLLIN)];
        while let Err(errno) = poll(&mut fds, PollTimeout::NONE) {
            if errno != Errno::EINTR {
                return Err(errno);
            }
        }
        let is_there = fds[0]
            .revents()
            .is_some_and(|events| events.contains(PollFlags::POLLIN));
        if is_there {
            Ok(())
        } else {
            Err(Errno::ECANCELED)
        }
    }
}

/// `true` when two descriptors are the same file: for a check that a bind mount took.
#[cfg(test)]
fn same(a: &OwnedFd, b: &OwnedFd) -> bool {
    let (a, b) = (
        nix::sys::stat::fstat(a).unwrap(),
        nix::sys::stat::fstat(b).unwrap(),
    );
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn root(name: &str) -> (PathBuf, OwnedFd) {
        let path =
            std::env::temp_dir().join(format!("hawser-rootfs-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(path.join("etc")).unwrap();
        let fd = open_path(&path).unwrap();
        (path, fd)
    }

    #[test]
    fn a_link_that_leads_out_ends_inside() {
        let (path, fd) = root("out");
        let granted = fs::File::open("/dev/zero").unwrap();
        for (link, target) in [
            ("a", "/run/deep/er/file"),
            ("b", "../../../../../run/deep/er/file"),
            ("c", "../etc/b"),
        ] {
            symlink(target, path.join("etc").join(link)).unwrap();
            let made = open_or_make(
                &fd,
                &Path::new("etc").join(link),
                Kind::File,
                Parents::MustExist,
                &Permission(granted.as_fd()),
            )
            .unwrap();
            let inside = open_path(&path.join("run/deep/er/file")).unwrap();
            assert!(same(&made, &inside), "{link} -> {target}");
        }
        assert!(!Path::new("/run/deep").exists());
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn what_cannot_be_made_is_an_errno() {
        let (path, fd) = root("not");
        let granted = fs::File::open("/dev/zero").unwrap();
        symlink("loop", path.join("etc/loop")).unwrap();
        let make = |p: &str, kind, parents| {
            open_or_make(
                &fd,
                Path::new(p),
                kind,
                parents,
                &Permission(granted.as_fd()),
            )
            .map(drop)
        };
        assert_eq!(
            make("etc/loop", Kind::File, Parents::Make),
            Err(Errno::ELOOP)
        );
        assert_eq!(
            make("usr/etc/hosts", Kind::File, Parents::MustExist),
            Err(Errno::ENOENT)
        );
        assert_eq!(make("etc", Kind::File, Parents::Make), Err(Errno::EISDIR));
        assert_eq!(make("/srv/www", Kind::Directory, Parents::Make), Ok(()));
        assert!(path.join("srv/www").is_dir());
        fs::remove_dir_all(path).unwrap();
    }
}

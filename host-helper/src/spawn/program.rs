//! init as a program: the one that is named, the installed one, or the one inside host-helper.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{AccessFlags, access};

use crate::error::{Doing, Error, Result};
use crate::sys;

/// init for containers, as built with this program.
const EMBEDDED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));

/// init: from `path`, or from the installed place beside this program; `None`: the embedded one is to be used.
/// The container cannot write to it, not even by `/proc/1/exe`.
///
/// # Errors
/// A file that cannot be opened.
pub fn open_init(path: Option<&Path>) -> Result<Option<OwnedFd>> {
    if let Some(path) = path {
        let doing = || format!("open init {}", path.display());
        let allowed = access(path, AccessFlags::X_OK).doing(doing);
        allowed.map_err(|error| error.cure(Errno::EACCES, "it lacks the x bit (chmod +x), or a mount has noexec, or a directory above it is closed"))?;
        let found = read_only(path).doing(doing)?;
        let mode = SFlag::from_bits_truncate(fstat(&found).doing(doing)?.st_mode);
        return match mode & SFlag::S_IFMT {
            SFlag::S_IFREG => Ok(Some(found)),
            _ => Err(Error::new(format!(
                "{}: it is no file that can be executed",
                doing()
            ))),
        };
    }
    let installed = installed_init()
        .map(|path| read_only(&path).doing(|| format!("open init {}", path.display())));
    installed.transpose()
}

/// `../libexec/hawser/init`, when this program is in a `bin` (or `sbin`) and nobody but root, or we, can have put it
/// there.
fn installed_init() -> Option<PathBuf> {
    // Where exec found it, unless that is a link: `/proc/self/exe`, which knows better, takes the kernel 25 us.
    let called = sys::executed_path().and_then(|path| installed_beside(path, true));
    called.or_else(|| installed_beside(&std::env::current_exe().ok()?, false))
}

fn installed_beside(program: &Path, may_be_link: bool) -> Option<PathBuf> {
    let directory = program.parent()?;
    directory
        .file_name()?
        .to_str()?
        .ends_with("bin")
        .then_some(())?;
    if may_be_link && program.symlink_metadata().ok()?.is_symlink() {
        return None;
    }
    // By "..": the directory may be a link.
    let path = directory.join("../libexec/hawser/init");
    let found = path.symlink_metadata().ok()?;
    let is_trusted = found.uid() == 0 || found.uid() == nix::unistd::geteuid().as_raw();
    (found.is_file() && is_trusted && found.mode() & 0o022 == 0).then_some(path)
}

/// A file through a mount of its own that nobody can write through.
fn read_only(path: &Path) -> nix::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let file = sys::clone_tree(AT_FDCWD, &path, false)?;
    sys::set_mount_attributes(&file, libc::MOUNT_ATTR_RDONLY, false)?;
    Ok(file)
}

/// The init inside this program, in a sealed memory file.
///
/// # Errors
/// No memory or descriptors left.
pub fn embedded_init() -> Result<OwnedFd> {
    in_memory(c"init", EMBEDDED)
}

/// A program in a sealed memory file of this name, which nobody can write.
///
/// # Errors
/// No memory or descriptors left.
pub fn in_memory(name: &CStr, program: &[u8]) -> Result<OwnedFd> {
    let doing = || format!("put {} into memory", name.to_string_lossy());
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // linux/memfd.h, 6.3: it is to be executed, whatever vm.memfd_noexec makes of those who do not say so.
    let to_execute = MFdFlags::from_bits_retain(0x10);
    let made = match memfd_create(name, flags | to_execute) {
        Err(Errno::EINVAL) => memfd_create(name, flags),
        made => made,
    };
    let mut file = File::from(made.doing(doing).map_err(|error| {
        error.cure(
            Errno::EACCES,
            "vm.memfd_noexec=2 forbids all programs in memory; 1 allows this one",
        )
    })?);
    file.write_all(program).doing(doing)?;
    let seals = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).doing(doing)?;
    Ok(file.into())
}

/// Whether that is what a file is. (Others in memory have no seal but that there are no more.)
pub fn is_in_memory(file: &File) -> bool {
    let seals = fcntl(file, FcntlArg::F_GET_SEALS).unwrap_or(0);
    SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_WRITE)
}

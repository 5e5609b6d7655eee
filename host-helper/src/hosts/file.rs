//! The files of a network's names are opened without waiting. A container with the host's root, which owns the one that it sees, may have
//! a lease on that (fcntl(2), `F_SETLEASE`) as long as nobody has it open for writing: who opens it then waits until the container lets go,
//! or for `fs.lease-break-time`, 45 seconds, time and again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::lock;

/// Whom to lock before one writes there.
pub(super) fn lock_of(path: &Path) -> PathBuf {
    path.with_extension("lock")
}

/// The file and its lock, made where they are missing.
pub(super) fn open_both(path: &Path) -> io::Result<(File, File)> {
    let beside = open_or_make(&lock_of(path))?;
    let file = match open_or_make(path) {
        Err(error) if is_leased(&error) => renew(path, &beside),
        opened => opened,
    };
    Ok((file?, beside))
}

/// For reading alone. An error where that is not allowed now.
pub(super) fn open_to_read(path: &Path) -> io::Result<File> {
    at_once().read(true).open(path)
}

fn at_once() -> OpenOptions {
    let mut options = File::options();
    options.custom_flags(libc::O_NONBLOCK);
    options
}

fn open_or_make(path: &Path) -> io::Result<File> {
    let mut options = at_once();
    options.read(true).write(true).create(true).truncate(false);
    options.mode(0o600).open(path)
}

fn is_leased(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// A copy takes the file's place. Those that have the old one, the holder of the lease among them, keep it as it is; that none of them has
/// somebody who writes there is why there can be a lease.
fn renew(path: &Path, beside: &File) -> io::Result<File> {
    let _locked = lock(beside)?;
    match open_or_make(path) {
        Err(error) if is_leased(&error) => {}
        // Another has done it, or the lease is gone.
        opened => return opened,
    }
    let mut text = Vec::new();
    // With a lease for writing nobody may read it either, and the new one begins with those who come.
    if open_to_read(path)
        .and_then(|mut file| file.read_to_end(&mut text))
        .is_err()
    {
        text.clear();
    }
    let new = path.with_extension("new");
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    let file = options.mode(0o600).open(&new)?;
    file.set_permissions(PermissionsExt::from_mode(0o644))?;
    file.write_all_at(&text, 0)?;
    fs::rename(new, path)?;
    Ok(file)
}

//! `/run/hawser`: what cannot live in the kernel. Losing it loses no network.

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::error::{Doing, Error, Result};

/// The directory, 0700 and root's own.
pub const DIRECTORY: &str = "/run/hawser";

/// A lock on the directory, for the few microseconds in which names are taken or the network is made. It is the
/// kernel's (flock(2)): whoever is killed has let go of it.
pub struct Lock(#[expect(dead_code, reason = "held, never looked at")] Flock<File>);

/// Makes the directory where it is missing, and waits for its lock.
///
/// # Errors
/// When it cannot be made or locked, or somebody else may write there.
pub fn lock() -> Result<Lock> {
    loop {
        let directory = match File::open(DIRECTORY) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make_directory()?;
                continue;
            }
            opened => opened.doing(|| format!("open {DIRECTORY}"))?,
        };
        let found = directory
            .metadata()
            .doing(|| format!("look at {DIRECTORY}"))?;
        let me = nix::unistd::geteuid().as_raw();
        if !found.is_dir() || found.uid() != me || found.mode() & 0o022 != 0 {
            return Err(Error::new(format!(
                "use {DIRECTORY}: it is not a directory that only uid {me} may write; remove it"
            )));
        }
        let lock = Flock::lock(directory, FlockArg::LockExclusive)
            .map_err(|(_, errno)| errno)
            .doing(|| format!("lock {DIRECTORY}"))?;
        // Whoever had it before us may have removed the directory.
        if fs::metadata(DIRECTORY).is_ok_and(|now| now.ino() == found.ino()) {
            return Ok(Lock(lock));
        }
    }
}

fn make_directory() -> Result<()> {
    match DirBuilder::new().mode(0o700).create(DIRECTORY) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(error).doing(|| format!("create {DIRECTORY}"))
        }
        _ => Ok(()),
    }
}

/// Removes the directory when nothing is in it.
pub fn remove_directory_if_empty() {
    if let Ok(lock) = lock() {
        // Not empty is the usual case.
        let _ = fs::remove_dir(DIRECTORY);
        drop(lock);
    }
}

/// Where the file of a container is: `extension` is `sock`, `log` or `code`.
///
/// A socket's path holds 107 bytes (unix(7)), so that a long name keeps its beginning and gets a hash.
pub fn path(name: &str, extension: &str) -> PathBuf {
    const LONGEST: usize = 64;
    let stem = if name.len() <= LONGEST {
        name.to_string()
    } else {
        // FNV-1a, 64 bits (RFC 9923): no protection against who chooses names on purpose, and none needed: root does.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        format!(
            "{}~{hash:016x}",
            name.chars().take(LONGEST - 17).collect::<String>()
        )
    };
    Path::new(DIRECTORY).join(format!("{stem}.{extension}"))
}

/// The next number of a counter that goes round: where the search for a free address starts, so that one is not
/// given again while its last owner's namespace is still being torn down. A hint: what counts is the link's name.
pub fn next_offset(network: &str, _lock: &Lock) -> u32 {
    let path = Path::new(DIRECTORY).join(format!("{network}.next"));
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path);
    let Ok(mut file) = file else {
        return crate::sys::random_u32();
    };
    let mut bytes = [0; 4];
    let offset = match file.read_exact(&mut bytes) {
        Ok(()) => u32::from_ne_bytes(bytes),
        Err(_) => 0,
    };
    let next = offset.wrapping_add(1).to_ne_bytes();
    // A counter that cannot be stored costs a few names that are tried in vain.
    let _ = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.write_all(&next));
    offset
}

/// Forgets the counter of a network that is gone.
pub fn forget_offset(network: &str) {
    let _ = fs::remove_file(Path::new(DIRECTORY).join(format!("{network}.next")));
}

/// Removes what ended containers have left for `logs` and `wait`, and names that nobody holds; then the directory.
///
/// Under the lock: between bind(2) and listen(2) a name that is being taken refuses connections too.
pub fn remove_leftovers(_lock: &Lock) {
    let remove = |extensions: &[&str], is_left_over: &dyn Fn(&Path) -> bool| {
        for entry in fs::read_dir(DIRECTORY).into_iter().flatten().flatten() {
            let path = entry.path();
            let extension = path.extension().and_then(|extension| extension.to_str());
            if extension.is_some_and(|extension| extensions.contains(&extension))
                && is_left_over(&path)
            {
                let _ = fs::remove_file(path);
            }
        }
    };
    remove(&["sock"], &|path| UnixStream::connect(path).is_err());
    remove(&["log", "code"], &|path| {
        !path.with_extension("sock").exists()
    });
    // Only when it is empty.
    let _ = fs::remove_dir(DIRECTORY);
}

/// Forgets the log and the exit code of a container; false when there were none.
pub fn forget_output(name: &str) -> bool {
    let removed = ["log", "code"].map(|extension| fs::remove_file(path(name, extension)).is_ok());
    removed.contains(&true)
}

/// How many ended containers `logs` and `wait` remember at most; the oldest are forgotten first.
const REMEMBERED_LOGS: usize = 100;
const REMEMBERED_CODES: usize = 1000;

/// Forgets the oldest of the ended containers, so that services that start thousands of them fill no memory.
pub fn forget_oldest() {
    let ended = |entry: fs::DirEntry| {
        let path = entry.path();
        let is_code = path
            .extension()
            .is_some_and(|extension| extension == "code");
        Some((
            entry.metadata().ok().filter(|_| is_code)?.modified().ok()?,
            path,
        ))
    };
    let mut codes: Vec<_> = fs::read_dir(DIRECTORY)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(ended)
        .collect();
    codes.sort();
    let all = codes.len();
    for (newer, (_, path)) in codes
        .iter()
        .enumerate()
        .map(|(older, code)| (all - 1 - older, code))
    {
        if newer >= REMEMBERED_LOGS {
            let _ = fs::remove_file(path.with_extension("log"));
        }
        if newer >= REMEMBERED_CODES {
            let _ = fs::remove_file(path);
        }
    }
}

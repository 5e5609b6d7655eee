//! `/run/hawser`: what cannot live in the kernel. Losing it loses no network.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::deadline::{self, Locked};
use crate::error::{Doing, Error, Result, twice};

/// The directory, 0700 and root's own.
pub const DIRECTORY: &str = "/run/hawser";

/// A lock on the directory, for the few microseconds in which names are taken or the network is made. It is the
/// kernel's (flock(2)): whoever is killed has let go of it.
pub struct Lock(#[expect(dead_code, reason = "held, never looked at")] Locked);

/// Makes the directory where it is missing, and waits for its lock.
///
/// # Errors
/// When it cannot be made or locked, or somebody else may write there.
pub fn lock() -> Result<Lock> {
    loop {
        let directory = match File::open(DIRECTORY) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                deadline::check()?;
                make_directory()?;
                continue;
            }
            opened => opened
                .doing(|| format!("open {DIRECTORY}"))
                .map_err(|error| error.cure(Errno::EACCES, "run as root (sudo)"))?,
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
        let locked = deadline::lock(directory);
        // Too late: what that means to whoever waits says more than what we waited for.
        deadline::check()?;
        let lock = locked.doing(|| format!("lock {DIRECTORY}"))?;
        // Whoever had it before us may have removed the directory.
        if fs::metadata(DIRECTORY).is_ok_and(|now| now.ino() == found.ino()) {
            return Ok(Lock(lock));
        }
    }
}

fn make_directory() -> Result<()> {
    match DirBuilder::new().mode(0o700).create(DIRECTORY) {
        // Nobody makes what it leads to.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && leads_nowhere() => {
            Err(Error::new(format!(
                "use {DIRECTORY}: it is a link that leads nowhere; remove it"
            )))
        }
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            let made = Err(error).doing(|| format!("create {DIRECTORY}"));
            made.map_err(|error| {
                error
                    .cure(
                        Errno::EACCES,
                        "run as root (sudo), or in namespaces of your own mount a tmpfs on /run first: mount -t tmpfs none /run",
                    )
                    .cure(Errno::ENOENT, "there is no directory /run, or a link there leads nowhere: make one (mkdir /run)")
            })
        }
        _ => Ok(()),
    }
}

fn leads_nowhere() -> bool {
    let is_link = Path::new(DIRECTORY).is_symlink();
    is_link && fs::metadata(DIRECTORY).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Whether there has been anything to keep.
pub fn is_there() -> bool {
    Path::new(DIRECTORY).exists()
}

/// Removes the directory when nothing is in it.
pub fn remove_directory_if_empty() {
    if let Ok(lock) = lock() {
        remove_if_empty(DIRECTORY);
        drop(lock);
    }
}

/// Removes a directory, unless something is in it, which is the usual case.
pub fn remove_if_empty(directory: impl AsRef<Path>) {
    let _ = twice(|| fs::remove_dir(&directory));
}

/// Where the file of a container is: `extension` is `sock`, `log` or `code`.
///
/// A socket's path holds 107 bytes (unix(7)), so that a long name keeps its beginning and gets a hash.
pub fn path(name: &str, extension: &str) -> PathBuf {
    const LONGEST: usize = 64;
    let stem = if name.len() <= LONGEST {
        name.to_string()
    } else {
        let hash = crate::address::hash(name.as_bytes());
        let beginning: String = name.chars().take(LONGEST - 17).collect();
        format!("{beginning}~{hash:016x}")
    };
    Path::new(DIRECTORY).join(format!("{stem}.{extension}"))
}

/// The next number of a counter that goes round: where the search for a free address starts, so that one is not
/// given again while its last owner's namespace is still being torn down. A hint: what counts is the link's name.
pub fn next_offset(network: &str, _lock: &Lock) -> u32 {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(counter(network));
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

/// There is a counter. True: there was none.
pub fn begin_counter(network: &str) -> bool {
    let mut options = File::options();
    let made = options.write(true).create_new(true).mode(0o600);
    made.open(counter(network)).is_ok()
}

/// Where a network's counter is, and behind it its [`Listener`].
fn counter(network: &str) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{network}.next"))
}

/// Who has the socket by which a network's supervisors hear of the firewall. A hint too: it may have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// The process.
    pub pid: i32,
    /// Its number of the descriptor.
    pub fd: i32,
    /// When the process began, in clock ticks since boot: what tells it from another of its number.
    pub start: u64,
}

/// How many bytes the counter has.
const COUNTER: u64 = 4;

/// Who has it, as far as that is known.
pub fn listener(network: &str) -> Option<Listener> {
    let mut bytes = [0; 16];
    let file = File::open(counter(network)).ok()?;
    file.read_exact_at(&mut bytes, COUNTER).ok()?;
    Some(Listener {
        pid: i32::from_ne_bytes(bytes[..4].try_into().ok()?),
        fd: i32::from_ne_bytes(bytes[4..8].try_into().ok()?),
        start: u64::from_ne_bytes(bytes[8..].try_into().ok()?),
    })
}

/// Whoever looks for it and, where there is none, becomes it, does so alone. None without a counter: nobody keeps it then.
pub fn lock_listener(network: &str) -> Option<Locked> {
    deadline::lock(File::open(counter(network)).ok()?).ok()
}

/// Keeps who has it. A network without a counter has nowhere to keep it.
pub fn keep_listener(network: &str, listener: Listener) {
    let Listener { pid, fd, start } = listener;
    let bytes = [
        &pid.to_ne_bytes()[..],
        &fd.to_ne_bytes(),
        &start.to_ne_bytes(),
    ];
    // Not kept, the next one opens a socket of its own.
    if let Ok(file) = File::options().write(true).open(counter(network)) {
        let _ = file.write_all_at(&bytes.concat(), COUNTER);
    }
}

/// The number of a machine without one, in [`DIRECTORY`].
const MACHINE_ID: &str = "machine-id";

/// What tells this machine from others: machine-id(5); where there is none, a random number that is kept until the last
/// network goes.
///
/// # Errors
/// The number cannot be kept.
pub fn machine_id() -> Result<Vec<u8>> {
    let kept = Path::new(DIRECTORY).join(MACHINE_ID);
    let read = |path: &Path| {
        let text = fs::read_to_string(path).ok()?;
        let id = text.trim();
        // "uninitialized" is in it in the first moments of a machine's first boot.
        let is_id = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then(|| id.as_bytes().to_vec())
    };
    for path in ["/etc/machine-id", "/var/lib/dbus/machine-id"] {
        if let Some(id) = read(Path::new(path)) {
            return Ok(id);
        }
    }
    if let Some(id) = read(&kept) {
        return Ok(id);
    }
    let id: String = (0..4)
        .map(|_| format!("{:08x}", crate::sys::random_u32()))
        .collect();
    // Whole from its first moment, and of two at once the first one stays.
    let new = kept.with_extension(std::process::id().to_string());
    let written = fs::write(&new, &id).and_then(|()| fs::hard_link(&new, &kept));
    let _ = fs::remove_file(&new);
    match written {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        written => written.doing(|| format!("write {}", kept.display()))?,
    }
    read(&kept).ok_or_else(|| Error::new(format!("read {}: it is no machine-id", kept.display())))
}

/// Forgets it, and what is left of whoever was killed while making it.
fn forget_machine_id() {
    for entry in fs::read_dir(DIRECTORY).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_number = |text: &OsStr| text.as_encoded_bytes().iter().all(u8::is_ascii_digit);
        // A container may be called so: its socket and its log are not meant.
        if path.file_stem().is_some_and(|stem| stem == MACHINE_ID)
            && path.extension().is_none_or(is_number)
        {
            let _ = fs::remove_file(path);
        }
    }
}

/// Forgets the counter of a network that is gone.
pub fn forget_offset(network: &str) {
    let _ = fs::remove_file(counter(network));
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
    remove(&["sock"], &|path| !crate::control::listens(path));
    remove(&["log", "code"], &|path| {
        !path.with_extension("sock").exists()
    });
    forget_machine_id();
    remove(&["hosts"], &crate::hosts::is_left_over);
    // Those of bridges that others have made, too: nobody lives on any.
    remove(&["lock", "next", "new"], &|path| {
        !path.with_extension("hosts").exists()
    });
    remove_if_empty(DIRECTORY);
}

/// Forgets the log and the exit code of a container; false when there were none.
pub fn forget_output(name: &str) -> bool {
    let removed = ["log", "code"].map(|extension| fs::remove_file(path(name, extension)).is_ok());
    removed.contains(&true)
}

/// The exit code stays for `wait`, as the log does for `logs`, until the name is used again. Where there is no room for it, the last page
/// of a log that is longer gives its own.
pub fn leave_code(name: &str, code: u8) {
    const PAGE: u64 = 4096;
    let place = path(name, "code");
    let write = || fs::write(&place, format!("{code}\n"));
    let written = write().or_else(|refusal| {
        let log = File::options().write(true).open(path(name, "log"))?;
        let len = log.metadata()?.len();
        if refusal.kind() != ErrorKind::StorageFull || len <= PAGE {
            return Err(refusal);
        }
        log.set_len((len - 1) / PAGE * PAGE)?;
        write()
    });
    if written.is_err() {
        // There is nobody left to tell; wait says that there is no code.
        let _ = fs::remove_file(&place);
    }
    forget_oldest();
}

/// How many ended containers `logs` and `wait` remember at most; the oldest are forgotten first.
const REMEMBERED_LOGS: usize = 100;
const REMEMBERED_CODES: usize = 1000;

/// Forgets the oldest of the ended containers, so that services that start thousands of them fill no memory.
///
/// Under the lock, where there is something to forget: who has the name again meanwhile has a log again.
fn forget_oldest() {
    // Found out before: where a thousand end at once, each would wait for the looks of all others.
    let oldest = oldest();
    if oldest.is_empty() {
        return;
    }
    let Ok(_lock) = lock() else {
        // The next one to end does it.
        return;
    };
    for path in oldest {
        let name_is_taken = path.with_extension("sock").exists();
        if !name_is_taken {
            let _ = fs::remove_file(path);
        }
    }
}

/// Logs and exit codes of those that have ended, beyond what is remembered. None of the files is looked at unless there are too many:
/// where a thousand end at once, each comes by here.
fn oldest() -> Vec<PathBuf> {
    let (mut codes, mut logs, mut taken) = (Vec::new(), Vec::new(), BTreeSet::new());
    for entry in fs::read_dir(DIRECTORY).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.extension().and_then(OsStr::to_str) {
            Some("code") => codes.push(path),
            Some("log") => logs.push(path),
            Some("sock") => drop(taken.insert(path.with_extension("log"))),
            _ => {}
        }
    }
    // One whose supervisor was killed has left no code.
    logs.retain(|log| !taken.contains(log));
    let mut oldest = beyond(logs, REMEMBERED_LOGS);
    oldest.extend(beyond(codes, REMEMBERED_CODES));
    oldest
}

/// Those of ended containers that are older than the newest so many.
fn beyond(mut paths: Vec<PathBuf>, most: usize) -> Vec<PathBuf> {
    if paths.len() <= most {
        return Vec::new();
    }
    // A log may have been emptied since.
    let end_of = |path: &PathBuf| {
        let code = fs::metadata(path.with_extension("code"));
        code.or_else(|_| fs::metadata(path))?.modified()
    };
    paths.sort_by_cached_key(|path| Reverse(end_of(path).ok()));
    paths.split_off(most)
}

//! Asking supervisors: one, or all of them side by side.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use super::VERSION;
use crate::state;

/// A supervisor that is stopped, or has not begun, does not answer. (Those that wait for an end take as long as that.)
const PATIENCE: Duration = Duration::from_secs(2);
/// How many supervisors are asked at a time: each takes a descriptor, of which there may be 1,024.
const SIDE_BY_SIDE: usize = 64;

/// Connects, and waits no longer than this for a place in the queue, which is full when one that is stopped was asked thousands of times:
/// silence, as when no answer comes.
pub(super) fn connect_to(path: &Path, patience: Option<Duration>) -> io::Result<UnixStream> {
    let mut flags = SockFlag::SOCK_CLOEXEC;
    let waits = patience != Some(Duration::ZERO);
    flags.set(SockFlag::SOCK_NONBLOCK, !waits);
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let address = UnixAddr::new(path)?;
    let stream = UnixStream::from(socket);
    if waits {
        stream.set_write_timeout(patience)?;
    }
    while let Err(error) = connect(stream.as_raw_fd(), &address) {
        if error != Errno::EINTR {
            return Err(error.into());
        }
    }
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Asks the supervisor of a running container.
///
/// # Errors
/// `NotFound` or `ConnectionRefused`: there is no such container.
pub fn ask(name: &str, request: &str) -> io::Result<String> {
    ask_at(&state::path(name, "sock"), request)
}

/// Asks whoever listens at `path`.
///
/// # Errors
/// As [`ask`].
pub fn ask_at(path: &Path, request: &str) -> io::Result<String> {
    let patience = (!waits(request)).then_some(PATIENCE);
    ask_within(path, request, patience)
}

/// Asks all who listen at these paths, some of them side by side: what takes most of the time is to wake each.
pub fn ask_each<'a>(
    paths: &'a [PathBuf],
    request: &'a str,
) -> impl Iterator<Item = (&'a PathBuf, io::Result<String>)> {
    paths.chunks(SIDE_BY_SIDE).flat_map(move |paths| {
        let begun: Vec<_> = paths
            .iter()
            .map(|path| begin(connect_to(path, Some(Duration::ZERO))?, request))
            .collect();
        let until = Instant::now() + PATIENCE;
        paths.iter().zip(begun).map(move |(path, begun)| {
            let hear = |connection: UnixStream| {
                // Zero would be for ever; what is there already is heard in any time.
                let left = until.saturating_duration_since(Instant::now());
                connection.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
                answer(connection, request)
            };
            let heard = match begun {
                // Too many at once: for its queue, or for our descriptors. The others do not wait for it.
                Err(error) if !is_nobody(&error) => ask_within(path, request, Some(PATIENCE)),
                begun => begun.and_then(hear),
            };
            (path, heard)
        })
    })
}

pub(super) fn ask_within(
    path: &Path,
    request: &str,
    patience: Option<Duration>,
) -> io::Result<String> {
    let connection = connect_to(path, patience)?;
    if patience.is_some() {
        connection.set_read_timeout(patience)?;
    }
    let connection = begin(connection, request)?;
    answer(connection, request)
}

/// Tells whoever listens at `path`, and waits for nothing: not even for a place in the queue of one that is stopped.
pub fn tell(path: &Path, request: &str) {
    // Nobody listens: its container is gone.
    let _ = connect_to(path, Some(Duration::ZERO)).and_then(|stream| begin(stream, request));
}

/// The answer comes when the container has ended.
fn waits(request: &str) -> bool {
    matches!(request.split(' ').next(), Some("wait" | "stop"))
}

pub(super) fn begin(mut connection: UnixStream, request: &str) -> io::Result<UnixStream> {
    connection.write_all(format!("{VERSION}{request}\n").as_bytes())?;
    Ok(connection)
}

fn answer(mut connection: UnixStream, request: &str) -> io::Result<String> {
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    // A supervisor that is killed says nothing more. Who waits for the end has it then.
    if answer.is_empty() && !waits(request) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer)
}

/// There is no such container.
fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// Whoever listens has said nothing in time.
pub fn is_silence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Whoever listened has gone without an answer.
pub(super) fn has_ended(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
    )
}

//! A container's control socket, `/run/hawser/NAME.sock`: the lease of its name, and a few words to its supervisor.
//!
//! A request is one line, `hawser 1 WORD [ARGUMENT]`; the answer is text until the end of the connection.
//! The words: `inspect` (JSON), `join` (the same, by who is about to share its network), `wait` (`exit CODE`, when the
//! container has ended), `stop SECONDS` (the same, after it was made to end), `restore` (`done`, when its rules are there
//! again), `log` (`done`, when what it has written is in its log), `port add RANGE` and `port rm RANGE` (the ports, a range a line).

mod ask;
mod stop;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    getsockopt, setsockopt,
    sockopt::{PeerCredentials, SndBufForce},
};

use crate::attached;
use crate::error::{Doing, Error, Refusal, Result, twice};
use crate::netlink::Netlink;
use crate::owner::start_time;
use crate::publish::{self, Range};
use crate::state;

pub use ask::{ask, ask_at, ask_each, is_silence, tell};
pub use stop::{stop, stop_all};

use ask::{connect_to, has_ended};

/// First words of every request.
const VERSION: &str = "hawser 1 ";
/// A request is longer only by mistake.
const LONGEST: u64 = 256;
/// A name that is ours as long as this lives.
pub struct Lease {
    /// Where requests come in.
    pub listener: UnixListener,
    /// What there is for `logs` and `wait` stays in the end. Not so while a container by itself has begun its log, and may fail to start.
    pub keeps_output: bool,
    name: String,
    inode: u64,
}

impl Lease {
    /// Takes a container's name; the socket of a dead one is removed. The directory is there and locked.
    ///
    /// `None`: a living container has the name.
    ///
    /// # Errors
    /// What the directory refuses.
    pub fn take(name: &str, _lock: &state::Lock) -> Result<Option<Lease>> {
        let path = state::path(name, "sock");
        let doing = || format!("take name {name} by {}", path.display());
        let listener = match UnixListener::bind(&path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                if listens(&path) {
                    return Ok(None);
                }
                match fs::remove_file(&path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(error).doing(doing);
                    }
                    _ => UnixListener::bind(&path),
                }
            }
            bound => bound,
        };
        // From here on there is a file to take back, even when it was not to be listened on.
        let taken = listener.and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((listener, fs::metadata(&path)?.ino()))
        });
        let (listener, inode) = taken
            .inspect_err(|_| {
                let _ = fs::remove_file(&path);
            })
            .doing(doing)?;
        Ok(Some(Lease {
            listener,
            keeps_output: true,
            name: name.to_string(),
            inode,
        }))
    }

    /// The container has started: what the last one of the name has left goes.
    pub fn begin_output(&mut self) {
        state::forget_output(&self.name);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // The directory may have been removed, and the name taken anew.
        let path = state::path(&self.name, "sock");
        if fs::metadata(&path).map_or(true, |found| found.ino() == self.inode) {
            if !self.keeps_output {
                state::forget_output(&self.name);
            }
            let _ = twice(|| fs::remove_file(&path));
        }
    }
}

/// Whether somebody answers to a container's name.
pub fn is_supervised(name: &str) -> bool {
    listens(&state::path(name, "sock"))
}

/// Whether the process that has made this socket lives. A process of its that has not come to run yet, and to close what is not its own,
/// may have it open for a moment longer.
pub fn listens(path: &Path) -> bool {
    let connection = match connect_to(path, Some(Duration::ZERO)) {
        Ok(connection) => connection,
        // Its queue is full.
        Err(error) => return is_silence(&error),
    };
    match getsockopt(&connection, PeerCredentials) {
        // 0: of a pid namespace that is not below ours.
        Ok(maker) => {
            maker.pid() == 0 || start_time(maker.pid()).map_or(true, |start| start.is_some())
        }
        Err(_) => true,
    }
}

/// Removes the socket of a supervisor that was killed.
pub fn forget_stale(name: &str) {
    // Between bind(2) and listen(2) a name that is being taken refuses connections too.
    let Ok(_lock) = state::lock() else {
        return;
    };
    if !is_supervised(name) {
        let _ = fs::remove_file(state::path(name, "sock"));
    }
}

/// Removes the sockets of all supervisors that were killed, and logs into which nothing was written. Nobody who lives is woken by it:
/// the kernel knows whose sockets are open, but for those of others who share the directory.
pub fn sweep_stale() {
    let sockets = sockets().unwrap_or_default();
    if sockets.is_empty() {
        return;
    }
    let Ok(open) = fs::read_to_string("/proc/net/unix") else {
        return;
    };
    let open: BTreeSet<&str> = open
        .lines()
        .filter_map(|line| line.split(' ').next_back())
        .collect();
    let is_open = |path: &PathBuf| path.to_str().is_some_and(|path| open.contains(path));
    let stale: Vec<PathBuf> = sockets.into_iter().filter(|path| !is_open(path)).collect();
    if stale.is_empty() {
        return;
    }
    // As above.
    let Ok(_lock) = state::lock() else {
        return;
    };
    for path in stale.iter().filter(|path| !listens(path)) {
        let log = path.with_extension("log");
        // Who has ended meanwhile as it should has left its exit code before it let go of the name, and its log is to stay.
        let has_ended = path.with_extension("code").exists();
        if !has_ended && fs::metadata(&log).is_ok_and(|log| log.len() == 0) {
            let _ = fs::remove_file(log);
        }
        let _ = fs::remove_file(path);
    }
    // Only when it is empty.
    let _ = fs::remove_dir(state::DIRECTORY);
}

/// The error of who wants the name of a living container. Not under the lock: the holder may be waiting for it.
pub fn in_use(name: &str) -> Error {
    let holder = ask(name, "inspect").ok();
    let pid = holder.and_then(|answer| pid_in(&answer));
    let pid = pid.map_or(String::new(), |pid| format!(" (pid {pid})"));
    Error::new(format!(
        "take name {name}: it is in use by a running container{pid}; choose another --name, or stop that one"
    ))
}

/// PID 1 of a running container, as this pid namespace counts.
///
/// # Errors
/// There is no such container.
pub fn pid_of(name: &str) -> Result<i32> {
    pid_by(name, "inspect")
}

/// The same, by who is about to share its network: the firewall then knows of it as long as somebody is in it.
///
/// # Errors
/// As [`pid_of`].
pub fn join(name: &str) -> Result<i32> {
    pid_by(name, "join")
}

fn pid_by(name: &str, request: &str) -> Result<i32> {
    let answer = ask(name, request).map_err(|error| no_such(name, &error))?;
    pid_in(&answer).ok_or_else(|| {
        Error::new(format!(
            "find container {name}: its supervisor gives no pid"
        ))
    })
}

fn pid_in(answer: &str) -> Option<i32> {
    let answer: serde_json::Value = serde_json::from_str(answer).ok()?;
    answer.get("pid")?.as_i64()?.try_into().ok()
}

/// The error of who asks for a container that is not there.
pub fn no_such(name: &str, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => attached::unanswered(name),
        _ if is_silence(error) => silent(name, error),
        _ if has_ended(error) => Error::new(format!(
            "ask container {name}: it has ended meanwhile; host-helper ls shows those that run"
        )),
        _ => match error.raw_os_error().map(Errno::from_raw) {
            Some(errno) => Error::new(format!("ask container {name}: {}", Refusal::from(errno)))
                .cause(errno)
                .cure(Errno::EACCES, "run as root (sudo)"),
            None => Error::new(format!("ask container {name}: {error}")),
        },
    }
}

fn silent(name: &str, error: &io::Error) -> Error {
    let connection = connect_to(&state::path(name, "sock"), Some(Duration::ZERO));
    let maker = connection.and_then(|connection| Ok(getsockopt(&connection, PeerCredentials)?));
    let (pid, cure) = match maker {
        Ok(maker) if maker.pid() != 0 => (
            format!(" (pid {})", maker.pid()),
            format!("kill -CONT {}", maker.pid()),
        ),
        _ => (String::new(), "SIGCONT".into()),
    };
    let why = match error.raw_os_error() {
        Some(number) => format!("{:?}", Errno::from_raw(number)),
        None => error.to_string(),
    };
    Error::new(format!(
        "ask container {name}: its supervisor{pid} does not answer ({why}); if it is stopped, {cure} lets it go on: try again then"
    ))
}

/// The sockets that are there, whether somebody still listens or not.
///
/// # Errors
/// Not allowed to look.
pub fn sockets() -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(state::DIRECTORY) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read
            .doing(|| format!("list {}", state::DIRECTORY))
            .map_err(|error| error.cure(Errno::EACCES, "run as root (sudo)"))?,
    };
    let paths = entries.flatten().map(|entry| entry.path());
    Ok(paths
        .filter(|path| path.extension().is_some_and(|e| e == "sock"))
        .collect())
}

/// Whose socket this is. Of a long name the path has the beginning alone ([`state::path`]), and the container's link all of it.
pub fn name_at(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    // No name has one.
    let is_cut = stem.contains('~');
    let links = is_cut.then(|| Netlink::route().and_then(|mut route| route.links()));
    let links = links.and_then(|links| links.ok()).unwrap_or_default();
    let mut names = links
        .iter()
        .filter_map(|link| Some(link.mark.as_ref()?.container()?.0));
    let whole = names.find(|name| state::path(name, "sock") == path);
    whole.map_or_else(|| stem.into_owned(), str::to_string)
}

/// What a client wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// A description of the container, as JSON.
    Inspect,
    /// The same, by who is about to share its network.
    Join,
    /// Its rules in the firewall, should they be gone.
    Restore,
    /// What it has written so far, in its log.
    Log,
    /// Its exit code, once it has one.
    Wait,
    /// End it, by force after so many seconds; then its exit code.
    Stop(u64),
    /// Publish ports.
    AddPorts(Range),
    /// Withdraw them.
    RemovePorts(Range),
}

impl Request {
    fn parse(line: &str) -> std::result::Result<Request, String> {
        let words: Vec<&str> = line
            .strip_prefix(VERSION)
            .ok_or("another version of hawser speaks here")?
            .split(' ')
            .collect();
        match words[..] {
            ["inspect"] => Ok(Request::Inspect),
            ["join"] => Ok(Request::Join),
            ["restore"] => Ok(Request::Restore),
            ["log"] => Ok(Request::Log),
            ["wait"] => Ok(Request::Wait),
            ["stop", seconds] => seconds
                .parse()
                .map(Request::Stop)
                .map_err(|_| format!("{seconds}: not seconds")),
            ["port", "add", range] => range.parse().map(Request::AddPorts),
            ["port", "rm", range] => range.parse().map(Request::RemovePorts),
            _ => Err(format!("{}: unknown request", words[0])),
        }
    }
}

/// A client that has connected, until it has said what it wants.
pub struct Client {
    /// Its connection.
    pub stream: UnixStream,
    said: Vec<u8>,
}

impl Client {
    /// Takes the next connection; one of another user is dropped. Where no other descriptor is left, it has that of `spare`.
    pub fn accept(listener: &UnixListener, spare: &mut Option<OwnedFd>) -> Option<Client> {
        let mut accepted = listener.accept();
        if is_full(&accepted) {
            // Each that waits takes one.
            publish::raise_limit(0);
            accepted = listener.accept();
        }
        if is_full(&accepted) {
            *spare = None;
            accepted = listener.accept();
        }
        let (stream, _) = accepted.ok()?;
        stream.set_nonblocking(true).ok()?;
        let peer = getsockopt(&stream, PeerCredentials).ok()?.uid();
        let trusted = peer == 0 || peer == nix::unistd::geteuid().as_raw();
        trusted.then_some(Client {
            stream,
            said: Vec::new(),
        })
    }

    /// Reads what has come. `None`: not a whole line yet. An error ends the connection, its text is for the client.
    pub fn read(&mut self) -> Option<std::result::Result<Request, String>> {
        let read = (&self.stream).take(LONGEST).read_to_end(&mut self.said);
        if let Some(end) = self.said.iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.said[..end]).into_owned();
            return Some(Request::parse(&line));
        }
        match read {
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock
                    && self.said.len() < LONGEST as usize =>
            {
                None
            }
            Err(error) => Some(Err(format!("read the request: {}", Refusal::from(error)))),
            Ok(_) => Some(Err("no request".to_string())),
        }
    }

    /// Answers. The connection is to be closed; who does not read gets no answer.
    pub fn answer(mut self, text: &str) -> Option<UnixStream> {
        // All of it at once, however many ports there are. In a user namespace that is refused: to who does not read the rest, for so long.
        const PATIENCE: Duration = Duration::from_millis(100);
        let _ = setsockopt(&self.stream, SndBufForce, &(text.len() * 2 + 4096));
        self.stream.set_nonblocking(false).ok()?;
        self.stream.set_write_timeout(Some(PATIENCE)).ok()?;
        self.stream.write_all(text.as_bytes()).ok()?;
        Some(self.stream)
    }
}

fn is_full<T>(accepted: &io::Result<T>) -> bool {
    let errno = accepted.as_ref().err().and_then(io::Error::raw_os_error);
    matches!(errno, Some(libc::EMFILE | libc::ENFILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_told_as_it_was() {
        let say = |errno: Errno| no_such("web", &io::Error::from(errno)).to_string();
        let of_socket = "ask container web: permission denied (EACCES); run as root (sudo)";
        assert_eq!(say(Errno::EACCES), of_socket);
        let of_option = "ask container web: operation not permitted (EPERM)";
        assert_eq!(say(Errno::EPERM), of_option);
    }

    #[test]
    fn requests() {
        assert_eq!(Request::parse("hawser 1 inspect"), Ok(Request::Inspect));
        assert_eq!(Request::parse("hawser 1 wait"), Ok(Request::Wait));
        assert_eq!(Request::parse("hawser 1 log"), Ok(Request::Log));
        assert_eq!(Request::parse("hawser 1 stop 10"), Ok(Request::Stop(10)));
        let range: Range = "127.0.0.1:8080-8081:80-81/udp".parse().unwrap();
        assert_eq!(
            Request::parse(&format!("hawser 1 port add {range}")),
            Ok(Request::AddPorts(range))
        );
        assert_eq!(
            Request::parse(&format!("hawser 1 port rm {range}")),
            Ok(Request::RemovePorts(range))
        );
        for bad in [
            "",
            "inspect",
            "hawser 2 inspect",
            "hawser 1 ",
            "hawser 1 stop",
            "hawser 1 stop x",
            "hawser 1 wait x",
            "hawser 1 port",
            "hawser 1 port add",
            "hawser 1 port add 0:80",
            "hawser 1 port ls 80",
        ] {
            assert!(Request::parse(bad).is_err(), "{bad}");
        }
    }
}

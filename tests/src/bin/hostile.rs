//! What a container does that wants to hold on to the host, one thing for each word: `hostile WORD`. It says "up" when it has
//! begun.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::mem::forget;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use nix::sys::wait::wait;
use nix::unistd::{ForkResult, Pid, fork, pause, setsid};

fn say(word: &str) {
    let mut out = std::io::stdout();
    let said = writeln!(out, "{word}").and_then(|()| out.flush());
    said.expect("say something");
}

fn ignore_everything() {
    let all = SigSet::all();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None).expect("block signals");
}

/// Children have children, until there can be none; then, whenever one ends.
fn forks() -> ! {
    ignore_everything();
    say("up");
    loop {
        // SAFETY: one thread.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                let _ = setsid();
            }
            Ok(ForkResult::Parent { .. }) => {}
            Err(_) => {
                say("full");
                while wait().is_err() {
                    pause();
                }
            }
        }
    }
}

/// The processes that it sees, but for itself, which is PID 1.
fn others() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|number| *number != 1)
}

/// Stops everybody who comes in, and says so.
fn stops() -> ! {
    say("up");
    let mut last = 1;
    loop {
        // -1: all but PID 1.
        if kill(Pid::from_raw(-1), Signal::SIGSTOP).is_err() {
            continue;
        }
        let newest = others().max().unwrap_or(last);
        if newest > last {
            last = newest;
            say("caught");
        }
    }
}

/// Opens whatever it may of the descriptors of whoever comes in, keeps it, and writes there.
fn grabs() -> ! {
    say("up");
    let mut has_some = false;
    loop {
        for number in others() {
            for entry in fs::read_dir(format!("/proc/{number}/fd"))
                .into_iter()
                .flatten()
                .flatten()
            {
                let is_above_2 = |path: &Path| {
                    let number = path
                        .file_name()
                        .and_then(|name| name.to_str()?.parse::<u32>().ok());
                    number.is_some_and(|number| number > 2)
                };
                let leads_to_pipe = |path: &Path| {
                    fs::read_link(path)
                        .is_ok_and(|target| target.to_string_lossy().starts_with("pipe:"))
                };
                let path = entry.path();
                if !is_above_2(&path) || !leads_to_pipe(&path) {
                    continue;
                }
                let Ok(mut pipe) = OpenOptions::new().read(true).write(true).open(&path) else {
                    continue;
                };
                let _ = pipe.write_all(b"not a line");
                forget(pipe);
                if !has_some {
                    has_some = true;
                    fs::write("/srv/told", "grabbed").expect("tell");
                }
            }
        }
    }
}

/// Holds the programs of whoever comes in, those that are not its own, each by a descriptor that reads; when their process has ended it writes
/// there, and says what came of it.
fn holds() -> ! {
    say("up");
    let mut held: Vec<(u32, PathBuf, File)> = Vec::new();
    loop {
        for number in others() {
            let link = PathBuf::from(format!("/proc/{number}/exe"));
            let Ok(program) = fs::read_link(&link) else {
                continue;
            };
            let has_it =
                |(other, known, _): &(u32, PathBuf, File)| (*other, known) == (number, &program);
            if is_same(&link, &program) || held.iter().any(has_it) {
                continue;
            }
            if let Ok(file) = File::open(&link) {
                held.push((number, program, file));
            }
        }
        while let Some(at) = held.iter().position(|(number, ..)| has_ended(*number)) {
            let (number, program, file) = held.swap_remove(at);
            say(&format!("{} {:?}", program.display(), write_to(&file)));
            if !held.iter().any(|(other, ..)| *other == number) {
                say("over");
            }
        }
    }
}

fn has_ended(number: u32) -> bool {
    !Path::new(&format!("/proc/{number}")).exists()
}

fn is_same(one: &Path, other: &Path) -> bool {
    let file = |path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    file(one).is_ok_and(|one| file(other).is_ok_and(|other| one == other))
}

/// Opens it once more, as soon as it is not busy, and writes.
fn write_to(held: &File) -> std::io::Result<()> {
    let end = Instant::now() + Duration::from_secs(30);
    let path = format!("/proc/self/fd/{}", held.as_raw_fd());
    loop {
        match OpenOptions::new().write(true).open(&path) {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < end => {
            }
            opened => return opened?.write_all(b"not a program"),
        }
    }
}

/// Lets go of its terminal, of all that it has of it.
fn closes() -> ! {
    say("up");
    ignore_everything();
    for fd in 0..3 {
        let _ = nix::unistd::close(fd);
    }
    // Again, and hang up, and again.
    for _ in 0..1000 {
        if let Ok(file) = File::open("/dev/pts/0") {
            drop(file);
        }
    }
    fs::write("/srv/waiting", "closed\n").expect("tell");
    loop {
        pause();
    }
}

/// Fills a file system.
fn fills(directory: &str) -> ! {
    let mut file = File::create(Path::new(directory).join("filling")).expect("make a file");
    let chunk = vec![7; 1 << 20];
    // Both of its file systems have 64 MiB.
    let mut len = 0;
    while len < 1 << 30 {
        match file.write(&chunk) {
            Ok(written) => len += written,
            Err(error) if error.kind() == ErrorKind::StorageFull => break,
            Err(error) => panic!("write: {error}"),
        }
    }
    assert!(len < 1 << 30, "it is never full");
    say("up");
    loop {
        pause();
    }
}

/// Sends a datagram from every port, all to one place, so that the host has to find each a port of its own.
fn floods(count: u32) -> ! {
    let sender = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::empty(),
        SockProtocol::Udp,
    )
    .expect("a raw socket");
    let to = SockaddrIn::new(198, 51, 100, 10, 0);
    for number in 0..count {
        let bytes = number.to_be_bytes();
        let (port, other) = ([bytes[2] | 1, bytes[3]], [bytes[1], bytes[2] & 1]);
        let mut datagram = [0; 12];
        datagram[..2].copy_from_slice(&port);
        datagram[2..4].copy_from_slice(&(9 + u16::from_be_bytes(other)).to_be_bytes());
        datagram[4..6].copy_from_slice(&12_u16.to_be_bytes());
        // A full queue loses some.
        let _ = sendto(sender.as_raw_fd(), &datagram, &to, MsgFlags::empty());
    }
    assert_eq!(to.ip(), Ipv4Addr::new(198, 51, 100, 10));
    say("up");
    loop {
        pause();
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["forks"] => forks(),
        ["stops"] => stops(),
        ["grabs"] => grabs(),
        ["holds"] => holds(),
        ["closes"] => closes(),
        ["fills", directory] => fills(directory),
        ["floods", count] => floods(count.parse().expect("a number")),
        _ => panic!("usage: hostile forks|stops|grabs|holds|closes|fills DIRECTORY|floods COUNT"),
    }
}

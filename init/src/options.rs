//! The command line: of init itself, and of the programs whose name it is called by.

use core::ffi::CStr;

use hawser::address::{cut, index_of, parse_number, strip};
use hawser::signal;

use crate::error::{self, OrFail, Step};
use crate::sys::{self, Arguments, Fd};
use crate::{machine, peers};

pub const TERM: u8 = libc::SIGTERM as u8;

/// What the options say.
#[derive(Default)]
pub struct Options {
    /// Where the config message comes from.
    pub config: Option<&'static CStr>,
    /// The pipe to the helper.
    pub status: Option<Fd>,
    /// Seconds that a link may take to appear.
    pub timeout: Option<u32>,
    /// What becomes of resolv.conf and hosts.
    pub resolv: Option<Resolv>,
    /// Mount what a machine needs.
    pub mounts: bool,
    /// Stay as PID 1.
    pub supervise: bool,
    /// How.
    pub rules: Rules,
}

/// What becomes of resolv.conf and hosts when they cannot be written.
#[derive(Clone, Copy, PartialEq)]
pub enum Resolv {
    /// Nothing runs without them.
    Required,
    /// It is said.
    Try,
    /// They are not written at all.
    Off,
}

const VERSION: &str = concat!("init (hawser) ", env!("CARGO_PKG_VERSION"), "\n");

const HELP: &str = "\
usage: init [OPTION...] [--] COMMAND [ARG...]
See init(8).

--config fd:N|PATH|-|cmdline
--status-fd N\t\ta helper's pipe
--timeout SECONDS\tfor a link (10)
--resolv required|try|off
--mounts\t\t/proc, /sys, /dev
--at-end poweroff|reboot|halt|restart
-s, --supervise\t\tpass signals on, reap orphans, drain
-c, --single-child\tsignals to COMMAND alone
--all\t\t\tsignals to every process
-r, --rewrite A:B\tA becomes B; 0: none
--grace SECONDS\t\tuntil the rest is killed (5)
-e, --map-exit CODE\tbecomes 0
-p, --parent-death-signal SIGNAL
-w, --warn\t\tof orphans
-v, --verbose
-h, --help
-V, --version
";

/// One option each: its letter, `=` if it takes a value, its long name. A digit is no letter that one can type.
pub const OPTIONS: &[u8] =
    b"1=config 2=status-fd 5=timeout 6=resolv 7.mounts 8=at-end h.help V.version s.supervise \
    c.single-child 3.all r=rewrite 4=grace e=map-exit p=parent-death-signal w.warn v.verbose";

const OPEN_STATUS: Step = "open status descriptor";

/// Reads the words behind the program's name, and leaves those of the command. Gives what shall be printed instead of
/// doing anything. An error goes to the status pipe as soon as that is known.
pub fn parse(name: &[u8], words: &mut Arguments, options: &mut Options) -> Option<&'static str> {
    let (table, peer) = peers::adopt(name, options);
    let boots = peer == Peer::None && machine::is_booted(*words);
    if boots {
        // What is said now would be lost where the kernel had no console yet.
        machine::open_console();
    }
    while let Some(word) = words.first() {
        let bytes = word.to_bytes();
        let is_option = bytes.len() > 1 && bytes.starts_with(b"-");
        if !is_option && (!boots || bytes.starts_with(b"/")) {
            break;
        }
        words.take();
        if bytes == b"--" {
            break;
        }
        let mut option = Cursor {
            word,
            at: 1,
            is_odd_allowed: boots,
        };
        while let Some((letter, value)) = option.next(table, words) {
            match letter {
                b'h' | b'V' | b'l' | b'L' if peer != Peer::None => {
                    return Some(peers::answer(peer, letter));
                }
                b'h' => return Some(HELP),
                b'V' => return Some(VERSION),
                _ => options.apply(letter, value),
            }
        }
    }
    options.supervise |= boots;
    if words.first().is_none() && !options.rules.pause {
        fail(
            b"",
            if boots {
                "no command; it begins with `/`"
            } else {
                "no command"
            },
        );
    }
    if options.status.is_some() && options.config.is_none() {
        fail(b"--status-fd", "it needs --config");
    }
    None
}

/// One word of options: a long one, or letters.
struct Cursor {
    word: &'static CStr,
    at: usize,
    /// On a machine's kernel command line stand words that nobody knew.
    is_odd_allowed: bool,
}

impl Cursor {
    /// The next option of the word as its letter, with its value: behind `=`, behind the letter, or the next word.
    fn next(&mut self, table: &[u8], words: &mut Arguments) -> Option<(u8, &'static CStr)> {
        let bytes = self.word.to_bytes();
        let long = strip(bytes, b"--").map(|long| cut(long, b'='));
        let letter = *bytes.get(self.at)?;
        let is_option = bytes.starts_with(b"-");
        let mut rest = Some(table);
        let (letter, kind) = loop {
            let Some(entries) = rest else {
                if self.is_odd_allowed {
                    error::begin("ignore", bytes);
                    error::push(": no option of init; the kernel may know it");
                    error::note();
                    return None;
                }
                fail(bytes, "unknown option")
            };
            let (entry, tail) = cut(entries, b' ');
            rest = tail;
            let [known, kind, name @ ..] = entry else {
                continue;
            };
            let found = match long {
                Some((long, _)) => long == name,
                None => *known == letter && letter.is_ascii_alphabetic() && is_option,
            };
            if found {
                break (*known, *kind);
            }
        };
        self.at += 1;
        let mut value = None;
        if let Some((name, has_value)) = long {
            self.at = bytes.len();
            if has_value.is_some() {
                value = sys::suffix(self.word, 2 + name.len() + 1);
            }
        }
        if kind != b'=' {
            if value.is_some() {
                fail(bytes, "it takes no value");
            }
            return Some((letter, c""));
        }
        if value.is_none() && self.at < bytes.len() {
            value = sys::suffix(self.word, self.at);
        }
        self.at = bytes.len();
        match value.or_else(|| words.take()) {
            Some(value) if !value.is_empty() => Some((letter, value)),
            _ => fail(bytes, "its value is missing"),
        }
    }
}

fn open_status(value: &[u8]) -> Fd {
    let Some(fd) = parse_fd(value) else {
        fail(value, "not a descriptor's number")
    };
    sys::set_close_on_exec(fd).or_fail(OPEN_STATUS, value);
    error::tell_errors_to(fd);
    fd
}

#[inline(always)]
fn seconds(text: &[u8]) -> u32 {
    match parse_number(text) {
        Some(number) => number,
        None => fail(text, "not a number of seconds"),
    }
}

/// A descriptor's number.
pub fn parse_fd(text: &[u8]) -> Option<Fd> {
    let number = parse_number(text)?;
    Some(Fd(i32::try_from(number).ok()?))
}

#[inline(never)]
pub fn fail(word: &[u8], cause: &str) -> ! {
    error::begin("read the command line", word);
    error::push(": ");
    error::push(cause);
    error::push("; see -h");
    error::end(error::OURS)
}

/// A signal is not passed on.
const DROP: u8 = u8::MAX;

/// To whom signals go.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum Target {
    /// The command's process group.
    #[default]
    Group,
    /// The command alone.
    Child,
    /// Every process below us.
    All,
}

/// Whose name we were called by.
#[derive(Clone, Copy, Default, PartialEq)]
pub enum Peer {
    /// Our own.
    #[default]
    None,
    /// tini, docker-init
    Tini,
    /// dumb-init
    DumbInit,
    /// catatonit, podman-init
    Catatonit,
}

/// How to supervise. (All zero by default, which costs least.)
#[derive(Default)]
pub struct Rules {
    /// Who we are taken for.
    pub peer: Peer,
    /// To whom signals go.
    pub target: Target,
    /// By signal: what is passed on instead of it, [`DROP`] for nothing, 0 where no rule says anything.
    rewrite: Rewrite,
    /// Seconds for what is left at the end; 5 when not said.
    pub grace: Option<u32>,
    /// By exit code, one bit each: it becomes 0.
    pub mapped: [u8; 32],
    /// Comes when our parent dies; 0 for none.
    pub death_signal: u8,
    /// Run nothing.
    pub pause: bool,
    /// Say which orphans were reaped.
    pub warn: bool,
    /// Say which signals were passed on.
    pub verbose: bool,
}

impl Options {
    #[inline(never)]
    fn apply(&mut self, letter: u8, value: &'static CStr) {
        let text = value.to_bytes();
        match letter {
            b'1' => self.config = Some(value),
            b'2' => self.status = Some(open_status(text)),
            b'5' => self.timeout = Some(seconds(text)),
            b'6' => {
                self.resolv = match index_of(b"required try off", text) {
                    Some(0) => Some(Resolv::Required),
                    Some(1) => Some(Resolv::Try),
                    Some(_) => Some(Resolv::Off),
                    None => fail(text, "not required, try or off"),
                }
            }
            b'7' | b'8' if machine::end_name().is_none() => {
                fail(b"--mounts, --at-end", "init is not PID 1")
            }
            b'7' => self.mounts = true,
            b'8' => machine::set_end(text),
            _ => {
                self.supervise = true;
                self.rules.apply(letter, text);
            }
        }
    }
}

struct Rewrite([u8; signal::LAST as usize + 1]);

impl Default for Rewrite {
    #[inline(never)]
    fn default() -> Self {
        Rewrite([0; signal::LAST as usize + 1])
    }
}

impl Rules {
    /// What is passed on for a signal; 0 for nothing.
    pub fn passed_on(&self, signal: u8) -> u8 {
        match self.rewrite.0.get(usize::from(signal)) {
            None | Some(0) => signal,
            Some(&DROP) => 0,
            Some(&other) => other,
        }
    }

    /// What asks for an end that nobody has asked us for. It cannot be dropped: who is left would sit the grace out.
    pub fn ending(&self) -> u8 {
        match self.passed_on(TERM) {
            0 => TERM,
            other => other,
        }
    }

    fn apply(&mut self, letter: u8, value: &[u8]) {
        match letter {
            b'c' => self.target = Target::Child,
            b'g' => self.target = Target::Group,
            b'3' => self.target = Target::All,
            b'r' => self.add_rewrite(value),
            b'4' => self.grace = Some(seconds(value)),
            b'e' => self.map_exit(value),
            b'p' => self.death_signal = parse_signal(value),
            b'P' => self.pause = true,
            b'w' => self.warn = true,
            b'v' => self.verbose = true,
            // -s, and the peers' -s (subreaper) and the like: what we do anyway.
            _ => {}
        }
    }

    fn map_exit(&mut self, value: &[u8]) {
        let code = parse_number(value).filter(|&code| code < 256);
        let Some(code) = code else {
            fail(value, "not an exit code from 0 to 255")
        };
        if let Some(bits) = self.mapped.get_mut(code as usize / 8) {
            *bits |= 1 << (code % 8);
        }
    }

    fn add_rewrite(&mut self, value: &[u8]) {
        let (from, to) = cut(value, b':');
        let Some(to) = to else {
            fail(value, "not SIGNAL:SIGNAL")
        };
        let from = parse_signal(from);
        let to = match to {
            b"0" => DROP,
            to => parse_signal(to),
        };
        if matches!(i32::from(from), libc::SIGKILL | libc::SIGSTOP) {
            fail(value, "nobody can catch that")
        }
        if let Some(space) = self.rewrite.0.get_mut(usize::from(from)) {
            *space = to;
        }
    }
}

#[inline(never)]
fn parse_signal(text: &[u8]) -> u8 {
    match signal::parse(text) {
        Some(signal) => signal,
        None => fail(text, "no signal"),
    }
}

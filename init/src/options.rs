//! The command line: of init itself, and of the programs whose name it is called by.

use core::ffi::CStr;

use hawser::address::{cut, parse_number};
use hawser::signal;

use crate::error::{self, OrFail, Step};
use crate::sys::{self, Arguments, Fd};

/// What the options say.
#[derive(Default)]
pub struct Options {
    /// Where the config message comes from.
    pub config: Option<&'static CStr>,
    /// The pipe to the helper.
    pub status: Option<Fd>,
    /// Stay as PID 1.
    pub supervise: bool,
    /// How.
    pub rules: Rules,
}

/// What to do.
pub enum Action {
    /// Print this and end.
    Print(&'static str),
    /// Set up what the config says and become this command.
    Boot(Options, Arguments),
}

const VERSION: &str = concat!("init (hawser) ", env!("CARGO_PKG_VERSION"), "\n");

const HELP: &str = "\
usage: init [OPTION...] [--] COMMAND [ARG...]

Sets up the network and the privileges that a config message names, then
becomes COMMAND, or runs it and stays as PID 1.

  --config fd:N|PATH|-  where the message is
  --status-fd N         tell a helper `up`, wait for `go`, tell `ready`
  -s, --supervise       stay: pass signals on, reap orphans, drain
  -c, --single-child    signals go to COMMAND, not to its group
      --all             signals go to every process
  -r, --rewrite A:B     pass signal A on as B, 0 for none
      --grace SECONDS   until what is left at the end is killed (5)
  -e, --map-exit CODE   this exit code becomes 0
  -p, --parent-death-signal SIGNAL
  -w, --warn            say which orphans were reaped
  -v, --verbose         say which signals were passed on
  -h, --help            -V, --version

Exit codes: 125 init failed, 126 COMMAND cannot be executed, 127 COMMAND not
found, 128+N COMMAND ended by signal N, else COMMAND's own.
";

/// One option each: its letter, `=` if it takes a value, its long name. A digit is no letter that one can type.
const OPTIONS: &[u8] =
    b"1=config 2=status-fd h.help V.version s.supervise c.single-child 3.all r=rewrite 4=grace \
    e=map-exit p=parent-death-signal w.warn v.verbose";

const OPEN_STATUS: Step = "open status descriptor";

/// Reads the words behind the program's name. An error goes to the status pipe as soon as that is known.
pub fn parse(name: &[u8], mut words: Arguments) -> Action {
    let mut options = Options::default();
    let (table, peer) = peers::adopt(name, &mut options);
    while let Some(word) = words.first() {
        let (true, 2..) = (word.to_bytes().starts_with(b"-"), word.count_bytes()) else {
            break;
        };
        words.take();
        if word.to_bytes() == b"--" {
            break;
        }
        let mut option = Cursor { word, at: 1 };
        while let Some((letter, value)) = option.next(table, &mut words) {
            match letter {
                b'h' | b'V' if peer != Peer::None => {
                    return Action::Print(peers::answer(peer, letter));
                }
                b'h' => return Action::Print(HELP),
                b'V' => return Action::Print(VERSION),
                b'1' => options.config = Some(value),
                b'2' => options.status = Some(open_status(value.to_bytes())),
                _ => options.apply(letter, value.to_bytes()),
            }
        }
    }
    if words.first().is_none() && !options.rules.pause {
        fail(b"", "no command");
    }
    if options.status.is_some() && options.config.is_none() {
        fail(b"--status-fd", "it needs --config");
    }
    Action::Boot(options, words)
}

/// One word of options: a long one, or letters.
struct Cursor {
    word: &'static CStr,
    at: usize,
}

impl Cursor {
    /// The next option of the word as its letter, with its value: behind `=`, behind the letter, or the next word.
    #[inline(never)]
    fn next(&mut self, table: &[u8], words: &mut Arguments) -> Option<(u8, &'static CStr)> {
        let bytes = self.word.to_bytes();
        let long = bytes.strip_prefix(b"--").map(|long| cut(long, b'='));
        let letter = *bytes.get(self.at)?;
        let mut rest = Some(table);
        let (letter, kind) = loop {
            let Some(entries) = rest else {
                fail(bytes, "unknown option")
            };
            let (entry, tail) = cut(entries, b' ');
            rest = tail;
            let [known, kind, name @ ..] = entry else {
                continue;
            };
            let found = match long {
                Some((long, _)) => long == name,
                None => *known == letter && letter.is_ascii_alphabetic(),
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
            Some(value) => Some((letter, value)),
            None => fail(bytes, "its value is missing"),
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

/// A descriptor's number.
pub fn parse_fd(text: &[u8]) -> Option<Fd> {
    let number = parse_number(text)?;
    Some(Fd(i32::try_from(number).ok()?))
}

fn fail(word: &[u8], cause: &str) -> ! {
    error::begin("read the command line", word);
    error::push(": ");
    error::push(cause);
    error::push("; see init --help");
    error::end(error::OURS)
}

/// To whom signals go.
#[derive(Clone, Copy, PartialEq)]
pub enum Target {
    /// The command's process group.
    Group,
    /// The command alone.
    Child,
    /// Every process below us.
    All,
}

/// Whose name we were called by.
#[derive(Clone, Copy, PartialEq)]
pub enum Peer {
    /// Our own.
    None,
    /// tini, docker-init
    Tini,
    /// dumb-init
    DumbInit,
    /// catatonit, podman-init
    Catatonit,
}

/// How to supervise.
pub struct Rules {
    /// Who we are taken for.
    pub peer: Peer,
    /// To whom signals go.
    pub target: Target,
    /// By signal: the one that is passed on, 0 for none.
    pub rewrite: [u8; signal::LAST as usize + 1],
    /// Seconds for what is left at the end; `None`: we end with the command.
    pub grace: Option<u32>,
    /// By exit code, one bit each: it becomes 0.
    pub mapped: [u8; 32],
    /// Comes when our parent dies; 0 for none.
    pub death_signal: u8,
    /// TSTP, TTIN and TTOU stop us too.
    pub stops_too: bool,
    /// Run nothing.
    pub pause: bool,
    /// Say which orphans were reaped.
    pub warn: bool,
    /// Say which signals were passed on.
    pub verbose: bool,
}

impl Default for Rules {
    fn default() -> Self {
        let mut rewrite = [0; signal::LAST as usize + 1];
        for (signal, to) in (0..).zip(&mut rewrite) {
            *to = signal;
        }
        Rules {
            peer: Peer::None,
            target: Target::Group,
            rewrite,
            grace: Some(5),
            mapped: [0; 32],
            death_signal: 0,
            stops_too: true,
            pause: false,
            warn: false,
            verbose: false,
        }
    }
}

impl Options {
    /// An option of supervising, which it implies.
    fn apply(&mut self, letter: u8, value: &[u8]) {
        self.supervise = true;
        self.rules.apply(letter, value);
    }
}

impl Rules {
    fn apply(&mut self, letter: u8, value: &[u8]) {
        match letter {
            b'c' => self.target = Target::Child,
            b'g' => self.target = Target::Group,
            b'3' => self.target = Target::All,
            b'r' => self.add_rewrite(value),
            b'4' => match parse_number(value) {
                None => fail(value, "not a number of seconds"),
                grace => self.grace = grace,
            },
            b'e' => self.map_exit(value),
            b'p' => match signal::parse(value) {
                Some(signal) => self.death_signal = signal,
                None => fail(value, "no signal"),
            },
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
        let to = match to {
            Some(b"0") => Some(0),
            to => to.and_then(signal::parse),
        };
        match signal::parse(from).zip(to) {
            Some((from, to)) => {
                if let Some(space) = self.rewrite.get_mut(usize::from(from)) {
                    *space = to;
                }
            }
            None => fail(value, "not two signals with a colon between them"),
        }
    }
}

mod peers {
    //! The programs that init can stand in for: called by their name it has their options, variables and defaults.
    //! None of them drains, and none says anything of its own accord.

    use hawser::address::{index_of, parse_number};

    use super::{Options, Peer, Target};
    use crate::sys;

    const NAMES: &[u8] = b"tini tini-static docker-init dumb-init catatonit podman-init";

    /// By the name that we were called by: the options to read and whose they are.
    pub fn adopt(name: &[u8], options: &mut Options) -> (&'static [u8], Peer) {
        let slash = name.iter().rposition(|&byte| byte == b'/');
        let name = name.get(slash.map_or(0, |at| at + 1)..).unwrap_or(name);
        let (table, peer): (&[u8], _) = match index_of(NAMES, name) {
            Some(0 | 1) => (b"h. V.version s. p= v. w. g. e= l.", Peer::Tini),
            Some(2) => (b"h. V.version", Peer::Tini),
            Some(3) => (
                b"c.single-child r=rewrite v.verbose h.help V.version",
                Peer::DumbInit,
            ),
            Some(_) => (b"g. h. L. P. V.version", Peer::Catatonit),
            None => return (super::OPTIONS, Peer::None),
        };
        options.supervise = true;
        let rules = &mut options.rules;
        rules.peer = peer;
        rules.target = Target::Child;
        rules.grace = None;
        rules.stops_too = peer == Peer::DumbInit;
        match peer {
            Peer::DumbInit => {
                if sys::variable(b"DUMB_INIT_SETSID") != Some(b"0") {
                    rules.target = Target::Group;
                }
                rules.verbose = sys::variable(b"DUMB_INIT_DEBUG") == Some(b"1");
            }
            Peer::Tini => {
                if sys::variable(b"TINI_KILL_PROCESS_GROUP").is_some() {
                    rules.target = Target::Group;
                }
                let verbosity = sys::variable(b"TINI_VERBOSITY").and_then(parse_number);
                rules.verbose = verbosity.is_some_and(|verbosity| verbosity > 2);
            }
            _ => rules.verbose = sys::variable(b"CATATONIT_DEBUG").is_some(),
        }
        (table, peer)
    }

    /// What is printed for -h and --version. dockerd reads the first words of the latter.
    pub fn answer(peer: Peer, letter: u8) -> &'static str {
        match (letter, peer) {
            (b'V', Peer::DumbInit) => {
                concat!("dumb-init v", env!("CARGO_PKG_VERSION"), " (hawser)\n")
            }
            (b'V', Peer::Catatonit) => concat!(
                "tini version ",
                env!("CARGO_PKG_VERSION"),
                "_catatonit (hawser)\n"
            ),
            (b'V', _) => concat!("tini version ", env!("CARGO_PKG_VERSION"), " (hawser)\n"),
            (_, Peer::Tini) => "usage: tini [-sgvw] [-p SIGNAL] [-e CODE] [--] COMMAND [ARG...]\n",
            (_, Peer::DumbInit) => "usage: dumb-init [-cv] [-r A:B] [--] COMMAND [ARG...]\n",
            _ => "usage: catatonit [-gP] [--] COMMAND [ARG...]\n",
        }
    }
}

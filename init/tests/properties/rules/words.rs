//! What holds for any words that init is called with: init(8) a second time, against the parser itself with a kernel that is not real (`sys.rs`).

use std::sync::{Mutex, PoisonError};

use crate::options::{self, Options, Resolv, Target};
use crate::sys::{self, Ending, Fd};
use crate::{error, machine};

/// A letter or none, a long name, and whether a value follows.
const OPTIONS: [(&str, &str, bool); 17] = [
    ("", "config", true),
    ("", "status-fd", true),
    ("", "timeout", true),
    ("", "resolv", true),
    ("", "mounts", false),
    ("", "at-end", true),
    ("s", "supervise", false),
    ("c", "single-child", false),
    ("", "all", false),
    ("r", "rewrite", true),
    ("", "grace", true),
    ("e", "map-exit", true),
    ("p", "parent-death-signal", true),
    ("w", "warn", false),
    ("v", "verbose", false),
    ("h", "help", false),
    ("V", "version", false),
];

/// Which init it is taken for, by the first byte of the input.
pub const NAMES: [&str; 8] = [
    "init",
    "/sbin/init",
    "/usr/libexec/hawser/init",
    "init.new",
    "/usr/bin/tini",
    "docker-init",
    "dumb-init",
    "/usr/bin/catatonit",
];
/// So many of them are our own.
const OWN: usize = 4;

/// What was asked for.
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    config: Option<Vec<u8>>,
    status: Option<i32>,
    timeout: Option<u32>,
    resolv: Option<&'static str>,
    mounts: bool,
    at_end: Option<String>,
    supervise: bool,
    target: &'static str,
    /// By signal.
    passed_on: Vec<u8>,
    grace: Option<u32>,
    mapped: Vec<u8>,
    death_signal: u8,
    warn: bool,
    verbose: bool,
}

/// What the words should lead to.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// Help, or the version.
    Text,
    /// The command begins at this word.
    Command(usize, Box<Settings>),
}

/// The parser has its sentence in one place.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Panics where something does not hold. The first byte says by which name and as which process, the rest are words with a NUL behind each.
pub fn check(bytes: &[u8]) {
    let _lock = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (&first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let name = usize::from(first & 7);
    let pid = if first & 8 == 0 { 1 } else { 77 };
    let words: Vec<&[u8]> = rest
        .strip_suffix(b"\0")
        .unwrap_or(rest)
        .split(|&byte| byte == 0)
        .collect();
    error::tell_errors_to(Fd(-1));
    machine::forget();
    let ending = sys::run(&words, pid, |mut left| {
        let mut options = Options::default();
        let text = options::parse(NAMES[name].as_bytes(), &mut left, &mut options);
        match text {
            Some(text) => {
                assert!(text.ends_with('\n'));
                Asked::Text
            }
            None => Asked::Command(words.len() - left.len(), Box::new(settings(&options))),
        }
    });
    check_written(&ending);
    if name >= OWN {
        return;
    }
    let mut reader = Reader {
        words: &words,
        at: 0,
        boots: false,
        settings: nothing(),
    };
    let expected = reader.read(pid);
    assert_eq!(
        ending.result.as_ref().ok(),
        expected.as_ref(),
        "what init says: {:?}",
        ending.written
    );
    // A machine ends as it was told to up to there, a container by itself.
    let expected =
        (reader.boots && expected.is_none()).then_some(match reader.settings.at_end.as_deref() {
            Some("reboot") => libc::LINUX_REBOOT_CMD_RESTART,
            Some("halt") => libc::LINUX_REBOOT_CMD_HALT,
            _ => libc::LINUX_REBOOT_CMD_POWER_OFF,
        });
    assert_eq!(ending.machine, expected);
}

/// Lines, of which only the last one is an error, on standard error and to the helper.
fn check_written(ending: &Ending<Asked>) {
    for (_, line) in &ending.written {
        let text = line.strip_suffix(b"\n").expect("a whole line");
        assert!(
            !text.iter().any(u8::is_ascii_control),
            "one line: {:?}",
            String::from_utf8_lossy(text)
        );
    }
    // Both may be the same descriptor.
    let is_helpers = |line: &[u8]| line.starts_with(b"error 125 ");
    let (helper, people): (Vec<_>, Vec<_>) = ending
        .written
        .iter()
        .partition(|(_, line)| is_helpers(line));
    for (fd, line) in &people {
        let starts = [
            &b"init: read the command line"[..],
            b"init: ignore ",
            b"init: open status descriptor",
        ];
        assert_eq!(*fd, 2);
        assert!(starts.iter().any(|start| line.starts_with(start)));
    }
    let Err(code) = ending.result else {
        assert!(helper.is_empty(), "the helper is not told of warnings");
        return;
    };
    assert_eq!(code, 125);
    let (_, error) = people.last().expect("an error is said");
    let sentence = &error["init: ".len()..];
    assert!(helper.len() <= 1);
    assert!(
        helper
            .iter()
            .all(|(_, line)| &line["error 125 ".len()..] == sentence)
    );
}

fn settings(options: &Options) -> Settings {
    let rules = &options.rules;
    Settings {
        config: options.config.map(|path| path.to_bytes().to_vec()),
        status: options.status.map(|fd| fd.0),
        timeout: options.timeout,
        resolv: options.resolv.map(|how| match how {
            Resolv::Required => "required",
            Resolv::Try => "try",
            Resolv::Off => "off",
        }),
        mounts: options.mounts,
        at_end: machine::end_name().map(|name| String::from_utf8_lossy(name).into_owned()),
        supervise: options.supervise,
        target: match rules.target {
            Target::Group => "group",
            Target::Child => "child",
            Target::All => "all",
        },
        passed_on: (1..=64).map(|signal| rules.passed_on(signal)).collect(),
        grace: rules.grace,
        mapped: (0..=255u8)
            .filter(|&code| rules.mapped[usize::from(code) / 8] >> (code % 8) & 1 == 1)
            .collect(),
        death_signal: rules.death_signal,
        warn: rules.warn,
        verbose: rules.verbose,
    }
}

/// Without an option.
fn nothing() -> Settings {
    Settings {
        config: None,
        status: None,
        timeout: None,
        resolv: None,
        mounts: false,
        at_end: None,
        supervise: false,
        target: "group",
        passed_on: (1..=64).collect(),
        grace: None,
        mapped: Vec::new(),
        death_signal: 0,
        warn: false,
        verbose: false,
    }
}

struct Reader<'a> {
    words: &'a [&'a [u8]],
    at: usize,
    boots: bool,
    settings: Settings,
}

impl<'a> Reader<'a> {
    /// `None` is an error.
    fn read(&mut self, pid: i32) -> Option<Asked> {
        if pid == 1 && self.is_machine() {
            self.boots = true;
            self.settings.supervise = true;
            self.settings.at_end = Some("poweroff".into());
        }
        while let Some(&word) = self.words.get(self.at) {
            let is_option = word.len() > 1 && word[0] == b'-';
            if !is_option && (!self.boots || word.starts_with(b"/")) {
                break;
            }
            self.at += 1;
            match word {
                b"--" => break,
                _ if !is_option => {}
                _ => {
                    let is_text = match word.strip_prefix(b"--") {
                        Some(long) => self.read_long(long)?,
                        None => self.read_letters(&word[1..])?,
                    };
                    if is_text {
                        return Some(Asked::Text);
                    }
                }
            }
        }
        let is_complete = self.at < self.words.len()
            && (self.settings.status.is_none() || self.settings.config.is_some());
        let settings = std::mem::replace(&mut self.settings, nothing());
        self.settings.at_end.clone_from(&settings.at_end);
        is_complete.then(|| Asked::Command(self.at, Box::new(settings)))
    }

    /// Whether a machine is asked for before the command, which begins with a slash there.
    fn is_machine(&self) -> bool {
        let mut words = self.words.iter();
        while let Some(word) = words.next() {
            match *word {
                b"--config" => _ = words.next(),
                b"--" | [b'/', ..] => break,
                _ if word.starts_with(b"--mounts") || word.starts_with(b"--at-end") => return true,
                _ => {}
            }
        }
        false
    }

    fn read_long(&mut self, long: &'a [u8]) -> Option<bool> {
        let mut parts = long.splitn(2, |&byte| byte == b'=');
        let (name, value) = (parts.next()?, parts.next());
        match (
            OPTIONS.iter().find(|option| option.1.as_bytes() == name),
            value,
        ) {
            (None, _) => self.boots.then_some(false),
            (Some((_, _, false)), Some(_)) => None,
            (Some((_, name, false)), None) => self.apply(name, b""),
            (Some((_, name, true)), Some(value)) => self.apply(name, value),
            (Some((_, name, true)), None) => {
                let value = self.next_word()?;
                self.apply(name, value)
            }
        }
    }

    fn read_letters(&mut self, letters: &'a [u8]) -> Option<bool> {
        for (index, letter) in letters.iter().enumerate() {
            match OPTIONS
                .iter()
                .find(|option| option.0.as_bytes() == [*letter])
            {
                None => return self.boots.then_some(false),
                Some((_, name, true)) => {
                    let rest = &letters[index + 1..];
                    let value = if rest.is_empty() {
                        self.next_word()?
                    } else {
                        rest
                    };
                    return self.apply(name, value);
                }
                Some((_, name, false)) => {
                    if self.apply(name, b"")? {
                        return Some(true);
                    }
                }
            }
        }
        Some(false)
    }

    fn next_word(&mut self) -> Option<&'a [u8]> {
        self.at += 1;
        self.words.get(self.at - 1).copied()
    }

    /// True for an option that wants an answer and nothing else.
    fn apply(&mut self, name: &str, value: &[u8]) -> Option<bool> {
        let text = std::str::from_utf8(value).unwrap_or("?");
        let settings = &mut self.settings;
        match name {
            "help" | "version" => return Some(true),
            // No other takes an empty value, either.
            "config" if value.is_empty() => return None,
            "config" => settings.config = Some(value.to_vec()),
            "status-fd" => {
                settings.status = Some(
                    number(text)
                        .and_then(|fd| i32::try_from(fd).ok())
                        .filter(|&fd| fd < sys::OPEN)?,
                )
            }
            "timeout" => settings.timeout = Some(number(text)?),
            "resolv" => {
                settings.resolv = Some(
                    ["required", "try", "off"]
                        .into_iter()
                        .find(|how| *how == text)?,
                )
            }
            "mounts" | "at-end" if !self.boots => return None,
            "mounts" => settings.mounts = true,
            "at-end" => {
                settings.at_end = Some(
                    ["poweroff", "reboot", "halt", "restart"]
                        .into_iter()
                        .find(|end| *end == text)?
                        .into(),
                )
            }
            _ => {
                settings.supervise = true;
                self.apply_rule(name, text)?;
            }
        }
        Some(false)
    }

    fn apply_rule(&mut self, name: &str, text: &str) -> Option<()> {
        let settings = &mut self.settings;
        match name {
            "supervise" => {}
            "single-child" => settings.target = "child",
            "all" => settings.target = "all",
            "rewrite" => {
                let (from, to) = text.split_once(':')?;
                let to = if to == "0" { 0 } else { signal(to)? };
                let from = signal(from)?;
                if matches!(i32::from(from), libc::SIGKILL | libc::SIGSTOP) {
                    return None;
                }
                settings.passed_on[usize::from(from) - 1] = to;
            }
            "grace" => settings.grace = Some(number(text)?),
            "map-exit" => {
                settings.mapped.push(number(text)?.try_into().ok()?);
                settings.mapped.sort_unstable();
                settings.mapped.dedup();
            }
            "parent-death-signal" => settings.death_signal = signal(text)?,
            "warn" => settings.warn = true,
            "verbose" => settings.verbose = true,
            _ => unreachable!("{name}"),
        }
        Some(())
    }
}

fn number(word: &str) -> Option<u32> {
    word.parse()
        .ok()
        .filter(|number: &u32| number.to_string() == word)
}

/// By number, or by name with or without SIG.
fn signal(text: &str) -> Option<u8> {
    if let Some(number) = number(text) {
        return (1..=64).contains(&number).then_some(number as u8);
    }
    let name = text.strip_prefix("SIG").unwrap_or(text);
    SIGNALS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, number)| *number as u8)
}

const SIGNALS: [(&str, i32); 31] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

//! init under the names of tini, dumb-init and catatonit, side by side with Debian's: the same words, the same outcome.
//! Where it differs, docs/init.8.md says so, and says nothing that is not so.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use lab::{
    DEADLINE, Lab, Outcome, Running, Terminal, case, child, children, collect, init_binary, sh,
    sys, wait_for_end,
};

const PEERS: [&str; 3] = ["tini", "dumb-init", "catatonit"];
const ALL: &[&str] = &PEERS;
const TINI: &[&str] = &["tini"];
const DUMB: &[&str] = &["dumb-init"];
const CATATONIT: &[&str] = &["catatonit"];
const BOTH: &[&str] = &["tini", "catatonit"];

// Where they differ from init, in the words of the manual.
const NOT_EXECUTED: &str = "a command that cannot be executed gives 126 or 127";
const USAGE: &str = "a usage error gives 125";
const ORDER: &str = "options end where the command begins";
const SHELL: &str = "a file without `#!` is not given to a shell";
const NAMES: &str = "signals may be named with and without `SIG`";
const SHORT: &str = "long options are written out";
const LICENCE: &str = "`-l` and `-L` print the version";
const HELP: &str = "help and version come on standard output";
const WORDS: &str = "what `-v`, `-w` and the variables ask for is said in init's words";
const LOG: &str = "CATATONIT_LOG is not looked at";
const REAPER: &str = "orphans come to init without `-s`";
const CLEAN: &str = "no signal is ignored or blocked when the command begins";
const LISTEN: &str = "LISTEN_PID names the command";
const OWN: &str = "init's own working directory is `/`";
const SIGNAL: &str = "every signal that can be caught is passed on";
const STOP: &str = "a signal to stop comes as it was sent";
const SESSION: &str = "without a terminal the command has a group of its own";
const TERMINAL: &str = "at a terminal that init leads the command has a session of its own";
const SHELLS: &str = "at a terminal that a shell leads it stays in init's group";

const DIFFERENCES: &[&str] = &[
    NOT_EXECUTED,
    USAGE,
    ORDER,
    SHELL,
    NAMES,
    SHORT,
    LICENCE,
    HELP,
    WORDS,
    LOG,
    REAPER,
    CLEAN,
    LISTEN,
    OWN,
    SIGNAL,
    STOP,
    SESSION,
    TERMINAL,
    SHELLS,
];

/// What is run: `PROGRAM WORDS`, and behind `sh:` the script of a shell as the command.
struct Scenario {
    peers: &'static [&'static str],
    words: &'static str,
    script: &'static str,
    /// init's exit code.
    code: i32,
    /// Empty, or where the peers differ.
    differs: &'static str,
    env: &'static str,
    /// Run by the shell that then becomes the program.
    before: &'static str,
    is_pid_1: bool,
}

/// As PID 1, the same as the peer.
fn run(
    peers: &'static [&'static str],
    words: &'static str,
    script: &'static str,
    code: i32,
) -> Scenario {
    Scenario {
        peers,
        words,
        script,
        code,
        differs: "",
        env: "",
        before: "",
        is_pid_1: true,
    }
}

impl Scenario {
    fn differs(self, differs: &'static str) -> Self {
        Self { differs, ..self }
    }

    fn env(self, env: &'static str) -> Self {
        Self { env, ..self }
    }

    fn before(self, before: &'static str) -> Self {
        Self { before, ..self }
    }

    fn not_pid_1(self) -> Self {
        Self {
            is_pid_1: false,
            ..self
        }
    }
}

fn codes() -> Vec<Scenario> {
    vec![
        run(ALL, "--", "exit 0", 0),
        run(ALL, "--", "exit 3", 3),
        run(ALL, "--", "exit 255", 255),
        run(ALL, "--", "kill -9 $$", 137),
        run(ALL, "--", "kill -SEGV $$", 139),
        run(ALL, "--", "kill -TERM $$", 143),
        run(ALL, "--", "kill -TERM $PPID; sleep 100 & wait", 143),
        run(ALL, "--", "echo out; echo err >&2; exit 4", 4),
        run(TINI, "-- no-such-command", "", 127),
        run(DUMB, "-- no-such-command", "", 127).differs(NOT_EXECUTED),
        run(CATATONIT, "-- no-such-command", "", 127).differs(NOT_EXECUTED),
        run(TINI, "-- /nowhere/command", "", 127),
        run(TINI, "-- /etc/passwd", "", 126),
        run(DUMB, "-- /etc/passwd", "", 126).differs(NOT_EXECUTED),
        run(CATATONIT, "-- /etc/passwd", "", 126).differs(NOT_EXECUTED),
        run(TINI, "-- /etc", "", 126),
        run(TINI, "-- /etc/passwd/x", "", 127).differs(NOT_EXECUTED),
        run(ALL, "-- /run/lab/bare", "", 126).differs(SHELL),
        run(ALL, "-- busybox true", "", 0).env("PATH=/nowhere:/bin"),
        run(TINI, "-- bare", "", 127).env("PATH=/etc:/nowhere"),
        run(TINI, "-- -- x", "", 127),
    ]
}

fn options() -> Vec<Scenario> {
    vec![
        run(ALL, "-Z -- /bin/true", "", 125).differs(USAGE),
        run(ALL, "--nonsense -- /bin/true", "", 125).differs(USAGE),
        run(ALL, "", "", 125).differs(USAGE),
        run(ALL, "--", "", 125).differs(USAGE),
        run(ALL, "/bin/busybox true", "", 0),
        run(ALL, "/bin/busybox expr 1 + 1", "", 0),
        run(DUMB, "/bin/busybox sh -c true", "", 0),
        run(BOTH, "/bin/busybox sh -c true", "", 0).differs(ORDER),
        run(DUMB, "/bin/busybox -- true", "", 127),
        run(BOTH, "/bin/busybox -- true", "", 127).differs(ORDER),
        // tini
        run(TINI, "-s -g --", "exit 3", 3),
        run(TINI, "-sgw --", "exit 3", 3),
        run(TINI, "-e 3 --", "exit 3", 0),
        run(TINI, "-e3 -e 143 --", "kill $$", 0),
        run(TINI, "-e 3 --", "exit 4", 4),
        run(TINI, "-e 0 -e 255 --", "exit 255", 0),
        run(TINI, "-e 256 --", "exit 0", 125).differs(USAGE),
        run(TINI, "-e x --", "exit 0", 125).differs(USAGE),
        run(TINI, "-e", "", 125).differs(USAGE),
        run(TINI, "-p SIGKILL --", "exit 3", 3),
        run(TINI, "-p SIGBOGUS --", "exit 3", 125).differs(USAGE),
        run(TINI, "-p TERM --", "exit 3", 3).differs(NAMES),
        run(TINI, "-v --", "exit 3", 3).differs(WORDS),
        run(TINI, "-vvv --", "exit 3", 3).differs(WORDS),
        run(TINI, "-l", "", 0).differs(LICENCE),
        run(TINI, "--", "exit 3", 3).env("TINI_VERBOSITY=0"),
        run(TINI, "--", "exit 3", 3)
            .env("TINI_VERBOSITY=3")
            .differs(WORDS),
        run(TINI, "--", "exit 3", 3)
            .env("TINI_SUBREAPER=")
            .not_pid_1(),
        run(TINI, "-s --", "exit 3", 3).not_pid_1(),
        run(TINI, "--", "exit 3", 3).differs(REAPER).not_pid_1(),
        // dumb-init
        run(DUMB, "-c --", "exit 3", 3),
        run(DUMB, "--single-child --", "exit 3", 3),
        run(DUMB, "--single-child=1 --", "exit 3", 125).differs(USAGE),
        run(DUMB, "--single --", "exit 3", 125).differs(SHORT),
        run(DUMB, "-r 15 --", "exit 3", 125).differs(USAGE),
        run(DUMB, "-r 99:1 --", "exit 3", 125).differs(USAGE),
        run(DUMB, "-r TERM:SIGINT --", "exit 3", 3).differs(NAMES),
        run(DUMB, "-v --", "exit 3", 3).differs(WORDS),
        run(DUMB, "--", "exit 3", 3)
            .env("DUMB_INIT_DEBUG=1")
            .differs(WORDS),
        run(DUMB, "--", "exit 3", 3).env("DUMB_INIT_DEBUG=0"),
        // catatonit
        run(CATATONIT, "-g --", "exit 3", 3),
        run(CATATONIT, "-L", "", 0).differs(LICENCE),
        run(CATATONIT, "--vers", "", 125).differs(SHORT),
        run(CATATONIT, "--", "exit 3", 3)
            .env("CATATONIT_DEBUG=")
            .differs(WORDS),
        run(CATATONIT, "--", "exit 3", 3)
            .env("CATATONIT_LOG=x")
            .differs(LOG),
        run(CATATONIT, "--", "exit 3", 3).not_pid_1(),
    ]
}

// Looked at when PID 1 has come to passing signals on.
const ITS_DIRECTORY: &str =
    "trap 'readlink /proc/1/cwd; exit 0' USR1; kill -USR1 $PPID; sleep 100 & wait";
const ITS_DESCRIPTORS: &str =
    "trap 'ls /proc/1/fd; exit 0' USR1; kill -USR1 $PPID; sleep 100 & wait";

/// What the command finds.
fn surroundings() -> Vec<Scenario> {
    vec![
        run(
            ALL,
            "--",
            "echo $$ $PPID $0 $#; readlink /proc/1/exe >&2",
            0,
        ),
        run(
            ALL,
            "--",
            "pwd; env | grep -v _=; ls /proc/self/fd | wc -l",
            0,
        )
        .before("cd /etc; export A=b C="),
        run(
            &["tini", "dumb-init"],
            "--",
            "grep SigBlk /proc/self/status",
            0,
        ),
        run(CATATONIT, "--", "grep SigBlk /proc/self/status", 0).differs(CLEAN),
        run(ALL, "--", "umask; ulimit -n", 0).before("umask 31; ulimit -n 99"),
        run(DUMB, "--", "kill -USR2 $$; exit 6", 140).before("trap '' USR2"),
        run(BOTH, "--", "kill -USR2 $$; exit 6", 140)
            .before("trap '' USR2")
            .differs(CLEAN),
        // Process group and session: fields 5 and 6 of proc_pid_stat(5).
        run(ALL, "--", "cut -d' ' -f1,5 /proc/$$/stat", 0),
        run(BOTH, "--", "cut -d' ' -f1,6 /proc/$$/stat", 0),
        run(DUMB, "--", "cut -d' ' -f1,6 /proc/$$/stat", 0).differs(SESSION),
        run(DUMB, "-c --", "cut -d' ' -f1,5,6 /proc/$$/stat", 0),
        run(DUMB, "--", "cut -d' ' -f1,5,6 /proc/$$/stat", 0).env("DUMB_INIT_SETSID=0"),
        run(DUMB, "--", ITS_DIRECTORY, 0).before("cd /etc"),
        run(BOTH, "--", ITS_DIRECTORY, 0)
            .before("cd /etc")
            .differs(OWN),
        run(ALL, "--", ITS_DESCRIPTORS, 0)
            .before("exec 7</dev/null")
            .differs(OWN),
        run(CATATONIT, "--", "[ $LISTEN_PID = $$ ]", 0).env("LISTEN_PID=1"),
        run(&["tini", "dumb-init"], "--", "[ $LISTEN_PID = $$ ]", 0)
            .env("LISTEN_PID=1")
            .differs(LISTEN),
    ]
}

/// The command has a background process, which is asked to end only if the signal did not reach it.
const GROUP: &str =
    "exec 2>/dev/null; sleep 100 & trap 'kill $!; wait $!; exit $?' USR1; kill -USR1 $PPID; wait";
const ALONE: i32 = 143;
const TOGETHER: i32 = 138;

/// Signals that come by way of the program.
fn signals() -> Vec<Scenario> {
    vec![
        run(BOTH, "--", GROUP, ALONE),
        run(BOTH, "-g --", GROUP, TOGETHER),
        run(TINI, "--", GROUP, TOGETHER).env("TINI_KILL_PROCESS_GROUP="),
        run(DUMB, "--", GROUP, TOGETHER),
        run(DUMB, "-c --", GROUP, ALONE),
        run(DUMB, "--", GROUP, ALONE).env("DUMB_INIT_SETSID=0"),
        run(DUMB, "--", GROUP, TOGETHER).env("DUMB_INIT_SETSID="),
        run(
            DUMB,
            "-r 15:2 --",
            "trap 'exit 42' INT; kill -TERM $PPID; sleep 100 & wait",
            42,
        ),
        run(
            DUMB,
            "--rewrite=1:3 --rewrite 15:2 --",
            "trap 'exit 42' INT; kill -TERM $PPID; sleep 100 & wait",
            42,
        ),
        run(
            DUMB,
            "-r 15:0 --",
            "trap 'exit 41' TERM; trap 'exit 42' WINCH; kill -TERM $PPID; kill -WINCH $PPID; sleep 100 & wait",
            42,
        ),
        // When the command ends, dumb-init asks its group to end.
        run(DUMB, "--", STAYS, 3).not_pid_1(),
        run(DUMB, "-r 15:10 --", STAYS, 3).not_pid_1(),
    ]
}

const STAYS: &str = "mkfifo $FIFO; \
    (trap 'echo asked; exit' TERM; trap 'echo asked by another; exit' USR1; echo up >$FIFO; sleep 100 >/dev/null 2>&1 & wait) & \
    read x <$FIFO; exit 3";

const UNCAUGHT: &[i32] = &[libc::SIGKILL, libc::SIGSTOP, libc::SIGCHLD];
/// What the kernel sends for faults, and the terminal's.
const TINI_KEEPS: &[i32] = &[
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGSYS,
    libc::SIGTTIN,
    libc::SIGTTOU,
];
const CATATONIT_KEEPS: &[i32] = &[
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGSYS,
    libc::SIGTTIN,
    libc::SIGTTOU,
    libc::SIGTSTP,
];

struct Programs {
    theirs: PathBuf,
    ours: PathBuf,
}

fn programs(lab: &Lab, name: &str) -> Programs {
    let ours = lab.dir.join(name);
    if !ours.exists() {
        symlink(init_binary(), &ours).expect("link init");
    }
    let theirs = Path::new("/usr/bin").join(name);
    assert!(
        theirs.exists(),
        "{} is missing: install {name}, or run `make test`",
        theirs.display()
    );
    Programs { theirs, ours }
}

/// `program words -- sh -c script`, as PID 1 or not.
fn command(lab: &Lab, program: &Path, scenario: &Scenario) -> Command {
    let before = scenario.before;
    let fifo = lab.dir.join("fifo");
    let _ = fs::remove_file(&fifo);
    let start = format!(
        "{}\nexec \"$0\" \"$@\"",
        if before.is_empty() { ":" } else { before }
    );
    let mut command = if scenario.is_pid_1 {
        let mut command = Command::new("/usr/bin/unshare");
        command.args(["-pf", "--mount-proc", "--kill-child", "/bin/busybox"]);
        command
    } else {
        Command::new("/bin/busybox")
    };
    command.args(["sh", "-c", &start]).arg(program);
    command.args(scenario.words.split_whitespace());
    if !scenario.script.is_empty() {
        command.args([
            "/bin/busybox",
            "sh",
            "-c",
            scenario.script,
            "shell",
            "a b",
            "",
        ]);
    }
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("FIFO", fifo);
    command.envs(
        scenario
            .env
            .split_whitespace()
            .filter_map(|pair| pair.split_once('=')),
    );
    command.stdin(Stdio::null()).current_dir(&lab.dir);
    command
}

fn outcomes(lab: &Lab, name: &str, scenario: &Scenario) -> [Outcome; 2] {
    let Programs { theirs, ours } = programs(lab, name);
    [theirs, ours].map(|program| collect(command(lab, &program, scenario), DEADLINE))
}

/// What must be equal: the code, standard output, and whether anything is said on standard error.
fn is_equal(theirs: &Outcome, ours: &Outcome) -> bool {
    let essence = |one: &Outcome| (one.code, one.stdout.clone(), one.stderr.is_empty());
    essence(theirs) == essence(ours)
}

/// Runs all of them, and gives one line for each that is not as it should be.
fn compare(lab: &Lab, scenarios: &[Scenario]) -> Vec<String> {
    let manual = differences();
    fs::write(lab.dir.join("bare"), "exit 5\n").expect("write a script without #!");
    sh(&format!("chmod 755 {}", lab.dir.join("bare").display()));
    let mut faults = vec![];
    for scenario in scenarios {
        for name in scenario.peers {
            let [theirs, ours] = outcomes(lab, name, scenario);
            let differs = scenario.differs;
            let wrong = if ours.code != scenario.code {
                "the code of init"
            } else if differs.is_empty() && !is_equal(&theirs, &ours) {
                "they differ"
            } else if !differs.is_empty() && is_equal(&theirs, &ours) {
                "they do not differ"
            } else if !manual.contains(differs) {
                "the manual does not say that they differ"
            } else {
                continue;
            };
            let Scenario {
                words, script, env, ..
            } = scenario;
            faults.push(format!(
                "=== {wrong}: {env} {name} {words} {script} ({differs})\n=== theirs {theirs}\n=== ours {ours}"
            ));
        }
    }
    faults
}

#[track_caller]
fn assert_none(faults: &[String]) {
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

/// The manual's section about it, with its lines joined.
fn differences() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/init.8.md");
    let manual = fs::read_to_string(path).expect("read the manual");
    let (_, section) = manual.split_once("## OTHER NAMES").expect("the section");
    let (section, _) = section.split_once("\n## ").expect("the next section");
    section.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn exit_codes() {
    case(|lab| assert_none(&compare(lab, &codes())));
}

#[test]
fn options_and_variables() {
    case(|lab| assert_none(&compare(lab, &options())));
}

#[test]
fn what_the_command_finds() {
    case(|lab| assert_none(&compare(lab, &surroundings())));
}

#[test]
fn whom_signals_reach() {
    case(|lab| assert_none(&compare(lab, &signals())));
}

/// What comes to the command of a PID 1 that gets a signal, and then 64, which all pass on.
fn passed_on(lab: &Lab, program: &Path, signal: i32) -> String {
    let scenario = run(ALL, "--", "", 0);
    let mut command = command(lab, program, &scenario);
    command.args([env!("CARGO_BIN_EXE_listener"), "!command"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running::spawn(command);
    running.until(" up ");
    let first = child(running.pid());
    let first = sys::pidfd(first).expect("pidfd of PID 1");
    for signal in [signal, 64] {
        sys::pidfd_signal(&first, signal).expect("signal PID 1");
    }
    running.until("command 64").trim_end().to_owned()
}

#[test]
fn every_signal() {
    case(|lab| {
        let manual = differences();
        assert!(manual.contains(SIGNAL) && manual.contains(STOP));
        for name in PEERS {
            let Programs { theirs, ours } = programs(lab, name);
            for signal in (1..32)
                .chain([35, 63])
                .filter(|signal| !UNCAUGHT.contains(signal))
            {
                let (both, last) = (format!("command {signal}\ncommand 64"), "command 64");
                assert_eq!(passed_on(lab, &ours, signal), both, "{name} {signal}");
                let keeps = match name {
                    "tini" => TINI_KEEPS,
                    "catatonit" => CATATONIT_KEEPS,
                    // It sends SIGSTOP instead.
                    _ if [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(&signal) => {
                        continue;
                    }
                    _ => &[],
                };
                let wanted = if keeps.contains(&signal) { last } else { &both };
                assert_eq!(passed_on(lab, &theirs, signal), wanted, "{name} {signal}");
            }
        }
    });
}

#[test]
fn the_manual_has_no_difference_but_these() {
    let section = differences();
    let (_, list) = section.split_once("What differs").expect("the list");
    for sentence in list.split(" - ").skip(1) {
        let known = DIFFERENCES
            .iter()
            .any(|difference| sentence.contains(difference));
        assert!(known, "no scenario shows this: {sentence}");
    }
}

#[test]
fn versions_and_help() {
    case(|lab| {
        let answer = |program: &Path, word: &str| {
            let mut command = Command::new(program);
            command.arg(word);
            collect(command, DEADLINE).exits(0)
        };
        // The words before the number, on whatever descriptor.
        let first_words = |outcome: &Outcome| {
            let text = outcome.out() + &outcome.err();
            text.split(|letter: char| letter.is_ascii_digit())
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        for name in PEERS {
            let Programs { theirs, ours } = programs(lab, name);
            for word in ["--version", "-V"] {
                if name != "tini" || word == "--version" {
                    assert_eq!(
                        first_words(&answer(&ours, word)),
                        first_words(&answer(&theirs, word)),
                        "{name} {word}"
                    );
                }
            }
            let help = [answer(&theirs, "-h"), answer(&ours, "-h")];
            assert!(
                help[1].out().to_lowercase().starts_with("usage: "),
                "{}",
                help[1]
            );
            let is_elsewhere = [&answer(&theirs, "--version"), &help[0]]
                .iter()
                .any(|one| one.stdout.is_empty());
            assert_eq!(is_elsewhere, name != "tini", "{HELP}");
        }
        assert!(differences().contains(HELP));
        for other in ["docker-init", "tini-static", "podman-init"] {
            let name = if other == "podman-init" {
                "catatonit"
            } else {
                "tini"
            };
            let [mine, known] = [other, name].map(|name| {
                let link = lab.dir.join(name);
                if !link.exists() {
                    symlink(init_binary(), &link).expect("link init");
                }
                answer(&link, "--version").out()
            });
            assert_eq!(mine, known, "{other}");
        }
    });
}

/// Starts `PROGRAM WORDS` and waits until it takes signals: strace shows the call that comes right after it has blocked
/// them. It is our own child, strace beside it.
fn start_traced(program: &Path, words: &[&str]) -> Running {
    let mut command = Command::new("strace");
    command
        .args([
            "-D",
            "-qq",
            "-e",
            "signal=none",
            "-e",
            "trace=rt_sigtimedwait,signalfd4",
            "--",
        ])
        .arg(program);
    command.args(words);
    let mut running = Running::piped(command);
    running.until_stderr("(");
    running
}

/// catatonit -P, the pause process of podman's pods.
#[test]
fn pausing() {
    case(|lab| {
        let Programs { theirs, ours } = programs(lab, "catatonit");
        for program in [theirs, ours] {
            for (signal, code) in [
                (libc::SIGTERM, 0),
                (libc::SIGINT, 0),
                (libc::SIGKILL, -libc::SIGKILL),
            ] {
                let running = start_traced(&program, &["-P"]);
                for other in [libc::SIGWINCH, libc::SIGCHLD, libc::SIGUSR1, libc::SIGHUP] {
                    running.signal(other);
                }
                running.signal(signal);
                let outcome = running.end();
                assert_eq!(outcome.code, code, "{}: {outcome}", program.display());
            }
        }
        // It pins neither a directory, which podman will want to unmount, nor what podman had open.
        let mut command = Command::new("/bin/busybox");
        let script =
            "cd /etc; exec 7</dev/null; exec strace -D -qq -e trace=rt_sigtimedwait -- \"$0\" -P";
        command
            .args(["sh", "-c", script])
            .arg(programs(lab, "catatonit").ours);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut running = Running::spawn(command);
        running.until_stderr("(");
        let pid = running.pid();
        let directory = fs::read_link(format!("/proc/{pid}/cwd")).expect("its working directory");
        assert_eq!(directory, Path::new("/"));
        assert!(
            !Path::new(&format!("/proc/{pid}/fd/7")).exists(),
            "a descriptor is kept"
        );
    });
}

/// As the PID 1 of a pod it has the orphans of all containers.
#[test]
fn orphans_of_a_pause() {
    case(|lab| {
        let Programs { theirs, ours } = programs(lab, "catatonit");
        for program in [theirs, ours] {
            let mut command = Command::new("/usr/bin/unshare");
            command.args(["-pf", "--mount-proc", "--kill-child", "strace", "-D", "-qq"]);
            command.args([
                "-e",
                "signal=none",
                "-e",
                "trace=rt_sigtimedwait,signalfd4,wait4",
                "--",
            ]);
            command.arg(&program).arg("-P");
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let mut running = Running::spawn(command);
            running.until_stderr("(");
            let first = child(running.pid());
            let script = "sh -c 'echo $$; exec sleep 1000 >/dev/null 2>&1' &";
            let mut command = Command::new("/usr/bin/nsenter");
            command.args([
                "-p",
                "-t",
                &first.to_string(),
                "/bin/busybox",
                "sh",
                "-c",
                script,
            ]);
            command.stdin(Stdio::null());
            let inside = collect(command, DEADLINE).ok();
            let mut command = Command::new("/usr/bin/nsenter");
            command.args([
                "-p",
                "-t",
                &first.to_string(),
                "/bin/busybox",
                "kill",
                "-9",
                &inside,
            ]);
            collect(command, DEADLINE).ok();
            // What wait4 gives.
            running.until_stderr(&format!(") = {inside}\n"));
        }
    });
}

#[test]
fn a_parent_that_dies() {
    case(|lab| {
        let Programs { theirs, ours } = programs(lab, "tini");
        for program in [theirs, ours] {
            let mut command = Command::new("/bin/busybox");
            let inner =
                "trap 'echo the parent died; exit' USR2; echo up; sleep 100 >/dev/null 2>&1 & wait";
            let script = format!("\"$0\" -s -p SIGUSR2 -- /bin/busybox sh -c \"{inner}\" & read x");
            command.args(["sh", "-c", &script]).arg(&program);
            let mut running = Running::piped(command);
            running.until("up");
            assert_eq!(
                running.end().out(),
                "the parent died\n",
                "{}",
                program.display()
            );
        }
    });
}

#[test]
fn orphans() {
    case(|lab| {
        for name in PEERS {
            let Programs { theirs, ours } = programs(lab, name);
            for program in [theirs, ours] {
                let words = if name == "tini" { "-w --" } else { "--" };
                let script = "/bin/busybox sh -c 'sleep 1000 >/dev/null 2>&1 &'; trap 'echo synced' WINCH; echo up; \
                    sleep 1000 >/dev/null 2>&1 & while :; do wait; done";
                let mut command = command(lab, &program, &run(ALL, words, script, 0));
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
                let mut running = Running::spawn(command);
                running.until("up");
                let first = child(running.pid());
                let orphans = children(first);
                let [_, orphan] = orphans[..] else {
                    panic!("{name}: the command and an orphan, not {orphans:?}")
                };
                let (first, dead) = (
                    sys::pidfd(first).expect("pidfd"),
                    sys::pidfd(orphan).expect("pidfd"),
                );
                sys::pidfd_signal(&dead, libc::SIGKILL).expect("kill the orphan");
                wait_for_end(orphan);
                // SIGCHLD has a lower number and is taken first; the second is passed on when that is done with.
                for _ in 0..2 {
                    sys::pidfd_signal(&first, libc::SIGWINCH).expect("signal PID 1");
                    running.until("synced");
                }
                assert!(
                    sys::pidfd_signal(&dead, 0).is_err(),
                    "{}: a zombie is left",
                    program.display()
                );
                sys::pidfd_signal(&first, libc::SIGKILL).expect("kill PID 1");
                let text = running.end().err().to_lowercase();
                assert_eq!(text.contains("reap"), name == "tini", "-w: {text}");
            }
        }
    });
}

/// Whether the command leads its group, and its session.
fn leads(program: &Path, start: &str) -> (bool, bool) {
    let mut command = Command::new("/bin/busybox");
    let script = "echo =$(cut -d' ' -f1,5,6 /proc/$$/stat)=";
    command
        .args(["sh", "-c", start])
        .arg(program)
        .args(["--", "/bin/busybox", "sh", "-c", script]);
    let mut terminal = Terminal::spawn(command);
    terminal.until("=");
    let text = terminal.until("=");
    terminal.end().exits(0);
    let numbers: Vec<&str> = text.trim_end_matches('=').split(' ').collect();
    (numbers[0] == numbers[1], numbers[0] == numbers[2])
}

#[test]
fn terminals() {
    case(|lab| {
        let (led_by_it, led_by_a_shell) = ("exec \"$0\" \"$@\"", "\"$0\" \"$@\"; exit $?");
        for (name, alone, below) in [
            ("tini", (true, false), (true, false)),
            ("dumb-init", (true, true), (true, true)),
            ("catatonit", (true, false), (true, false)),
        ] {
            let Programs { theirs, ours } = programs(lab, name);
            assert_eq!(leads(&theirs, led_by_it), alone, "{name}");
            assert_eq!(leads(&ours, led_by_it), (true, true), "{name}");
            assert_eq!(leads(&theirs, led_by_a_shell), below, "{name}");
            assert_eq!(leads(&ours, led_by_a_shell), (false, false), "{name}");
            for program in [theirs, ours] {
                let mut command = Command::new(&program);
                command.args([
                    "--",
                    "/bin/busybox",
                    "sh",
                    "-c",
                    "trap 'exit 42' INT; stty size; sleep 100 & wait",
                ]);
                let mut terminal = Terminal::spawn(command);
                terminal.until("24 80");
                terminal.keys("\x03");
                terminal.end().exits(42);
            }
        }
        assert!(differences().contains(TERMINAL) && differences().contains(SHELLS));
    });
}

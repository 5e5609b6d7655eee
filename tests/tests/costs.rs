//! What a PID 1 costs, ours beside tini-static, catatonit and dumb-init in the same run: bytes, memory, wake-ups, system
//! calls, allocations. (Times are no test: see `make bench`.)

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use lab::{DEADLINE, Lab, Running, case, collect, init_binary, strace, sys};

/// A program, and what comes before the command.
struct Program {
    path: PathBuf,
    words: &'static [&'static str],
}

/// Ours first. tini's -s is what the others do without being told.
fn programs(lab: &Lab) -> Vec<Program> {
    let ours = lab.dir.join("init");
    if !ours.exists() {
        symlink(init_binary(), &ours).expect("link init");
    }
    let program = |path: &str, words| Program {
        path: path.into(),
        words,
    };
    let all = vec![
        Program {
            path: ours,
            words: &["-s", "--"],
        },
        program("/usr/bin/tini-static", &["-s", "--"]),
        program("/usr/bin/catatonit", &["--"]),
        program("/usr/bin/dumb-init", &["--"]),
    ];
    for Program { path, .. } in &all {
        assert!(
            path.exists(),
            "{} is missing: run `make test`",
            path.display()
        );
    }
    all
}

impl Program {
    fn name(&self) -> String {
        self.path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    }

    /// It with a command, not started yet.
    fn command(&self, command: &[&str]) -> Command {
        let mut whole = Command::new(&self.path);
        whole.args(self.words).args(command);
        whole
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        sys::without_terminal(&mut whole);
        whole
    }

    /// Supervising, with some work behind it: the command has run a hundred others, and waits for a number.
    fn start(&self) -> Running {
        let script = "while read count; do while [ $count -gt 0 ]; do /bin/busybox true; count=$((count - 1)); done; \
            echo done; done";
        let mut running = Running::spawn(self.command(&["/bin/busybox", "sh", "-c", script]));
        run_others(&mut running, 100);
        running
    }
}

/// The command runs so many others, one after the other, and reaps them itself.
fn run_others(running: &mut Running, count: u32) {
    running.say(&format!("{count}\n"));
    running.until("done");
}

fn read(pid: i32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}"))
        .unwrap_or_else(|error| panic!("read {file}: {error}"))
}

/// The number behind a word of /proc/PID/status or smaps_rollup.
fn number(text: &str, key: &str) -> u64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("{key} in {text}"))
}

/// What has to be on the disk for a process to run: every file that it has mapped, in bytes.
fn bytes_on_disk(pid: i32) -> u64 {
    let maps = read(pid, "maps");
    let files: BTreeSet<&str> = maps
        .lines()
        .filter_map(|line| Some(&line[line.find('/')?..]))
        .collect();
    files
        .iter()
        .map(|file| fs::metadata(file).expect("a mapped file").len())
        .sum()
}

#[test]
#[expect(clippy::print_stdout, reason = "the table of the README")]
fn bytes_and_memory() {
    case(|lab| {
        let mut rows = vec![];
        for program in programs(lab) {
            let running = program.start();
            let pid = running.pid();
            let rollup = read(pid, "smaps_rollup");
            // Not pages of the program's file, which count as dirty until they are written to the disk.
            let own = number(&rollup, "Anonymous");
            let file = fs::metadata(&program.path)
                .expect("look at a program")
                .len();
            rows.push((
                program.name(),
                file,
                bytes_on_disk(pid),
                number(&rollup, "Rss"),
                own,
            ));
            assert_eq!(number(&read(pid, "status"), "Threads"), 1);
        }
        println!();
        for (name, file, disk, resident, own) in &rows {
            println!("| {name} | {file} | {disk} | {resident} | {own} |");
        }
        let (ours, others) = rows.split_first().expect("ours");
        let (_, file, disk, resident, own) = ours;
        assert!(
            *file <= 32 * 1024 && file == disk,
            "{file} bytes, and nothing else: {disk}"
        );
        assert!((1..=64).contains(resident), "{resident} kB resident");
        for (name, _, other_disk, other_resident, other_own) in others {
            assert!(disk < other_disk, "{name} has {other_disk} bytes");
            assert!(
                resident < other_resident,
                "{name} has {other_resident} kB resident"
            );
            assert!(own <= other_own, "{name} has written to {other_own} kB");
        }
    });
}

/// Waits without a timeout, and nothing wakes it: while its command is busy the scheduler never gives it a turn.
#[test]
fn no_wake_up() {
    case(|lab| {
        for program in programs(lab) {
            let mut running = program.start();
            let pid = running.pid();
            let turns = || {
                let status = read(pid, "status");
                number(&status, "voluntary_ctxt_switches")
                    + number(&status, "nonvoluntary_ctxt_switches")
            };
            let before = turns();
            run_others(&mut running, 300);
            let after = turns();
            // The number of the call and its arguments: proc_pid_syscall(5). The third is the time to wait.
            let call = read(pid, "syscall");
            let words: Vec<&str> = call.split_whitespace().collect();
            let waits = words[0] == libc::SYS_rt_sigtimedwait.to_string();
            if program.name() == "init" {
                assert_eq!(after, before, "turns in the meantime");
                assert!(
                    waits && words[3] == "0x0",
                    "it waits for a signal, and no longer than that: {call}"
                );
                assert_eq!(read(pid, "timers"), "", "no timer");
            } else if program.name() == "tini-static" {
                assert!(
                    waits && words[3] != "0x0",
                    "tini waits a second at a time, and this test sees it: {call}"
                );
            }
        }
    });
}

/// System calls of a whole run, each with the process that made it.
fn calls(lab: &Lab, command: &Command) -> Vec<(i32, String)> {
    let file = lab.dir.join("trace");
    let mut traced = strace::traced(
        command,
        &["-f", "-qq", "-e", "signal=none"],
        &file.to_string_lossy(),
    );
    traced.stdin(Stdio::null());
    collect(traced, DEADLINE).exits(0);
    let trace = fs::read_to_string(&file).expect("read the trace");
    let lines = trace
        .lines()
        .filter(|line| !line.contains(" resumed>") && !line.contains("+++"));
    let parse = |line: &str| {
        let (pid, call) = line.split_once(' ')?;
        Some((pid.parse().ok()?, call.trim_start().to_owned()))
    };
    lines
        .map(|line| parse(line).unwrap_or_else(|| panic!("no call: {line}")))
        .collect()
}

const TRUE: &[&str] = &["/bin/busybox", "true"];

#[test]
#[expect(clippy::print_stdout, reason = "a table, like those of bench")]
fn system_calls_of_a_start() {
    case(|lab| {
        let mut alone = Command::new(TRUE[0]);
        alone.args(&TRUE[1..]);
        let alone = calls(lab, &alone).len();
        println!();
        for program in programs(lab) {
            let all = calls(lab, &program.command(TRUE));
            let start = all
                .iter()
                .position(|(_, call)| call.starts_with("execve(\"/bin/busybox\""))
                .expect("the command");
            let (added, signals) = (
                all.len() - alone,
                all[..start]
                    .iter()
                    .filter(|(_, call)| call.starts_with("rt_sigaction("))
                    .count(),
            );
            println!("| {} | {added} | {signals} |", program.name());
            if program.name() == "init" {
                // 64 of them make every signal what the command expects, and 1 makes a broken pipe an error meanwhile.
                assert_eq!(signals, 65);
                assert!(
                    added <= 65 + 25,
                    "{added} calls are added to those of the command"
                );
            }
        }
    });
}

/// Calls that give a process memory.
const MEMORY: &[&str] = &["brk(", "mmap(", "mremap(", "mprotect(", "madvise("];

#[test]
fn no_allocation() {
    case(|lab| {
        let Program { path, .. } = &programs(lab)[0];
        let config = lab.dir.join("config");
        fs::write(&config, "hawser 1\nno-links\noption ndots:1\nend\n").expect("write a config");
        let config = config.to_string_lossy();
        let words: [&[&str]; 3] = [
            &["-s", "--"],
            &["--"],
            &["-s", "--resolv", "off", "--config", &config, "--"],
        ];
        for words in words {
            let mut command = Command::new(path);
            command.args(words).args(TRUE);
            let all = calls(lab, &command);
            assert!(all[0].1.starts_with("execve("), "{all:?}");
            let start = all
                .iter()
                .rposition(|(_, call)| call.starts_with("execve("))
                .expect("the command");
            let (before, behind) = all.split_at(start);
            let command = behind[0].0;
            let is_memory = |call: &str| MEMORY.iter().any(|name| call.starts_with(name));
            // Up to the command, and the supervisor's own until the end.
            let own = before
                .iter()
                .chain(behind.iter().filter(|(pid, _)| *pid != command));
            let asked: Vec<_> = own.filter(|(_, call)| is_memory(call)).collect();
            assert!(asked.is_empty(), "{words:?}: {asked:?}");
            assert!(
                behind.iter().any(|(_, call)| is_memory(call)),
                "busybox does ask, and this test sees it"
            );
        }
    });
}

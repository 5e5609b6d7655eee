//! A program and all that it starts, stopped by ptrace(2) at each system call, and killed, or sent another signal, at one of them; or
//! interrupted at each.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrIn, connect, sendto, socket,
};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::net::Lab;
use crate::process::Outcome;
use crate::snapshot::Snapshot;
use crate::sys;
use crate::work::Work;

/// Who is killed, or gets another signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victims {
    /// The process that is about to make the call.
    It,
    /// All the others, whatever they do or wait for at that moment.
    Others,
    /// All at once.
    All,
}

/// A moment: the process, in the order in which they come to be, and which of its system calls it is about to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    process: usize,
    call: usize,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy)]
pub struct Blow {
    /// When.
    moment: Moment,
    /// To whom.
    victims: Victims,
    /// What they are sent.
    signal: Signal,
}

/// What came of it.
pub struct Traced {
    /// How the first process ended.
    pub outcome: Outcome,
    /// The numbers of the system calls of each process, up to its last exec where it has become another program twice: what a
    /// container's command does is its own.
    pub calls: Vec<Vec<u64>>,
    /// Who was killed, or got another signal.
    pub killed: Vec<usize>,
    /// How many calls were interrupted.
    pub interrupted: usize,
}

/// What is done meanwhile. All that is traced waits for it.
pub struct Meanwhile<'a> {
    /// When a process has become a program for the second time: a container's command.
    pub at_command: &'a (dyn Fn() + Sync),
    /// When the first process, which is this one, has said its first word on its standard output.
    pub at_word: Option<&'a (dyn Fn(Pid) + Sync)>,
    /// When one is about to make this system call, as long as nobody was killed.
    pub at_call: Option<&'a (dyn Fn(i64) + Sync)>,
    /// Each process is stopped at each of its calls, and goes on at once: what waits begins again, or is told EINTR.
    pub interrupts: bool,
}

struct Process {
    index: usize,
    calls: Vec<u64>,
    execs: usize,
    is_new: bool,
    /// A stop of ours is still to come.
    is_stopping: bool,
    /// Its last call was interrupted: this one is the same.
    is_spared: bool,
}

/// Runs `command` to its end, and until all is over that it has started.
pub fn trace(
    mut command: Command,
    directory: &Path,
    blow: Option<Blow>,
    meanwhile: &Meanwhile,
) -> Traced {
    let [out, err] = ["traced.out", "traced.err"].map(|name| directory.join(name));
    let said = File::create(&out).expect("a file for stdout");
    command.stdout(said.try_clone().expect("duplicate a file"));
    command.stderr(File::create(&err).expect("a file for stderr"));
    sys::be_traced(&mut command);
    // A thread of its own waits for nobody else's children.
    let mut traced = std::thread::scope(|scope| {
        let tracer = scope.spawn(|| {
            let tracer = Tracer {
                awaited: meanwhile.at_word.map(|at_word| (said, at_word)),
                ..Tracer::default()
            };
            tracer.run(command, blow, meanwhile)
        });
        tracer.join().expect("the tracer")
    });
    for (path, into) in [
        (out, &mut traced.outcome.stdout),
        (err, &mut traced.outcome.stderr),
    ] {
        *into = fs::read(&path).expect("what it said");
        fs::remove_file(&path).expect("remove a file");
    }
    traced
}

#[derive(Default)]
struct Tracer<'a> {
    living: BTreeMap<Pid, Process>,
    calls: Vec<Vec<u64>>,
    killed: Vec<usize>,
    interrupted: usize,
    /// Where the first word will be, and what is done then.
    awaited: Option<(File, &'a (dyn Fn(Pid) + Sync))>,
}

impl Tracer<'_> {
    fn run(
        mut self,
        mut command: Command,
        mut blow: Option<Blow>,
        meanwhile: &Meanwhile,
    ) -> Traced {
        let started = Instant::now();
        #[expect(
            clippy::zombie_processes,
            reason = "the loop below waits for all of them"
        )]
        let child = command.spawn().expect("start what is traced");
        let main = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        waitpid(main, Some(WaitPidFlag::__WALL)).expect("its first stop");
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_EXITKILL
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK;
        ptrace::setoptions(main, options).expect("trace its children too");
        self.meet(main).is_new = false;
        self.go_on(main, None);
        let mut code = 0;
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        while let Ok(status) = waitpid(None, Some(flags)) {
            match status {
                WaitStatus::Exited(pid, exit) => {
                    self.forget(pid);
                    code = if pid == main { exit } else { code };
                }
                WaitStatus::Signaled(pid, signal, _) => {
                    self.forget(pid);
                    code = if pid == main { -(signal as i32) } else { code };
                }
                WaitStatus::PtraceSyscall(pid) => {
                    if pid == main {
                        self.listen(pid);
                    }
                    if let Some(number) = sys::entered_call(pid) {
                        self.enter(pid, number, &mut blow, meanwhile);
                    } else {
                        self.leave(pid);
                    }
                    self.go_on(pid, None);
                }
                WaitStatus::PtraceEvent(pid, _, event) => {
                    if event == Event::PTRACE_EVENT_EXEC as i32 {
                        let process = self.meet(pid);
                        process.execs += 1;
                        if process.execs == 2 {
                            (meanwhile.at_command)();
                        }
                    } else if let Ok(new) = ptrace::getevent(pid) {
                        self.meet(Pid::from_raw(i32::try_from(new).expect("a process id")));
                    }
                    self.go_on(pid, None);
                }
                WaitStatus::Stopped(pid, signal) => {
                    let is_stop = signal == Signal::SIGSTOP;
                    let process = self.meet(pid);
                    // Of two, the kernel tells of one.
                    let is_first = is_stop && std::mem::take(&mut process.is_new);
                    let is_ours = is_stop && std::mem::take(&mut process.is_stopping);
                    self.go_on(pid, (!is_first && !is_ours).then_some(signal));
                }
                _ => {}
            }
        }
        Traced {
            outcome: Outcome {
                code,
                stdout: Vec::new(),
                stderr: Vec::new(),
                elapsed: started.elapsed(),
            },
            calls: self.calls,
            killed: self.killed,
            interrupted: self.interrupted,
        }
    }

    /// A process is about to make a call.
    fn enter(&mut self, pid: Pid, number: u64, blow: &mut Option<Blow>, meanwhile: &Meanwhile) {
        let process = self.meet(pid);
        let (index, call) = (process.index, process.enter(number));
        let is_spared = std::mem::take(&mut process.is_spared) || call == usize::MAX;
        if meanwhile.interrupts && !is_spared {
            process.is_stopping = kill(pid, Signal::SIGSTOP).is_ok();
        }
        let process = index;
        let is_now = |blow: &mut Blow| blow.moment == Moment { process, call };
        if let Some(blow) = blow.take_if(is_now) {
            self.strike(process, blow);
        } else if let Some(at_call) = meanwhile.at_call.filter(|_| self.killed.is_empty()) {
            at_call(i64::try_from(number).unwrap_or(-1));
        }
    }

    /// A process has made a call.
    fn leave(&mut self, pid: Pid) {
        // <linux/errno.h>: ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK; a program sees none of them.
        const AGAIN: [i64; 4] = [512, 513, 514, 516];
        let result = sys::result_of_call(pid).unwrap_or_default();
        if result == -i64::from(libc::EINTR) || AGAIN.contains(&-result) {
            self.interrupted += 1;
            self.meet(pid).is_spared = true;
        }
    }

    /// Whether the first process has said something.
    fn listen(&mut self, main: Pid) {
        let has_said = |(said, _): &mut (File, _)| said.metadata().is_ok_and(|it| it.len() > 0);
        if let Some((_, at_word)) = self.awaited.take_if(has_said) {
            at_word(main);
        }
    }

    fn meet(&mut self, pid: Pid) -> &mut Process {
        self.living.entry(pid).or_insert_with(|| {
            self.calls.push(Vec::new());
            Process {
                index: self.calls.len() - 1,
                calls: Vec::new(),
                execs: 0,
                is_new: true,
                is_stopping: false,
                is_spared: false,
            }
        })
    }

    fn forget(&mut self, pid: Pid) {
        if let Some(process) = self.living.remove(&pid) {
            self.calls[process.index] = process.calls;
        }
    }

    fn go_on(&self, pid: Pid, signal: Option<Signal>) {
        // It may have been killed meanwhile.
        let _ = if self.killed.is_empty() || self.awaited.is_some() {
            ptrace::syscall(pid, signal)
        } else {
            ptrace::cont(pid, signal)
        };
    }

    fn strike(&mut self, it: usize, blow: Blow) {
        for (pid, process) in &self.living {
            let is_victim = match blow.victims {
                Victims::It => process.index == it,
                Victims::Others => process.index != it,
                Victims::All => true,
            };
            if is_victim && kill(*pid, blow.signal).is_ok() {
                self.killed.push(process.index);
            }
        }
    }
}

impl Process {
    /// Gives which one it is.
    fn enter(&mut self, number: u64) -> usize {
        if self.execs < 2 {
            self.calls.push(number);
            return self.calls.len() - 1;
        }
        usize::MAX
    }
}

/// System calls that change nothing beyond the process that makes them: to be killed at one of them is to be killed at the next.
const PRIVATE: &[i64] = &[
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_set_tid_address,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_lseek,
    libc::SYS_pread64,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_prlimit64,
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_getrandom,
    libc::SYS_ppoll,
    libc::SYS_capget,
    libc::SYS_uname,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_arch_prctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// The kernel kills a container whose helper is killed, so that both at once are not much else; and it is where the helper is that
/// matters when the container alone is killed.
const OTHERS_STRIDE: usize = 3;

fn is_private(number: u64) -> bool {
    PRIVATE.iter().any(|own| u64::try_from(*own) == Ok(number))
}

/// Somebody outside who uses port 8080 of the host, by UDP and TCP, always from the same ports.
struct Client<'a> {
    lab: &'a Lab,
    port: u16,
}

impl Client<'_> {
    fn knock(&self) {
        self.lab.internet.enter(|| {
            let to = SockaddrIn::new(192, 0, 2, 2, 8080);
            let from = SockaddrIn::new(192, 0, 2, 1, self.port);
            for (kind, protocol) in [(SockType::Datagram, "udp"), (SockType::Stream, "tcp")] {
                let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
                let made = socket(AddressFamily::Inet, kind, flags, None).expect(protocol);
                let reuse = nix::sys::socket::sockopt::ReuseAddr;
                nix::sys::socket::setsockopt(&made, reuse, &true).expect("share the port");
                nix::sys::socket::bind(made.as_raw_fd(), &from).expect("its port");
                // Nobody may be there any more.
                let _ = match kind {
                    SockType::Datagram => {
                        sendto(made.as_raw_fd(), b"x", &to, MsgFlags::empty()).map(drop)
                    }
                    _ => connect(made.as_raw_fd(), &to),
                };
            }
        });
    }

    fn is_connected(&self) -> bool {
        let port = format!("sport={} dport=8080", self.port);
        let all = fs::read_to_string("/proc/net/nf_conntrack").expect("the connections");
        all.lines()
            .any(|line| line.contains(&port) && !line.contains("src=192.0.2.2 "))
    }
}

/// What a sweep is to find.
#[derive(Clone, Copy)]
pub struct Sweep<'a> {
    /// Where.
    pub lab: &'a Lab,
    /// What is killed.
    pub work: &'a Work<'a>,
    /// The process that takes everything back at the end: when it lives on, nobody else has to. `None`: somebody has to all the same.
    pub keeper: Option<usize>,
    /// What the next command is, which takes back what nobody else could.
    pub next: &'a dyn Fn(),
    /// Whether a process that makes these calls is killed at each of them, also at those that change nothing, and no other is.
    /// `None`: all processes, where they change something.
    pub whom: Option<fn(&[u64]) -> bool>,
    /// What ends a work that does not end by itself, once it has said its first word.
    pub at_word: Option<&'a (dyn Fn(Pid) + Sync)>,
    /// What is done when one is about to make a call.
    pub at_call: Option<&'a (dyn Fn(i64) + Sync)>,
    /// What they are sent.
    pub signal: Signal,
    /// Whether each is stopped for a moment at each of its calls.
    pub interrupts: bool,
    /// Whether port 8080 of the host leads to what is made: at some of the moments a client is connected then. False also where it is
    /// taken back, and it depends on who is faster.
    pub is_published: bool,
    /// Every so manieth moment only, of those that `CRASH_STRIDE` leaves; where others are killed than who makes a call, a third of those.
    pub stride: usize,
}

impl<'a> Sweep<'a> {
    /// Of all moments; somebody has to take back, and nobody does yet.
    pub fn new(lab: &'a Lab, work: &'a Work<'a>) -> Self {
        Self {
            lab,
            work,
            keeper: None,
            next: &|| (),
            whom: None,
            at_word: None,
            at_call: None,
            signal: Signal::SIGKILL,
            interrupts: false,
            is_published: true,
            stride: 1,
        }
    }

    /// The same beside a network that is there, and with `ls` for the next command; the host's state before the work comes back by `down`.
    #[track_caller]
    pub fn run_and_down(self, title: &str, victims: &[Victims]) {
        let lab = self.lab;
        let untouched = Snapshot::whole();
        let next = || drop(lab.hawser(&["ls"]).exits(0));
        let sweep = Sweep {
            next: &next,
            ..self
        };
        sweep.do_once();
        sweep.run(title, victims, &Snapshot::with_namespaces());
        for bridge in ["hawser0", "cni0"] {
            lab.hawser(&["down", "--bridge", bridge]).ok();
        }
        untouched.assert_host_back();
    }

    /// Kills at all of the moments, each time all that is named by `victims`, and complains of what is not as `before`. Prints
    /// how many kills there were.
    #[track_caller]
    #[expect(
        clippy::print_stdout,
        reason = "libtest captures it, and shows it when it is asked to"
    )]
    pub fn run(&self, title: &str, victims: &[Victims], before: &Snapshot) {
        let plain = self.plain();
        let (mut tried, mut kills, mut connected, mut complaints) = (0, 0, 0, Vec::new());
        let is_alone = plain.calls.len() == 1;
        let stride = std::env::var("CRASH_STRIDE").map_or(3, |it| it.parse().expect("a number"));
        let moments = self.moments(&plain).into_iter();
        let first = Self::first();
        let step = self.stride * stride;
        let moments = moments.skip(first % step).step_by(step);
        for (index, moment) in moments.enumerate() {
            let is_meant = |victims: &Victims| {
                *victims == Victims::It || (!is_alone && index % OTHERS_STRIDE == 0)
            };
            for victims in victims.iter().filter(|victims| is_meant(victims)) {
                let number = plain.calls[moment.process][moment.call];
                let what = format!("{victims:?} at call {number} of {moment:?}");
                let kill = || self.kill(moment, *victims, before, &mut kills);
                let killed = catch_unwind(AssertUnwindSafe(kill));
                let (found, had_client) = killed.unwrap_or_else(|_| panic!("{what}: see above"));
                tried += 1;
                connected += u32::from(had_client);
                complaints.extend(found.iter().map(|found| format!("{what}: {found}")));
            }
        }
        let missed = tried - kills;
        println!(
            "\n| {title} | {kills} kills, {connected} of them with a client connected | {missed} missed | CRASH_FIRST={first} |"
        );
        assert!(
            complaints.is_empty(),
            "{} complaints:\n{}",
            complaints.len(),
            complaints.join("\n")
        );
        assert!(kills > 5, "hardly anything was killed");
        // Those are where processes wait for each other, and where there is no other.
        assert!(missed * 5 < tried, "{missed} of {tried} kills hit nobody");
        assert!(
            connected > 0 || !self.is_published,
            "nobody was ever connected"
        );
    }

    /// Does the work, and takes everything back.
    pub fn do_once(&self) -> Traced {
        let traced = self.trace(None, &|| ());
        assert_eq!(traced.outcome.code, 0, "{}", traced.outcome);
        (self.work.undo)(&traced.outcome);
        self.lab.settle();
        (self.next)();
        traced
    }

    /// The work undisturbed, with the fewest calls: as long as another has the lock of all links, a write to a switch is made again and
    /// again.
    fn plain(&self) -> Traced {
        let all = (0..3).map(|_| self.do_once());
        let plain = all.min_by_key(|traced| traced.calls.iter().map(Vec::len).sum::<usize>());
        plain.expect("three")
    }

    /// Which moment is the first: another one each day, so that those that are left out are not always the same.
    fn first() -> usize {
        const DAY: u64 = 24 * 60 * 60;
        let chosen = std::env::var("CRASH_FIRST").map(|it| it.parse().expect("a number"));
        let today = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map(|since| since.as_secs() / DAY)
        };
        chosen.unwrap_or_else(|_| today().map_or(0, |day| day as usize))
    }

    /// The moments of a run that are worth a kill.
    fn moments(&self, traced: &Traced) -> Vec<Moment> {
        let mut all = Vec::new();
        for (process, calls) in traced.calls.iter().enumerate() {
            let is_wanted = |number: u64| match self.whom {
                Some(is_meant) => is_meant(calls),
                None => !is_private(number),
            };
            let shown = calls.iter().enumerate().filter(|(_, it)| is_wanted(**it));
            all.extend(shown.map(|(call, _)| Moment { process, call }));
        }
        all
    }

    /// Does the work. `knock` is called when it is there to be used.
    pub fn trace(&self, blow: Option<(Moment, Victims)>, knock: &(dyn Fn() + Sync)) -> Traced {
        let mut command = (self.work.command)();
        if let Some(path) = &self.work.input {
            command.stdin(Stdio::from(File::open(path).expect("what it reads")));
        }
        let at_word = self.at_word.map(|end| {
            move |main: Pid| {
                knock();
                end(main);
            }
        });
        let meanwhile = Meanwhile {
            at_command: knock,
            at_word: at_word.as_ref().map(|it| it as &(dyn Fn(Pid) + Sync)),
            at_call: self.at_call,
            interrupts: self.interrupts,
        };
        let signal = self.signal;
        let blow = blow.map(|(moment, victims)| Blow {
            moment,
            victims,
            signal,
        });
        trace(command, &self.lab.dir, blow, &meanwhile)
    }

    fn kill(
        &self,
        moment: Moment,
        victims: Victims,
        before: &Snapshot,
        kills: &mut usize,
    ) -> (Vec<String>, bool) {
        let lab = self.lab;
        let client = Client {
            lab,
            port: u16::try_from(20_000 + *kills % 10_000).expect("a port"),
        };
        let traced = self.trace(Some((moment, victims)), &|| client.knock());
        *kills += usize::from(!traced.killed.is_empty());
        client.knock();
        let had_client = client.is_connected();
        let mut found = Vec::new();
        let Traced {
            outcome, killed, ..
        } = &traced;
        let signal = self.signal as i32;
        let may_be = [0, 128 + signal, -signal];
        let is_told = |code| outcome.code == code && outcome.err().lines().count() == 1;
        let is_told_to_runtime = outcome.code == 1 && outcome.out().contains("\"code\"");
        if !(may_be.contains(&outcome.code) || is_told(125) || is_told_to_runtime) {
            found.push(outcome.to_string());
        }
        (self.work.undo)(outcome);
        lab.settle();
        // Whoever gets another signal takes back by himself.
        let is_lost = |keeper| self.signal == Signal::SIGKILL && killed.contains(&keeper);
        if self.keeper.is_none_or(is_lost) {
            (self.next)();
        }
        found.extend(before.changes());
        if !found.is_empty() {
            // So that the next one is judged by itself.
            (self.next)();
        }
        (found, had_client)
    }
}

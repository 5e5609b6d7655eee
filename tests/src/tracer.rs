//! A tracer (ptrace(2)) that counts the system calls of a program and of all the processes that it makes, and lets one of
//! them fail, or one of the netlink requests that they send. Unlike strace's `inject` it can tell those processes apart, and sees where the program under test ends: what a
//! container runs is no longer traced.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::errnos;
use crate::memory::{Place, read_path};
use crate::process::{DEADLINE, Outcome};
use crate::requests::{Kind, Refused, Request, may_send, requests};
use crate::sys;

/// One system call of a run, told in a way that means the same in the next run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// Which process: `1` is the program, `1.2` the second that it makes.
    pub process: String,
    /// Its number (`libc::SYS_*`).
    pub number: i64,
    /// What it is to do, where one call does many things: the second argument of fcntl(2), flock(2) and ioctl(2). Else 0.
    pub command: u64,
    /// The how manieth of that number it is in its process, from 1 on.
    pub nth: usize,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It does not take place, and fails.
    Instead(Errno),
    /// It takes place, and is said to have failed.
    After(Errno),
    /// Nothing of it: the kernel refuses this request of its process, and says that this is why.
    Refused(Request, Errno),
}

impl Fault {
    /// What is said to be the cause.
    pub fn errno(self) -> Errno {
        match self {
            Self::Instead(errno) | Self::After(errno) | Self::Refused(_, errno) => errno,
        }
    }
}

/// What was seen.
pub struct Trace {
    /// How the program ended.
    pub outcome: Outcome,
    /// All of its calls, in the order in which they began. After a fault there are no more of them.
    pub calls: Vec<Call>,
    /// The netlink requests among them, each by the call that sent it.
    pub requests: Vec<(Call, Request)>,
    /// The path that the call which was to fail has got; empty: none.
    pub path: String,
    /// Whether the call was made that was to fail.
    pub is_hit: bool,
    /// Whether somebody has read that its request was refused.
    pub is_read: bool,
    /// Whether it took so long that it was killed.
    pub is_stuck: bool,
}

/// Runs `command` to its end and that of all the processes that it makes; the call in `fault` fails.
pub fn trace(command: Command, fault: Option<(&Call, Fault)>) -> Trace {
    // The tracees are children of one thread, and of that one alone: what else this process has started is not waited for.
    thread::scope(|scope| {
        let traced = scope.spawn(|| trace_here(command, fault));
        traced.join().expect("the thread that traces")
    })
}

fn trace_here(mut command: Command, fault: Option<(&Call, Fault)>) -> Trace {
    sys::trace(&mut command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = Instant::now();
    #[expect(
        clippy::zombie_processes,
        reason = "it is waited for with its children"
    )]
    let child = command
        .spawn()
        .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
    let first = pid_of(&child);
    let pids = Arc::new(Mutex::new(BTreeSet::from([first.as_raw()])));
    let mut tracer = Tracer {
        fault,
        pids: Arc::clone(&pids),
        processes: BTreeMap::from([(first, Process::new("1".into(), false))]),
        early: BTreeMap::new(),
        calls: vec![],
        requests: vec![],
        path: String::new(),
        state: State::Counting,
    };
    let (done, is_done) = channel::<()>();
    let watchdog = thread::spawn(move || {
        let is_late = is_done.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout);
        if is_late {
            for pid in pids.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
        }
        is_late
    });
    let code = tracer.follow(first);
    drop(done);
    let is_stuck = watchdog.join().expect("the watchdog");
    let outcome = Outcome {
        code,
        stdout: rest(child.stdout),
        stderr: rest(child.stderr),
        elapsed: started.elapsed(),
    };
    Trace {
        outcome,
        calls: tracer.calls,
        requests: tracer.requests,
        path: tracer.path,
        // A refusal that nobody reads is one, too.
        is_hit: matches!(tracer.state, State::Over | State::Refused(_)),
        is_read: matches!(tracer.state, State::Over),
        is_stuck,
    }
}

/// What is in a pipe that nobody writes to any more.
fn rest(pipe: Option<impl Read>) -> Vec<u8> {
    let mut found = vec![];
    if let Some(mut pipe) = pipe {
        pipe.read_to_end(&mut found).expect("read a pipe");
    }
    found
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a process id"))
}

/// How far the fault is.
#[derive(Debug, Clone, Copy)]
enum State {
    /// Its call is still to come, or there is none.
    Counting,
    /// This process is inside of it.
    Inside(Pid),
    /// A request of it is refused, and that is still to be read.
    Refused(Refused),
    /// It is over: from now on nobody is stopped.
    Over,
}

struct Process {
    name: String,
    /// How many it has made of each.
    counts: BTreeMap<i64, usize>,
    /// The same of netlink requests.
    requests: BTreeMap<Kind, usize>,
    children: usize,
    is_inside: bool,
    /// It has just been made: the stop that the tracer asks for is still to come.
    is_new: bool,
    /// It is one of ours; else it has executed something else.
    is_ours: bool,
}

impl Process {
    fn new(name: String, is_new: bool) -> Self {
        Self {
            name,
            counts: BTreeMap::new(),
            requests: BTreeMap::new(),
            children: 0,
            is_inside: false,
            is_new,
            is_ours: true,
        }
    }
}

struct Tracer<'a> {
    fault: Option<(&'a Call, Fault)>,
    /// For the watchdog.
    pids: Arc<Mutex<BTreeSet<i32>>>,
    processes: BTreeMap<Pid, Process>,
    /// Stopped, by what, before their parents' stop told of them.
    early: BTreeMap<Pid, Signal>,
    calls: Vec<Call>,
    requests: Vec<(Call, Request)>,
    path: String,
    state: State,
}

impl Tracer<'_> {
    /// Until nobody is left. Gives the exit code of `first`; minus a signal's number.
    fn follow(&mut self, first: Pid) -> i32 {
        let mut code = None;
        loop {
            // Children of this thread, and whoever it traces.
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            let status = match waitpid(None, Some(flags)) {
                Ok(status) => status,
                Err(Errno::ECHILD) => break,
                Err(Errno::EINTR) => continue,
                Err(error) => panic!("wait for tracees: {error}"),
            };
            match status {
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                    if pid == first {
                        code = Some(match status {
                            WaitStatus::Exited(_, code) => code,
                            WaitStatus::Signaled(_, signal, _) => -(signal as i32),
                            _ => unreachable!("one of the two"),
                        });
                    }
                    self.processes.remove(&pid);
                    self.lock_pids().remove(&pid.as_raw());
                }
                WaitStatus::Stopped(pid, signal) => self.stopped(pid, signal, first),
                WaitStatus::PtraceSyscall(pid) => self.at_call(pid),
                WaitStatus::PtraceEvent(pid, _, event) => self.event(pid, event),
                other => panic!("a tracee does what was not asked for: {other:?}"),
            }
        }
        code.expect("the program has ended")
    }

    fn lock_pids(&self) -> std::sync::MutexGuard<'_, BTreeSet<i32>> {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&mut self, pid: Pid, signal: Signal, first: Pid) {
        if !self.processes.contains_key(&pid) {
            self.lock_pids().insert(pid.as_raw());
            self.early.insert(pid, signal);
            return;
        }
        if pid == first && signal == Signal::SIGTRAP && self.processes[&pid].counts.is_empty() {
            let options = Options::PTRACE_O_TRACESYSGOOD
                | Options::PTRACE_O_TRACEFORK
                | Options::PTRACE_O_TRACEVFORK
                | Options::PTRACE_O_TRACECLONE
                | Options::PTRACE_O_TRACEEXEC
                | Options::PTRACE_O_EXITKILL;
            ptrace::setoptions(pid, options).expect("options of the tracer");
            self.look_at_program(pid);
            return self.go_on(pid, None);
        }
        self.hand_on(pid, signal);
    }

    /// A signal, unless it is the stop of a new one, which is the tracer's own. Another one may come before that.
    fn hand_on(&mut self, pid: Pid, signal: Signal) {
        let process = self.processes.get_mut(&pid).expect("a known process");
        let is_own = process.is_new && signal == Signal::SIGSTOP;
        process.is_new &= !is_own;
        self.go_on(pid, (!is_own).then_some(signal));
    }

    fn event(&mut self, pid: Pid, event: i32) {
        if event == Event::PTRACE_EVENT_EXEC as i32 {
            self.look_at_program(pid);
            // What comes next is the end of execve(2), also where its begin was nobody's of ours.
            let process = self.processes.get_mut(&pid).expect("a known process");
            process.is_inside = true;
        } else {
            let made = ptrace::getevent(pid).expect("a new process");
            let made = Pid::from_raw(i32::try_from(made).expect("a process id"));
            let parent = self.processes.get_mut(&pid).expect("a known process");
            parent.children += 1;
            let mut child = Process::new(format!("{}.{}", parent.name, parent.children), true);
            child.is_ours = parent.is_ours;
            self.processes.insert(made, child);
            self.lock_pids().insert(made.as_raw());
            if let Some(signal) = self.early.remove(&made) {
                self.hand_on(made, signal);
            }
        }
        self.go_on(pid, None);
    }

    /// It has executed something: a program of ours, or what a container runs, or the shell that calls ours one after another.
    fn look_at_program(&mut self, pid: Pid) {
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let program = program.to_string_lossy();
        let process = self.processes.get_mut(&pid).expect("a known process");
        process.is_ours = program.contains("/host-helper") || program.contains("memfd:init");
    }

    /// Before a system call, or after it.
    fn at_call(&mut self, pid: Pid) {
        let process = self.processes.get_mut(&pid).expect("a known process");
        process.is_inside = !process.is_inside;
        match self.state {
            State::Over => {}
            State::Inside(inside) => {
                if pid == inside {
                    self.fail(pid);
                }
            }
            State::Refused(mut refused) => {
                let is_read = if process.is_inside {
                    if let Ok((number, arguments)) = sys::call(pid) {
                        refused.begins(pid, number, arguments);
                    }
                    false
                } else {
                    sys::result(pid).is_ok_and(|result| refused.ends(pid, result))
                };
                self.state = if is_read {
                    State::Over
                } else {
                    State::Refused(refused)
                };
            }
            State::Counting if process.is_inside => self.count(pid),
            State::Counting => {}
        }
        self.go_on(pid, None);
    }

    /// A call begins, before the one that is to fail is over.
    fn count(&mut self, pid: Pid) {
        let Ok((number, arguments)) = sys::call(pid) else {
            // Killed meanwhile.
            return;
        };
        let process = self.processes.get_mut(&pid).expect("a known process");
        let count = process.counts.entry(number).or_default();
        *count += 1;
        let [fd, second, third] = arguments;
        let call = Call {
            process: process.name.clone(),
            number,
            command: if errnos::has_commands(number) {
                // An int; musl's ioctl(2) extends its sign.
                second & u64::from(u32::MAX)
            } else {
                0
            },
            nth: *count,
        };
        let place = Place {
            address: second,
            length: usize::try_from(third).unwrap_or_default(),
        };
        let is_this = |(wanted, fault): &(&Call, Fault)| {
            **wanted == call && !matches!(fault, Fault::Refused(..))
        };
        let fault = self.fault.filter(is_this);
        match fault.map(|(_, fault)| fault) {
            Some(fault) => {
                self.state = State::Inside(pid);
                let path = errnos::path_argument(number).map(|nth| arguments[nth]);
                self.path = path.map(|at| read_path(pid, at)).unwrap_or_default();
                if let Fault::Instead(_) = fault {
                    let _ = sys::skip_call(pid);
                }
            }
            None if may_send(number) => self.count_requests(pid, fd, place, &call),
            None => {}
        }
        self.calls.push(call);
    }

    /// It sends something by this call: perhaps the request that is to be refused.
    fn count_requests(&mut self, pid: Pid, fd: u64, place: Place, call: &Call) {
        if let Some((_, Fault::Instead(_) | Fault::After(_))) = self.fault {
            return;
        }
        for (kind, at) in requests(pid, fd, place) {
            let process = self.processes.get_mut(&pid).expect("a known process");
            let nth = process.requests.entry(kind).or_default();
            *nth += 1;
            let request = Request { kind, nth: *nth };
            match self.fault {
                Some((by, Fault::Refused(wanted, errno)))
                    if by.process == call.process && wanted == request =>
                {
                    self.state = State::Refused(Refused::new(pid, fd, place, at, errno));
                    return;
                }
                _ => self.requests.push((call.clone(), request)),
            }
        }
    }

    /// The call that was to fail is over.
    fn fail(&mut self, pid: Pid) {
        if let Some((_, fault)) = self.fault {
            let _ = sys::set_result(pid, -i64::from(fault.errno() as i32));
        }
        self.state = State::Over;
    }

    fn go_on(&self, pid: Pid, signal: Option<Signal>) {
        let is_ours = self.processes.get(&pid).is_some_and(|one| one.is_ours);
        // Between a call and its end it is stopped at the end too, or the two could no longer be told apart.
        let _ = if matches!(self.state, State::Over) || !is_ours {
            ptrace::cont(pid, signal)
        } else {
            ptrace::syscall(pid, signal)
        };
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Instead(errno) => write!(f, "{errno:?}"),
            Self::After(errno) => write!(f, "{errno:?} after it took place"),
            Self::Refused(request, errno) => write!(f, "{request} refused: {errno:?}"),
        }
    }
}

//! Staying as PID 1: every signal is passed on, every orphan reaped, and what is left at the end is asked to end, waited
//! for, and killed when it does not.
//!
//! All signals are blocked and taken one at a time; there is no handler, and no timer but for the grace of the end.
//! Before the command runs, init fails loudly; after that nothing that happens here ends it before its time.

use hawser::address::{decimal, parse_number};
use hawser::signal;

use crate::error::{self, OrFail, Step};
use crate::options::{Peer, Rules, TERM, Target};
use crate::sys::{self, Arguments, Arrival, Buffers, FOREVER, Fd, Pid};
use crate::{exec, machine};

mod drain;

use drain::send_group;

const FORK: Step = "start the command; see ulimit -u, and pids.max of its cgroup";
const ALL: u64 = !0;
/// What wait(2) has in the second byte of a status when a process goes on.
const CONTINUED: u8 = 0xff;
const HUP: u8 = libc::SIGHUP as u8;
const INT: u8 = libc::SIGINT as u8;
const KILL: u8 = libc::SIGKILL as u8;
const CHLD: u8 = libc::SIGCHLD as u8;
const CONT: u8 = libc::SIGCONT as u8;
const STOP: u8 = libc::SIGSTOP as u8;
const TSTP: u8 = libc::SIGTSTP as u8;
const TTIN: u8 = libc::SIGTTIN as u8;
const TTOU: u8 = libc::SIGTTOU as u8;

/// How the command stands to the terminal.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// In a group of its own; there is no terminal.
    Group,
    /// In a session of its own: we led that of the terminal and have given it up.
    Session,
    /// In our group: somebody else, a shell, moves it between foreground and background, and us with it.
    Ours,
}

struct Supervisor<'a> {
    rules: &'a Rules,
    buffers: &'a mut Buffers,
    own: Pid,
    command: Pid,
    place: Place,
    /// The command, for people.
    name: &'static [u8],
    /// The command's exit code, once it has ended.
    code: Option<u8>,
    /// Nothing is left to wait for.
    is_over: bool,
    /// When patience ends: once everything was asked to end.
    deadline: u64,
    killing: bool,
    /// Bytes of the list of those who were asked, in the space of the config message.
    asked: usize,
    /// We got a signal to stop.
    shall_stop: bool,
    /// The signal that the command is stopped by; 0, or `CONTINUED` when it goes on.
    stopped_by: u8,
}

/// Runs the command, and ends with its exit code.
#[inline(always)]
pub fn supervise(rules: &Rules, command: Arguments, buffers: &'static mut Buffers) -> ! {
    sys::block_signals();
    sys::reset_signals();
    let own = sys::own_pid();
    if own != Pid(1) {
        // Orphans come to us instead of to PID 1. A kernel that refuses leaves us without them, and that is all.
        let _ = sys::control(libc::PR_SET_CHILD_SUBREAPER, 1, 0);
    }
    if rules.death_signal != 0 {
        sys::control(libc::PR_SET_PDEATHSIG, usize::from(rules.death_signal), 0)
            .or_fail("set the parent-death signal", b"");
    }
    if rules.pause {
        pause();
    }
    let terminal = sys::find_terminal();
    let place = find_place(rules, own, terminal);
    loop {
        let pid = match sys::fork().or_fail(FORK, b"") {
            None => become_command(command, own, place, terminal, buffers),
            Some(pid) => pid,
        };
        let started = sys::now();
        if place == Place::Group {
            // Here and in the child: whoever comes first, a signal finds the group.
            sys::set_group_leader(pid);
        }
        // From here on nothing ends PID 1 but the end of the command: no error is fatal any more.
        sys::close_descriptors();
        // The next command begins where the first one did.
        if !machine::is_endless() {
            let _ = sys::change_directory(c"/");
        }
        let mut supervisor = Supervisor {
            rules,
            buffers: &mut *buffers,
            own,
            command: pid,
            place,
            name: command.first().unwrap_or(c"").to_bytes(),
            code: None,
            is_over: false,
            deadline: FOREVER,
            killing: false,
            asked: 0,
            shall_stop: false,
            stopped_by: 0,
        };
        while !supervisor.is_over {
            supervisor.step();
        }
        if !machine::is_endless() {
            machine::leave(supervisor.code.unwrap_or(error::OURS));
        }
        // A command that ends at once is not run more than once a second.
        let soonest = started + 1000;
        while let Some(left @ 1..) = soonest.checked_sub(sys::now()) {
            sys::wait_for_signal(ALL, left);
        }
    }
}

/// Nothing to run: podman's pause container holds namespaces open until INT or TERM.
fn pause() -> ! {
    sys::close_descriptors();
    let _ = sys::change_directory(c"/");
    loop {
        match sys::wait_for_signal(ALL, FOREVER).signal {
            INT | TERM => sys::exit(0),
            _ => while let Ok(Some(_)) = sys::reap() {},
        }
    }
}

fn find_place(rules: &Rules, own: Pid, terminal: Fd) -> Place {
    match sys::session_of(terminal) {
        _ if rules.peer == Peer::DumbInit && rules.target == Target::Child => Place::Ours,
        None => Place::Group,
        Some(leader) if leader == own => {
            sys::release_terminal(terminal);
            // The hand-off itself sends these to us, before it returns; they are nobody's wish.
            let set = 1 << (HUP - 1) | 1 << (CONT - 1);
            while sys::wait_for_signal(set, 0).signal != 0 {}
            Place::Session
        }
        Some(_) => Place::Ours,
    }
}

/// In the child.
#[inline(always)]
fn become_command(
    command: Arguments,
    parent: Pid,
    place: Place,
    terminal: Fd,
    buffers: &'static mut Buffers,
) -> ! {
    match place {
        Place::Group => sys::set_group_leader(Pid(0)),
        Place::Session => {
            sys::start_session();
            sys::take_terminal(terminal);
        }
        Place::Ours => {}
    }
    machine::forget();
    correct_listen_pid(parent, &mut buffers.batch);
    sys::unblock_signals();
    exec::execute(command, &mut buffers.text)
}

/// Socket activation (sd_listen_fds(3)) names the process that the sockets are for: us, but it shall be the command.
#[inline(always)]
fn correct_listen_pid(parent: Pid, space: &'static mut [u8]) {
    const PREFIX: &[u8] = b"LISTEN_PID=";
    const NAME: &[u8] = PREFIX.split_at(PREFIX.len() - 1).0;
    if sys::variable(NAME).and_then(parse_number) == Some(parent.0 as u32) {
        let mut digits = [0; 10];
        let own = decimal(sys::own_pid().0 as u32, &mut digits);
        if let Some(text) = sys::c_string(&[PREFIX, own], space) {
            sys::replace_variable(NAME, text);
            // The same by a number of systemd's that is init's; without it the other alone counts.
            sys::replace_variable(b"LISTEN_PIDFDID", text);
        }
    }
}

impl Supervisor<'_> {
    #[inline(never)]
    fn step(&mut self) {
        let patience = match self.deadline {
            FOREVER => FOREVER,
            deadline => deadline.saturating_sub(sys::now()),
        };
        // Looked at before the signals: a storm of them never lets the wait for one come to its end.
        if patience == 0 {
            self.lose_patience();
        } else {
            self.take(sys::wait_for_signal(ALL, patience));
        }
        self.reap_all();
        if (self.shall_stop || self.is_job()) && !matches!(self.stopped_by, 0 | CONTINUED) {
            self.stop();
        }
    }

    /// In our group it is a job of a shell's, which is to see it stopped whoever stops it. But an end is an end.
    fn is_job(&self) -> bool {
        self.place == Place::Ours && self.rules.peer == Peer::None && self.deadline == FOREVER
    }

    /// As PID 1 we cannot be stopped, and then there is nobody who would wait for it.
    fn stop(&mut self) {
        self.shall_stop = false;
        let is_ours = self.place == Place::Ours;
        // A shell is to see us stopped as it would see the command. Without one, whoever stops us will wake us.
        let signal = if is_ours { self.stopped_by } else { STOP };
        let _ = sys::send(self.own, signal);
        if !is_ours {
            return;
        }
        self.stopped_by = 0;
        // The shell may wake us before we are stopped: that takes the signal back from here on, and if it was earlier,
        // the command has been woken with us.
        self.reap_all();
        if self.stopped_by == CONTINUED {
            sys::wait_for_signal(1 << (signal - 1), 0);
        } else {
            sys::let_through(signal);
        }
    }

    fn take(&mut self, arrival: Arrival) {
        let signal = arrival.signal;
        let to = self.rules.passed_on(signal);
        match signal {
            0 | CHLD => return,
            TSTP | TTIN | TTOU => {
                // The kernel stops no PID 1, but forgets a CONT that waits for it.
                self.shall_stop =
                    self.own != Pid(1) && matches!(self.rules.peer, Peer::None | Peer::DumbInit);
            }
            CONT => {
                self.shall_stop = false;
                self.reap_all();
                // It has come to our whole group. Passed on again, it could undo the next stop, which may have come too.
                let goes_on = self.stopped_by == CONTINUED;
                if self.place == Place::Ours && (goes_on || self.stopped_by != 0 && self.is_job()) {
                    if goes_on {
                        self.stopped_by = 0;
                    }
                    return;
                }
            }
            _ => {}
        }
        // What a terminal sends goes to the whole group: the command in ours has it already.
        if to == 0 || arrival.by_kernel && self.place == Place::Ours {
            return;
        }
        if to == CONT && self.place == Place::Ours {
            // The shell has given it to our group: the command may be a shell too, with a group of its own.
            sys::pass_terminal(sys::group_of(self.command));
        }
        self.say("pass on", to, self.command);
        if signal == TERM && self.rules.peer == Peer::None {
            self.ask_all_to_end(to);
        } else {
            self.send(self.rules.target, to);
        }
    }

    /// Several that end at once give one SIGCHLD, so all there are, each time.
    fn reap_all(&mut self) {
        let had_command = self.code.is_none();
        loop {
            match sys::reap() {
                // wait(2): the low 7 bits are all set when it has stopped, by the signal in the second byte, or goes on.
                Ok(Some((pid, status))) if status & 0x7f == 0x7f => {
                    if pid == self.command {
                        self.stopped_by = (status >> 8) as u8;
                    }
                }
                // Its number may be somebody else's when it has ended.
                Ok(Some((pid, status))) if pid == self.command && self.code.is_none() => {
                    self.command_ended(status);
                }
                Ok(Some((pid, _))) => self.orphan_ended(pid),
                Ok(None) => break,
                // Nobody is left.
                Err(_) => {
                    self.is_over = true;
                    break;
                }
            }
        }
        if had_command && self.code.is_some() && !self.is_over {
            if self.deadline == FOREVER || self.rules.target == Target::Child {
                self.ask_all_to_end(self.rules.ending());
            } else {
                self.ask_newcomers();
            }
        }
        if self.killing {
            // Again each time that one ends: what was being born meanwhile was not in the list.
            self.send(Target::All, KILL);
        }
    }

    fn orphan_ended(&self, pid: Pid) {
        if self.rules.warn {
            error::begin("reap an orphan: process ", b"");
            error::push_number(pid.0 as u32);
            error::note();
        }
    }

    #[inline(never)]
    fn command_ended(&mut self, status: i32) {
        self.stopped_by = 0;
        // wait(2): the low 7 bits are the signal, 0x80 is a core dump; without one the code is in the second byte.
        let by = (status & 0x7f) as u8;
        let code = if by == 0 {
            (status >> 8) as u8
        } else {
            128 + by
        };
        // Whoever asked it to end knows.
        let is_asked = self.deadline != FOREVER && matches!(by, TERM | KILL);
        let is_odd = by != 0 && !is_asked && self.rules.peer == Peer::None;
        let end = machine::end_name();
        if is_odd || end.is_some() {
            error::begin("run", self.name);
            if by == 0 {
                error::push(": exit code ");
                error::push_number(u32::from(code));
            } else {
                error::push(": ended by SIG");
                push_signal(by);
            }
            if status & 0x80 != 0 {
                error::push(" (core dumped)");
            }
            if let Some(end) = end {
                error::push("; ");
                error::push_bytes(end);
            }
            error::note();
        }
        let is_fine = self
            .rules
            .mapped
            .get(usize::from(code / 8))
            .is_some_and(|bits| bits >> (code % 8) & 1 != 0);
        self.code = Some(if is_fine { 0 } else { code });
        if self.rules.peer == Peer::DumbInit && self.rules.target == Target::Group {
            send_group(self.command, self.rules.passed_on(TERM));
        }
        self.is_over |= self.rules.peer != Peer::None;
    }

    fn say(&self, what: &str, signal: u8, to: Pid) {
        if self.rules.verbose {
            error::begin(what, b"SIG");
            push_signal(signal);
            error::push(" to ");
            error::push_number(to.0 as u32);
            error::note();
        }
    }
}

/// Its name, or its number where it has none.
fn push_signal(signal: u8) {
    match signal::name(signal) {
        b"" => error::push_number(u32::from(signal)),
        name => error::push_bytes(name),
    }
}

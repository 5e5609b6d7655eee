//! Staying as PID 1: every signal is passed on, every orphan reaped, and what is left at the end is asked to end, waited
//! for, and killed when it does not.
//!
//! All signals are blocked and taken one at a time; there is no handler, and no timer but for the grace of the end.
//! Before the command runs, init fails loudly; after that nothing that happens here ends it before its time.

use hawser::address::decimal;
use hawser::signal;

use crate::descendants::{name_of, visit_descendants};
use crate::error::{self, OrFail, Step};
use crate::options::{Peer, Rules, Target};
use crate::sys::{self, Arguments, Buffers, Errno, Pid};
use crate::{exec, machine};

const FORK: Step = "start the command";
const ALL: u64 = !0;
/// Seconds that what is left at the end has, when no option says otherwise.
const GRACE: u32 = 5;
const HUP: u8 = libc::SIGHUP as u8;
const INT: u8 = libc::SIGINT as u8;
const KILL: u8 = libc::SIGKILL as u8;
const TERM: u8 = libc::SIGTERM as u8;
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
    /// When patience ends, once everything was asked to end.
    deadline: Option<u64>,
    killing: bool,
}

/// Runs the command, and ends with its exit code.
pub fn supervise(rules: &Rules, command: Arguments, buffers: &'static mut Buffers) -> ! {
    sys::reset_signals();
    sys::block_signals();
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
    let place = find_place(rules);
    loop {
        let pid = match sys::fork().or_fail(FORK, b"") {
            None => become_command(command, own, place, buffers),
            Some(pid) => pid,
        };
        let started = sys::now();
        if place == Place::Group {
            // Here and in the child: whoever comes first, a signal finds the group.
            sys::set_group_leader(pid);
        }
        // From here on nothing ends PID 1 but the end of the command: no error is fatal any more.
        sys::close_descriptors();
        let _ = sys::change_directory(c"/");
        let mut supervisor = Supervisor {
            rules,
            buffers: &mut *buffers,
            own,
            command: pid,
            place,
            name: command.first().unwrap_or(c"").to_bytes(),
            code: None,
            is_over: false,
            deadline: None,
            killing: false,
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
            let _ = sys::wait_for_signal(ALL, Some(left));
        }
    }
}

/// Nothing to run: podman's pause container holds namespaces open until INT or TERM.
fn pause() -> ! {
    loop {
        match sys::wait_for_signal(ALL, None) {
            Ok(arrival) if arrival.signal == INT || arrival.signal == TERM => sys::exit(0),
            _ => while let Ok(Some(_)) = sys::reap() {},
        }
    }
}

fn find_place(rules: &Rules) -> Place {
    if rules.peer == Peer::DumbInit && rules.target == Target::Child {
        return Place::Ours;
    }
    if sys::leads_terminal() {
        sys::release_terminal();
        // The hand-off itself sends these to us, before it returns; they are nobody's wish.
        let set = 1 << (HUP - 1) | 1 << (CONT - 1);
        while sys::wait_for_signal(set, Some(0)).is_ok() {}
        Place::Session
    } else if sys::has_terminal() {
        Place::Ours
    } else {
        Place::Group
    }
}

/// In the child.
#[inline(always)]
fn become_command(
    command: Arguments,
    parent: Pid,
    place: Place,
    buffers: &'static mut Buffers,
) -> ! {
    match place {
        Place::Group => sys::set_group_leader(Pid(0)),
        Place::Session => {
            sys::start_session();
            sys::take_terminal();
        }
        Place::Ours => {}
    }
    machine::forget();
    correct_listen_pid(parent, &mut buffers.batch);
    sys::reset_signals();
    exec::execute(command, &mut buffers.text)
}

/// Socket activation (sd_listen_fds(3)) names the process that the sockets are for: us, but it shall be the command.
#[inline(always)]
fn correct_listen_pid(parent: Pid, space: &'static mut [u8]) {
    const NAME: &[u8] = b"LISTEN_PID";
    let (mut before, mut after) = ([0; 10], [0; 10]);
    if sys::variable(NAME) == Some(decimal(parent.0 as u32, &mut before)) {
        let own = decimal(sys::own_pid().0 as u32, &mut after);
        if let Some(text) = sys::c_string(&[NAME, b"=", own], space) {
            sys::replace_variable(NAME, text);
        }
    }
}

impl Supervisor<'_> {
    fn step(&mut self) {
        // Once more and more quickly while killing: what is being born meanwhile was not in the list.
        let patience = self
            .deadline
            .map(|deadline| deadline.saturating_sub(sys::now()));
        match sys::wait_for_signal(ALL, patience.filter(|_| !self.killing)) {
            Ok(arrival) if arrival.signal == CHLD => {}
            Ok(arrival) => self.take(arrival.signal, arrival.by_kernel),
            Err(Errno(libc::EAGAIN)) => self.kill_rest(),
            Err(_) => {}
        }
        self.reap_all();
    }

    fn take(&mut self, signal: u8, by_kernel: bool) {
        let stops = matches!(signal, TSTP | TTIN | TTOU);
        let to = self.rules.passed_on(signal);
        // What a terminal sends goes to the whole group: the command in ours has it already.
        let has_it = by_kernel && self.place == Place::Ours;
        if to != 0 && !has_it {
            self.say("pass on", to, self.command);
            if signal == TERM && self.rules.peer == Peer::None {
                self.ask_all_to_end(to);
            } else {
                self.send(to);
            }
        }
        if stops && to != 0 && matches!(self.rules.peer, Peer::None | Peer::DumbInit) {
            // As PID 1 we cannot be stopped, and then there is nobody who would wait for it.
            let _ = sys::send(self.own, STOP);
        }
    }

    /// To whom the rules say.
    fn send(&mut self, signal: u8) {
        if self.rules.target == Target::All || self.code.is_some() {
            self.send_all(signal);
        } else {
            let group = self.rules.target == Target::Group && self.place != Place::Ours;
            // The group is not there yet for a moment, before the command has made it.
            if !group || sys::send(Pid(-self.command.0), signal).is_err() {
                let _ = sys::send(self.command, signal);
            }
        }
    }

    /// To every process below us. Only where we are PID 1 is that what kill(-1) means: elsewhere it is the machine.
    fn send_all(&mut self, signal: u8) {
        if self.own == Pid(1) {
            let _ = sys::send(Pid(-1), signal);
        } else if !visit_descendants(self.buffers, |pid| {
            let _ = sys::send(pid, signal);
        }) {
            let _ = sys::send(Pid(-self.command.0), signal);
        }
    }

    fn ask_all_to_end(&mut self, signal: u8) {
        self.send_all(signal);
        if self.deadline.is_none() {
            let grace = self.rules.grace.unwrap_or(GRACE);
            self.deadline = Some(sys::now() + u64::from(grace) * 1000);
        }
    }

    fn kill_rest(&mut self) {
        if !self.killing {
            self.killing = true;
            let told = visit_descendants(self.buffers, |pid| {
                let mut space = [0; 16];
                error::begin("kill", name_of(pid, &mut space));
                error::push(" (");
                error::push_number(pid.0 as u32);
                error::push("): it has not ended in its grace");
                error::note();
            });
            if !told {
                error::begin("kill what is left: it has not ended in its grace", b"");
                error::note();
            }
        }
        self.send_all(KILL);
    }

    /// Several that end at once give one SIGCHLD, so all there are, each time.
    fn reap_all(&mut self) {
        loop {
            match sys::reap() {
                Ok(Some((pid, status))) if pid == self.command => self.command_ended(status),
                Ok(Some((pid, _))) => self.orphan_ended(pid),
                Ok(None) => break,
                // Nobody is left.
                Err(_) => {
                    self.is_over = true;
                    break;
                }
            }
        }
        if self.killing {
            self.send_all(KILL);
        }
    }

    fn orphan_ended(&self, pid: Pid) {
        if self.rules.warn {
            error::begin("reap an orphan: process ", b"");
            error::push_number(pid.0 as u32);
            error::note();
        }
    }

    fn command_ended(&mut self, status: i32) {
        // wait(2): the low 7 bits are the signal, 0x80 is a core dump; without one the code is in the second byte.
        let by = (status & 0x7f) as u8;
        let code = if by == 0 {
            (status >> 8) as u8
        } else {
            128 + by
        };
        let is_odd = by != 0 && self.deadline.is_none() && self.rules.peer == Peer::None;
        let end = machine::end_name();
        if is_odd || end.is_some() {
            error::begin("run", self.name);
            if by == 0 {
                error::push(": exit code ");
                error::push_number(u32::from(code));
            } else {
                error::push(": ended by SIG");
                error::push_bytes(signal::name(by));
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
            let _ = sys::send(Pid(-self.command.0), TERM);
        }
        if self.rules.peer != Peer::None {
            self.is_over = true;
        } else if self.deadline.is_none() {
            self.ask_all_to_end(TERM);
        }
    }

    fn say(&self, what: &str, signal: u8, to: Pid) {
        if self.rules.verbose {
            error::begin(what, b"SIG");
            error::push_bytes(signal::name(signal));
            error::push(" (");
            error::push_number(u32::from(signal));
            error::push(") to ");
            error::push_number(to.0 as u32);
            error::note();
        }
    }
}

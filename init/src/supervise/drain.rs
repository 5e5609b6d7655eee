//! Whom a signal goes to, and the end: who is left is asked, waited for and killed.

use super::{Place, Supervisor};
use crate::descendants::{Queue, find_descendants, name_of};
use crate::error;
use crate::options::Target;
use crate::sys::{self, Buffers, FOREVER, Pid, WAKES};

/// Seconds that what is left at the end has, when no option says otherwise.
const GRACE: u32 = 5;
const LATE: &str = "): it has not ended in its grace";
/// Milliseconds that the kernel has for ending what was killed.
const LAST: u64 = 5000;

impl Supervisor<'_> {
    /// To the command alone, to its group, or to every process below us.
    #[inline(never)]
    pub(super) fn send(&mut self, mut target: Target, signal: u8) {
        let command = self.command;
        let ours = sys::group_of(Pid(0));
        let mut group = sys::group_of(command);
        if self.code.is_some() {
            target = Target::All;
            group = if self.place == Place::Ours {
                ours
            } else {
                command
            };
        }
        let is_ours = group == ours;
        if self.code.is_none()
            && (target == Target::Child
                || target == Target::Group && !is_ours && !send_group(group, signal))
        {
            let _ = sys::send(command, signal);
        }
        if target == Target::All && self.own == Pid(1) {
            // Only where we are PID 1 is this what is below us: elsewhere it is the machine.
            let _ = sys::send(Pid(-1), signal);
        } else if target == Target::All || target == Target::Group && is_ours {
            let mut below = find_descendants(&mut self.buffers.batch, &mut self.buffers.reply);
            // The group at once, since it may be having children; then those outside of it, one by one. In our own are
            // others too: the rest of a pipeline, and we.
            let has_group = !is_ours && send_group(group, signal);
            if !below.is_known && !has_group && self.code.is_none() {
                let _ = sys::send(command, signal);
            }
            while let Some(pid) = below.take() {
                let is_inside = sys::group_of(pid) == group;
                if (is_inside && !has_group) || (!is_inside && target == Target::All) {
                    let _ = sys::send(pid, signal);
                }
            }
        }
    }

    /// Whom the rules do not name is asked when the command has ended.
    pub(super) fn ask_all_to_end(&mut self, signal: u8) {
        let target = match self.rules.target {
            Target::Child => Target::Child,
            _ => Target::All,
        };
        if self.code.is_none() {
            // There may be newcomers.
            let Buffers { message, reply, .. } = &mut *self.buffers;
            self.asked = find_descendants(message, reply).len;
        }
        // At one go: the children of one that ends are nowhere for a moment.
        self.send(target, signal | WAKES);
        if self.deadline == FOREVER {
            let grace = self.rules.grace.unwrap_or(GRACE);
            self.deadline = sys::now() + u64::from(grace) * 1000;
        }
    }

    /// Those who were not there when all were asked. Who was is not asked twice: some take that for haste.
    pub(super) fn ask_newcomers(&mut self) {
        let Buffers {
            message,
            batch,
            reply,
            ..
        } = &mut *self.buffers;
        let mut below = find_descendants(batch, reply);
        while let Some(pid) = below.take() {
            let asked = message.get_mut(..self.asked).unwrap_or(&mut []);
            if !Queue::of(asked).has(pid) {
                let _ = sys::send(pid, self.rules.ending());
            }
        }
    }

    #[inline(never)]
    pub(super) fn lose_patience(&mut self) {
        if self.killing {
            // Another user's, or the kernel does not let it go.
            self.is_over = true;
            return;
        }
        self.killing = true;
        self.deadline = sys::now() + LAST;
        let mut below = find_descendants(&mut self.buffers.batch, &mut self.buffers.reply);
        if !below.is_known {
            // Without /proc nobody but these is found.
            let command = self.command;
            self.is_over = self.own != Pid(1) && self.code.is_some() && !sys::has_child_in(command);
            error::begin(if self.is_over { "leave" } else { "kill" }, b"what is left");
            error::push(LATE.get(1..).unwrap_or(""));
            error::note();
        }
        while let Some(pid) = below.take() {
            let mut space = [0; 64];
            if let Some(name) = name_of(pid, &mut space) {
                error::begin("kill", name);
                error::push(" (");
                error::push_number(pid.0 as u32);
                error::push(LATE);
                error::note();
            }
        }
    }
}

/// False where nobody of ours is in it, or gets the signal.
#[inline(never)]
pub(super) fn send_group(leader: Pid, signal: u8) -> bool {
    sys::has_child_in(leader) && sys::send(Pid(-leader.0), signal).is_ok()
}

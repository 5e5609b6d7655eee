//! A machine that was booted with init as its first process: what a kernel leaves to it, and how the machine ends.

use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

use hawser::address::index_of;

use crate::error::{OrFail, Step};
use crate::options;
use crate::sys::{self, Arguments, Pid};

const MOUNT: Step = "mount; it needs CAP_SYS_ADMIN, and the kernel to have it";

/// In the order of their numbers from 1 on.
const ENDS: &[u8] = b"poweroff reboot halt restart";
const POWEROFF: u8 = 1;
const REBOOT: u8 = 2;
const HALT: u8 = 3;
const RESTART: u8 = 4;

/// What happens when all is over; 0 for a container, where the process ends and that is all.
static END: AtomicU8 = AtomicU8::new(0);

/// True where the words say so: they are the kernel's command line then, and may have words in front that are not for us.
/// The command's words are not ours either: it begins with a slash there, and nothing before it does but a config's path.
pub fn is_booted(mut words: Arguments) -> bool {
    if sys::own_pid() == Pid(1) {
        while let Some(word) = words.take() {
            let word = word.to_bytes();
            // They are of one length, and may have a value behind it.
            let option = word.get(..8).unwrap_or(word);
            match index_of(b"--config --mounts --at-end --", option) {
                Some(0) if word.len() == 8 => _ = words.take(),
                Some(1 | 2) => END.store(POWEROFF, Relaxed),
                Some(3) => break,
                _ if word.starts_with(b"/") => break,
                _ => {}
            }
        }
    }
    is_one()
}

/// Reads what shall happen when all is over.
pub fn set_end(name: &[u8]) {
    match index_of(ENDS, name) {
        Some(index) => END.store(index + 1, Relaxed),
        None => options::fail(name, "not poweroff, reboot, halt or restart"),
    }
}

/// Whether the end of the command is that of a machine.
pub fn is_one() -> bool {
    END.load(Relaxed) != 0
}

/// What happens when all is over, in a word; `None` in a container.
pub fn end_name() -> Option<&'static [u8]> {
    let end = END.load(Relaxed).checked_sub(1)?;
    hawser::address::nth(ENDS, end)
}

/// What happens when all is over by an error: what failed once is not run again.
pub fn give_up() -> Option<&'static [u8]> {
    if is_endless() {
        END.store(POWEROFF, Relaxed);
    }
    end_name()
}

/// From here on we are the command, not the machine.
pub fn forget() {
    END.store(0, Relaxed);
}

/// True where the command runs again when it has ended.
pub fn is_endless() -> bool {
    END.load(Relaxed) == RESTART
}

/// Mounts what is not there yet.
pub fn set_up() {
    for (kind, path, inside) in [
        (c"proc", c"/proc", c"/proc/self"),
        (c"sysfs", c"/sys", c"/sys/kernel"),
        (c"devtmpfs", c"/dev", c"/dev/null"),
    ] {
        if !sys::exists(inside) {
            sys::mount(kind, path).or_fail(MOUNT, path.to_bytes());
        }
    }
    open_console();
}

/// Opens the console where the kernel could not.
pub fn open_console() {
    // The lowest free number is what each one gets: three of them fill what is missing of 0 to 2.
    while let Ok(fd) = sys::open_inherited(c"/dev/console") {
        if fd.0 > sys::STDERR.0 {
            sys::close(fd);
            break;
        }
    }
}

/// Ends: the machine, or the process with this code.
pub fn leave(code: u8) -> ! {
    match END.load(Relaxed) {
        0 => {}
        REBOOT => sys::end_machine(libc::LINUX_REBOOT_CMD_RESTART),
        HALT => sys::end_machine(libc::LINUX_REBOOT_CMD_HALT),
        _ => sys::end_machine(libc::LINUX_REBOOT_CMD_POWER_OFF),
    }
    sys::exit(code)
}

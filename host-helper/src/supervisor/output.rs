//! What the command writes, and its terminal.

use super::Supervisor;
use crate::error::{Doing, Result};
use crate::log::{self, Log};
use crate::terminal::{self, Output, Sides, Terminal};

impl Supervisor {
    /// Takes over the terminal that the child has opened.
    ///
    /// # Errors
    /// It has not arrived; the user's own cannot be asked or changed.
    pub fn take_terminal(&mut self) -> Result<()> {
        let sides = terminal::receive_descriptors(&self.container.child.channel);
        let sides = sides.doing(|| "take over the terminal".into())?;
        let output = match self.description.is_detached {
            true => Output::Log(None),
            false => Output::Standard(terminal::reopen_standard()),
        };
        let host_side = Sides::from(sides);
        self.terminal = host_side.map(|it| Terminal::join(it, output)).transpose()?;
        Ok(())
    }

    /// Whether there was something to copy.
    pub(super) fn copy_to_log(&mut self, is_ready: bool) -> bool {
        let log = self.container.log.as_mut().filter(|_| is_ready);
        log.map(Log::copy).is_some()
    }

    pub(super) fn drain(&mut self) {
        self.copy_to_log(true);
        if let Some(terminal) = &mut self.terminal {
            terminal.drain(&self.signals);
        }
    }

    /// What the last container of the name has left goes, and there is a log.
    ///
    /// # Errors
    /// The log cannot be made.
    pub fn begin_output(&mut self) -> Result<()> {
        if let Some(lease) = &mut self.container.lease {
            lease.begin_output();
            // In the foreground there will be none.
            lease.keeps_output = !self.description.is_detached;
        }
        let terminal = self.terminal.as_mut();
        if let Some(terminal) = terminal.filter(|terminal| terminal.is_to_log()) {
            terminal.log_to(log::open(&self.description.name)?);
        }
        let log = self.container.log.as_mut();
        log.map_or(Ok(()), |log| log.open(&self.description.name))
    }

    /// The log stays at the end, and the exit code.
    pub fn keep_output(&mut self) {
        if let Some(lease) = &mut self.container.lease {
            lease.keeps_output = true;
        }
    }
}

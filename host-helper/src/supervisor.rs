//! What stays while a container lives: forwards signals, answers on the control socket, joins the terminals, and
//! gives back the exit code. It waits on descriptors only, and wakes up for nothing else.

mod answers;
mod held;
mod link;
mod output;
mod ports;
mod signals;
mod wake;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::attach::Container;
use crate::attached::{self, Ours};
use crate::control::{self, Client};
use crate::error::{Doing, Error, Result};
use crate::follower::{BEGIN, Follower};
use crate::ls::Description;
use crate::mark;
use crate::netlink::Netlink;
use crate::nft;
use crate::owner;
use crate::publish::Port;
use crate::reclaim;
use crate::signals::Signals;
use crate::spawn::{self, Said};
use crate::state;
use crate::steps::Steps;
use crate::sys::{self, Beyond};
use crate::terminal::{self, Terminal};
pub use link::hear_of_links;
use wake::{
    CHILD, FOLLOWER, INPUT, LINKS, LISTENER, NEWS, OUTPUT, PORTS, SIGNALS, STATUS, TERMINAL,
};

/// A command that lives shorter than this is none that connections by its ports are looked through for.
const SHORT: Duration = Duration::from_millis(20);

/// A container and what is done for it until it ends.
pub struct Supervisor {
    container: Container,
    terminal: Option<Terminal>,
    signals: Signals,
    description: Description,
    /// How long a container may take to end after it was asked to.
    grace: Duration,
    /// How much longer when init does the same, who knows better what is left, and has the command's exit code.
    margin: Duration,
    kill_at: Option<Instant>,
    is_killed: bool,
    interrupts: u32,
    /// Others may be in its network namespace.
    is_shared: bool,
    /// The exit code when it is us who ended it.
    killed_for: Option<u8>,
    is_status_open: bool,
    /// Waits for the command to run, to tell how long that took.
    steps: Option<Steps>,
    /// Tells when something of the ruleset was deleted.
    news: Option<nft::News>,
    /// When to begin to hear of it.
    listen_at: Option<Instant>,
    /// Lets our caller go before what is slow to close is closed.
    beyond: Option<Beyond>,
    /// Something has come by a published port, or for the log: more will.
    is_busy: bool,
    /// Ports that have been published: connections to who had them before are to be forgotten.
    published: Vec<Port>,
    /// Not before: see [`SHORT`].
    first_look: Option<Instant>,
    /// Ports that have been withdrawn: connections by them are to be forgotten.
    withdrawn: Vec<Port>,
    /// It has, or has had, published ports.
    had_ports: bool,
    /// When connections that began while there were no rules are to be forgotten.
    forget_at: Option<Instant>,
    clients: Vec<Client>,
    /// The place of who asks when no other descriptor is left. None: somebody has it, and the next one is not let in yet.
    spare: Option<OwnedFd>,
    waiting: Vec<UnixStream>,
    follower: Option<Follower>,
    /// What is ours of a container that is not.
    ours: Option<Ours>,
    /// Tells when its link may have gone, where nothing else tells its end.
    links: Option<Netlink>,
    /// We have been told to let go of it, or there is nothing left to let go of.
    is_leaving: bool,
    /// Those that have been told, and hear the end when this is at rest again.
    answered: Vec<UnixStream>,
}

/// Between init's end of patience and ours.
const MARGIN: Duration = Duration::from_secs(1);

impl Supervisor {
    /// Takes over a container whose command is about to run.
    pub fn new(
        mut container: Container,
        signals: Signals,
        description: Description,
        grace: Duration,
    ) -> Self {
        let listen_at = container
            .entry
            .as_ref()
            .and_then(|_| Instant::now().checked_add(BEGIN));
        if let Some(entry) = &mut container.entry {
            if !entry.is_known() {
                // What is refused is tried again below, and with the next start.
                if entry.restore().unwrap_or(false) {
                    attached::restore_to_new_tables();
                }
            }
        }
        let published: Vec<Port> = container.splice.ports().collect();
        let had_ports = !published.is_empty();
        let looks_later = had_ports && !description.is_detached;
        let first_look = looks_later.then(|| Instant::now() + SHORT);
        Supervisor {
            container,
            news: None,
            listen_at,
            beyond: None,
            terminal: None,
            signals,
            description,
            grace,
            margin: Duration::ZERO,
            kill_at: None,
            is_killed: false,
            interrupts: 0,
            is_shared: false,
            killed_for: None,
            is_status_open: true,
            steps: None,
            is_busy: false,
            published,
            first_look,
            withdrawn: Vec::new(),
            had_ports,
            forget_at: None,
            clients: Vec::new(),
            spare: None,
            waiting: Vec::new(),
            follower: None,
            ours: None,
            links: None,
            is_leaving: false,
            answered: Vec::new(),
        }
    }

    /// Its files follow the host's.
    pub fn follow(&mut self, follower: Option<Follower>) {
        self.follower = follower;
    }

    /// The container is another tool's: it is let go of, and not ended.
    pub fn watch_over(&mut self, ours: Ours) {
        self.ours = Some(ours);
    }

    /// init has stayed, and has the same grace: it is killed only if that was not enough.
    pub fn leave_the_end_to_init(&mut self) {
        self.margin = MARGIN;
    }

    /// Tells how long it took until the command ran, since the last of these steps.
    pub fn tell(&mut self, steps: Steps) {
        self.steps = Some(steps);
    }

    fn tell_of_exec(&mut self) {
        // Words in the place of the end are why it has not.
        let has_ended = !self.is_status_open && !self.container.status.has_more();
        if let Some(mut steps) = self.steps.take().filter(|_| has_ended) {
            steps.done("exec");
        }
    }

    /// Waits until init has become the command; the error of an init that has not.
    ///
    /// # Errors
    /// A signal that asks to end came first: a file may be slow to execute.
    pub fn wait_for_exec(&mut self) -> Result<std::result::Result<(), Error>> {
        let status = &mut self.container.child.status;
        fcntl(&*status, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).doing(|| "set up a pipe".into())?;
        loop {
            match self.container.status.read_now(status) {
                Ok(Some(Said::InitFailed(code, text))) => {
                    return Ok(Err(Error::new(text).with_code(code)));
                }
                Ok(Some(Said::Nothing)) | Err(_) => {
                    self.is_status_open = false;
                    self.tell_of_exec();
                    return Ok(Ok(()));
                }
                Ok(Some(_)) => {}
                Ok(None) => self.signals.interrupt_unless_readable(&*status)?,
            }
        }
    }

    /// The last of the start has failed, whether or not the command runs: the container ends, and nothing stays of it.
    pub fn give_up(self) {
        spawn::kill(&self.container.child.pidfd);
        self.wait_in_vain();
    }

    /// Nothing was executed: what is there ends, and leaves no code.
    pub fn wait_in_vain(mut self) {
        self.description.is_detached = false;
        self.wait(None);
    }

    /// From here on nothing may end this before the container does: errors are survived.
    ///
    /// Gives the exit code of the command. `caller` is told the container's name when this is at rest.
    pub fn wait(mut self, caller: Option<File>) -> u8 {
        self.sweep();
        if let Some(mut caller) = caller {
            let name = format!("{}\n", self.description.name);
            sys::release_memory();
            // The caller may be gone; the container is not. Else it would wait as long as that lives: once more.
            let told = caller.write_all(name.as_bytes());
            let _ = told.or_else(|_| caller.write_all(name.as_bytes()));
        }
        self.container.names.announce();
        if self.description.is_detached {
            self.container.slow.clear();
        } else {
            self.let_caller_go_first();
        }
        while !self.is_leaving {
            self.forget_connections();
            self.listen();
            let ready = self.poll();
            let is = |at: usize| ready.get(at).copied().unwrap_or(false);
            if is(SIGNALS) {
                while let Some(signal) = self.signals.next() {
                    self.forward(signal);
                }
            }
            if is(STATUS) {
                // Only its end is of interest: the command runs. Others inside may have opened it: no line is waited for.
                let said = self.container.child.status.read(&mut [0; 512]);
                self.is_status_open = said.is_ok_and(|len| len > 0);
                self.tell_of_exec();
            }
            if is(INPUT) {
                self.read_input();
            }
            if let Some(terminal) = &mut self.terminal {
                if is(TERMINAL) {
                    terminal.write_pending();
                    if !terminal.is_stalled() {
                        terminal.read_output();
                    }
                }
                if is(OUTPUT) || terminal.is_to_log() {
                    terminal.write_output();
                }
                if terminal.is_user_gone() && !terminal.is_to_log() {
                    // The container's terminal is hung up, as it would be for any program.
                    self.terminal = None;
                    self.forward(libc::SIGHUP);
                }
            }
            if is(NEWS) {
                self.hear();
            }
            if is(LINKS) {
                self.look_at_link();
            }
            self.look_at_host(is(FOLLOWER));
            // When it has ended nobody new is let in: see its end.
            if is(PORTS) && !is(CHILD) {
                self.container.splice.turn();
            }
            // Whatever else there is to do: an answer may tell that it is done.
            let has_copied = self.copy_to_log(is(TERMINAL));
            self.is_busy = is(PORTS) || has_copied;
            // Answers first: who asked before the end is told.
            self.serve(&ready);
            if is(LISTENER) {
                self.clients.extend(
                    self.container
                        .lease
                        .as_ref()
                        .and_then(|lease| Client::accept(&lease.listener, &mut self.spare)),
                );
            }
            if self
                .kill_at
                .is_some_and(|deadline| deadline <= Instant::now())
            {
                self.kill();
            }
            if is(CHILD) {
                if let Some(code) = self.reap() {
                    return self.end(code);
                }
            }
        }
        self.end(0)
    }

    /// What others have left that were killed goes while the command runs, which does not wait for it. What attaches has done it before.
    fn sweep(&self) {
        if self.container.names.sweep_if_due() {
            reclaim::sweep_apart();
        }
    }

    /// When the container has ended, our caller need not wait until the kernel has let go of what was deleted (some 10 ms) or
    /// watched (16 ms): another process does. It is made while the container runs, since nobody waits for that. If it
    /// cannot be, they wait.
    fn let_caller_go_first(&mut self) {
        let sockets = self.sockets();
        let followed = self.follower.iter().flat_map(Follower::slow_to_close);
        let others = self.container.slow.iter().map(AsFd::as_fd);
        let others: Vec<_> = others.chain(followed).collect();
        let mut next = None;
        if !sockets.is_empty() || !others.is_empty() {
            next = sys::keep_open_beyond_our_end(&sockets, &others).ok();
        }
        // Not before: who looks on sees one at any time.
        if let Some(last) = std::mem::replace(&mut self.beyond, next) {
            last.end();
        }
    }

    /// Hears of what becomes of the rules, when it is time for that; without it, those that somebody flushes are back with the next start only.
    fn listen(&mut self) {
        if self.listen_at.is_none_or(|due| due > Instant::now()) {
            return;
        }
        self.listen_at = None;
        let Container {
            entry, attachment, ..
        } = &mut self.container;
        let (Some(entry), Some(attachment)) = (entry, attachment) else {
            return;
        };
        self.news = nft::News::listen(&attachment.network, entry.as_fd()).ok();
        // All of it this time: of what was deleted until now nobody has told us.
        if !entry.is_whole() {
            // Refused: as above.
            let _ = self.restore_rules();
        }
        if !self.description.is_detached {
            self.let_caller_go_first();
        }
    }

    /// Those of nf_tables.
    fn sockets(&self) -> Vec<BorrowedFd<'_>> {
        let entry = self.container.entry.as_ref().map(AsFd::as_fd);
        let news = self.news.as_ref().map(AsFd::as_fd);
        entry.into_iter().chain(news).collect()
    }

    /// The one place where the host's new resolvers are known: what depends on them comes before the command hears.
    fn look_at_host(&mut self, is_ready: bool) {
        let Some(follower) = &mut self.follower else {
            return;
        };
        if let Some(found) = follower.look(is_ready) {
            if let Some(entry) = &mut self.container.entry {
                // What is refused here is tried again with the next change, and the command hears of them all the same.
                let _ = entry.set_resolvers(&found.servers);
            }
            self.description.resolve_with(&found);
            if let Some(ours) = &self.ours {
                ours.keep_resolvers(&found);
            }
            follower.tell(found);
        }
    }

    /// Somebody has deleted rules of ours, a flush of the whole ruleset say. What one supervisor has read is gone for the others
    /// that share its socket: it tells them. Where our own is lost, with `/run/hawser` as a rule, they cannot be told, nor can we: each
    /// leaves it to be read by the others, and listens alone from then on.
    fn hear(&mut self) {
        let Some(news) = self.news.as_ref().filter(|news| news.is_there()) else {
            return;
        };
        let own = state::path(&self.description.name, "sock");
        if news.is_shared && !own.exists() {
            self.news = nft::News::listen_alone().ok();
            if !self.description.is_detached {
                self.let_caller_go_first();
            }
        } else if news.take() {
            for other in control::sockets().unwrap_or_default() {
                if other != own {
                    control::tell(&other, "restore");
                }
            }
        } else {
            return;
        }
        // Whoever took them away may be about to forbid them; the next deletion or start tries again.
        let _ = self.restore_rules();
    }

    /// Rules of ours that are gone are there again.
    fn restore_rules(&mut self) -> Result<()> {
        let Some(entry) = &mut self.container.entry else {
            return Ok(());
        };
        let has_made_tables = entry.restore()?;
        if has_made_tables {
            // There is nobody to tell; restore says what is in the way.
            attached::restore_to_new_tables();
        }
        self.forget_later();
        Ok(())
    }

    fn end(mut self, code: u8) -> u8 {
        self.container.splice.finish();
        if self.description.is_detached {
            // Whoever hears of the end finds all of it in the log.
            self.drain();
            state::leave_code(&self.description.name, code);
        }
        self.container.names.leave();
        if !self.is_address_anothers() {
            (self.container.attachment.iter()).for_each(mark::forget_neighbours_of);
        }
        if self.ours.is_some() && self.is_limited() {
            (self.container.attachment.iter()).for_each(attached::set_down);
        }
        let netns = self.container.attachment.as_ref().map(|one| one.netns);
        let lives_on =
            self.ours.is_none() && self.is_shared && netns.is_some_and(owner::any_process_in);
        let mut is_tenant_left = false;
        if lives_on {
            self.close_ports();
        } else if let Some(entry) = &mut self.container.entry {
            if self.had_ports {
                is_tenant_left = entry.withdraw_but_tenant();
            } else {
                entry.withdraw();
            }
        }
        // Only now: what is in the tables is about whoever holds the port.
        self.container.splice.let_go();
        if let Some(ours) = &self.ours {
            ours.take_away();
        }
        // Whoever hears of the end finds the name and the ports free.
        drop(self.container.lease.take());
        if let Some(beyond) = self.beyond.take() {
            beyond.leave();
        }
        self.tell_end(code);
        self.container.names.sweep();
        self.forget_container(lives_on);
        let entry = self.container.entry.as_mut().filter(|_| !lives_on);
        if let Some(entry) = entry.filter(|_| is_tenant_left) {
            entry.withdraw_tenant();
        }
        // Last: the user may take their time.
        self.drain();
        if self.description.is_detached {
            // Nobody waits for us any more.
            sys::wait_until_quiet(&self.sockets());
        }
        code
    }
}

/// A supervisor that runs by itself: nothing of the caller's is kept, and little memory.
///
/// # Errors
/// When `/dev/null` cannot be opened.
pub fn detach() -> io::Result<()> {
    std::env::set_current_dir("/")?;
    let nothing = File::options().read(true).write(true).open("/dev/null")?;
    // Last, and of it the standard error last: what fails is said there.
    terminal::become_standard(&nothing, &nothing)?;
    Ok(())
}

//! Where a peer works that needs more than a process: a thread in network and mount namespaces of its own, which measures
//! when it is asked to. So no peer's rules, links and daemons are in the way of another one's packets, or of ours.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;
use std::time::Duration;

use lab::sys;

use crate::left;
use crate::oci::Sandbox;

/// How long something took, or why it failed.
pub type Measured = Result<Duration, String>;

/// Measures one of the peer's ways (the first number) for the n-th time (the second).
pub type Measure<'env> = Box<dyn FnMut(usize, usize) -> Measured + 'env>;

/// The thread, seen from outside. It ends, with all that it has set up, when this is dropped.
pub struct World {
    ask: Sender<(usize, usize)>,
    answer: Receiver<Measured>,
    _sandbox: Sandbox,
}

impl World {
    /// `set_up` runs there. Its complaint, or what it panics with, is why the peer is left out.
    pub fn new<'scope, 'env: 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        name: &str,
        set_up: impl FnOnce() -> Result<Measure<'env>, String> + Send + 'env,
    ) -> Result<Self, String> {
        let sandbox = Sandbox::new(name);
        let netns = sandbox.netns.again();
        let (ask, asked) = channel();
        let (answers, answer) = channel();
        scope.spawn(move || {
            sys::move_apart(netns.descriptor()).expect("enter new namespaces");
            lab::sh("ip link set lo up");
            let made = catch_unwind(AssertUnwindSafe(set_up));
            let mut measure = match made.unwrap_or_else(|_| Err(left::last_panic())) {
                Ok(measure) => measure,
                Err(complaint) => {
                    let _ = answers.send(Err(complaint));
                    return;
                }
            };
            let _ = answers.send(Ok(Duration::ZERO));
            while let Ok((way, round)) = asked.recv() {
                let measured = catch_unwind(AssertUnwindSafe(|| measure(way, round)));
                let _ = answers.send(measured.unwrap_or_else(|_| Err(left::last_panic())));
            }
        });
        let world = Self {
            ask,
            answer,
            _sandbox: sandbox,
        };
        world.hear()?;
        Ok(world)
    }

    /// One measurement.
    pub fn measure(&self, way: usize, round: usize) -> Measured {
        // A thread that is gone has said why.
        let _ = self.ask.send((way, round));
        self.hear()
    }

    fn hear(&self) -> Measured {
        let gone = |_| Err(left::last_panic());
        self.answer.recv().unwrap_or_else(gone)
    }
}

//! `--verbose`: each step with its duration.

use std::io::Write;
use std::time::{Duration, Instant};

/// Says what was done, when somebody wants to know.
pub struct Steps {
    since: Option<Instant>,
    begin: Instant,
}

impl Steps {
    /// Says nothing unless `is_verbose`. The first step began at `begin`.
    pub fn new(is_verbose: bool, begin: Instant) -> Self {
        Steps {
            since: is_verbose.then_some(begin),
            begin,
        }
    }

    /// Nobody wants to know.
    pub fn silent() -> Self {
        Steps::new(false, Instant::now())
    }

    /// A step is done; the next one begins.
    pub fn done(&mut self, step: &str) {
        if let Some(since) = &mut self.since {
            let now = Instant::now();
            let took = now.duration_since(*since);
            *since = now;
            self.beside(step, took);
        }
    }

    /// Whether anybody wants to know.
    pub fn is_wanted(&self) -> bool {
        self.since.is_some()
    }

    /// A step of another process is done, beside ours.
    pub fn beside(&self, step: &str, took: Duration) {
        self.say(&format!("{step} {:.3} ms", took.as_secs_f64() * 1e3));
    }

    /// All is done.
    pub fn total(&self, what: &str) {
        self.say(&format!(
            "{what} in {:.3} ms",
            self.begin.elapsed().as_secs_f64() * 1e3
        ));
    }

    /// Something worth knowing.
    pub fn say(&self, text: &str) {
        if self.since.is_some() {
            print(text);
        }
    }
}

/// A warning: one line, like an error, but the work goes on.
pub fn warn(text: &str) {
    print(&format!("warning: {text}"));
}

/// Writes a line on standard error, in one write: init, and commands, say something there at the same time.
pub fn print(text: &str) {
    // Nobody to tell is no reason to stop.
    let _ = std::io::stderr().write_all(format!("host-helper: {text}\n").as_bytes());
}

//! A process whose first thread ends with the first line of its input, as by pthread_exit(3) in main, while another goes on until the end
//! of that. It says "up" when it has begun, and "headless" when the first thread is gone.

use std::fs;
use std::io::{Write, stdin, stdout};
use std::time::{Duration, Instant};

/// Longer than the end of a thread takes.
const SOON: Duration = Duration::from_secs(60);

fn say(word: &str) {
    let mut out = stdout();
    let said = writeln!(out, "{word}").and_then(|()| out.flush());
    said.expect("say something");
}

/// `/proc/self` is the first thread.
fn is_headless() -> bool {
    let stat = fs::read_to_string("/proc/self/stat").expect("look at ourselves");
    stat.rsplit_once(')')
        .is_some_and(|(_, fields)| fields.starts_with(" Z"))
}

fn go_on() {
    let end = Instant::now() + SOON;
    while !is_headless() {
        assert!(Instant::now() < end, "the first thread does not end");
        std::thread::yield_now();
    }
    say("headless");
    while stdin()
        .read_line(&mut String::new())
        .is_ok_and(|len| len > 0)
    {}
    std::process::exit(0);
}

fn main() {
    say("up");
    stdin().read_line(&mut String::new()).expect("read a line");
    std::thread::spawn(go_on);
    // SAFETY: this thread ends, and nothing of it is in use by the other.
    unsafe {
        libc::syscall(libc::SYS_exit, 0);
    }
}

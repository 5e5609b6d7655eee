//! strace as a witness: which system calls a program makes, and what happens when it is interrupted at one of them.

use std::process::Command;

/// `command` under strace with these options; the trace goes to `file`.
pub fn traced(command: &Command, options: &[&str], file: &str) -> Command {
    let mut strace = Command::new("strace");
    strace
        .args(["-o", file])
        .args(options)
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        strace.current_dir(directory);
    }
    strace
}

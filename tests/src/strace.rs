//! strace as a witness: which system calls a program makes, and what happens when it is interrupted at one of them.

use std::process::Command;

/// `command` under strace with these options, and with its variables; the trace goes to `file`.
pub fn traced(command: &Command, options: &[&str], file: &str) -> Command {
    let mut strace = Command::new("strace");
    strace
        .args(["-o", file])
        .args(options)
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        strace.current_dir(directory);
    }
    strace
}

/// What a program wrote or sent: for each call of `name` in a trace with `-e write=...`, its bytes. strace dumps them
/// below the call, sixteen a line, ` | 00000  20 00 .. |`.
pub fn dumps(trace: &str, name: &str) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = vec![];
    let mut wanted = false;
    for line in trace.lines() {
        if let Some(dump) = line.strip_prefix(" | ").filter(|_| wanted) {
            let digits = dump.get(5..).and_then(|rest| rest.get(..51));
            let digits = digits.expect("a line of a dump").split_whitespace();
            let bytes =
                digits.map(|digits| u8::from_str_radix(digits, 16).expect("hexadecimal digits"));
            all.last_mut().expect("a call above its dump").extend(bytes);
        } else if !line.starts_with(" *") {
            wanted = line.contains(name);
            if wanted {
                all.push(vec![]);
            }
        }
    }
    all
}

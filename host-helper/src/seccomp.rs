//! The filter of system calls that a command runs under (seccomp(2)): the list of [`calls`], made into a program for the
//! kernel's filter machine.
//!
//! The program is a binary search over ranges of numbers, so that no call takes more than a dozen steps: when it is
//! installed the kernel runs it once for every number, and remembers which calls are allowed whatever their arguments
//! are. Those cost next to nothing later.

mod calls;

use std::ops::Range as Bounds;

use clap::ValueEnum;
use libc::{c_long, sock_filter};
use serde::{Deserialize, Serialize};

/// Which filter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// Ours.
    #[default]
    Default,
    /// None.
    Unconfined,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Allow,
    /// `EPERM`: as where a capability is missing.
    Refuse,
    /// `ENOSYS`: as on a kernel that has no such call, so that programs use an older one.
    Unknown,
    /// Allowed if it makes no namespaces. (Those of `clone3` are behind a pointer, where no filter sees them.)
    LookAtClone,
    /// Allowed for the families that there are.
    LookAtSocket,
    /// Allowed for some values.
    LookAtPersonality,
}

/// In the order of their declaration.
const VERDICTS: [Verdict; 6] = [
    Verdict::Allow,
    Verdict::Refuse,
    Verdict::Unknown,
    Verdict::LookAtClone,
    Verdict::LookAtSocket,
    Verdict::LookAtPersonality,
];

// linux/audit.h
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

// struct seccomp_data, linux/seccomp.h
const NUMBER: u32 = 0;
const ARCHITECTURE_OF_CALL: u32 = 4;
/// The lower half of the first argument.
const FIRST: u32 = if cfg!(target_endian = "little") {
    16
} else {
    20
};

const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;
/// The families of sockets that there are, as Docker has them: for any other number the kernel asks for a module `net-pf-NUMBER`.
/// Not among them: 12, 19, 20, 23, 25, 34 and 37, which the kernel no longer has, or never had; 38, its own cryptography (AF_ALG), which a
/// faulty algorithm has opened more than once; 40, the hypervisor (AF_VSOCK), where services listen that count on nobody but the host.
const FAMILIES: [Bounds<u32>; 8] = [
    0..12,
    13..19,
    21..23,
    24..25,
    26..34,
    35..37,
    39..40,
    41..46,
];
/// Linux, with 32-bit addresses, with an old version, with both; and the question which it is.
const PERSONALITIES: [u32; 5] = [0, 0x8, 0x2_0000, 0x2_0008, u32::MAX];

/// The program for a command with these capabilities.
pub fn program(capabilities: &[String]) -> Vec<sock_filter> {
    let mut questions = Vec::with_capacity(128);
    search(&ranges(capabilities), &mut questions);
    let mut program = vec![
        load(ARCHITECTURE_OF_CALL),
        // By another architecture's numbers (32-bit programs) a call would be another one.
        jump(libc::BPF_JEQ, ARCHITECTURE, 1, 0),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER),
    ];
    // Each verdict stands behind all questions, once.
    let mut ends = Vec::with_capacity(256);
    let places = VERDICTS.map(|verdict| {
        let place = questions.len() + ends.len();
        ends.extend(judge(verdict));
        place
    });
    program.extend(ask(&questions, |verdict| places[verdict as usize]));
    program.extend(ends);
    program
}

/// The lines of these questions, one behind the other, and how many lines there are before each verdict.
fn ask(
    questions: &[Question],
    place_of: impl Fn(Verdict) -> usize,
) -> impl Iterator<Item = sock_filter> {
    questions.iter().enumerate().map(move |(at, question)| {
        let way = |next: &Next| match next {
            Next::Question(place) => place - at - 1,
            Next::Verdict(verdict) => place_of(*verdict) - at - 1,
        };
        // A jump leads over 255 lines at most: a test sees to it that all of ours do.
        let (yes, no) = (way(&question.yes) as u8, way(&question.no) as u8);
        jump(libc::BPF_JGE, question.number, yes, no)
    })
}

/// Whether the call's number is this one or a higher one.
struct Question {
    number: u32,
    yes: Next,
    no: Next,
}

#[derive(Clone, Copy)]
enum Next {
    Question(usize),
    Verdict(Verdict),
}

/// Finds the range that a number is in.
fn search(ranges: &[Range], questions: &mut Vec<Question>) -> Next {
    if let [range] = ranges {
        return Next::Verdict(range.verdict);
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let here = questions.len();
    questions.push(Question {
        number: upper[0].first,
        yes: Next::Question(0),
        no: Next::Question(0),
    });
    questions[here].no = search(lower, questions);
    questions[here].yes = search(upper, questions);
    Next::Question(here)
}

/// Numbers from `first` on, up to the next range's.
struct Range {
    first: u32,
    verdict: Verdict,
}

fn ranges(capabilities: &[String]) -> Vec<Range> {
    let mut verdicts = [Verdict::Refuse; calls::NEWEST as usize + 2];
    let mut set = |call: c_long, verdict| verdicts[call as usize] = verdict;
    // x32's numbers, which begin at 2^30, are newer than all too.
    for call in calls::NOT_GIVEN_OUT.chain([calls::NEWEST + 1]) {
        set(call, Verdict::Unknown);
    }
    set(libc::SYS_clone, Verdict::LookAtClone);
    set(libc::SYS_clone3, Verdict::Unknown);
    for call in [libc::SYS_socket, libc::SYS_socketpair] {
        set(call, Verdict::LookAtSocket);
    }
    set(libc::SYS_personality, Verdict::LookAtPersonality);
    let has = |name: &str| capabilities.iter().any(|capability| capability == name);
    let further = calls::WITH_CAPABILITY.iter();
    let further = further.filter_map(|(name, calls)| has(name).then_some(*calls));
    for call in [calls::EVERYBODY, calls::OLD]
        .into_iter()
        .chain(further)
        .flatten()
    {
        set(*call, Verdict::Allow);
    }
    let mut ranges: Vec<Range> = Vec::with_capacity(128);
    for (first, verdict) in (0..).zip(verdicts) {
        if ranges.last().map(|range| range.verdict) != Some(verdict) {
            ranges.push(Range { first, verdict });
        }
    }
    ranges
}

fn judge(verdict: Verdict) -> Vec<sock_filter> {
    let allow = answer(libc::SECCOMP_RET_ALLOW);
    let errno = |number: i32| answer(libc::SECCOMP_RET_ERRNO | number as u32);
    let refuse = errno(libc::EPERM);
    match verdict {
        Verdict::Allow => vec![allow],
        Verdict::Refuse => vec![refuse],
        Verdict::Unknown => vec![errno(libc::ENOSYS)],
        Verdict::LookAtClone => vec![
            load(FIRST),
            jump(libc::BPF_JSET, NAMESPACES, 1, 0),
            allow,
            refuse,
        ],
        Verdict::LookAtSocket => {
            let of = |first, verdict| Range { first, verdict };
            let ranges = FAMILIES
                .map(|Bounds { start, end }| [of(start, Verdict::Allow), of(end, Verdict::Refuse)]);
            let mut questions = Vec::with_capacity(ranges.len() * 2);
            search(ranges.as_flattened(), &mut questions);
            let end = questions.len();
            let place_of = |verdict| end + usize::from(verdict == Verdict::Refuse);
            let lines = ask(&questions, place_of);
            let mut program = vec![load(FIRST)];
            program.extend(lines.chain([allow, refuse]));
            program
        }
        Verdict::LookAtPersonality => {
            let mut program = vec![load(FIRST)];
            for (left, value) in (0..PERSONALITIES.len() as u8).rev().zip(PERSONALITIES) {
                program.push(jump(libc::BPF_JEQ, value, left + 1, 0));
            }
            program.extend([refuse, allow]);
            program
        }
    }
}

fn line(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    let code = code as u16;
    sock_filter { code, jt, jf, k }
}

fn load(place: u32) -> sock_filter {
    line(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, place, 0, 0)
}

fn jump(comparison: u32, value: u32, jt: u8, jf: u8) -> sock_filter {
    line(libc::BPF_JMP | libc::BPF_K | comparison, value, jt, jf)
}

fn answer(verdict: u32) -> sock_filter {
    line(libc::BPF_RET | libc::BPF_K, verdict, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's machine, as far as our programs use it. Gives the answer, and how many steps it took.
    fn execute(program: &[sock_filter], architecture: u32, call: u32, first: u32) -> (u32, usize) {
        let (mut at, mut value) = (0, 0);
        for steps in 1..=program.len() {
            let line = program[at];
            at += 1;
            let comparison = match u32::from(line.code) & 0xf7 {
                0x20 => {
                    value = match line.k {
                        NUMBER => call,
                        ARCHITECTURE_OF_CALL => architecture,
                        FIRST => first,
                        other => panic!("reads {other}"),
                    };
                    continue;
                }
                0x06 => return (line.k, steps),
                0x15 => value == line.k,
                0x35 => value >= line.k,
                0x45 => value & line.k != 0,
                other => panic!("does {other:x}"),
            };
            at += usize::from(if comparison { line.jt } else { line.jf });
        }
        panic!("goes in circles")
    }

    fn judged(capabilities: &[&str], call: c_long, first: u32) -> u32 {
        let capabilities: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
        execute(&program(&capabilities), ARCHITECTURE, call as u32, first).0
    }

    const ALLOWED: u32 = libc::SECCOMP_RET_ALLOW;
    const REFUSED: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const UNKNOWN: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

    #[test]
    fn every_number_finds_its_verdict_in_few_steps() {
        for capabilities in [&[][..], &["sys_admin", "sys_ptrace", "sys_nice"]] {
            let capabilities: Vec<String> = capabilities.iter().map(ToString::to_string).collect();
            let program = program(&capabilities);
            let ranges = ranges(&capabilities);
            // BPF_MAXINSNS, linux/bpf_common.h
            assert!(program.len() < 4096, "{}", program.len());
            for call in (0..600).chain([0x4000_0000, 0x4000_0001, u32::MAX]) {
                let range = ranges.iter().rev().find(|range| range.first <= call);
                let expected = match range.expect("from 0 on").verdict {
                    Verdict::Allow => ALLOWED,
                    Verdict::Refuse => REFUSED,
                    Verdict::Unknown => UNKNOWN,
                    _ => continue,
                };
                // A jump too far would have landed elsewhere.
                let (verdict, steps) = execute(&program, ARCHITECTURE, call, 0);
                assert_eq!(verdict, expected, "{call}");
                assert!(steps <= 14, "{call}: {steps}");
            }
        }
    }

    #[test]
    fn arguments_are_looked_at() {
        let clone =
            |capabilities: &[&str], flags: i32| judged(capabilities, libc::SYS_clone, flags as u32);
        let thread = libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND;
        assert_eq!(clone(&[], thread), ALLOWED);
        assert_eq!(clone(&[], libc::SIGCHLD), ALLOWED);
        for namespace in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWNET] {
            assert_eq!(clone(&[], namespace | libc::SIGCHLD), REFUSED);
            assert_eq!(clone(&["sys_admin"], namespace), ALLOWED);
        }
        let refused = [12, 19, 20, 23, 25, 34, 37, libc::AF_ALG, libc::AF_VSOCK];
        for family in (0..64).chain([-1]) {
            let is_one = (0..46).contains(&family) && !refused.contains(&family);
            let verdict = if is_one { ALLOWED } else { REFUSED };
            for call in [libc::SYS_socket, libc::SYS_socketpair] {
                let found = judged(&["sys_admin"], call, family as u32);
                assert_eq!(found, verdict, "family {family}");
            }
        }
        for personality in PERSONALITIES {
            assert_eq!(judged(&[], libc::SYS_personality, personality), ALLOWED);
        }
        // ADDR_NO_RANDOMIZE
        assert_eq!(judged(&[], libc::SYS_personality, 0x4_0000), REFUSED);
    }

    #[test]
    fn capabilities_open_what_they_are_about() {
        for (capability, call) in [
            ("sys_chroot", libc::SYS_chroot),
            ("sys_time", libc::SYS_clock_settime),
            ("dac_read_search", libc::SYS_open_by_handle_at),
            ("sys_admin", libc::SYS_unshare),
            ("sys_ptrace", libc::SYS_pidfd_getfd),
        ] {
            assert_eq!(judged(&[], call, 0), REFUSED, "{capability}");
            assert_eq!(judged(&[capability], call, 0), ALLOWED, "{capability}");
        }
        for (name, _) in calls::WITH_CAPABILITY {
            let known = hawser::capability::Capability::from_name(name);
            assert!(known.is_some(), "{name}");
        }
    }

    #[test]
    fn nobody_gets_what_no_list_has() {
        let all: Vec<&str> = hawser::capability::Capability::all()
            .map(|capability| capability.name())
            .collect();
        for call in [
            libc::SYS_add_key,
            libc::SYS_keyctl,
            libc::SYS_io_uring_setup,
            libc::SYS_kexec_load,
            libc::SYS_userfaultfd,
            libc::SYS_swapon,
        ] {
            assert_eq!(judged(&all, call, 0), REFUSED, "{call}");
        }
        assert_eq!(judged(&all, libc::SYS_clone3, 0), ALLOWED);
        assert_eq!(judged(&[], libc::SYS_clone3, 0), UNKNOWN);
    }

    #[test]
    fn another_architecture_is_killed() {
        // AUDIT_ARCH_I386
        let (verdict, _) = execute(&program(&[]), 0x4000_0003, 4, 0);
        assert_eq!(verdict, libc::SECCOMP_RET_KILL_PROCESS);
    }
}

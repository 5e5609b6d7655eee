//! Makes system calls that containers have no business with, in a way that does nothing even where they are allowed:
//! `attempt NAME...` prints a line for each, its name and `done` or the errno (or the number that was asked for). `attempt int80` makes a 32-bit one,
//! `attempt threads` does what every program does.

use libc::{c_long, syscall};
use nix::errno::Errno;

/// Gives the number of one's own (`KEYCTL_GET_KEYRING_ID`, `KEY_SPEC_SESSION_KEYRING`; linux/keyctl.h).
const SESSION_KEYRING: &str = "session_keyring";
/// No address of anybody's.
const NOWHERE: usize = 1;
const ALL_FLAGS: u32 = u32::MAX;
/// The first number that no family has (linux/socket.h).
const NOBODYS_FAMILY: i32 = 46;
// Since Linux 6.8; libc does not name them for each C library.
const STATMOUNT: c_long = 457;
const LISTMOUNT: c_long = 458;
const LSM_LIST_MODULES: c_long = 461;

/// Children and threads that every program makes, and what it waits with for them.
fn threads() -> c_long {
    let counted: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|number| scope.spawn(move || number)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a thread"))
            .sum()
    });
    let mut child = std::process::Command::new("/proc/self/exe");
    let status = child.arg("getpid").output().expect("a child").status;
    c_long::from(counted != 28 || !status.success())
}

fn attempt(name: &str) -> c_long {
    // SAFETY: none of these is given memory of ours: a null pointer, or an address that nothing is at, which the kernel
    // refuses to read; the processes that clone makes end at once, without running anything.
    unsafe {
        match name {
            "getpid" => syscall(libc::SYS_getpid),
            "threads" => threads(),
            "add_key" => syscall(
                libc::SYS_add_key,
                c"user".as_ptr(),
                c"hawser".as_ptr(),
                NOWHERE,
                0,
                -2,
            ),
            "request_key" => syscall(libc::SYS_request_key, c"user".as_ptr(), NOWHERE, 0, 0),
            "keyctl" => syscall(libc::SYS_keyctl, 0, -3, 1, 0, 0),
            SESSION_KEYRING => syscall(libc::SYS_keyctl, 0, -3, 0, 0, 0),
            "unshare" => syscall(libc::SYS_unshare, libc::CLONE_NEWUSER),
            "clone" => match syscall(
                libc::SYS_clone,
                libc::CLONE_NEWUSER | libc::SIGCHLD,
                0,
                0,
                0,
                0,
            ) {
                0 => libc::_exit(0),
                child => child,
            },
            "clone3" => syscall(libc::SYS_clone3, 0, 0),
            "setns" => syscall(libc::SYS_setns, -1, 0),
            "mount" => syscall(libc::SYS_mount, NOWHERE, NOWHERE, NOWHERE, 0, 0),
            "umount2" => syscall(libc::SYS_umount2, NOWHERE, ALL_FLAGS),
            "open_tree" => syscall(libc::SYS_open_tree, -1, NOWHERE, ALL_FLAGS),
            "bpf" => syscall(libc::SYS_bpf, 9999, NOWHERE, 4),
            "io_uring_setup" => syscall(libc::SYS_io_uring_setup, 1, NOWHERE),
            "userfaultfd" => syscall(libc::SYS_userfaultfd, 1),
            "kexec_load" => syscall(libc::SYS_kexec_load, 0, 0, NOWHERE, ALL_FLAGS),
            "open_by_handle_at" => syscall(libc::SYS_open_by_handle_at, -1, NOWHERE, 0),
            "name_to_handle_at" => syscall(
                libc::SYS_name_to_handle_at,
                -1,
                NOWHERE,
                NOWHERE,
                NOWHERE,
                0,
            ),
            "perf_event_open" => syscall(libc::SYS_perf_event_open, NOWHERE, 0, -1, -1, ALL_FLAGS),
            "kcmp" => syscall(libc::SYS_kcmp, libc::getpid(), libc::getpid(), 0, 0, 0),
            "pidfd_getfd" => syscall(libc::SYS_pidfd_getfd, -1, 0, 0),
            "set_mempolicy" => syscall(libc::SYS_set_mempolicy, 0, 0, 0),
            "personality" => syscall(libc::SYS_personality, libc::ADDR_NO_RANDOMIZE),
            "PER_LINUX32" => syscall(libc::SYS_personality, 8),
            "AF_ALG" => syscall(libc::SYS_socket, libc::AF_ALG, libc::SOCK_SEQPACKET, 0),
            "AF_VSOCK" => syscall(libc::SYS_socket, libc::AF_VSOCK, libc::SOCK_STREAM, 0),
            "AF_NETLINK" => syscall(libc::SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, 0),
            "AF_DECnet" => syscall(libc::SYS_socket, libc::AF_DECnet, libc::SOCK_STREAM, 0),
            "AF_NOBODY" => syscall(libc::SYS_socket, NOBODYS_FAMILY, libc::SOCK_STREAM, 0),
            "pair of AF_NOBODY" => {
                let (kind, nowhere) = (libc::SOCK_STREAM, NOWHERE);
                syscall(libc::SYS_socketpair, NOBODYS_FAMILY, kind, 0, nowhere)
            }
            "statmount" => syscall(STATMOUNT, NOWHERE, NOWHERE, NOWHERE, 0),
            "listmount" => syscall(LISTMOUNT, NOWHERE, NOWHERE, 1, 0),
            "lsm_list_modules" => syscall(LSM_LIST_MODULES, NOWHERE, NOWHERE, 0),
            #[cfg(target_arch = "x86_64")]
            "modify_ldt" => syscall(libc::SYS_modify_ldt, 0, NOWHERE, 0),
            "ptrace" => syscall(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, 0, 0),
            "chroot" => syscall(libc::SYS_chroot, c"/".as_ptr()),
            "int80" => by_32_bits(),
            other => panic!("{other} is none that this program knows"),
        }
    }
}

/// getpid(2), by the numbers of i386.
#[cfg(target_arch = "x86_64")]
fn by_32_bits() -> c_long {
    let answer: u64;
    // SAFETY: call 20 of that table takes no arguments and changes nothing but rax.
    unsafe { std::arch::asm!("int 0x80", inlateout("rax") 20u64 => answer) };
    answer as c_long
}

#[cfg(not(target_arch = "x86_64"))]
fn by_32_bits() -> c_long {
    0
}

#[expect(clippy::print_stdout, reason = "it is what this program is for")]
fn main() {
    for name in std::env::args().skip(1) {
        match Errno::result(attempt(&name)) {
            Ok(number) if name == SESSION_KEYRING => println!("{name} {number}"),
            Ok(_) => println!("{name} done"),
            Err(errno) => println!("{name} {errno:?}"),
        }
    }
}

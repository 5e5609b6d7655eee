//! Errors of the kernel in words. An errno is never lost: the sentence has its name, and the number where there is no name.

use crate::address::{cut, parse_number};

/// `NUMBER NAME words`, one a line, of those that init's system calls can give (`asm-generic/errno.h`); in text, since a
/// table of pointers is twice as large.
const KNOWN: &str = "\
1 EPERM operation not permitted
2 ENOENT no such file or directory
5 EIO I/O error
6 ENXIO nobody is there
7 E2BIG arguments too long
8 ENOEXEC exec format error
9 EBADF bad descriptor
11 EAGAIN a limit is reached
12 ENOMEM no memory
13 EACCES permission denied
16 EBUSY it is in use
17 EEXIST exists
19 ENODEV no such device
20 ENOTDIR not a directory
21 EISDIR is a directory
22 EINVAL invalid argument
24 EMFILE too many files
26 ETXTBSY it is written to
28 ENOSPC no space
30 EROFS read-only file system
32 EPIPE nobody reads it
36 ENAMETOOLONG too long
38 ENOSYS not in this kernel
40 ELOOP link in circles
95 EOPNOTSUPP not supported
97 EAFNOSUPPORT no such address family
100 ENETDOWN network down
101 ENETUNREACH network is unreachable
113 EHOSTUNREACH no route
";

/// `(name, words)` of an errno, such as `ENOENT`, `no such file or directory`; `None` when the table lacks it.
pub fn describe(errno: i32) -> Option<(&'static [u8], &'static [u8])> {
    let mut rest = Some(KNOWN.as_bytes());
    while let Some(lines) = rest {
        let (line, tail) = cut(lines, b'\n');
        let (number, words) = cut(line, b' ');
        if parse_number(number)? as i32 == errno {
            let (name, words) = cut(words?, b' ');
            return Some((name, words?));
        }
        rest = tail;
    }
    None
}

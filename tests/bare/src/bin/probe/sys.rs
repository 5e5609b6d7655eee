//! The only file of this program with `unsafe`: what std does not tell of clocks and sockets.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd as _;

/// `CLOCK_MONOTONIC` in nanoseconds, which is the same in all containers.
pub fn clock() -> io::Result<u64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes the struct.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// Packets of a connection that were sent more than once, its first one included.
pub fn retransmitted(stream: &TcpStream) -> io::Result<u32> {
    // Where tcpi_total_retrans is in struct tcp_info: linux/tcp.h.
    const TOTAL: usize = 100;
    let mut info = [0_u8; TOTAL + 4];
    let mut length = info.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes.
    let done = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut total = [0; 4];
    total.copy_from_slice(&info[TOTAL..]);
    Ok(u32::from_ne_bytes(total))
}

/// Closing it sends a reset.
pub fn reset_at_end(stream: &TcpStream) -> io::Result<()> {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    // SAFETY: the kernel reads as many bytes as the struct has.
    let done = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

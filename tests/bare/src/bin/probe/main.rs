//! What bench measures with, on both sides of a network: static, so that it runs in a container with nothing else.
//!
//!     probe connect ADDRESS:PORT             one connection: `CLOCK RETRANSMITTED`, nanoseconds and packets
//!     probe serve ADDRESS:PORT               says `up`, then answers for ever
//!     probe connections ADDRESS:PORT MS      one connection after the other: `COUNT P50 P99`, microseconds
//!     probe requests ADDRESS:PORT MS         64 bytes there and back, one after the other, over one connection: the same
//!     probe stream ADDRESS:PORT MS           one way: `MEGABYTES` a second
//!
//! ADDRESS may be a name.

mod sys;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What the first byte of a connection asks for: each message comes back.
const ECHO: u8 = b'e';
/// Nothing comes back before the end of what is sent, and then how many bytes that was.
const SINK: u8 = b's';
/// Bytes of a request, and of its answer.
const REQUEST: usize = 64;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let said = match words[..] {
        ["connect", to] => connect(to),
        ["serve", at] => serve(at),
        ["connections", to, time] => measure(time, |until| connections(to, until)),
        ["requests", to, time] => measure(time, |until| requests(to, until)),
        ["stream", to, time] => measure(time, |until| stream(to, until)),
        _ => Err(io::Error::other("no such thing to do")),
    };
    match said {
        Ok(line) => {
            say(&line);
            ExitCode::SUCCESS
        }
        Err(error) => {
            let line = format!("probe: {}: {error}\n", words.join(" "));
            let _ = io::stderr().write_all(line.as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn say(line: &str) {
    let _ = io::stdout().write_all(format!("{line}\n").as_bytes());
}

fn measure(time: &str, work: impl FnOnce(Instant) -> io::Result<String>) -> io::Result<String> {
    let time = time.parse().map_err(io::Error::other)?;
    work(Instant::now() + Duration::from_millis(time))
}

fn connect(to: &str) -> io::Result<String> {
    let stream = TcpStream::connect(to)?;
    let now = sys::clock()?;
    let again = sys::retransmitted(&stream)?;
    // A socket that waits for the last word of the other side would keep the network namespace.
    sys::reset_at_end(&stream)?;
    Ok(format!("{now} {again}"))
}

fn serve(at: &str) -> io::Result<String> {
    let listener = TcpListener::bind(at)?;
    say("up");
    for stream in listener.incoming() {
        let stream = stream?;
        // A client that goes away is no news.
        std::thread::spawn(move || answer(stream));
    }
    Ok(String::new())
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut kind = [0];
    if stream.read(&mut kind)? == 0 {
        return Ok(());
    }
    if kind[0] == SINK {
        let mut buffer = vec![0; 1 << 18];
        let mut count = 0_u64;
        loop {
            match stream.read(&mut buffer)? {
                0 => return stream.write_all(&count.to_be_bytes()),
                length => count += length as u64,
            }
        }
    }
    let mut request = [0; REQUEST];
    loop {
        stream.read_exact(&mut request)?;
        stream.write_all(&request)?;
    }
}

/// A connection, a request and its answer, and the end, again and again.
fn connections(to: &str, until: Instant) -> io::Result<String> {
    let mut times = vec![];
    while Instant::now() < until {
        let start = Instant::now();
        let mut stream = open(to, ECHO)?;
        ask(&mut stream)?;
        // Reset at the end, or the ports of this side are all in TIME_WAIT soon.
        sys::reset_at_end(&stream)?;
        drop(stream);
        times.push(start.elapsed());
    }
    Ok(summary(times))
}

fn requests(to: &str, until: Instant) -> io::Result<String> {
    let mut stream = open(to, ECHO)?;
    let mut times = vec![];
    while Instant::now() < until {
        let start = Instant::now();
        ask(&mut stream)?;
        times.push(start.elapsed());
    }
    Ok(summary(times))
}

fn stream(to: &str, until: Instant) -> io::Result<String> {
    let mut stream = open(to, SINK)?;
    let block = vec![0; 1 << 18];
    let start = Instant::now();
    while Instant::now() < until {
        stream.write_all(&block)?;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut count = [0; 8];
    stream.read_exact(&mut count)?;
    let megabytes = u64::from_be_bytes(count) as f64 / 1e6;
    Ok(format!("{:.0}", megabytes / start.elapsed().as_secs_f64()))
}

fn open(to: &str, kind: u8) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.write_all(&[kind])?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream) -> io::Result<()> {
    let mut request = [0; REQUEST];
    stream.write_all(&request)?;
    stream.read_exact(&mut request)
}

fn summary(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: f64| {
        let place = (times.len().saturating_sub(1) as f64 * share).round() as usize;
        times.get(place).copied().unwrap_or_default().as_secs_f64() * 1e6
    };
    format!("{} {:.1} {:.1}", times.len(), at(0.5), at(0.99))
}

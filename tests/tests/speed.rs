//! Starts in turns, as whole processes: ours with the whole network, and what others take without one.
//!
//! `cargo test -p tests --test speed -- --ignored --nocapture` prints the table; run it alone on a quiet machine.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::{DEADLINE, Lab, case, collect, init_binary};

const ROUNDS: usize = 200;
/// The first ones warm up, and make the network.
const WARM_UP: usize = 10;

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn others(lab: &Lab) -> [(&'static str, Command); 2] {
    let rootfs = lab.rootfs.to_string_lossy().into_owned();
    let command = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        command
    };
    let view = ["--bind", &rootfs, "/", "--proc", "/proc", "--dev", "/dev"];
    let bwrap = [&["bwrap", "--unshare-all"], &view[..], &["/bin/true"]].concat();
    let unshare = [
        "unshare",
        "-n",
        "-p",
        "-m",
        "-u",
        "-i",
        "-f",
        "/bin/busybox",
        "true",
    ];
    [
        ("bwrap --unshare-all (no network)", command(&bwrap)),
        (
            "unshare -npmuif busybox true (no network)",
            command(&unshare),
        ),
    ]
}

#[test]
#[expect(clippy::print_stdout, reason = "the table is what it is for")]
#[ignore = "timing: run it alone on a quiet machine"]
fn a_start_with_a_network_is_no_slower_than_bubblewrap_without() {
    case(|lab| {
        let mut times = [vec![], vec![], vec![]];
        let mut names = ["host-helper run --rootfs (bridge, address, NAT)"; 3];
        for round in 0..ROUNDS {
            let ours = collect(lab.run_command(&[], &["/bin/true"]), DEADLINE).exits(0);
            let mut elapsed = vec![ours.elapsed];
            for (place, (name, command)) in (1..).zip(others(lab)) {
                names[place] = name;
                elapsed.push(collect(command, DEADLINE).exits(0).elapsed);
            }
            if round >= WARM_UP {
                for (all, one) in times.iter_mut().zip(elapsed) {
                    all.push(one);
                }
            }
        }
        let medians: Vec<Duration> = times.iter_mut().map(|all| median(all)).collect();
        println!();
        for (name, time) in names.iter().zip(&medians) {
            let ratio = time.as_secs_f64() / medians[0].as_secs_f64();
            println!("| {name} | {:.2} | {ratio:.2} |", time.as_secs_f64() * 1e3);
        }
        assert!(medians[0] <= medians[1], "bubblewrap is faster");
    });
}

/// What each adds to the start of a command: the whole process, without and with it.
#[test]
#[expect(clippy::print_stdout, reason = "the table is what it is for")]
#[ignore = "timing: run it alone on a quiet machine"]
fn init_adds_at_most_0_3_ms_to_a_start() {
    case(|_| {
        let init = init_binary().to_string_lossy().into_owned();
        let programs: [&[&str]; 5] = [
            &[],
            &[&init, "-s", "--"],
            &["tini-static", "-s", "--"],
            &["catatonit", "--"],
            &["dumb-init", "--"],
        ];
        let mut times = programs.map(|_| vec![]);
        for round in 0..ROUNDS * 2 {
            for (words, all) in programs.iter().zip(&mut times) {
                let words = [words, &["/bin/busybox", "true"][..]].concat();
                let mut command = Command::new(words[0]);
                command.args(&words[1..]).stdin(Stdio::null());
                let elapsed = collect(command, DEADLINE).exits(0).elapsed;
                if round >= WARM_UP {
                    all.push(elapsed);
                }
            }
        }
        let medians = times.map(|mut all| median(&mut all).as_secs_f64() * 1e3);
        println!();
        for (words, time) in programs.iter().zip(medians).skip(1) {
            let name = words[0].rsplit('/').next().unwrap_or_default();
            println!("| {name} | {time:.2} | {:+.2} |", time - medians[0]);
        }
        assert!(medians[1] - medians[0] <= 0.3, "more than 0.3 ms");
    });
}

/// From the request on the control socket to the end of its answer: the port is held, and the rules lead to the container.
#[test]
#[expect(clippy::print_stdout, reason = "the table is what it is for")]
#[ignore = "timing: run it alone on a quiet machine"]
fn a_port_is_added_in_a_millisecond_however_many_there_are() {
    case(|lab| {
        let mut medians = vec![];
        for (name, ports) in [("one", "10000:80"), ("many", "20000-29999:20000-29999")] {
            lab.run(&["-d", "--name", name, "-p", ports], &["sleep", "1000"])
                .ok();
            let socket = format!("/run/hawser/{name}.sock");
            let ask = |request: &str| {
                let start = Instant::now();
                let mut stream = UnixStream::connect(&socket).expect("connect");
                stream.write_all(request.as_bytes()).expect("ask");
                let mut answer = String::new();
                stream.read_to_string(&mut answer).expect("an answer");
                assert!(!answer.starts_with("error"), "{request}: {answer}");
                start.elapsed()
            };
            let mut times = [vec![], vec![]];
            for round in 0..ROUNDS + WARM_UP {
                // Each time another port.
                let port = 40_000 + round;
                let added = ask(&format!("hawser 1 port add {port}:80/tcp\n"));
                let removed = ask(&format!("hawser 1 port rm {port}:80/tcp\n"));
                if round >= WARM_UP {
                    times[0].push(added);
                    times[1].push(removed);
                }
            }
            let [added, removed] = times.map(|mut all| median(&mut all).as_secs_f64() * 1e3);
            medians.push((ports, added, removed));
        }
        println!();
        for (ports, added, removed) in &medians {
            println!("| {ports} | {added:.3} | {removed:.3} |");
        }
        assert!(
            medians.iter().all(|(_, added, _)| *added <= 1.0),
            "more than a millisecond: {medians:?}"
        );
        assert!(
            medians[1].1 <= medians[0].1 * 2.0,
            "it grows with the number of ports"
        );
    });
}

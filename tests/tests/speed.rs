//! A start with the whole network against bubblewrap without one, in turns.

use std::process::{Command, Stdio};
use std::time::Duration;

use lab::{DEADLINE, case, collect};

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

#[test]
#[ignore = "timing: run it alone on a quiet machine"]
fn a_start_with_a_network_is_no_slower_than_bubblewrap_without() {
    case(|lab| {
        let rootfs = lab.rootfs.to_string_lossy().into_owned();
        let (mut ours, mut theirs) = (vec![], vec![]);
        for round in 0..200 {
            let our = collect(lab.run_command(&[], &["/bin/true"]), DEADLINE).exits(0);
            let mut bwrap = Command::new("bwrap");
            bwrap.args([
                "--unshare-all",
                "--bind",
                &rootfs,
                "/",
                "--proc",
                "/proc",
                "--dev",
                "/dev",
                "/bin/true",
            ]);
            bwrap.stdin(Stdio::null());
            let their = collect(bwrap, DEADLINE).exits(0);
            // The first ones warm up, and make the network.
            if round >= 10 {
                ours.push(our.elapsed);
                theirs.push(their.elapsed);
            }
        }
        let (ours, theirs) = (median(ours), median(theirs));
        assert!(
            ours <= theirs,
            "median of ours {ours:?}, of bubblewrap {theirs:?}"
        );
    });
}

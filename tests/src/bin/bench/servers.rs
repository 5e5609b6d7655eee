//! What is at the other end: a server on the host and one in the internet, on the same port, and a name server there.

use std::net::TcpListener;
use std::sync::OnceLock;

use lab::{Lab, bare};

/// Of all servers.
pub const PORT: u16 = 7000;
/// The server in the internet, and its name.
pub const OUTSIDE: &str = "198.51.100.10";
/// See [`OUTSIDE`].
pub const NAME: &str = "four.example.test";
/// The gateway of our default network.
pub const GATEWAY: &str = "172.19.0.1";

/// Where the probe is inside.
pub const PROBE: &str = "/bin/probe";

static THERE: OnceLock<()> = OnceLock::new();

/// All of it, once: the probe in the root filesystem, listeners that accept, the name server.
pub fn start(lab: &Lab) {
    THERE.get_or_init(|| {
        std::fs::copy(bare("probe"), lab.rootfs.join(&PROBE[1..])).expect("copy the probe");
        lab.serve();
        accept(TcpListener::bind(("0.0.0.0", PORT)).expect("listen on the host"));
        let bind = || TcpListener::bind((OUTSIDE, PORT)).expect("listen in the internet");
        accept(lab.internet.enter(bind));
    });
}

/// Accepts for ever; the thread ends with the process.
fn accept(listener: TcpListener) {
    std::thread::spawn(move || listener.incoming().for_each(drop));
}

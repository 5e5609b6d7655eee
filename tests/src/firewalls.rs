//! Debian's firewalld and ufw, laid over `/` in the mount namespace of a case (see .ci/unpack), with a bus of its own.

use std::fs;
use std::process::{Command, Stdio};

use crate::process::{DEADLINE, Outcome, Running, collect, wait_for_end};
use crate::{Lab, sh, skip, sys};

/// A firewalld that runs. Its bus starts it when it is asked for, and it answers when it has set up everything.
pub struct Firewalld {
    _bus: Running,
}

const BUS: &str = r#"<busconfig>
<type>session</type>
<listen>unix:path=/run/dbus/system_bus_socket</listen>
<auth>EXTERNAL</auth>
<servicedir>/run/dbus/services</servicedir>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy>
</busconfig>
"#;
const SERVICE: &str =
    "[D-BUS Service]\nName=org.fedoraproject.FirewallD1\nExec=/usr/sbin/firewalld --nofork\n";

impl Lab {
    /// Starts firewalld as Debian configures it, but for the backend: `nftables` or `iptables`. None: this machine cannot
    /// run one, which was said.
    pub fn firewalld(&self, backend: &str) -> Option<Firewalld> {
        if !self.real_root {
            skip("laying firewalld over / needs the real root");
            return None;
        }
        self.lay_debian("/usr/sbin/firewalld");
        sh(&format!(
            "sed -i 's/^FirewallBackend=.*/FirewallBackend={backend}/' /etc/firewalld/firewalld.conf
            grep -q ^FirewallBackend={backend} /etc/firewalld/firewalld.conf"
        ));
        fs::create_dir_all("/run/dbus/services").expect("make a directory");
        fs::write("/run/dbus/lab.conf", BUS).expect("configure the bus");
        fs::write("/run/dbus/services/firewalld.service", SERVICE).expect("write a service");
        let mut bus = Command::new("dbus-daemon");
        bus.args([
            "--config-file=/run/dbus/lab.conf",
            "--nofork",
            "--nopidfile",
            "--print-address",
        ]);
        // Debian's firewalld is Debian's Python's.
        bus.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        bus.stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut bus = Running::spawn(bus);
        bus.until("unix:path");
        let firewalld = Firewalld { _bus: bus };
        firewalld.call(&["--state"]).exits(0);
        Some(firewalld)
    }

    /// Enables ufw as Debian configures it. False: this machine cannot, which was said.
    pub fn ufw(&self) -> bool {
        if !self.real_root {
            skip("laying ufw over / needs the real root");
            return false;
        }
        self.lay_debian("/usr/sbin/ufw");
        // What the package does when it is installed.
        sh(
            "cp /usr/share/ufw/iptables/*.rules /usr/share/ufw/ufw.conf /etc/ufw
            [ -e /etc/default/ufw ] || cp /usr/share/ufw/default/ufw /etc/default/ufw
            ufw --force enable",
        );
        true
    }
}

impl Firewalld {
    /// `firewall-cmd ARGUMENTS`, to its end.
    pub fn call(&self, arguments: &[&str]) -> Outcome {
        let mut command = Command::new("firewall-cmd");
        command.args(arguments).stdin(Stdio::null());
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        collect(command, DEADLINE)
    }

    /// Ends it as its unit does, and starts it again.
    pub fn restart(&self) {
        let text = fs::read_to_string("/run/firewalld.pid").expect("firewalld's pid");
        let pid = text.trim().parse().expect("a process id");
        let process = sys::pidfd(pid).expect("firewalld runs");
        sys::pidfd_signal(&process, libc::SIGTERM).expect("end firewalld");
        wait_for_end(pid);
        self.call(&["--state"]).exits(0);
    }
}

//! The kernel's capabilities by name.

use core::fmt;

use crate::address::index_of;

/// One capability: its number in `linux/capability.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability(u8);

/// In the order of their numbers (`linux/capability.h`, 6.1: 0 to 40). One string, since a table of pointers is larger.
const NAMES: &str = "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable \
    net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace \
    sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control \
    setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore";

impl Capability {
    /// How many this table knows.
    pub const COUNT: u8 = 41;

    /// By its name in the config message: lower case, without `cap_`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::from_bytes(name.as_bytes())
    }

    /// By its name, as the message has it.
    pub(crate) fn from_bytes(name: &[u8]) -> Option<Self> {
        index_of(NAMES.as_bytes(), name).map(Capability)
    }

    /// All of them, in the kernel's order.
    pub fn all() -> impl Iterator<Item = Capability> {
        (0..Self::COUNT).map(Capability)
    }

    /// Its name in the config message.
    pub fn name(self) -> &'static str {
        let mut names = NAMES.split(' ');
        names.nth(usize::from(self.0)).unwrap_or("")
    }

    /// Its number in the kernel.
    pub fn number(self) -> u8 {
        self.0
    }

    /// Its bit in a 64-bit set.
    pub fn bit(self) -> u64 {
        1 << self.0
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

//! Switches of the kernel under `/proc/sys`: read first, written only when they differ.

use std::fs;
use std::path::Path;

use crate::error::{Doing, Result};
use crate::state;

const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// Where the old value is kept for `down`.
const SAVED: &str = "ip_forward";

/// The host must pass packets between its links. This is the only switch of the host that we touch.
/// Gives true when it was off.
///
/// # Errors
/// When it is off and cannot be written.
pub fn ensure_forwarding() -> Result<bool> {
    let now = fs::read_to_string(IP_FORWARD).doing(|| format!("read {IP_FORWARD}"))?;
    if now.trim() != "0" {
        return Ok(false);
    }
    let _lock = state::lock()?;
    let saved = Path::new(state::DIRECTORY).join(SAVED);
    fs::write(&saved, now).doing(|| format!("write {}", saved.display()))?;
    fs::write(IP_FORWARD, "1")
        .doing(|| format!("write 1 to {IP_FORWARD}"))
        .map_err(|e| {
            e.cure(
                nix::errno::Errno::EROFS,
                "/proc/sys is read-only here: set net.ipv4.ip_forward=1 outside",
            )
        })?;
    Ok(true)
}

/// Puts back what [`ensure_forwarding`] found. Nothing saved: it was on before us.
///
/// # Errors
/// When it cannot be written.
pub fn restore_forwarding() -> Result<()> {
    let saved = Path::new(state::DIRECTORY).join(SAVED);
    if let Ok(old) = fs::read_to_string(&saved) {
        fs::write(IP_FORWARD, &old).doing(|| format!("write {} to {IP_FORWARD}", old.trim()))?;
        fs::remove_file(&saved).doing(|| format!("remove {}", saved.display()))?;
    }
    Ok(())
}

//! Switches of the kernel under `/proc/sys/net`: read first, written only when they differ, their old values kept for `down`.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};

use crate::error::{Doing, Error, Result};
use crate::foreign::quote;
use crate::netlink::Netlink;
use crate::owner::namespace;
use crate::state::{self, Lock};
use crate::steps::Steps;
use crate::sys;
use crate::uplink::{self, Uplink};

const ROOT: &str = "/proc/sys/net";
const IP_FORWARD: &str = "ipv4/ip_forward";
const FORWARDING: &str = "ipv6/conf/all/forwarding";
const REDIRECTS: &str = "ipv4/conf/all/accept_redirects";

/// Where the old values are kept, in the order of their changes: a line of name, value and [`place`] for each.
const SAVED: &str = "switches";

/// Kept among them, though the kernel has no such switch: what [`ensure_forwarding6`] does once for all point-to-point networks was done. A
/// bridge says so by its own switch.
const LINKS6: &str = "ipv6/links";

fn path(switch: &str) -> PathBuf {
    Path::new(ROOT).join(switch)
}

/// What a switch is at, or `None` when the kernel has no such switch.
///
/// # Errors
/// When it cannot be read.
pub fn value(switch: &str) -> Result<Option<String>> {
    match fs::read_to_string(path(switch)) {
        Ok(text) => Ok(Some(text.trim().to_string())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).doing(|| format!("read {ROOT}/{switch}")),
    }
}

fn is_on(switch: &str) -> Result<bool> {
    Ok(value(switch)?.is_some_and(|value| value != "0"))
}

/// Writes a switch.
///
/// # Errors
/// When it cannot be written.
fn write(switch: &str, value: &str) -> Result<()> {
    write_or(switch, value, switch)
}

/// The same, where it is `cure` that is to be set outside.
fn write_or(switch: &str, value: &str, cure: &str) -> Result<()> {
    fs::write(path(switch), value)
        .doing(|| format!("write {value} to {ROOT}/{switch}"))
        .map_err(|error| {
            let name = cure.replace('/', ".");
            let cure = format!("/proc/sys is read-only here: set net.{name}={value} outside");
            error.cure(Errno::EROFS, &cure)
        })
}

fn saved() -> PathBuf {
    Path::new(state::DIRECTORY).join(SAVED)
}

/// Whose switches they are: this network namespace's, since this boot. Others may share the directory, and it may be older.
fn place() -> Result<String> {
    const BOOT: &str = "/proc/sys/kernel/random/boot_id";
    let netns = namespace("self", "net").doing(|| "look at our network namespace".into())?;
    let boot = fs::read_to_string(BOOT).doing(|| format!("read {BOOT}"))?;
    Ok(format!("{netns} {}", boot.trim()))
}

/// A line of what is kept: name and value.
fn words_of<'a>(line: &'a str, place: &str) -> Option<(&'a str, &'a str)> {
    line.strip_suffix(place)?.trim_end().split_once(' ')
}

/// Whether something is kept of a switch.
fn is_saved(switch: &str) -> Result<bool> {
    let (kept, place) = (fs::read_to_string(saved()).unwrap_or_default(), place()?);
    let mut lines = kept.lines().filter_map(|line| words_of(line, &place));
    Ok(lines.any(|(name, _)| name == switch))
}

/// Keeps what a switch is at for `down`, unless something older is kept.
fn save(switch: &str, value: &str, _lock: &Lock) -> Result<()> {
    if is_saved(switch)? {
        return Ok(());
    }
    let place = place()?;
    File::options()
        .append(true)
        .create(true)
        .open(saved())
        .and_then(|mut file| file.write_all(format!("{switch} {value} {place}\n").as_bytes()))
        .doing(|| format!("write {}", saved().display()))
}

/// Writes a switch of the host whose old value `down` puts back; gives the sentence that says so.
fn change(switch: &str, new: &str, lock: &Lock) -> Result<Option<String>> {
    let Some(old) = value(switch)? else {
        // The same as no device, which nothing can be done about either.
        return Err(Errno::ENOENT).doing(|| format!("write {new} to {ROOT}/{switch}"));
    };
    if old == new {
        return Ok(None);
    }
    save(switch, &old, lock)?;
    write(switch, new)?;
    let name = switch.replace('/', ".");
    Ok(Some(format!("net.{name} was {old} and is {new} now")))
}

/// Whether the host passes IPv4 packets between its links.
///
/// # Errors
/// What the kernel says.
pub fn is_forwarding() -> Result<bool> {
    is_on(IP_FORWARD)
}

fn forwarding4(link: &str) -> String {
    format!("ipv4/conf/{link}/forwarding")
}

/// What is said of a host that does not forward IPv4 packets that come in by a link, and the command that cures it. `None`: it does.
///
/// # Errors
/// When that cannot be read.
pub fn not_forwarding4(link: &str) -> Result<Option<String>> {
    let switch = if !is_forwarding()? {
        "net.ipv4.ip_forward".to_string()
    } else if value(&forwarding4(link))?.as_deref() == Some("0") {
        // As sysctl(8) has it, which wants a slash where the link's name has a dot.
        format!("net.ipv4.conf.{}.forwarding", link.replace('.', "/"))
    } else {
        return Ok(None);
    };
    let set = quote(&format!("{switch}=1"));
    Ok(Some(format!(
        "the host does not forward: {switch} is 0 (sysctl -w {set})"
    )))
}

/// The host must pass IPv4 packets between its links. Gives the sentence about what was changed for it.
///
/// # Errors
/// When it does not, and cannot be made to.
pub fn ensure_forwarding() -> Result<Option<String>> {
    if is_on(IP_FORWARD)? {
        return Ok(None);
    }
    let lock = state::lock()?;
    // Off, the kernel lets redirects in again, whatever they were at.
    if value(REDIRECTS)?.as_deref() == Some("0") {
        save(REDIRECTS, "0", &lock)?;
    }
    save_links("ipv4", &lock)?;
    change(IP_FORWARD, "1", &lock)
}

/// Keeps which links forward where the host as a whole does not: the kernel gives all links, and `default`, what the host gets, with
/// each change (inet_forward_change(), addrconf_forward_change()).
fn save_links(family: &str, lock: &Lock) -> Result<()> {
    let conf = path(&format!("{family}/conf"));
    let read = || format!("read {}", conf.display());
    for entry in fs::read_dir(&conf).doing(read)? {
        let link = entry.doing(read)?.file_name();
        let switch = format!("{family}/conf/{}/forwarding", link.to_string_lossy());
        match value(&switch)? {
            Some(value) if link != "all" && value != "0" => save(&switch, &value, lock)?,
            _ => {}
        }
    }
    Ok(())
}

/// The switch that takes this one along when it changes.
fn leader(switch: &str) -> Option<&'static str> {
    match switch.rsplit_once('/')?.1 {
        "forwarding" if switch.starts_with("ipv4/") => Some(IP_FORWARD),
        "forwarding" if switch != FORWARDING => Some(FORWARDING),
        "accept_redirects" => Some(IP_FORWARD),
        _ => None,
    }
}

/// The host must pass IPv6 packets between its link `ours` and those of `uplinks`; `usual` is the one that most leave by,
/// and all that is looked at when `ours` is as it should be. Gives a sentence about each switch of the host that was changed.
/// `ours` may come later, without a bridge: see [`forward_from`].
///
/// The kernel asks the link that a packet has come in by (ip6_forward()), so that the links of the answers count as well.
///
/// # Errors
/// When it does not, and cannot be made to. ENODEV: `ours` is gone.
pub fn ensure_forwarding6(
    ours: Option<&str>,
    usual: Option<&str>,
    uplinks: impl FnOnce() -> Result<Vec<Uplink>>,
) -> Result<Vec<String>> {
    // A link that is yet to come might be told nothing.
    let may_be_refused = ours.is_none() && is_read_only();
    if !may_be_refused && is_forwarding6(ours, usual)? {
        return Ok(Vec::new());
    }
    forward_all6(ours, &uplinks()?)
}

/// Whether that is so, as far as `ours` and `usual` tell.
///
/// # Errors
/// When that cannot be read.
pub fn is_forwarding6(ours: Option<&str>, usual: Option<&str>) -> Result<bool> {
    let mut is_done = match ours {
        Some(ours) => is_on(&by_link(ours))?,
        None => is_saved(&links6()?)?,
    };
    if let Some(usual) = usual.filter(|_| is_done) {
        is_done = is_on(&by_link(usual))?;
    }
    Ok(is_done || is_on(FORWARDING)?)
}

/// The same whatever `ours` and the usual way are at: the other links may have come since.
///
/// # Errors
/// As [`ensure_forwarding6`].
pub fn forward_all6(ours: Option<&str>, uplinks: &[Uplink]) -> Result<Vec<String>> {
    if is_on(FORWARDING)? {
        return Ok(Vec::new());
    }
    let lock = state::lock()?;
    let conf = |link: &str| path(&format!("ipv6/conf/{link}"));
    // Who cannot look knows of no end.
    let is_there = |link: &str| conf(link).try_exists().unwrap_or(true);
    // Whoever had the lock before may have removed the last network, and put all of it back.
    if let Some(gone) = ours.filter(|ours| !is_there(ours)) {
        return Err(Errno::ENODEV).doing(|| format!("forward IPv6 from {gone}"));
    }
    // Linux 6.17 can do it link by link.
    let done = (|| {
        let mut said = Vec::new();
        for uplink in uplinks.iter().filter(|uplink| is_there(&uplink.name)) {
            said.extend(change(&by_link(&uplink.name), "1", &lock)?);
        }
        match ours {
            Some(ours) if is_on(&by_link(ours))? => {}
            Some(ours) => write(&by_link(ours), "1")?,
            None => expect_link(&lock)?,
        }
        Ok(said)
    })();
    done.or_else(|error: Error| {
        // What lacks the switch then is a link that has gone.
        let is_gone = error.errno == Some(Errno::ENOENT) && path(&by_link("all")).exists();
        if is_gone {
            return Err(error);
        }
        forward_everywhere(uplinks, &lock)
    })
}

/// The line that says so: of this network namespace alone, whose inode number another may get.
fn links6() -> Result<String> {
    const SO_NETNS_COOKIE: i32 = 71; // asm-generic/socket.h; Linux 5.14
    let doing = || "look at our network namespace".to_string();
    let socket = Netlink::route().doing(doing)?;
    let mut cookie = [0; 8];
    let level = libc::SOL_SOCKET;
    sys::socket_option(socket.as_fd(), level, SO_NETNS_COOKIE, &mut cookie).doing(doing)?;
    Ok(format!("{LINKS6}/{}", u64::from_ne_bytes(cookie)))
}

/// The links are done, but for that of a container, which is yet to come. It is born as `default` says.
fn expect_link(lock: &Lock) -> Result<()> {
    // What else is refused is said of the host as a whole.
    let refused = match value(&by_link("default"))?.as_deref() {
        None => Errno::ENOENT,
        Some("0") if is_read_only() => Errno::EROFS,
        Some(_) => return save(&links6()?, "1", lock),
    };
    Err(refused).doing(|| "forward IPv6 from a link".into())
}

/// The switch that makes a link forward IPv6, from Linux 6.17 on.
pub fn by_link(link: &str) -> String {
    of_link(link, "force_forwarding")
}

/// A host end that is there now: its packets are forwarded.
///
/// # Errors
/// When that cannot be.
pub fn forward_from(link: &str) -> Result<()> {
    match write(&by_link(link), "1") {
        Err(error) if !forwards6(link)? => Err(error),
        _ => Ok(()),
    }
}

fn of_link(link: &str, switch: &str) -> String {
    format!("ipv6/conf/{link}/{switch}")
}

/// A host that forwards everywhere forgets what routers have advertised, default routes first of all, unless it has been
/// told before that it is to listen all the same (`accept_ra` 2). The switches that are not so yet.
fn forgetful(uplinks: &[Uplink]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for uplink in uplinks.iter().filter(|uplink| uplink.is_advertised) {
        let switch = of_link(&uplink.name, "accept_ra");
        // 0: a daemon reads the advertisements, and the kernel must not.
        if value(&switch)?.as_deref() == Some("1") {
            found.push(switch);
        }
    }
    Ok(found)
}

fn forward_everywhere(uplinks: &[Uplink], lock: &Lock) -> Result<Vec<String>> {
    let mut said = Vec::new();
    for switch in forgetful(uplinks)? {
        said.extend(change(&switch, "2", lock)?);
    }
    save_links("ipv6", lock)?;
    said.extend(change(FORWARDING, "1", lock)?);
    Ok(said)
}

/// Whether IPv6 packets that come in by a link are forwarded.
///
/// # Errors
/// When that cannot be read.
pub fn forwards6(link: &str) -> Result<bool> {
    Ok(is_on(FORWARDING)? || is_on(&by_link(link))?)
}

/// The command that makes a host forward the IPv6 packets of a network: what comes in by `link`, its bridge or the link of one container. A
/// host that cannot do it link by link must have been told to listen to its routers all the same, which `up` does for a bridge.
///
/// # Errors
/// What the kernel says.
pub fn forwarding6_cure(route: &mut Netlink, link: &str, is_bridge: bool) -> Result<String> {
    let by_link = by_link(link);
    if is_bridge {
        Ok(format!("host-helper up --bridge {link}"))
    } else if path(&by_link).exists() {
        Ok(format!("sysctl -w net/{by_link}=1"))
    } else {
        cure_everywhere(route)
    }
}

fn cure_everywhere(route: &mut Netlink) -> Result<String> {
    let mut listens = forgetful(&uplink::all6(route)?)?;
    listens.iter_mut().for_each(|switch| *switch += "=2");
    let all = listens.into_iter().chain([format!("{FORWARDING}=1")]);
    // As sysctl(8) has it, which wants a slash where a link's name has a dot.
    let turn = |byte| match byte {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    let commands: Vec<String> = all
        .map(|switch| switch.chars().map(turn).collect::<String>())
        .map(|switch| format!("sysctl -w {}", quote(&format!("net.{switch}"))))
        .collect();
    Ok(commands.join(" && "))
}

/// What is said of a host that does not, and the command that cures it.
///
/// # Errors
/// What the kernel says.
pub fn not_forwarding6(route: &mut Netlink, link: &str, is_bridge: bool) -> Result<String> {
    let cure = forwarding6_cure(route, link, is_bridge)?;
    Ok(format!(
        "the host does not forward IPv6: net.ipv6.conf.all.forwarding is 0 ({cure})"
    ))
}

/// A link of ours is no place where routers advertise themselves to the host, whether its containers have IPv6 or not.
///
/// # Errors
/// When it cannot be written, and the host would heed them. EROFS, for one.
pub fn ignore_advertisements(link: &str) -> Result<()> {
    const SWITCH: &str = "accept_ra";
    let switch = of_link(link, SWITCH);
    // Who forwards heeds none, unless told to by 2 (ipv6_accept_ra()).
    let is_deaf = || -> Result<bool> {
        let forwards = is_on(&of_link(link, "forwarding"))?;
        Ok(!is_on(&switch)? || forwards && value(&switch)?.as_deref() == Some("1"))
    };
    // What a new link is born with is all that can be set before it is there.
    match write_or(&switch, "0", &of_link("default", SWITCH)) {
        Err(_) if is_on(&of_link(link, "disable_ipv6"))? || is_deaf()? => Ok(()),
        done => done,
    }
}

/// Whether nothing can be written, by whomever. (The directories cannot be anyway.)
pub fn is_read_only() -> bool {
    access(&path(IP_FORWARD), AccessFlags::W_OK) == Err(Errno::EROFS)
}

/// Whether a link has switches of IPv6. The kernel takes them away, and all of its IPv6 addresses, where its MTU is under 1,280 bytes.
pub fn is_ready_for_ipv6(link: &str) -> bool {
    path(&of_link(link, "accept_ra")).exists()
}

/// Why the host has no IPv6 for new links, or for this one.
///
/// # Errors
/// When that cannot be read.
pub fn ipv6_is_off(link: &str) -> Result<Option<String>> {
    if !path("ipv6").is_dir() {
        return Ok(Some("the host's kernel has no IPv6".into()));
    }
    let of_its_own = of_link(link, "disable_ipv6");
    let switches = if path(&of_its_own).exists() {
        vec![of_its_own]
    } else {
        ["all", "default"]
            .map(|which| of_link(which, "disable_ipv6"))
            .into()
    };
    for switch in switches {
        if is_on(&switch)? {
            return Ok(Some(format!("net.{} is 1", switch.replace('/', "."))));
        }
    }
    Ok(None)
}

/// Puts back what was changed, the last change first. Nothing kept: all was so before us.
///
/// # Errors
/// What could not be written, after all the others were.
pub fn restore(steps: &Steps) -> Result<()> {
    let kept = match fs::read_to_string(saved()) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        read => read.doing(|| format!("read {}", saved().display()))?,
    };
    let (mut done, place) = (Ok(()), place()?);
    let mut ours: Vec<_> = kept
        .lines()
        .filter_map(|line| words_of(line, &place))
        .rev()
        .collect();
    // While the host forwards, those that go along are at what was kept: whoever has changed one since means it.
    ours.retain(|(switch, old)| {
        leader(switch).is_none_or(|leader| {
            // On is 1 then, whatever it was.
            let is_as_kept = is_on(switch).map_or(true, |is_on| is_on == (*old != "0"));
            is_as_kept || !is_on(leader).unwrap_or(true)
        })
    });
    // Kept at a later change, they come after what takes them along all the same.
    ours.sort_by_key(|(switch, _)| leader(switch).is_some());
    for (switch, old) in ours {
        // A link that has gone has taken its switches along.
        let now = value(switch)?;
        if let Some(now) = now.filter(|now| now != old) {
            let name = switch.replace('/', ".");
            let written = write(switch, old);
            if written.is_ok() {
                steps.say(&format!("net.{name} was {now} and is {old} again"));
            }
            done = done.and(written);
        }
    }
    done?;
    let boot = place.split_once(' ').map_or("", |(_, boot)| boot);
    let others = kept
        .lines()
        .filter(|line| line.ends_with(boot) && words_of(line, &place).is_none());
    let others: String = others.map(|line| format!("{line}\n")).collect();
    let forgotten = if others.is_empty() {
        fs::remove_file(saved())
    } else {
        fs::write(saved(), others)
    };
    forgotten.doing(|| format!("write {}", saved().display()))
}

//! The names of a network: one hosts file, `/run/hawser/NETWORK.hosts`, which its containers have as `/etc/hosts`.
//!
//! It is written in place while others read it, in slots: a line is filled up with blanks to a multiple of 64 bytes,
//! stays where it is as long as its container lives, and comes and goes by its first byte, which is `#` when nobody has
//! the slot. So a reader never misses a line because of another one, and to come or to go is one write, of one line.

mod file;
mod left;
mod private;
mod slots;

use std::cell::LazyCell;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::UNIX_EPOCH;

use crate::bridge::Network;
use crate::config;
use crate::deadline::{self, Locked};
use crate::error::{Doing, Error, Result, twice};
use crate::request::Request;
use crate::state;
use crate::sys::{clone_tree, seclude};
use crate::veth::Veth;

pub use left::{begin, forget, is_left_over, sweep_links};
pub use private::Private;

use slots::{FREE, Here, SLOT, first_words, lines_of, link_of, slot, words_of};

/// What each of our hosts files begins with.
pub const LOCALHOST: [&str; 2] = [
    "127.0.0.1 localhost",
    "::1 localhost ip6-localhost ip6-loopback",
];
/// What may stay behind the last line that is used.
const SPARE: usize = 16 * SLOT;
/// In the comment of a line whose name was made up.
const MADE_UP: &str = "made-up";
/// In that of one whose name nobody has taken: another may have it for his own.
const SHORT: &str = "short ";

/// How a container comes by the names of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// The network's file is its own, and cannot be written inside.
    Shared,
    /// It has lines, or a host name, of its own: a file with those and the names, which its supervisor keeps.
    Private,
}

impl View {
    /// What a container of a network gets.
    pub fn of(request: &Request) -> View {
        let has_own = !request.hosts.is_empty() || request.hostname != request.name;
        if has_own || is_taken(&request.name) {
            View::Private
        } else {
            View::Shared
        }
    }
}

/// Names that every machine has already.
fn is_taken(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let last = lower.rsplit('.').next();
    last == Some("localhost") || matches!(&*lower, "ip6-localhost" | "ip6-loopback")
}

/// The hosts file of a network.
#[derive(Debug, Clone)]
pub struct Hosts {
    file: Rc<File>,
    /// Not the file itself: whoever may read that, may lock it, and containers may.
    lock: Rc<File>,
    path: PathBuf,
}

/// The lines of a container that lives; where they are.
#[derive(Debug)]
pub struct Lines {
    hosts: Hosts,
    lines: Vec<(u64, Vec<u8>)>,
    is_made_up: bool,
}

/// Where the file of a network is.
fn path_of(network: &Network) -> PathBuf {
    let name = match network.bridge {
        Some(_) => network.name.clone(),
        // No bridge is called so.
        None => format!("{}:{}", network.name, network.subnet).replace('/', "-"),
    };
    path_named(&name)
}

fn path_named(network: &str) -> PathBuf {
    Path::new(state::DIRECTORY).join(format!("{network}.hosts"))
}

impl Hosts {
    /// Opens the file of a network, and makes it where it is missing.
    ///
    /// Before: the network is there. Not undone: it is the network's, and goes with it.
    ///
    /// # Errors
    /// What the file system refuses.
    pub fn open(network: &Network) -> Result<Hosts> {
        let path = path_of(network);
        let doing = format!("open {}", path.display());
        Hosts::at(path).doing(|| doing)
    }

    fn at(path: PathBuf) -> io::Result<Hosts> {
        let (file, beside) = file::open_both(&path)?;
        if file.metadata()?.len() == 0 {
            let locked = lock(&beside)?;
            if file.metadata()?.len() == 0 {
                // Whatever our umask is: every user inside reads it.
                file.set_permissions(PermissionsExt::from_mode(0o644))?;
                let lines: Vec<u8> = LOCALHOST.into_iter().flat_map(slot).collect();
                file.write_all_at(&lines, 0)?;
                // Nobody has looked for what others have left yet.
                beside.set_modified(UNIX_EPOCH)?;
            }
            drop(locked);
        }
        Ok(Hosts {
            file: Rc::new(file),
            lock: Rc::new(beside),
            path,
        })
    }

    /// The file as a mount that nobody can write through, for the container's `/etc/hosts`.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn mount(&self) -> Result<OwnedFd> {
        let doing = || format!("bind {}", self.path.display());
        let tree = clone_tree(&*self.file, c"", false).doing(doing)?;
        // Nothing that the container mounts on it reaches the host either.
        seclude(&tree).doing(doing)?;
        Ok(tree)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Enters a container.
    ///
    /// Before: its link is there. Undone by [`Lines::remove`]; what a container that was killed has left goes when
    /// another with its name or address comes, and with [`Hosts::sweep`].
    ///
    /// # Errors
    /// What the file system refuses; somebody has removed the last network since the file was opened, and the file with it.
    pub fn enter(&self, request: &Request, veth: &Veth) -> Result<Lines> {
        let doing = || format!("write {}", self.path.display());
        if self.file.metadata().doing(doing)?.nlink() == 0 {
            let gone = format!("{}: it has just been removed; run it again", doing());
            return Err(Error::new(gone));
        }
        let is_made_up = request.is_name_made_up;
        let note = if is_made_up { MADE_UP } else { "" };
        let comment = format!("{} {} {} ", veth.name, veth.index, Here::find().inode());
        // One whose name is the machine's own is in no file.
        let names = [Some(&request.name), request.short_id.as_ref()];
        let names = names.into_iter().flatten().filter(|name| !is_taken(name));
        let line = |address, name: &String| {
            let kind = if *name == request.name { "" } else { SHORT };
            slot(&format!("{address} {name} # {comment}{kind}{note}"))
        };
        let lines = names.flat_map(|name| veth.addresses().map(move |address| (address, name)));
        let lines = lines.map(|(address, name)| line(address, name)).collect();
        let entered = self.write_lines(lines, &request.name);
        let entered = entered
            .inspect_err(|_| self.take_out(&veth.name))
            .doing(doing)?;
        Ok(Lines {
            hosts: self.clone(),
            lines: entered,
            is_made_up,
        })
    }

    /// Takes back what there is of a container that could not be entered whole.
    fn take_out(&self, link: &str) {
        let text = self.read().unwrap_or_default();
        let ours = lines_of(&text).skip(LOCALHOST.len());
        for (at, _) in ours.filter(|(_, line)| line[0] != FREE && link_of(line) == link) {
            // The first error is the one that matters.
            let _ = self.free(at);
        }
    }

    fn write_lines(&self, lines: Vec<Vec<u8>>, name: &str) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let _locked = lock(&self.lock)?;
        let text = self.read()?;
        let (addresses, names): (Vec<_>, Vec<_>) = lines.iter().map(|it| first_words(it)).unzip();
        let here = LazyCell::new(Here::find);
        let mut free: Vec<(usize, usize)> = Vec::new();
        for (at, line) in lines_of(&text) {
            let (address, other) = first_words(line);
            // An address may be another's in another network namespace; a name may not.
            let is_of_name = || {
                let is_taken = other == name.as_bytes() && !words_of(line).2.contains(SHORT.trim());
                is_taken || names.contains(&other) && !here.is_alive(line)
            };
            let is_left =
                || is_of_name() || (addresses.contains(&address) && !here.is_not_of(line));
            if line[0] == FREE {
                free.push((at, line.len()));
            } else if at >= LOCALHOST.len() * SLOT && is_left() {
                self.free(at)?;
                free.push((at, line.len()));
            }
        }
        let mut tail: Vec<u8> = Vec::new();
        let mut entered = Vec::new();
        for line in lines {
            let found = free.iter().position(|(_, length)| *length == line.len());
            let at = match found {
                Some(found) => {
                    let (at, _) = free.swap_remove(found);
                    self.file.write_all_at(&line[1..], at as u64 + 1)?;
                    self.file.write_all_at(&line[..1], at as u64)?;
                    at
                }
                None => {
                    tail.extend(&line);
                    text.len() + tail.len() - line.len()
                }
            };
            entered.push((at as u64, line));
        }
        self.file.write_all_at(&tail, text.len() as u64)?;
        Ok(entered)
    }

    fn free(&self, at: usize) -> io::Result<()> {
        self.file.write_all_at(&[FREE], at as u64)
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        let mut file = &*self.file;
        let length = file.metadata()?.len();
        // As it is given, not cleared first: a thousand containers have two hundred kilobytes.
        let mut text = Vec::with_capacity(length as usize);
        file.rewind()?;
        file.take(length).read_to_end(&mut text)?;
        Ok(text)
    }

    /// Removes what containers that were killed have left; whether there was something.
    fn sweep(&self) -> io::Result<bool> {
        self.sweep_some(|_| true)
    }

    /// The same, of lines that are about certain links.
    fn sweep_some(&self, is_meant: impl Fn(&str) -> bool) -> io::Result<bool> {
        let _locked = lock(&self.lock)?;
        let (text, here) = (self.read()?, Here::find());
        let (mut used, mut has_changed) = (0, false);
        for (at, line) in lines_of(&text) {
            let is_swept = at >= LOCALHOST.len() * SLOT
                && line[0] != FREE
                && is_meant(link_of(line))
                && !here.is_alive(line);
            if is_swept {
                self.free(at)?;
                has_changed = true;
            } else if line[0] != FREE {
                used = at + line.len();
            }
        }
        if text.len() > used + SPARE {
            self.file.set_len(used as u64)?;
        }
        Ok(has_changed)
    }

    /// Tells those who keep a copy that it is time for another: they watch the file's attributes, not its content, which
    /// changes with every container.
    fn tell(&self) -> io::Result<()> {
        self.file.set_permissions(PermissionsExt::from_mode(0o644))
    }

    /// The names that were given, as lines of a hosts file, but for lines of `own`: as many as `most` bytes of init's message hold.
    pub fn names(&self, own: &str, most: usize) -> String {
        let text = self.read().unwrap_or_default();
        let (mut names, mut taken) = (String::new(), 0);
        for (at, line) in lines_of(&text) {
            let (address, name, comment) = words_of(line);
            let is_given = at >= LOCALHOST.len() * SLOT && line[0] != FREE;
            let line = format!("{address} {name}\n");
            let is_new = is_given && !comment.ends_with(MADE_UP) && !own.contains(&line);
            if is_new && taken + config::HOST.len() + line.len() <= most {
                names += &line;
                taken += config::HOST.len() + line.len();
            }
        }
        names
    }
}

impl Lines {
    /// Those who keep a copy hear of a name that was given.
    pub fn announce(&self) {
        if !self.is_made_up {
            // Nothing that a container which runs could do about it.
            let _ = self.hosts.tell();
        }
    }

    /// The container has ended. Gone already is success.
    pub fn remove(&self) {
        let remove = || {
            let _locked = lock(&self.hosts.lock)?;
            for (at, line) in &self.lines {
                let mut now = vec![0; line.len()];
                match self.hosts.file.read_exact_at(&mut now, *at) {
                    // Cut off: it had been freed.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
                    read => read?,
                }
                // Another may have it already, who found us dead.
                if now == *line {
                    self.hosts.free(*at as usize)?;
                }
            }
            io::Result::Ok(())
        };
        // What stays is swept.
        let _ = twice(remove);
        self.announce();
    }

    /// A look at all the others, on nobody's way: what is left of the killed goes. Not for each of a thousand short
    /// ones, which nobody has named.
    pub fn sweep_others(&self) {
        if !self.is_made_up && self.hosts.sweep().unwrap_or(false) {
            self.announce();
        }
    }
}

fn lock(file: &File) -> io::Result<Locked> {
    Ok(deadline::lock(file.try_clone()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::net::if_::if_nametoindex;

    fn hosts(name: &str) -> Hosts {
        let path = std::env::temp_dir().join(format!("hawser-hosts-{name}-{}", std::process::id()));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        file.write_all_at(&LOCALHOST.into_iter().flat_map(slot).collect::<Vec<_>>(), 0)
            .unwrap();
        let file = Rc::new(file);
        Hosts {
            lock: Rc::clone(&file),
            file,
            path,
        }
    }

    fn shown(hosts: &Hosts) -> Vec<String> {
        let text = hosts.read().unwrap();
        assert_eq!(text.len() % SLOT, 0);
        lines_of(&text)
            .filter(|(_, line)| line[0] != FREE)
            .skip(LOCALHOST.len())
            .map(|(at, line)| format!("{at} {} {}", words_of(line).0, words_of(line).1))
            .collect()
    }

    fn enter(hosts: &Hosts, name: &str, address: &str, comment: &str) -> (u64, Vec<u8>) {
        let line = slot(&format!("{address} {name} # {comment}"));
        hosts.write_lines(vec![line], name).unwrap().remove(0)
    }

    #[test]
    fn lines_stay_where_they_are_and_slots_are_used_again() {
        let hosts = hosts("slots");
        let lo = format!("lo {}", if_nametoindex("lo").unwrap());
        let (at, _) = enter(&hosts, "web", "192.0.2.2", &lo);
        enter(&hosts, "db", "192.0.2.3", &lo);
        let long = "n".repeat(127);
        enter(&hosts, &long, "192.0.2.4", &lo);
        hosts.free(at as usize).unwrap();
        enter(&hosts, "app", "192.0.2.5", &lo);
        assert_eq!(
            shown(&hosts),
            [
                "128 192.0.2.5 app".to_string(),
                "192 192.0.2.3 db".to_string(),
                format!("256 192.0.2.4 {long}"),
            ]
        );
        std::fs::remove_file(&hosts.path).unwrap();
    }

    #[test]
    fn who_comes_with_a_name_or_an_address_replaces_who_has_left_it() {
        let hosts = hosts("replace");
        enter(&hosts, "web", "192.0.2.2", "gone 7");
        enter(&hosts, "db", "192.0.2.3", "gone 8");
        enter(&hosts, "web", "192.0.2.3", "gone 9");
        assert_eq!(shown(&hosts), ["128 192.0.2.3 web"]);
        std::fs::remove_file(&hosts.path).unwrap();
    }

    #[test]
    fn the_dead_are_swept_and_the_end_is_cut() {
        let hosts = hosts("sweep");
        let index = if_nametoindex("lo").unwrap();
        enter(&hosts, "dead", "192.0.2.2", "nosuchlink 7");
        enter(&hosts, "alive", "192.0.2.3", &format!("lo {index}"));
        enter(&hosts, "other", "192.0.2.4", &format!("lo {}", index + 1));
        for number in 0..20 {
            enter(
                &hosts,
                &format!("n{number}"),
                &format!("192.0.2.1{number}"),
                "nosuchlink 7",
            );
        }
        hosts.sweep().unwrap();
        assert_eq!(shown(&hosts), ["192 192.0.2.3 alive"]);
        assert_eq!(hosts.read().unwrap().len(), 256);
        assert_eq!(hosts.names("", 21), "192.0.2.3 alive\n");
        assert_eq!(hosts.names("", 20), "");
        assert!(!is_left_over(&hosts.path));
        std::fs::remove_file(&hosts.path).unwrap();
    }

    #[test]
    fn who_lives_in_another_network_namespace_stays() {
        use std::process::{Command, Stdio};
        let hosts = hosts("elsewhere");
        let mut other = Command::new("unshare")
            .args(["-rn", "sh", "-c", "stat -Lc %i /proc/self/ns/net; read end"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut words = std::io::BufReader::new(other.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut words, &mut said).unwrap();
        let (ours, theirs) = (Here::find().inode(), said.trim().to_string());
        enter(&hosts, "web", "192.0.2.2", &format!("gone 7 {theirs}"));
        enter(&hosts, "dead", "192.0.2.3", &format!("gone 8 {ours}"));
        assert!(hosts.sweep().unwrap());
        enter(&hosts, "db", "192.0.2.2", &format!("gone 9 {ours} made-up"));
        assert_eq!(shown(&hosts), ["128 192.0.2.2 web", "192 192.0.2.2 db"]);
        assert!(!is_left_over(&hosts.path));
        assert!(hosts.sweep().unwrap());
        // There is one of a name.
        enter(&hosts, "web", "192.0.2.4", &format!("gone 9 {ours}"));
        assert_eq!(shown(&hosts), ["128 192.0.2.4 web"]);
        assert!(is_left_over(&hosts.path));
        // It ends with whoever was in it, as far as that can be seen.
        enter(&hosts, "last", "192.0.2.5", &format!("gone 7 {theirs}"));
        assert!(!is_left_over(&hosts.path));
        drop(other.stdin.take());
        other.wait().unwrap();
        let sees_all = crate::owner::namespace("self", "pid").unwrap() == 0xefff_fffc;
        assert_eq!(is_left_over(&hosts.path), sees_all);
        std::fs::remove_file(&hosts.path).unwrap();
    }

    #[test]
    fn names_of_the_machine_itself_are_not_given() {
        for name in ["localhost", "a.localhost", "ip6-loopback", "LocalHost"] {
            assert!(is_taken(name), "{name}");
        }
        assert!(!is_taken("localhost.example") && !is_taken("web"));
    }
}

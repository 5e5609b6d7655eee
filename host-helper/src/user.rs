//! Who the command runs as: `-u UID|NAME[:GID|GROUP]`, by the container's own passwd and group.

use std::io::Read;
use std::path::{Path, PathBuf};

use hawser::protocol::GROUPS;
use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, Result};
use crate::inside::{open_file_in_root, open_path};
use crate::rootfs::Volume;

/// Bytes of a list of users or groups: a million lines, and room for them in memory.
const LONGEST: u64 = 64 << 20;

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User number.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: String,
}

impl Default for User {
    fn default() -> Self {
        User {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            home: "/root".to_string(),
        }
    }
}

/// Whether groups can be given up. Not in a user namespace that an ordinary user made (user_namespaces(7)): there they
/// are that user's own, and give nothing more.
pub fn may_set_groups() -> bool {
    let has_none = nix::unistd::getgroups().is_ok_and(|groups| groups.is_empty());
    has_none
        || std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "allow")
}

/// Where the lists are: what the container will see there.
pub struct Lists<'a> {
    /// The root file system; `None`: the host's.
    pub root: Option<&'a Path>,
    /// Bind mounts: those on `/etc` and on the lists themselves count.
    pub volumes: &'a [Volume],
    /// Empty file systems.
    pub tmpfs: &'a [PathBuf],
}

impl Lists<'_> {
    /// Finds a user.
    ///
    /// # Errors
    /// A name that passwd does not have; numbers that are none; a file that cannot be read.
    pub fn find(&self, asked: &str) -> Result<User> {
        parse(asked, &self.read("passwd")?, &self.read("group")?)
    }

    fn read(&self, name: &str) -> Result<String> {
        let directory = Path::new("/etc");
        let list = directory.join(name);
        // The inner one covers the outer one.
        if let Some(source) = self.source_on(&list) {
            let above = source.parent().unwrap_or(source);
            return read(above, Path::new(source.file_name().unwrap_or_default()));
        }
        if let Some(source) = self.source_on(directory) {
            return read(source, Path::new(name));
        }
        if self.tmpfs.iter().any(|place| place == directory) {
            return Ok(String::new());
        }
        let root = self.root.unwrap_or(Path::new("/"));
        read(root, &Path::new("etc").join(name))
    }

    fn source_on(&self, place: &Path) -> Option<&Path> {
        let volume = self.volumes.iter().find(|one| one.destination == place);
        volume.map(|volume| volume.source.as_path())
    }
}

/// All of a file below a directory; nothing where there is none. Half of it would make somebody else of a user.
fn read(root: &Path, path: &Path) -> Result<String> {
    let doing = || format!("read {}", root.join(path).display());
    let directory = open_path(root).doing(doing)?;
    let file = match open_file_in_root(&directory, path) {
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EINVAL) => return Ok(String::new()),
        opened => opened.doing(doing)?,
    };
    let mut text = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut text).doing(doing)?;
    if text.len() as u64 > LONGEST {
        return Err(Error::new(format!(
            "{}: it is longer than {} MiB, and no list of users or groups; put a shorter one there",
            doing(),
            LONGEST >> 20
        )));
    }
    // What is no text has no user that we could name.
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn parse(asked: &str, passwd: &str, group: &str) -> Result<User> {
    let (who, asked_group) = match asked.split_once(':') {
        Some((who, group)) => (who, Some(group)),
        None => (asked, None),
    };
    // Digits are a number, whatever names an image has.
    let is_number = !who.is_empty() && who.bytes().all(|b| b.is_ascii_digit());
    let asked_number = if is_number { number(who) } else { None };
    let is_asked_for = |entry: &Vec<&str>| match asked_number {
        Some(uid) => entry.get(2).and_then(|word| number(word)) == Some(uid),
        None => !is_number && !who.is_empty() && entry[0] == who,
    };
    let entry = entries(passwd).find(is_asked_for);
    let number_at = |at: usize| entry.as_ref().and_then(|entry| number(entry.get(at)?));
    let uid = number_at(2).or(asked_number);
    let Some(uid) = uid else {
        return Err(Error::new(format!(
            "run as user {who:?}: the container's /etc/passwd has no such name; give a number, or add it there"
        )));
    };
    let gid = match asked_group {
        Some(name) => Some(find_group(name, group)?),
        None => number_at(3),
    };
    let group_word = entry.as_ref().and_then(|entry| entry.get(3));
    if let (None, Some(word)) = (gid, group_word.filter(|word| !word.is_empty())) {
        // 0, which who has no group gets, would be root's.
        return Err(Error::new(format!(
            "run as user {who:?}: {word:?} is no group's number in the container's /etc/passwd; name a group (-u {who}:GROUP)"
        )));
    }
    let name = entry.as_ref().map_or("", |entry| entry[0]);
    // Asked for one group: that one alone.
    let groups = if asked_group.is_some() {
        Vec::new()
    } else {
        memberships(name, group)
    };
    if groups.len() > GROUPS {
        return Err(Error::new(format!(
            "run as user {who:?}: the container's /etc/group has it in {} groups, and a command gets {GROUPS}; name one (-u {who}:GROUP)",
            groups.len()
        )));
    }
    let home = entry
        .as_ref()
        .and_then(|entry| entry.get(5))
        .filter(|home| home.starts_with('/'));
    let home = home
        .map_or(if uid == 0 { "/root" } else { "/" }, |home| home)
        .to_string();
    Ok(User {
        uid,
        gid: gid.unwrap_or(0),
        groups,
        home,
    })
}

/// A user's or group's number. The last one is nobody's: in the kernel's calls it means "leave alone".
fn number(word: &str) -> Option<u32> {
    word.parse().ok().filter(|number| *number != u32::MAX)
}

fn find_group(asked: &str, group: &str) -> Result<u32> {
    let is_number = !asked.is_empty() && asked.bytes().all(|b| b.is_ascii_digit());
    let found = match is_number {
        true => number(asked),
        false => entries(group)
            .find(|entry| entry[0] == asked)
            .and_then(|entry| number(entry.get(2)?)),
    };
    found.ok_or_else(|| {
        Error::new(format!("run as group {asked:?}: the container's /etc/group has no such name; give a number, or add it there"))
    })
}

fn memberships(user: &str, group: &str) -> Vec<u32> {
    let is_member = |entry: &Vec<&str>| {
        !user.is_empty()
            && entry
                .get(3)
                .is_some_and(|list| list.split(',').any(|m| m == user))
    };
    entries(group)
        .filter(is_member)
        .filter_map(|entry| number(entry.get(2)?))
        .collect()
}

fn entries(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(':').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/srv:/bin/false\nodd:x:no:1::/:\nlast:x:4294967295:1::/:\nlost:x:34:4294967295::/:\nbare:x:35\n";
    const GROUP: &str = "root:x:0:\nwww:x:33:\nnet:x:40:web,odd\nlog:x:41:other,web\n";

    #[test]
    fn names_and_numbers() {
        let user = |asked| parse(asked, PASSWD, GROUP).unwrap();
        let web = User {
            uid: 33,
            gid: 33,
            groups: vec![40, 41],
            home: "/srv".into(),
        };
        assert_eq!(user("web"), web);
        assert_eq!(user("33"), web);
        assert_eq!(user("033"), web);
        assert_eq!(
            user("web:log"),
            User {
                gid: 41,
                groups: vec![],
                ..web.clone()
            }
        );
        assert_eq!(
            user("1000"),
            User {
                uid: 1000,
                gid: 0,
                groups: vec![],
                home: "/".into()
            }
        );
        assert_eq!(
            user("1000:1001"),
            User {
                uid: 1000,
                gid: 1001,
                groups: vec![],
                home: "/".into()
            }
        );
        assert_eq!(user("0").home, "/root");
        assert_eq!((user("lost:40").gid, user("bare").gid), (40, 0));
    }

    #[test]
    fn what_is_nobody_is_refused() {
        for bad in [
            "nobody",
            "",
            "odd",
            "last",
            "lost",
            "34",
            "web:none",
            "4294967295",
            "-1",
            "99999999999",
            "0:-1",
        ] {
            assert!(parse(bad, PASSWD, GROUP).is_err(), "{bad}");
        }
    }
}

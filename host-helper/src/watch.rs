//! Notices when files of the host change, whoever changes them and how, and wakes up for nothing else.
//!
//! What is watched is never what is in a directory, which would be everything that happens in `/etc` or `/run`, but the
//! file itself, each symbolic link that leads to it, and each directory on the way: one that is replaced, removed or
//! renamed says so by itself (its count of links changes, or it is moved). Only of what is missing the directory must
//! tell when it comes.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Component, Path, PathBuf};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use crate::sys;

/// Files that are watched.
pub struct Watch {
    inotify: Inotify,
    watched: Vec<(WatchDescriptor, AddWatchFlags)>,
}

/// What of a file is of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// All of it.
    Content,
    /// Not who writes it.
    Attributes,
}

/// What happens to a thing itself.
const ITSELF: AddWatchFlags = AddWatchFlags::IN_MOVE_SELF.union(AddWatchFlags::IN_DELETE_SELF);
/// The same for what has a count of links that is its names: the old file of a rename(2) over it loses one.
const LINK: AddWatchFlags = ITSELF
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_DONT_FOLLOW);
/// Its content too.
const FILE: AddWatchFlags = LINK.union(AddWatchFlags::IN_MODIFY);
const DIRECTORY: AddWatchFlags = ITSELF.union(AddWatchFlags::IN_ONLYDIR);
/// Where something is missing.
const PLACE: AddWatchFlags = DIRECTORY
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_MOVED_TO);

impl Watch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// inotify(7): the user has as many as `fs.inotify.max_user_instances` allows.
    pub fn new() -> nix::Result<Self> {
        // 128 for all programs of a user. A thousand supervisors would leave none to the host's others: each takes its
        // own as a user that nobody is. Where that cannot be (a user namespace) it is one of ours.
        let inotify =
            sys::as_nobody_else(|| Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK))?;
        Ok(Watch {
            inotify,
            watched: Vec::new(),
        })
    }

    /// Watches these from here on, and nothing else. What is read after this is not changed unnoticed.
    pub fn follow(&mut self, paths: &[(&Path, Of)]) {
        let before = std::mem::take(&mut self.watched);
        for (path, of) in paths {
            for (path, flags) in way_to(path, *of) {
                // What is gone again is noticed by the others.
                let Ok(number) = self.inotify.add_watch(&path, flags) else {
                    continue;
                };
                match self.watched.iter_mut().find(|(known, _)| *known == number) {
                    // Two of them lead through it, and the last one's word would be all that counts.
                    Some((_, known)) => {
                        *known |= flags;
                        let _ = self.inotify.add_watch(&path, *known);
                    }
                    None => self.watched.push((number, flags)),
                }
            }
        }
        for (old, _) in before {
            if self.watched.iter().all(|(now, _)| *now != old) {
                let _ = self.inotify.rm_watch(old);
            }
        }
    }

    /// Whether something has changed since the last time this was asked. Never waits.
    pub fn has_changed(&self) -> bool {
        let mut has = false;
        while let Ok(events) = self.inotify.read_events() {
            // Not the end of a watch that we have ended.
            has |= events.iter().any(|event| {
                event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW)
                    || self.watched.iter().any(|(number, _)| *number == event.wd)
            });
        }
        has
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// Everything that a path leads through (path_resolution(7)), and what to watch it for.
fn way_to(path: &Path, of: Of) -> Vec<(PathBuf, AddWatchFlags)> {
    const MOST: usize = 40; // as many links as the kernel follows
    let mut way = Vec::new();
    let mut links = 0;
    let mut here = PathBuf::from("/");
    let mut left: VecDeque<OsString> = words(path).collect();
    while let Some(word) = left.pop_front() {
        if word == ".." {
            here.pop();
            continue;
        }
        let next = here.join(word);
        let Ok(found) = next.symlink_metadata() else {
            way.push((here, PLACE));
            break;
        };
        if found.is_symlink() && links < MOST {
            links += 1;
            let target = next.read_link().unwrap_or_default();
            if target.is_absolute() {
                here = PathBuf::from("/");
            }
            for word in words(&target).collect::<Vec<_>>().into_iter().rev() {
                left.push_front(word);
            }
            way.push((next, LINK));
        } else if found.is_dir() {
            here.clone_from(&next);
            way.push((next, DIRECTORY));
        } else {
            way.push((next, if of == Of::Content { FILE } else { LINK }));
            break;
        }
    }
    way
}

fn words(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(_) | Component::ParentDir => Some(part.as_os_str().to_owned()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("hawser-watch-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path.canonicalize().unwrap()
    }

    fn replace(path: &Path, text: &str) {
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }

    #[test]
    fn every_way_to_change_a_file_is_noticed_again_and_again_and_no_neighbour() {
        let at = directory("all");
        let (link, real) = (at.join("link"), at.join("deep/er/real"));
        fs::create_dir_all(at.join("deep/er")).unwrap();
        fs::write(&real, "1").unwrap();
        symlink("deep/er/../er/real", &link).unwrap();
        let mut watch = Watch::new().unwrap();
        watch.follow(&[(&link, Of::Content)]);
        assert!(!watch.has_changed());
        let retarget = || {
            symlink("deep/other", at.join("link.new")).unwrap();
            fs::rename(at.join("link.new"), &link).unwrap();
        };
        let ways: [(&str, &dyn Fn()); 9] = [
            ("in place", &|| fs::write(&real, "2").unwrap()),
            ("by rename", &|| replace(&real, "3")),
            ("by rename again", &|| replace(&real, "4")),
            ("removed", &|| fs::remove_file(&real).unwrap()),
            ("made again", &|| fs::write(&real, "5").unwrap()),
            ("a directory away", &|| {
                fs::rename(at.join("deep"), at.join("away")).unwrap()
            }),
            ("a directory back", &|| {
                fs::rename(at.join("away"), at.join("deep")).unwrap()
            }),
            ("another link", &retarget),
            ("what it leads to comes", &|| {
                fs::write(at.join("deep/other"), "6").unwrap()
            }),
        ];
        for (name, change) in ways {
            for neighbour in ["x", "deep/x", "deep/er/x"] {
                let neighbour = at.join(neighbour);
                if neighbour.parent().is_some_and(Path::exists)
                    && real.exists()
                    && name != "what it leads to comes"
                {
                    fs::write(&neighbour, "x").unwrap();
                    fs::remove_file(neighbour).unwrap();
                }
            }
            assert!(!watch.has_changed(), "before: {name}");
            change();
            assert!(watch.has_changed(), "{name}");
            watch.follow(&[(&link, Of::Content)]);
            watch.has_changed();
        }
        fs::remove_dir_all(at).unwrap();
    }

    #[test]
    fn a_loop_of_links_ends() {
        let at = directory("loop");
        symlink("loop", at.join("loop")).unwrap();
        assert!(way_to(&at.join("loop"), Of::Content).len() < 60);
        fs::remove_dir_all(at).unwrap();
    }
}

//! What is mounted into the view because somebody has asked for it: volumes, and empty file systems.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;

use super::{NODEV, NOSUID, RDONLY, Rootfs, Volume};
use crate::error::{Doing, Result};
use crate::inside::{
    Kind, Parents, Permission, is_directory, open_directory, open_or_make, open_path,
};
use crate::sys::{attach_tree, clone_tree, make_mount, set_mount_attributes};

/// A copy of a volume's mounts, with what it is to be inside.
pub(super) struct Copy {
    tree: OwnedFd,
    kind: Kind,
}

pub(super) fn copy_volumes(rootfs: &Rootfs) -> Result<Vec<Copy>> {
    let copy = |volume: &Volume| {
        let source = &volume.source;
        let doing = || format!("bind {}", source.display());
        let from = open_path(source).doing(doing)?;
        let kind = if is_directory(&from).doing(doing)? {
            Kind::Directory
        } else {
            Kind::File
        };
        let tree = clone_tree(&from, c"", true).doing(doing)?;
        if let Some(users) = &rootfs.users {
            users.show_as_own(&tree, source, true)?;
        }
        let attributes = if volume.is_read_only {
            NODEV | RDONLY
        } else {
            NODEV
        };
        set_mount_attributes(&tree, attributes, true).doing(doing)?;
        Ok(Copy { tree, kind })
    };
    rootfs.volumes.iter().map(copy).collect()
}

pub(super) fn mount_volumes(
    root: &OwnedFd,
    rootfs: &Rootfs,
    volumes: Vec<Copy>,
    permission: &Permission,
) -> Result<()> {
    let (tmpfs, bound) = (
        rootfs.tmpfs.iter(),
        volumes.into_iter().zip(&rootfs.volumes),
    );
    let tmpfs = tmpfs.map(|destination| (destination, None));
    let bound = bound.map(|(copy, volume)| (&volume.destination, Some((copy, volume))));
    let mut all: Vec<_> = tmpfs.chain(bound).collect();
    // What is mounted later on a directory above hides what is below.
    all.sort_by_key(|(destination, _)| destination.components().count());
    for (destination, bound) in all {
        match bound {
            None => mount_tmpfs(root, rootfs, destination, permission)?,
            Some((copy, volume)) => mount_volume(root, copy, volume, permission)?,
        }
    }
    Ok(())
}

/// Of a place that is missing, and cannot be made.
const MISSING: &str = "it is not there, and cannot be made: make it in the root file system";

fn mount_tmpfs(
    root: &OwnedFd,
    rootfs: &Rootfs,
    destination: &Path,
    permission: &Permission,
) -> Result<()> {
    let doing = || format!("mount a tmpfs on {}", destination.display());
    let kind = Kind::Directory;
    let place = open_or_make(root, destination, kind, Parents::Make, permission).doing(doing);
    let place = place.map_err(|error| error.cure(Errno::EROFS, MISSING))?;
    let tmpfs = make_mount(c"tmpfs", &[(c"mode", c"1777")], NOSUID | NODEV).doing(doing)?;
    if let Some(users) = &rootfs.users {
        let top = open_directory(&tmpfs, ".").doing(doing)?;
        users.map.own(top).doing(doing)?;
    }
    attach_tree(&tmpfs, &place).doing(doing)
}

fn mount_volume(
    root: &OwnedFd,
    Copy { tree, kind }: Copy,
    volume: &Volume,
    permission: &Permission,
) -> Result<()> {
    let (source, destination) = (&volume.source, &volume.destination);
    let doing = || format!("bind {} on {}", source.display(), destination.display());
    let place = open_or_make(root, destination, kind, Parents::Make, permission).doing(doing);
    let place = place.map_err(|error| error.cure(Errno::EROFS, MISSING))?;
    attach_tree(&tree, &place).doing(doing)
}

//! What is mounted into the view because somebody has asked for it: volumes, and empty file systems.

use std::os::fd::OwnedFd;

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
    for destination in &rootfs.tmpfs {
        let doing = || format!("mount a tmpfs on {}", destination.display());
        let place = open_or_make(
            root,
            destination,
            Kind::Directory,
            Parents::Make,
            permission,
        )
        .doing(doing)?;
        let tmpfs = make_mount(c"tmpfs", &[(c"mode", c"1777")], NOSUID | NODEV).doing(doing)?;
        if let Some(users) = &rootfs.users {
            let top = open_directory(&tmpfs, ".").doing(doing)?;
            users.map.own(top).doing(doing)?;
        }
        attach_tree(&tmpfs, &place).doing(doing)?;
    }
    for (Copy { tree, kind }, volume) in volumes.into_iter().zip(&rootfs.volumes) {
        let (source, destination) = (&volume.source, &volume.destination);
        let doing = || format!("bind {} on {}", source.display(), destination.display());
        let place = open_or_make(root, destination, kind, Parents::Make, permission).doing(doing);
        let cure = "it is not there, and cannot be made: make it in the root file system";
        let place = place.map_err(|error| error.cure(Errno::EROFS, cure))?;
        attach_tree(&tree, &place).doing(doing)?;
    }
    Ok(())
}

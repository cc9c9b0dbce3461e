//! Opening what lies below a folder, without waiting for a disk or without leaving the folder.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use crate::config::Symlinks;

/// Whether opening may wait for a disk, or for whatever the file system is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    /// What the kernel does not know by heart is an error, [`io::ErrorKind::WouldBlock`].
    Cached,
    Blocking,
}

/// Whoever opens a FIFO must not wait for somebody who writes into it, and no terminal may become
/// ours.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A rename while a path is followed makes the kernel give up (openat2(2)); this often it is asked
/// again.
const ATTEMPTS: usize = 8;

/// Opens `below`, which is relative, in the folder `base`; an empty `below` is the base itself.
/// Symbolic links in the path of the base are the operator's and always followed.
pub(super) fn open(
    base: &Path,
    below: &Path,
    symlinks: Symlinks,
    how: How,
) -> io::Result<(File, Metadata)> {
    let is_base = below.as_os_str().is_empty();
    let descriptor = match symlinks {
        _ if is_base => trusted(base, FILE, how)?,
        Symlinks::Follow => trusted(&base.join(below), FILE, how)?,
        Symlinks::Deny => {
            let policy = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            confined(base, below, policy, how)?
        }
        Symlinks::Within => confined(base, below, ResolveFlags::BENEATH, how)?,
    };
    let file = File::from(descriptor);
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

fn trusted(path: &Path, flags: OFlags, how: How) -> io::Result<OwnedFd> {
    match how {
        How::Cached => {
            openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED).map_err(unless_blocking)
        }
        // Not openat2, which kernels before Linux 5.6 lack and some sandboxes forbid.
        How::Blocking => Ok(openat(CWD, path, flags, Mode::empty())?),
    }
}

fn confined(base: &Path, below: &Path, policy: ResolveFlags, how: How) -> io::Result<OwnedFd> {
    let folder = trusted(base, FOLDER, how)?;
    let open = |more| openat2(&folder, below, FILE, Mode::empty(), policy | more);
    if how == How::Cached {
        return open(ResolveFlags::CACHED).map_err(unless_blocking);
    }
    let mut result = open(ResolveFlags::empty());
    for _ in 1..ATTEMPTS {
        if !matches!(result, Err(Errno::AGAIN)) {
            break;
        }
        result = open(ResolveFlags::empty());
    }
    result.map_err(|error| match error {
        // Nobody is left who could wait.
        Errno::AGAIN => io::ErrorKind::ResourceBusy.into(),
        error => error.into(),
    })
}

/// A kernel that cannot say whether it would block is one that may block.
fn unless_blocking(error: Errno) -> io::Error {
    match error {
        Errno::AGAIN | Errno::NOSYS | Errno::INVAL | Errno::PERM => {
            io::ErrorKind::WouldBlock.into()
        }
        error => error.into(),
    }
}

//! The namespaces of a lab: named, as `ip netns` keeps them.

use anyhow::{Context, Result};
pub use lasthop_kernel::netns::names;
use lasthop_kernel::netns::{self as kernel, Netns, NetnsRef};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// The file of a namespace.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    NetnsRef::Name(name.to_owned()).path()
}

/// The inode that tells a namespace from others.
#[must_use]
pub fn inode(name: &str) -> Option<u64> {
    Some(fs::metadata(path(name)).ok()?.ino())
}

/// Opens a namespace.
///
/// # Errors
/// If there is none of that name.
pub fn open(name: &str) -> Result<Netns> {
    Ok(Netns::open(&NetnsRef::Name(name.to_owned()))?)
}

/// Runs `work` on a thread of its own in the namespace, and gives back what it returns.
///
/// # Errors
/// If there is no such namespace or it cannot be entered.
pub fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    Ok(open(name)?.run(work)?)
}

/// Moves the calling thread into the namespace, with a `/sys` that shows it (as `ip netns exec` does).
///
/// # Errors
/// If there is no such namespace or it cannot be entered.
pub fn enter_with_sysfs(name: &str) -> Result<()> {
    let file = File::open(path(name)).with_context(|| format!("there is no network namespace '{name}'"))?;
    setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter '{name}': are you root?"))?;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none).context("cannot detach mounts")?;
    let read_only =
        nix::sys::statvfs::statvfs("/sys").is_ok_and(|s| s.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY));
    let flags = if read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    mount(Some(name), "/sys", Some("sysfs"), flags, none).context("cannot mount /sys")
}

/// Makes a namespace with loopback up and without duplicate address detection.
///
/// # Errors
/// If the name is taken or the caller is not root.
pub fn create(name: &str) -> Result<()> {
    let made = kernel::create(name).with_context(|| {
        format!("cannot make the network namespace '{name}': is there one already ('ip netns del {name}'), or are you not root?")
    })?;
    made.run(|| {
        for setting in ["all/accept_dad", "default/accept_dad", "default/dad_transmits", "default/accept_ra"] {
            let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{setting}"), "0"); // absent without IPv6
        }
    })?;
    crate::links::Inside::run(name, |inside| inside.up("lo"))
}

/// Takes a namespace's name away; it goes when no process is in it. None of that name is no mistake.
///
/// # Errors
/// If the name cannot be removed.
pub fn delete(name: &str) -> Result<()> {
    kernel::delete(name)?;
    Ok(())
}

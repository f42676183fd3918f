//! Named network namespaces, as iproute2 keeps them: files under `/run/netns` with the namespace mounted on.

use anyhow::{Context, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const DIRECTORY: &str = "/run/netns";

/// The file of a namespace.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// The names of all namespaces.
#[must_use]
pub fn all() -> Vec<String> {
    let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The inode that tells a namespace from others.
#[must_use]
pub fn inode(name: &str) -> Option<u64> {
    Some(fs::metadata(path(name)).ok()?.ino())
}

/// Runs `work` on a thread of its own in the namespace, and gives back what it returns.
///
/// # Errors
/// If there is no such namespace or it cannot be entered.
pub fn within<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(path(name)).with_context(|| format!("there is no network namespace '{name}'"))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter the network namespace '{name}': are you root?"))?;
            Ok(work())
        });
        thread.join().map_err(|_| anyhow!("work in the network namespace '{name}' panicked"))?
    })
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

//! One program of a kind for each run directory: whoever holds the lock file.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// Holds a lock file with our process id in it; gone with the process, however it ends.
pub(crate) type Lock = Flock<File>;

/// How long a process that was just killed may take to let go: one that ended a moment ago is no other one.
const PATIENCE: Duration = Duration::from_secs(3);

/// Takes the lock file; `None` if another process holds it, and goes on doing so.
///
/// # Errors
/// If the file cannot be made, locked or written.
pub(crate) fn take(path: &Path) -> io::Result<Option<Lock>> {
    take_within(path, PATIENCE)
}

fn take_within(path: &Path, patience: Duration) -> io::Result<Option<Lock>> {
    let mut file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    let end = Instant::now() + patience;
    let mut lock = loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => break lock,
            Err((_, Errno::EWOULDBLOCK)) if Instant::now() >= end => return Ok(None),
            Err((again, Errno::EWOULDBLOCK)) => file = again,
            Err((_, error)) => return Err(error.into()),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    lock.set_len(0)?;
    writeln!(lock, "{}", std::process::id())?;
    Ok(Some(lock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one_until_it_lets_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let held = take(&path).unwrap();
        assert!(held.is_some());
        assert!(take_within(&path, Duration::from_millis(20)).unwrap().is_none());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        let leaving = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(held);
        });
        assert!(take(&path).unwrap().is_some(), "one that is on its way out is waited for");
        leaving.join().unwrap();
    }
}

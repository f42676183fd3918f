//! One program of a kind for each run directory: whoever holds the lock file. And one agent for each network namespace:
//! whoever listens at an abstract name (unix(7)), of which each network namespace has its own.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{getsockopt, sockopt};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
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

/// The abstract name of the agent that configures a network namespace.
const NAMESPACE: &[u8] = b"lasthop-agent";

/// Claims the network namespace; `None` if an agent of root's, or of our own user's, goes on holding it. The name is free
/// for anybody to take, so that another user's process in its place keeps no agent from its work.
///
/// # Errors
/// If the name cannot be taken for another reason.
pub(crate) fn claim_namespace() -> io::Result<Option<UnixListener>> {
    claim(NAMESPACE, PATIENCE)
}

fn claim(name: &[u8], patience: Duration) -> io::Result<Option<UnixListener>> {
    let address = SocketAddr::from_abstract_name(name)?;
    let end = Instant::now() + patience;
    loop {
        match UnixListener::bind_addr(&address) {
            Ok(claim) => return Ok(Some(claim)),
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(error),
            Err(_) => {}
        }
        if let Ok(holder) = UnixStream::connect_addr(&address)
            && let Ok(holder) = getsockopt(&holder, sockopt::PeerCredentials)
            && ![0, nix::unistd::geteuid().as_raw()].contains(&holder.uid())
        {
            tracing::warn!(
                pid = holder.pid(),
                uid = holder.uid(),
                "a process that is no agent has taken the agent's name"
            );
            let other = format!("{}-{}", String::from_utf8_lossy(name), std::process::id());
            return UnixListener::bind_addr(&SocketAddr::from_abstract_name(other)?).map(Some);
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
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

    #[test]
    fn a_name_is_claimed_by_one_and_free_again_with_it() {
        let name = format!("lasthop-test-{}", std::process::id());
        let held = claim(name.as_bytes(), Duration::ZERO).unwrap();
        assert!(held.is_some());
        assert!(claim(name.as_bytes(), Duration::from_millis(20)).unwrap().is_none());
        drop(held);
        assert!(claim(name.as_bytes(), Duration::ZERO).unwrap().is_some());
    }
}

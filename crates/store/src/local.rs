//! Sockets of this host's own programs: for root, and for one group at most, from the first moment that their name is there.
//!
//! unix(7) makes a socket by the umask and only then lets its mode be changed; so it is made in a directory that nobody
//! else may enter, and appears under its name when it is ready.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::Path;
use tokio::net::UnixListener;

/// Listens at `path`, in place of whatever socket was there before.
///
/// # Errors
/// If the socket cannot be made, or not be given to the group.
pub fn listen(path: &Path, group: Option<u32>) -> io::Result<UnixListener> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = Path::new(&aside);
    match std::fs::remove_dir_all(aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(aside)?;
    let socket = aside.join("s");
    let listener = UnixListener::bind(&socket)?;
    std::fs::set_permissions(&socket, Permissions::from_mode(if group.is_some() { 0o660 } else { 0o600 }))?;
    if group.is_some() {
        chown(&socket, None, group)?;
    }
    std::fs::rename(&socket, path)?;
    std::fs::remove_dir(aside)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileTypeExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Sockets in a directory that others may reach, and their modes.
    fn sockets(directory: &Path) -> Vec<u32> {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let metadata = entries.filter_map(|entry| entry.metadata().ok()).filter(|m| m.file_type().is_socket());
        metadata.map(|metadata| metadata.permissions().mode() & 0o777).collect()
    }

    #[tokio::test]
    async fn nobody_else_can_reach_a_socket_at_any_moment_of_its_making() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut open = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    open.extend(sockets(directory.path()).into_iter().filter(|mode| mode & 0o077 != 0));
                }
                open
            });
            for _ in 0..2000 {
                drop(listen(&path, None).unwrap());
            }
            done.store(true, Ordering::Relaxed);
            let open = watcher.join().unwrap();
            assert!(open.is_empty(), "seen with modes {open:?}");
        });
        assert_eq!(sockets(directory.path()), [0o600]);
        let listener = listen(&path, Some(0)).unwrap();
        assert_eq!(sockets(directory.path()), [0o660]);
        std::fs::create_dir(directory.path().join("a.sock.new")).unwrap(); // left by one that was killed over it
        let second = listen(&path, None).unwrap();
        assert!(tokio::net::UnixStream::connect(&path).await.is_ok());
        second.accept().await.unwrap();
        drop(listener);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}

//! Network namespaces: find one, make a named one as `ip netns add` does, do something inside.
//!
//! A thread, not a process, is in a namespace, and what it opens (netlink sockets, /proc/sys/net, TAPs) belongs
//! to the namespace it was in at that moment. So work inside another namespace is done on a thread of its own,
//! which ends with the work: no thread of ours ever comes back from somewhere else.

mod further;
mod inside;

pub use inside::{GATEWAY_V4, Inside, configure, gateway_v6};

use crate::Error;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where named namespaces are mounted.
const NAMED: &str = "/run/netns";
/// The calling thread's own.
const OWN: &str = "/proc/thread-self/ns/net";

/// How a namespace is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsRef {
    /// A file, e.g. `/run/netns/blue` or `/proc/4711/ns/net`.
    Path(PathBuf),
    /// A name under /run/netns.
    Name(String),
    /// That of a process.
    Pid(u32),
}

impl NetnsRef {
    /// The file that stands for it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Path(path) => path.clone(),
            Self::Name(name) => Path::new(NAMED).join(name),
            Self::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
        }
    }
}

impl fmt::Display for NetnsRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Name(name) => f.write_str(name),
            Self::Pid(pid) => write!(f, "pid {pid}"),
        }
    }
}

impl FromStr for NetnsRef {
    type Err = Error;

    /// A path has a slash; `pid:4711` or plain digits are a process; anything else is a name.
    fn from_str(text: &str) -> Result<Self, Error> {
        if text.contains('/') {
            return Ok(Self::Path(text.into()));
        }
        if let Ok(pid) = text.strip_prefix("pid:").unwrap_or(text).parse() {
            return Ok(Self::Pid(pid));
        }
        if text.is_empty() || text == "." || text == ".." || text.starts_with("pid:") {
            let fix = "give a path, a name under /run/netns, or pid:NUMBER";
            return Err(Error::Invalid(format!("'{text}' is not a network namespace: {fix}")));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

/// An open network namespace; it lives at least as long as this.
#[derive(Debug)]
pub struct Netns {
    file: File,
    told: NetnsRef,
}

impl Netns {
    /// Opens a namespace.
    pub fn open(reference: &NetnsRef) -> Result<Self, Error> {
        let path = reference.path();
        let attempted = || format!("open network namespace {reference}");
        let file = File::open(&path).map_err(|error| Error::io(attempted(), &error))?;
        // NSFS_MAGIC: what is not a namespace must fail here, with its name, and not later in setns.
        let is_namespace =
            nix::sys::statfs::fstatfs(&file).is_ok_and(|s| s.filesystem_type() == nix::sys::statfs::NSFS_MAGIC);
        if !is_namespace {
            return Err(Error::Invalid(format!("{} is not a network namespace", path.display())));
        }
        Ok(Self { file, told: reference.clone() })
    }

    /// The calling thread's own namespace.
    pub fn current() -> Result<Self, Error> {
        Self::open(&NetnsRef::Path(OWN.into()))
    }

    /// How it was told when opened.
    #[must_use]
    pub fn told(&self) -> &NetnsRef {
        &self.told
    }

    /// Whether both are the same namespace.
    pub fn is_same(&self, other: &Self) -> Result<bool, Error> {
        use std::os::unix::fs::MetadataExt;
        let stat =
            |ns: &Self| ns.file.metadata().map_err(|e| Error::io(format!("look at network namespace {}", ns.told), &e));
        let (one, two) = (stat(self)?, stat(other)?);
        Ok(one.dev() == two.dev() && one.ino() == two.ino())
    }

    /// Does something inside, on a thread of its own, and waits for it. A panic in it goes on in the caller.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R, Error> {
        let attempted = || format!("enter network namespace {}", self.told);
        let enter = || setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::system(attempted(), errno));
        on_own_thread(|| enter().map(|()| work()))?
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Runs `work` on a thread that ends with it.
fn on_own_thread<R: Send>(work: impl FnOnce() -> R + Send) -> Result<R, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned());
        let handle = thread.spawn_scoped(scope, work).map_err(|error| Error::io("start a thread", &error))?;
        handle.join().map_or_else(|panic| std::panic::resume_unwind(panic), Ok)
    })
}

/// Makes a named namespace, as `ip netns add` does: an empty one, held by a mount on /run/netns/NAME.
pub fn create(name: &str) -> Result<Netns, Error> {
    let attempted = || format!("create network namespace {name}");
    let system = |errno| Error::system(attempted(), errno);
    let io = |error: std::io::Error| Error::io(attempted(), &error);
    let path = NetnsRef::Name(name.to_owned()).path();
    let _lock = share_directory().map_err(system)?;
    File::options().write(true).create_new(true).open(&path).map_err(io)?;
    let made = on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(Some(OWN), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
    })?;
    if let Err(errno) = made {
        let _ = std::fs::remove_file(&path);
        return Err(system(errno));
    }
    Netns::open(&NetnsRef::Name(name.to_owned()))
}

/// Makes /run/netns a shared mount, so that names made here are seen in every mount namespace and can be removed
/// from there. Gives the lock that `ip netns` takes for the same.
fn share_directory() -> Result<Flock<File>, Errno> {
    let code = |error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    std::fs::create_dir_all(NAMED).map_err(code)?;
    let directory = File::open(NAMED).map_err(code)?;
    let lock = Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let share = || mount(None::<&str>, NAMED, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        Err(Errno::EINVAL) => {
            // Not a mount point yet.
            mount(Some(NAMED), NAMED, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
            share()?;
        }
        other => other?,
    }
    Ok(lock)
}

/// Removes a namespace's name; true if there was one. The namespace itself goes with its last user.
pub fn delete(name: &str) -> Result<bool, Error> {
    let path = NetnsRef::Name(name.to_owned()).path();
    let attempted = || format!("delete network namespace {name}");
    match umount2(&path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL) => {}
        Err(Errno::ENOENT) => return Ok(false),
        Err(errno) => return Err(Error::system(attempted(), errno)),
    }
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io(attempted(), &error)),
    }
}

/// The names under /run/netns.
pub fn names() -> Result<Vec<String>, Error> {
    let attempted = "list /run/netns";
    match std::fs::read_dir(NAMED) {
        Ok(entries) => entries
            .map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_, _>>()
            .map_err(|error| Error::io(attempted, &error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io(attempted, &error)),
    }
}

//! Networks of network namespaces for tests, on one machine and side by side.
//!
//! A [`Net`] is a bridge in a namespace of its own; each [`Host`] is a namespace with `eth0` on that bridge. Every
//! name begins with `lht<pid>-<number>`, so that tests of one process and of several do not meet, and everything
//! goes with the `Net`, also when the test panics. Nothing outside these namespaces is touched.
//!
//! ```no_run
//! use lasthop_testkit::netns::Net;
//! # fn main() -> anyhow::Result<()> {
//! let net = Net::new()?;
//! let a = net.host("a", &["10.99.0.1/24", "fd00:99::1/64"])?;
//! let b = net.host("b", &["10.99.0.2/24", "fd00:99::2/64"])?;
//! a.run("ping", &["-c1", "10.99.0.2"])?;
//! let listener = b.enter(|| std::net::TcpListener::bind("10.99.0.2:179"))?;
//! # Ok(()) }
//! ```

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Networks made by this process so far.
static NETS: AtomicU32 = AtomicU32::new(0);

/// A bridge with hosts on it. Everything goes when the last of it and its hosts is dropped.
#[derive(Clone, Debug)]
pub struct Net {
    fabric: Arc<Namespace>,
    prefix: String,
}

/// One namespace with `eth0` on its network's bridge.
#[derive(Clone, Debug)]
pub struct Host {
    namespace: Arc<Namespace>,
    net: Net,
    port: String,
}

/// Whether a host's frames pass the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// As on a good day.
    Pass,
    /// Silently lost, both ways; the carrier stays.
    Lost,
}

#[derive(Debug)]
struct Namespace {
    name: String,
    handle: File,
}

impl Net {
    /// A new bridge in a new namespace.
    ///
    /// # Errors
    /// If this is not root, or `ip` fails.
    pub fn new() -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "network namespaces need root: run the tests as root");
        let number = NETS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("lht{}-{number}", std::process::id());
        let fabric = Namespace::new(&format!("{prefix}-fabric"))?;
        fabric.ip("link set lo up\nlink add br0 type bridge\nlink set br0 up\n")?;
        Ok(Self { fabric: Arc::new(fabric), prefix })
    }

    /// A new host with these addresses (each with its prefix length) on `eth0`. IPv6 addresses are usable at once,
    /// and packets are forwarded.
    ///
    /// # Errors
    /// If the name is taken or `ip` fails.
    pub fn host(&self, name: &str, addresses: &[&str]) -> Result<Host> {
        let port = format!("p-{name}");
        ensure!(port.len() <= 15, "host name '{name}' is too long for an interface name: use at most 13 letters");
        let namespace = Namespace::new(&format!("{}-{name}", self.prefix))?;
        self.fabric.ip(&format!(
            "link add {port} type veth peer name eth0 netns {}\nlink set {port} master br0 up\n",
            namespace.name
        ))?;
        let mut batch = String::from("link set lo up\nlink set eth0 up\n");
        for address in addresses {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            batch.push_str(&format!("addr add {address} dev eth0{nodad}\n"));
        }
        namespace.ip(&batch)?;
        let host = Host { namespace: Arc::new(namespace), net: self.clone(), port };
        host.enter(|| {
            for (key, value) in [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")] {
                std::fs::write(format!("/proc/sys/net/{key}"), value).with_context(|| format!("sysctl {key}"))?;
            }
            anyhow::Ok(())
        })?;
        Ok(host)
    }
}

impl Host {
    /// The namespace's name, as `ip netns` knows it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.namespace.name
    }

    /// The namespace's file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace.name)
    }

    /// Runs `work` in this namespace, on a thread of its own. Sockets made there stay in the namespace, and so do
    /// processes started there.
    ///
    /// # Panics
    /// If `work` panics.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.namespace.enter(work)
    }

    /// Runs a program in this namespace to its end; what it prints.
    ///
    /// # Errors
    /// If it cannot be started or fails; the error holds what it printed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.enter(|| Command::new(program).args(arguments).output());
        let output = output.with_context(|| format!("{program} cannot be started: is it installed?"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{program} {} in {}: {}\n{text}{}",
            arguments.join(" "),
            self.name(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(text)
    }

    /// Runs a batch of `ip` commands (one a line, without `ip`) in this namespace.
    ///
    /// # Errors
    /// If one of them fails.
    pub fn ip(&self, batch: &str) -> Result<()> {
        self.namespace.ip(batch)
    }

    /// Starts a program in this namespace; it ends with the returned [`Process`].
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self, mut command: Command) -> Result<Process> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = self.enter(|| command.stdin(Stdio::null()).spawn());
        Ok(Process { child: child.with_context(|| format!("{name} cannot be started: is it installed?"))? })
    }

    /// Loses this host's frames on the bridge, or lets them pass again.
    ///
    /// # Errors
    /// If `ip` fails.
    pub fn frames(&self, frames: Frames) -> Result<()> {
        let bridge = match frames {
            Frames::Pass => "master br0",
            Frames::Lost => "nomaster",
        };
        self.net.fabric.ip(&format!("link set {} {bridge}\n", self.port))
    }
}

impl Namespace {
    fn new(name: &str) -> Result<Self> {
        ip(&["netns", "add", name])?;
        match File::open(Path::new("/run/netns").join(name)) {
            Ok(handle) => Ok(Self { name: name.to_owned(), handle }),
            Err(error) => {
                ip(&["netns", "delete", name])?;
                Err(error).with_context(|| format!("cannot open the namespace {name}"))
            }
        }
    }

    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let inside = || {
            if let Err(error) = setns(&self.handle, CloneFlags::CLONE_NEWNET) {
                panic!("cannot enter the namespace {}: {error}", self.name);
            }
            work()
        };
        std::thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    fn ip(&self, batch: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("ip cannot be started: install iproute2")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(batch.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "ip in {}: {}", self.name, String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "delete", &self.name]) {
            eprintln!("namespace {} stays: {error}", self.name);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("ip cannot be started: install iproute2")?;
    ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A running program; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// If it is not there any more.
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, signal).with_context(|| format!("{signal} to {pid}"))
    }

    /// `kill -9`, and waits until it is gone.
    ///
    /// # Errors
    /// If it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// If it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<std::process::ExitStatus> {
        let mut status = None;
        eventually("the process ends", limit, || {
            status = self.child.try_wait()?;
            Ok(status.is_some())
        })?;
        status.context("no status")
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks `condition` every 10 ms until it holds; how long that took.
///
/// # Errors
/// After `limit`, naming `what` and the last error of `condition`, if it had one.
pub fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let start = Instant::now();
    loop {
        let answer = condition();
        if matches!(answer, Ok(true)) {
            return Ok(start.elapsed());
        }
        if start.elapsed() >= limit {
            match answer {
                Err(error) => return Err(error.context(format!("not within {limit:?}: {what}"))),
                Ok(_) => bail!("not within {limit:?}: {what}"),
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_a_net_reach_each_other_until_frames_are_lost() {
        let net = Net::new().unwrap();
        let a = net.host("a", &["10.99.0.1/24", "fd00:99::1/64"]).unwrap();
        let b = net.host("b", &["10.99.0.2/24", "fd00:99::2/64"]).unwrap();
        for target in ["10.99.0.2", "fd00:99::2"] {
            a.run("ping", &["-c1", "-W2", target]).unwrap();
        }
        b.frames(Frames::Lost).unwrap();
        a.run("ping", &["-c1", "-W1", "10.99.0.2"]).unwrap_err();
        b.frames(Frames::Pass).unwrap();
        a.run("ping", &["-c1", "-W2", "10.99.0.2"]).unwrap();
    }

    #[test]
    fn nothing_is_left_behind_even_by_a_panic() {
        let mut path = PathBuf::new();
        let mut id = 0;
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let host = Net::new().unwrap().host("a", &[]).unwrap();
            path = host.path();
            let mut sleep = Command::new("sleep");
            sleep.arg("100");
            let process = host.spawn(sleep).unwrap();
            id = process.id();
            assert!(path.exists() && Path::new(&format!("/proc/{id}")).exists());
            panic!("as a failing test would");
        }));
        assert!(result.is_err());
        assert!(!path.exists());
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }
}

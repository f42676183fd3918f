//! Network namespaces of a test's own, and commands to look at them with other eyes than ours.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "test code")]

pub mod host;

use lasthop_kernel::netns::{self, Netns};
use lasthop_net::{IfName, Prefix};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A namespace that goes with the test.
pub struct Scratch {
    pub name: String,
    pub netns: Netns,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Scratch {
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
        let name = format!("lht{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let netns = netns::create(&name).unwrap();
        Self { name, netns }
    }

    /// Does something inside, on a thread of its own.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.netns.run(work).unwrap()
    }

    /// Runs a command inside; its output, which must be a success.
    pub fn sh(&self, line: &str) -> String {
        let (success, text) = self.try_sh(line);
        assert!(success, "{line}: {text}");
        text
    }

    /// Runs a command inside; whether it succeeded, and all it printed.
    pub fn try_sh(&self, line: &str) -> (bool, String) {
        let output = Command::new("ip").args(["netns", "exec", &self.name, "sh", "-c", line]).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = netns::delete(&self.name);
    }
}

pub fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

pub fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// Waits until `condition` holds; false after two seconds.
pub fn soon(mut condition: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if condition() {
            return true;
        }
        if start.elapsed() > Duration::from_secs(2) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

//! Network namespaces for tests: made, entered and removed again by the test, also when it panics.
#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A network namespace of our own, named `lht<pid>-<label><number>`.
#[derive(Debug)]
pub(crate) struct Netns {
    pub(crate) name: String,
    children: Vec<Child>,
}

impl Netns {
    pub(crate) fn new(label: &str) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("lht{}-{label}{number}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).output().expect("iproute2 is installed");
        assert!(made.status.success(), "run as root: {}", String::from_utf8_lossy(&made.stderr));
        let netns = Self { name, children: Vec::new() };
        netns.sh("ip link set lo up");
        netns
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "bash", "-c", script]);
        command
    }

    /// Runs a script; its output and whether it succeeded.
    pub(crate) fn run(&self, script: &str) -> (bool, String) {
        let Output { status, stdout, stderr } = self.command(script).output().expect("bash is installed");
        let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        (status.success(), text)
    }

    /// Runs a script that has to succeed; its output.
    pub(crate) fn sh(&self, script: &str) -> String {
        let (success, text) = self.run(script);
        assert!(success, "{}: {script}\n{text}", self.name);
        text
    }

    /// Starts a script that runs until the namespace is dropped.
    pub(crate) fn spawn(&mut self, script: &str) {
        let child = self.command(&format!("exec {script}")).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.children.push(child.expect("bash is installed"));
    }

    /// Starts a script whose output can be awaited.
    pub(crate) fn start(&self, script: &str) -> Child {
        self.command(script).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("bash is installed")
    }

    /// Runs `inside` on a thread of its own in the namespace.
    pub(crate) fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        let file = std::fs::File::open(format!("/run/netns/{}", self.name)).expect("the namespace is there");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                nix::sched::setns(&file, nix::sched::CloneFlags::CLONE_NEWNET).expect("run as root");
                inside()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The MAC address of a link.
    pub(crate) fn mac(&self, link: &str) -> String {
        self.sh(&format!("cat /sys/class/net/{link}/address")).trim().to_owned()
    }

    /// Number of packets in this namespace that match a tcpdump filter while `during` runs.
    pub(crate) fn count(&self, link: &str, filter: &str, during: impl FnOnce()) -> usize {
        let file = format!("/tmp/{}-{}.pcap", self.name, NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut child = self
            .command(&format!("exec tcpdump --immediate-mode -U -i {link} -w {file} '{filter}'"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcpdump is installed");
        // tcpdump says "listening on" once it captures.
        let mut said = std::io::BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("listening on") {
            line.clear();
            let read = std::io::BufRead::read_line(&mut said, &mut line).expect("tcpdump speaks");
            assert!(read > 0, "tcpdump ended: {line}");
        }
        during();
        std::thread::sleep(std::time::Duration::from_millis(150));
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("our own child");
        child.wait().expect("our own child");
        let text = self.sh(&format!("tcpdump -nr {file} 2>/dev/null | wc -l; rm -f {file}"));
        text.trim().parse().expect("a number")
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

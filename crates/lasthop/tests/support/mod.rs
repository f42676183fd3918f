//! A lab for one test: brought up by the program itself, gone when the test ends, however it ends.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests")]

use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub(crate) struct Lab {
    pub(crate) name: String,
}

pub(crate) fn lasthop(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lasthop")).args(arguments).env_remove("LASTHOP_CONFIG").output().unwrap()
}

/// A lab name that no other test of this machine has.
pub(crate) fn name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Lab {
    /// Brings up a network: `--topology reference`, `--hosts 3 --workloads 9`.
    pub(crate) fn up(network: &[&str]) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test makes network namespaces: run it as root");
        let lab = Self { name: name() };
        let mut arguments = vec!["lab", "up", "--name", &lab.name];
        arguments.extend(network);
        let output = lasthop(&arguments);
        assert!(output.status.success(), "lab up: {}\n{}", text(&output.stderr), lab.logs());
        lab
    }

    /// A lab command.
    pub(crate) fn lab(&self, arguments: &[&str]) -> Output {
        let mut all = vec!["lab", "--name", &self.name];
        all.extend(arguments);
        lasthop(&all)
    }

    /// A lab command that must work; what it prints.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.lab(arguments);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "lab {arguments:?}: {said}\n{}", self.logs());
        said
    }

    /// Runs a command inside a host or workload: whether it worked, and all that it said.
    pub(crate) fn inside(&self, part: &str, command: &[&str]) -> (bool, String) {
        let output = self.lab(&[&["exec", part, "--"], command].concat());
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    }

    /// Starts a command inside that runs beside the test.
    pub(crate) fn beside(&self, part: &str, command: &[&str]) -> Beside {
        let mut all = vec!["lab", "--name", &self.name, "exec", part, "--"];
        all.extend(command);
        let mut program = Command::new(env!("CARGO_BIN_EXE_lasthop"));
        program.args(all).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Beside(Some(program.spawn().unwrap()))
    }

    /// A packet capture that is listening when this returns.
    pub(crate) fn capture(&self, part: &str, arguments: &[&str]) -> Beside {
        use std::io::{BufRead, BufReader};
        let mut capture = self.beside(part, &[&["tcpdump", "-l", "--immediate-mode", "-nn"], arguments].concat());
        let mut stderr = BufReader::new(capture.0.as_mut().unwrap().stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listening on") {
            let read = stderr.read_line(&mut line).unwrap();
            assert!(read > 0, "tcpdump does not listen: {line}");
        }
        std::thread::spawn(move || stderr.lines().count());
        capture
    }

    /// All pairs answer.
    pub(crate) fn everyone_reaches_everyone(&self) {
        let output = self.lab(&["ping"]);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success() && said.contains("pairs answer"), "{said}\n{}", self.logs());
    }

    /// The last lines of every log, for a test that failed.
    pub(crate) fn logs(&self) -> String {
        let mut all = String::new();
        let logs = std::fs::read_dir(format!("/run/lasthop-lab/{}/logs", self.name)).into_iter().flatten().flatten();
        for log in logs {
            let content = std::fs::read_to_string(log.path()).unwrap_or_default();
            let lines: Vec<&str> = content.lines().collect();
            let tail = lines[lines.len().saturating_sub(8)..].join("\n");
            all.push_str(&format!("--- {}\n{tail}\n", log.path().display()));
        }
        all
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let output = lasthop(&["lab", "down", "--name", &self.name]);
        let said = text(&output.stderr);
        let gone = output.status.success() || said.contains("there is no lab");
        assert!(gone || std::thread::panicking(), "lab down: {said}");
    }
}

/// A command that runs beside the test; ended when dropped.
pub(crate) struct Beside(Option<Child>);

impl Beside {
    /// Lets it see what is still on its way, ends it, and gives what it printed.
    pub(crate) fn stop(mut self) -> String {
        std::thread::sleep(Duration::from_millis(300));
        let mut child = self.0.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
        let end = Instant::now() + Duration::from_secs(5);
        while child.try_wait().unwrap().is_none() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        text(&child.wait_with_output().unwrap().stdout)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

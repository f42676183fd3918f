//! BIRD 2 inside a part of a lab.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests")]

use crate::drive::SOON;
use crate::support::{self, Lab};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A BIRD inside a part of a lab; it ends with this value.
pub(crate) struct Bird {
    child: Child,
    directory: tempfile::TempDir,
}

impl Drop for Bird {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Bird {
    /// Starts BIRD; `own` is its address, `protocols` what it does beside knowing its links.
    pub(crate) fn start(lab: &Lab, part: &str, own: &str, protocols: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = format!("log stderr all;\nrouter id {own};\nprotocol device {{ }}\n{protocols}");
        std::fs::write(directory.path().join("bird.conf"), config).unwrap();
        let log = std::fs::File::create(directory.path().join("bird.log")).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}-{part}", lab.name)]);
        command.args(["/usr/sbin/bird", "-f", "-c", "bird.conf", "-s", "bird.ctl", "-P", "bird.pid"]);
        let child = command.current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let bird = Self { child: child.spawn().unwrap(), directory };
        bird.until("show status", |said| said.contains("up and running"));
        bird
    }

    pub(crate) fn ask(&self, question: &str) -> String {
        let mut birdc = Command::new("/usr/sbin/birdc");
        let output = birdc.args(["-s", "bird.ctl"]).args(question.split(' ')).current_dir(self.directory.path());
        support::text(&output.output().unwrap().stdout)
    }

    /// Changes its configuration while it runs.
    pub(crate) fn configure(&self, own: &str, protocols: &str) {
        let config = format!("log stderr all;\nrouter id {own};\nprotocol device {{ }}\n{protocols}");
        std::fs::write(self.directory.path().join("bird.conf"), config).unwrap();
        let said = self.ask("configure");
        assert!(said.contains("Reconfigur"), "{said}");
    }

    pub(crate) fn until(&self, question: &str, is_so: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + SOON;
        loop {
            let said = self.ask(question);
            if is_so(&said) {
                return said;
            }
            let log = || std::fs::read_to_string(self.directory.path().join("bird.log")).unwrap_or_default();
            assert!(Instant::now() < end, "BIRD: {question}: still: {said}\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

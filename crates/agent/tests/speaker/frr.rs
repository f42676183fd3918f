//! A real FRR in a host: zebra, bgpd and bfdd with sockets of their own, asked through vtysh.

use lasthop_testkit::netns::{Host, Process, eventually};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Where Debian has the daemons.
const DAEMONS: &str = "/usr/lib/frr";

fn launch(host: &Host, directory: &tempfile::TempDir, name: &str) -> Process {
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let log = std::fs::OpenOptions::new().create(true).append(true).open(path(&format!("{name}.log"))).unwrap();
    let mut command = Command::new(format!("{DAEMONS}/{name}"));
    command.args(["-P", "0", "-z", &path("zserv.api")]);
    command.args(["-f", "/dev/null", "-i", &path(&format!("{name}.pid"))]);
    command.args(["--vty_socket", directory.path().to_str().unwrap(), "--log", "stdout"]);
    if name == "bfdd" {
        command.args(["--bfdctl", &path("bfdd.sock")]);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let process = host.spawn(command).unwrap_or_else(|error| {
        panic!("{name} cannot be started: {error}; install it with scripts/install-deps.sh test")
    });
    let socket = directory.path().join(format!("{name}.vty"));
    eventually(name, Duration::from_secs(10), || Ok(socket.exists())).unwrap();
    process
}

/// A running FRR. It ends with this value.
pub(crate) struct Frr {
    host: Host,
    directory: tempfile::TempDir,
    processes: [Process; 3],
}

impl Frr {
    /// Starts FRR with this configuration and waits until it answers.
    pub(crate) fn start(host: &Host, config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // The daemons give up root.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(path("frr.conf"), config).unwrap();
        let processes = ["zebra", "bfdd", "bgpd"].map(|name| launch(host, &directory, name));
        // Each daemon would read only what it knows, and stop at what it does not.
        host.run("vtysh", &["--vty_socket", directory.path().to_str().unwrap(), "-f", &path("frr.conf")]).unwrap();
        let frr = Self { host: host.clone(), directory, processes };
        frr.answers();
        frr
    }

    fn answers(&self) {
        eventually("FRR answers", Duration::from_secs(10), || Ok(!self.ask("show bgp summary json").is_empty()))
            .unwrap();
    }

    /// `kill -9` of bgpd; zebra keeps what it installed.
    pub(crate) fn kill_bgpd(&mut self) {
        self.processes[2].kill().unwrap();
    }

    /// Starts bgpd again, with this configuration.
    pub(crate) fn start_bgpd(&mut self, config: &str) {
        let path = |name: &str| self.directory.path().join(name).to_str().unwrap().to_owned();
        let _ = std::fs::remove_file(path("bgpd.vty"));
        self.processes[2] = launch(&self.host, &self.directory, "bgpd");
        std::fs::write(path("frr.conf"), config).unwrap();
        let socket = self.directory.path().to_str().unwrap();
        self.host.run("vtysh", &["--vty_socket", socket, "-d", "bgpd", "-f", &path("frr.conf")]).unwrap();
        self.answers();
    }

    /// What bgpd logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("bgpd.log")).unwrap_or_default()
    }

    /// What vtysh says to a command; several lines are typed one by one.
    pub(crate) fn ask(&self, commands: &str) -> String {
        let directory = self.directory.path().to_str().unwrap();
        let mut arguments = vec!["--vty_socket", directory];
        for command in commands.lines() {
            arguments.extend(["-c", command.trim()]);
        }
        self.host.run("vtysh", &arguments).unwrap_or_default()
    }

    pub(crate) fn json(&self, command: &str) -> serde_json::Value {
        serde_json::from_str(&self.ask(command)).unwrap_or_default()
    }

    /// Waits until FRR has a prefix from us; what it says of it.
    pub(crate) fn has_route(&self, family: &str, prefix: &str, limit: Duration) -> serde_json::Value {
        let command = format!("show bgp {family} unicast {prefix} json");
        eventually(&command, limit, || Ok(self.json(&command)["paths"][0].is_object())).unwrap();
        self.json(&command)
    }
}

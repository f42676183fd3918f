//! A real FRR in a host: zebra, bgpd and bfdd with sockets of their own, asked through vtysh.

use lasthop_testkit::netns::{Host, Process, eventually};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Where Debian has the daemons.
const DAEMONS: &str = "/usr/lib/frr";

/// A running FRR. It ends with this value.
pub(crate) struct Frr {
    host: Host,
    directory: tempfile::TempDir,
    _processes: Vec<Process>,
}

impl Frr {
    /// Starts FRR with this configuration and waits until it answers.
    pub(crate) fn start(host: &Host, config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        // The daemons give up root.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let zserv = path("zserv.api");
        std::fs::write(path("frr.conf"), config).unwrap();
        let daemons = ["zebra", "bfdd", "bgpd"].map(|name| {
            let log = std::fs::File::create(path(&format!("{name}.log"))).unwrap();
            let mut command = Command::new(format!("{DAEMONS}/{name}"));
            command.args(["-P", "0", "-z", &zserv]);
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
        });
        // Each daemon would read only what it knows, and stop at what it does not.
        host.run("vtysh", &["--vty_socket", directory.path().to_str().unwrap(), "-f", &path("frr.conf")]).unwrap();
        let frr = Self { host: host.clone(), directory, _processes: daemons.into() };
        eventually("FRR answers", Duration::from_secs(10), || Ok(!frr.ask("show bgp summary json").is_empty()))
            .unwrap();
        frr
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

//! OpenBGPD: asked through bgpctl over a control socket of its own.

use super::{Daemon, Neighbour, Route, Seen, Session, Setup, text, texts};
use lasthop_testkit::netns::{Host, Process, eventually};
use serde_json::Value;
use std::cell::RefCell;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

pub(crate) struct OpenBgpd {
    host: Host,
    directory: tempfile::TempDir,
    process: Process,
    setup: RefCell<Setup>,
}

fn config(setup: &Setup, directory: &tempfile::TempDir) -> String {
    let mut text = format!(
        "AS {}\nrouter-id {}\nfib-update no\nlisten on {}\nlisten on {}\nsocket \"{}/ctl\"\nconnect-retry 30\n",
        setup.asn,
        setup.address(),
        setup.address(),
        setup.address_v6(),
        directory.path().display()
    );
    for route in &setup.routes {
        write!(text, "network {} set {{ origin igp ", route.prefix).unwrap();
        route.communities.iter().for_each(|community| write!(text, "community {community} ").unwrap());
        if let Some(med) = route.med {
            write!(text, "med {med} ").unwrap();
        }
        text.push_str("}\n");
    }
    for neighbour in &setup.neighbours {
        let Neighbour { address, asn, hold, passive, client, restart, password, several, more } = neighbour;
        write!(
            text,
            "neighbor {address} {{
              remote-as {asn}
              local-address {}
              holdtime {hold}
              announce IPv4 unicast
              announce IPv6 unicast
              announce enhanced refresh yes
              announce add-path recv {}
              announce restart {}
              {}\n{}\n{}\n{more}
            }}\n",
            setup.towards(address),
            if *several { "yes" } else { "no" },
            if restart.is_some() { "yes" } else { "no" },
            if *passive { "passive" } else { "" },
            if *client { "route-reflector" } else { "" },
            password.as_ref().map(|key| format!("tcp md5sig password \"{key}\"")).unwrap_or_default(),
        )
        .unwrap();
    }
    text + "allow from any\nallow to any\n"
}

impl OpenBgpd {
    pub(crate) fn start(host: &Host, setup: &Setup) -> Self {
        // Where its unprivileged processes are shut in; shared by all, nothing is written there.
        std::fs::create_dir_all("/run/openbgpd").unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let process = launch(host, &directory, setup);
        let bgpd = Self { host: host.clone(), directory, process, setup: RefCell::new(setup.clone()) };
        bgpd.answers();
        bgpd
    }

    fn answers(&self) {
        eventually("OpenBGPD answers", Duration::from_secs(20), || Ok(self.json(&["show"])["neighbors"].is_array()))
            .unwrap_or_else(|error| panic!("{error}\n{}", self.words()));
    }

    fn ask(&self, question: &[&str]) -> anyhow::Result<String> {
        let socket = self.directory.path().join("ctl");
        self.host.run("bgpctl", &[&["-s", socket.to_str().unwrap()], question].concat())
    }

    fn json(&self, question: &[&str]) -> Value {
        let answer = self.ask(&[&["-j"], question].concat()).unwrap_or_default();
        // Octets of a text that are not ASCII are written in octal, which JSON does not know.
        let answer = ["\\2", "\\3"].iter().fold(answer, |answer, octet| answer.replace(octet, ""));
        serde_json::from_str(&answer).unwrap_or_default()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn reload(&self) {
        write_config(&self.directory, &self.setup.borrow());
        self.ask(&["reload"]).unwrap();
    }
}

fn write_config(directory: &tempfile::TempDir, setup: &Setup) {
    let file = directory.path().join("bgpd.conf");
    std::fs::write(&file, config(setup, directory)).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn launch(host: &Host, directory: &tempfile::TempDir, setup: &Setup) -> Process {
    write_config(directory, setup);
    let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.path().join("log")).unwrap();
    let mut command = Command::new("/usr/sbin/bgpd");
    command.args(["-d", "-f"]).arg(directory.path().join("bgpd.conf"));
    command.stdout(log.try_clone().unwrap()).stderr(log);
    host.spawn(command).unwrap_or_else(|error| panic!("{error}: scripts/install-deps.sh test installs openbgpd"))
}

fn seen(path: &Value) -> Seen {
    let attributes = path["attributes"].as_array().cloned().unwrap_or_default();
    let attribute = |key: &str| attributes.iter().map(|one| one[key].clone()).find(|value| !value.is_null());
    Seen {
        next_hop: text(&path["exit_nexthop"]),
        as_path: text(&path["aspath"]),
        local_pref: path["localpref"].as_u64(),
        med: path["metric"].as_u64(),
        communities: texts(&path["communities"]),
        large: texts(&path["large_communities"]),
        originator: attribute("originator").map(|value| text(&value)),
        clusters: texts(&attribute("cluster_list").unwrap_or_default()),
    }
}

impl Daemon for OpenBgpd {
    fn session(&self, neighbour: &str) -> Session {
        let shown = self.json(&["show", "neighbor", neighbour])["neighbors"][0].clone();
        let established = format!("neighbor {neighbour}: state change OpenConfirm -> Established");
        Session {
            established: shown["state"] == "Established",
            since: self.log().matches(&established).count().to_string(),
            prefixes: usize::try_from(shown["stats"]["prefixes"]["received"].as_u64().unwrap_or_default()).unwrap(),
        }
    }

    fn paths(&self, prefix: &str) -> Vec<Seen> {
        let shown = self.json(&["show", "rib", "detail", prefix]);
        let mut paths = shown["rib"].as_array().cloned().unwrap_or_default();
        // What else covers the address, and its own networks, are shown as well.
        paths.retain(|path| path["prefix"] == prefix && path["announced"] != true);
        paths.sort_by_key(|path| path["best"] != true);
        paths.iter().map(seen).collect()
    }

    fn announce(&self, route: &Route) {
        let mut setup = self.setup.borrow_mut();
        setup.routes.retain(|known| known.prefix != route.prefix);
        setup.routes.push(route.clone());
        drop(setup);
        self.reload();
    }

    fn withdraw(&self, prefix: &str) {
        self.setup.borrow_mut().routes.retain(|known| known.prefix != prefix);
        self.reload();
    }

    fn refresh(&self, neighbour: &str) {
        self.ask(&["neighbor", neighbour, "refresh"]).unwrap();
    }

    fn words(&self) -> String {
        self.ask(&["show", "neighbor"]).unwrap_or_default() + &self.log()
    }

    fn kill(&mut self) {
        // Its two children end with it.
        self.process.kill().unwrap();
    }

    fn start_again(&mut self) {
        let _ = std::fs::remove_file(self.directory.path().join("ctl"));
        self.process = launch(&self.host, &self.directory, &self.setup.borrow());
        self.answers();
    }

    fn nudge(&self, neighbour: &str) {
        let shown = self.json(&["show", "neighbor", neighbour]);
        if shown["neighbors"][0]["state"] == "Idle" {
            // Refused while it is doing so already.
            let _ = self.ask(&["neighbor", neighbour, "up"]);
        }
    }
}

//! GoBGP: its own routes and all questions go by `gobgp`.

use super::{Daemon, Neighbour, Route, Seen, Session, Setup, text};
use lasthop_testkit::netns::{Host, Process, eventually};
use serde_json::Value;
use std::cell::RefCell;
use std::fmt::Write;
use std::process::Command;
use std::time::Duration;

pub(crate) struct GoBgp {
    host: Host,
    directory: tempfile::TempDir,
    process: Process,
    setup: RefCell<Setup>,
}

fn config(setup: &Setup) -> String {
    let mut text = format!(
        "[global.config]\n as = {}\n router-id = \"{}\"\n port = 179\n local-address-list = [\"{}\", \"{}\"]\n",
        setup.asn,
        setup.address(),
        setup.address(),
        setup.address_v6()
    );
    for neighbour in &setup.neighbours {
        session(&mut text, setup, neighbour);
    }
    text
}

fn session(text: &mut String, setup: &Setup, neighbour: &Neighbour) {
    let Neighbour { address, asn, hold, passive, client, restart, password, several, more } = neighbour;
    let password = password.as_ref().map(|key| format!("auth-password = \"{key}\"")).unwrap_or_default();
    let keepalive = hold / 3;
    write!(
        text,
        "[[neighbors]]
          [neighbors.config]
            neighbor-address = \"{address}\"
            peer-as = {asn}
            {password}
          [neighbors.timers.config]
            connect-retry = 1
            hold-time = {hold}
            keepalive-interval = {keepalive}
            idle-hold-time-after-reset = 1
          [neighbors.transport.config]
            local-address = \"{}\"
            passive-mode = {passive}
          [neighbors.error-handling.config]
            treat-as-withdraw = true
          [neighbors.graceful-restart.config]
            enabled = {}
            restart-time = {}
            notification-enabled = {}
          {more}\n",
        setup.towards(address),
        restart.is_some(),
        restart.unwrap_or_default(),
        restart.is_some(),
    )
    .unwrap();
    if *client {
        writeln!(
            text,
            "[neighbors.route-reflector.config]\n route-reflector-client = true\n route-reflector-cluster-id = \"{}\"",
            setup.address()
        )
        .unwrap();
    }
    for family in ["ipv4-unicast", "ipv6-unicast"] {
        write!(
            text,
            "[[neighbors.afi-safis]]
              [neighbors.afi-safis.config]
                afi-safi-name = \"{family}\"
              [neighbors.afi-safis.add-paths.config]
                receive = {several}
              [neighbors.afi-safis.mp-graceful-restart.config]
                enabled = {}\n",
            restart.is_some()
        )
        .unwrap();
    }
}

impl GoBgp {
    pub(crate) fn start(host: &Host, setup: &Setup) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("gobgp.toml"), config(setup)).unwrap();
        let process = launch(host, &directory, &[]);
        let gobgp = Self { host: host.clone(), directory, process, setup: RefCell::new(setup.clone()) };
        gobgp.answers();
        gobgp
    }

    fn answers(&self) {
        eventually("GoBGP answers", Duration::from_secs(20), || Ok(self.ask(&["global"]).is_ok())).unwrap();
        self.setup.borrow().routes.iter().for_each(|route| self.add(route));
    }

    fn ask(&self, question: &[&str]) -> anyhow::Result<String> {
        self.host.run("gobgp", question)
    }

    fn json(&self, question: &[&str]) -> Value {
        let answer = self.ask(&[question, &["-j"]].concat()).unwrap_or_default();
        serde_json::from_str(&answer).unwrap_or_default()
    }

    fn add(&self, route: &Route) {
        let (family, next_hop) = match route.is_v6() {
            true => ("ipv6", self.setup.borrow().address_v6()),
            false => ("ipv4", self.setup.borrow().address()),
        };
        let med = route.med.map(|med| med.to_string());
        let communities = route.communities.join(",");
        let mut words = vec!["global", "rib", "add", &route.prefix, "-a", family, "origin", "igp"];
        words.extend(["nexthop", &next_hop]);
        if let Some(med) = &med {
            words.extend(["med", med]);
        }
        if !communities.is_empty() {
            words.extend(["community", &communities]);
        }
        self.ask(&words).unwrap();
    }
}

fn launch(host: &Host, directory: &tempfile::TempDir, more: &[&str]) -> Process {
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let log = std::fs::OpenOptions::new().create(true).append(true).open(path("log")).unwrap();
    let mut command = Command::new("gobgpd");
    command.args(["-f", &path("gobgp.toml"), "--pprof-disable", "-l", "debug", "--api-hosts", "127.0.0.1:50051"]);
    command.args(more).stdout(log.try_clone().unwrap()).stderr(log);
    host.spawn(command).unwrap_or_else(|error| panic!("{error}: scripts/install-deps.sh test installs gobgpd"))
}

/// `64512:7` of a number.
fn community(value: &Value) -> String {
    let number = value.as_u64().unwrap_or_default();
    format!("{}:{}", number >> 16, number & 0xffff)
}

fn seen(path: &Value) -> Seen {
    let mut seen = Seen::default();
    for attribute in path["attrs"].as_array().into_iter().flatten() {
        let all = |key: &str| attribute[key].as_array().cloned().unwrap_or_default();
        match attribute["type"].as_u64() {
            Some(2) => {
                let numbers = all("as_paths").into_iter().flat_map(|segment| {
                    segment["asns"].as_array().cloned().unwrap_or_default().into_iter().map(|asn| asn.to_string())
                });
                seen.as_path = numbers.collect::<Vec<_>>().join(" ");
            }
            Some(3 | 14) => seen.next_hop = text(&attribute["nexthop"]),
            Some(4) => seen.med = attribute["metric"].as_u64().or(Some(0)),
            Some(5) => seen.local_pref = attribute["value"].as_u64(),
            Some(8) => seen.communities = all("communities").iter().map(community).collect(),
            Some(9) => seen.originator = Some(text(&attribute["value"])),
            Some(10) => seen.clusters = all("value").iter().map(text).collect(),
            Some(32) => {
                let large = |value: &Value| format!("{}:{}:{}", value["ASN"], value["LocalData1"], value["LocalData2"]);
                seen.large = all("value").iter().map(large).collect();
            }
            _ => {}
        }
    }
    seen
}

impl Daemon for GoBgp {
    fn session(&self, neighbour: &str) -> Session {
        let shown = self.json(&["neighbor", neighbour]);
        let received = |family: &Value| family["state"]["received"].as_u64().unwrap_or_default();
        let families = shown["afi_safis"].as_array().cloned().unwrap_or_default();
        Session {
            established: shown["state"]["session_state"] == 6,
            since: shown["timers"]["state"]["uptime"]["seconds"].to_string(),
            prefixes: usize::try_from(families.iter().map(received).sum::<u64>()).unwrap(),
        }
    }

    fn paths(&self, prefix: &str) -> Vec<Seen> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let shown = self.json(&["global", "rib", "-a", family, prefix]);
        let paths = shown[prefix].as_array().cloned().unwrap_or_default();
        paths.iter().filter(|path| path["neighbor-ip"].is_string()).map(seen).collect()
    }

    fn announce(&self, route: &Route) {
        self.add(route);
        let mut setup = self.setup.borrow_mut();
        setup.routes.retain(|known| known.prefix != route.prefix);
        setup.routes.push(route.clone());
    }

    fn withdraw(&self, prefix: &str) {
        self.setup.borrow_mut().routes.retain(|known| known.prefix != prefix);
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        self.ask(&["global", "rib", "del", prefix, "-a", family]).unwrap();
    }

    fn refresh(&self, neighbour: &str) {
        // GoBGP sends ROUTE-REFRESH only where it keeps nothing of what it was told; so it says its own routes again, and
        // what it has of ours is read anew.
        self.ask(&["neighbor", neighbour, "softresetin"]).unwrap();
    }

    fn words(&self) -> String {
        let neighbours = self.ask(&["neighbor"]).unwrap_or_default();
        neighbours + &std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
    }

    fn start_again(&mut self) {
        self.process = launch(&self.host, &self.directory, &["-r"]);
        self.answers();
    }
}

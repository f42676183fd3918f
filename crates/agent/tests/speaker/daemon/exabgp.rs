//! ExaBGP: what it hears is a file of JSON lines, what it is to say is a file of commands.

use super::{Daemon, Neighbour, Route, Seen, Session, Setup, text};
use lasthop_testkit::netns::{Host, Process, eventually};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

pub(crate) struct ExaBgp {
    host: Host,
    directory: tempfile::TempDir,
    process: Process,
    setup: RefCell<Setup>,
}

fn config(setup: &Setup, directory: &tempfile::TempDir) -> String {
    let place = directory.path().display();
    // What the process prints are commands; what it reads are events.
    let mut text = format!("process watch {{\n run {place}/watch;\n encoder json;\n}}\n");
    for neighbour in &setup.neighbours {
        let Neighbour { address, asn, hold, passive, restart, password, more, .. } = neighbour;
        write!(
            text,
            "neighbor {address} {{
              router-id {};
              local-address {};
              local-as {};
              peer-as {asn};
              hold-time {hold};
              passive {passive};
              {}
              family {{ ipv4 unicast; ipv6 unicast; }}
              capability {{ {} route-refresh enable; {more} }}
              api {{ processes [ watch ]; neighbor-changes; receive {{ parsed; update; notification; open; refresh; }} }}
              static {{ {} }}
            }}\n",
            setup.address(),
            setup.towards(address),
            setup.asn,
            password.as_ref().map(|key| format!("md5-password '{key}';")).unwrap_or_default(),
            restart.map(|time| format!("graceful-restart {time};")).unwrap_or_default(),
            setup.routes.iter().map(|route| format!("route {};", said(setup, route))).collect::<String>(),
        )
        .unwrap();
    }
    text
}

/// A route in its words.
fn said(setup: &Setup, route: &Route) -> String {
    let next_hop = if route.is_v6() { setup.address_v6() } else { setup.address() };
    let mut text = format!("{} next-hop {next_hop} origin igp", route.prefix);
    if let Some(med) = route.med {
        write!(text, " med {med}").unwrap();
    }
    if !route.communities.is_empty() {
        write!(text, " community [ {} ]", route.communities.join(" ")).unwrap();
    }
    text
}

impl ExaBgp {
    pub(crate) fn start(host: &Host, setup: &Setup) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().display();
        std::fs::write(directory.path().join("commands"), "").unwrap();
        let watch = directory.path().join("watch");
        // The reader of events is what lives and dies with ExaBGP; the teller of commands ends with it.
        let script = format!("#!/bin/sh\ntail -n 0 -f --pid=$$ {place}/commands &\nexec cat >> {place}/seen\n");
        std::fs::write(&watch, script).unwrap();
        std::fs::set_permissions(&watch, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(directory.path().join("exabgp.conf"), config(setup, &directory)).unwrap();
        let process = launch(host, &directory, setup);
        Self { host: host.clone(), directory, process, setup: RefCell::new(setup.clone()) }
    }

    fn events(&self) -> Vec<Value> {
        let seen = std::fs::read_to_string(self.directory.path().join("seen")).unwrap_or_default();
        seen.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn say(&self, command: &str) {
        let file = self.directory.path().join("commands");
        let mut file = std::fs::OpenOptions::new().append(true).open(file).unwrap();
        writeln!(file, "{command}").unwrap();
    }

    /// What every neighbour's session holds by now, and how often it came up.
    fn replay(&self) -> BTreeMap<String, (Session, BTreeMap<String, Seen>)> {
        let mut all: BTreeMap<String, (Session, BTreeMap<String, Seen>)> = BTreeMap::new();
        for event in self.events() {
            let neighbour = &event["neighbor"];
            let (session, table) = all.entry(text(&neighbour["address"]["peer"])).or_default();
            match neighbour["state"].as_str() {
                Some("up") => {
                    session.established = true;
                    session.since = event["time"].to_string();
                }
                Some("down") => {
                    session.established = false;
                    table.clear();
                }
                _ => {}
            }
            update(table, &neighbour["message"]["update"]);
            session.prefixes = table.len();
        }
        all
    }
}

fn update(table: &mut BTreeMap<String, Seen>, update: &Value) {
    for (_, prefixes) in update["withdraw"].as_object().into_iter().flatten() {
        for nlri in prefixes.as_array().into_iter().flatten() {
            table.remove(&text(&nlri["nlri"]));
        }
    }
    let attributes = &update["attribute"];
    let joined = |value: &Value, separator: &str| {
        let parts = value.as_array().into_iter().flatten();
        parts.map(|part| part.to_string().replace('"', "")).collect::<Vec<_>>().join(separator)
    };
    let tuples = |value: &Value| value.as_array().into_iter().flatten().map(|one| joined(one, ":")).collect();
    for (_, next_hops) in update["announce"].as_object().into_iter().flatten() {
        for (next_hop, prefixes) in next_hops.as_object().into_iter().flatten() {
            for nlri in prefixes.as_array().into_iter().flatten() {
                let seen = Seen {
                    next_hop: next_hop.clone(),
                    as_path: joined(&attributes["as-path"], " "),
                    local_pref: attributes["local-preference"].as_u64(),
                    med: attributes["med"].as_u64(),
                    communities: tuples(&attributes["community"]),
                    large: tuples(&attributes["large-community"]),
                    originator: attributes["originator-id"].as_str().map(str::to_owned),
                    clusters: super::texts(&attributes["cluster-list"]),
                };
                table.insert(text(&nlri["nlri"]), seen);
            }
        }
    }
}

fn launch(host: &Host, directory: &tempfile::TempDir, setup: &Setup) -> Process {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(directory.path().join("log")).unwrap();
    let mut command = Command::new("exabgp");
    command.env("exabgp.daemon.user", "root").env("exabgp.daemon.drop", "false");
    command.env("exabgp.log.destination", "stdout").env("exabgp.api.cli", "false").env("exabgp.api.ack", "false");
    // It listens only if told where.
    command.env("exabgp.tcp.bind", format!("{} {}", setup.address(), setup.address_v6()));
    command.arg(directory.path().join("exabgp.conf")).stdout(log.try_clone().unwrap()).stderr(log);
    host.spawn(command).unwrap_or_else(|error| panic!("{error}: scripts/install-deps.sh test installs exabgp"))
}

impl Daemon for ExaBgp {
    fn session(&self, neighbour: &str) -> Session {
        self.replay().remove(neighbour).unwrap_or_default().0
    }

    fn paths(&self, prefix: &str) -> Vec<Seen> {
        self.replay().into_values().filter_map(|(_, mut table)| table.remove(prefix)).collect()
    }

    fn announce(&self, route: &Route) {
        self.say(&format!("announce route {}", said(&self.setup.borrow(), route)));
        let mut setup = self.setup.borrow_mut();
        setup.routes.retain(|known| known.prefix != route.prefix);
        setup.routes.push(route.clone());
    }

    fn withdraw(&self, prefix: &str) {
        let mut setup = self.setup.borrow_mut();
        if let Some(at) = setup.routes.iter().position(|known| known.prefix == prefix) {
            let route = setup.routes.remove(at);
            self.say(&format!("withdraw route {}", said(&setup, &route)));
        }
    }

    fn refresh(&self, _neighbour: &str) {
        panic!("ExaBGP does not ask for a refresh");
    }

    fn words(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
        read("log") + &read("seen")
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
    }

    fn start_again(&mut self) {
        let config = config(&self.setup.borrow(), &self.directory);
        std::fs::write(self.directory.path().join("exabgp.conf"), config).unwrap();
        self.process = launch(&self.host, &self.directory, &self.setup.borrow());
        eventually("ExaBGP speaks", Duration::from_secs(20), || Ok(!self.events().is_empty())).unwrap();
    }
}

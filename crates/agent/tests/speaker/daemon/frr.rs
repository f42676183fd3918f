//! FRR: asked through vtysh.

use super::{Daemon, Neighbour, Route, Seen, Session, Setup, text};
use crate::frr;
use lasthop_testkit::netns::Host;
use serde_json::Value;
use std::cell::RefCell;
use std::fmt::Write;

pub(crate) struct Frr {
    frr: frr::Frr,
    setup: RefCell<Setup>,
}

impl Frr {
    pub(crate) fn start(host: &Host, setup: &Setup) -> Self {
        Self { frr: frr::Frr::start(host, &config(setup)), setup: RefCell::new(setup.clone()) }
    }
}

/// The name of the route map that gives a route its attributes.
fn map(route: &Route) -> String {
    format!("m{}", route.prefix.replace(['.', ':', '/'], "-"))
}

fn route_map(route: &Route) -> String {
    let mut text = format!("route-map {} permit 1\n", map(route));
    if !route.communities.is_empty() {
        writeln!(text, " set community {}", route.communities.join(" ")).unwrap();
    }
    if let Some(med) = route.med {
        writeln!(text, " set metric {med}").unwrap();
    }
    text + " exit\n"
}

fn family(route: &Route) -> &'static str {
    if route.is_v6() { "ipv6" } else { "ipv4" }
}

fn config(setup: &Setup) -> String {
    let mut text: String = setup.routes.iter().map(route_map).collect();
    // Next hops are left as they are where routes are reflected; own routes have one of their family.
    write!(
        text,
        "route-map v6 permit 1
          set ipv6 next-hop global {}
         exit
         router bgp {}
          bgp router-id {}
          no bgp ebgp-requires-policy
          no bgp network import-check
          no bgp default ipv4-unicast
          bgp cluster-id {}\n",
        setup.address_v6(),
        setup.asn,
        setup.address(),
        setup.address()
    )
    .unwrap();
    for neighbour in &setup.neighbours {
        let Neighbour { address, asn, hold, passive, password, restart, more, .. } = neighbour;
        let keepalive = (hold / 3).max(1);
        if let Some(time) = restart {
            // Before the neighbours: it asks for a session to be reset otherwise.
            writeln!(text, "bgp graceful-restart restart-time {time}\nbgp graceful-restart preserve-fw-state").unwrap();
            writeln!(text, "bgp graceful-restart").unwrap();
        }
        writeln!(text, "neighbor {address} remote-as {asn}").unwrap();
        writeln!(text, "neighbor {address} timers {keepalive} {hold}").unwrap();
        writeln!(text, "neighbor {address} timers connect 1").unwrap();
        writeln!(text, "neighbor {address} advertisement-interval 0").unwrap();
        if *passive {
            writeln!(text, "neighbor {address} passive").unwrap();
        }
        if let Some(key) = password {
            writeln!(text, "neighbor {address} password {key}").unwrap();
        }
        more.lines().filter(|line| !line.is_empty()).for_each(|line| {
            writeln!(text, "neighbor {address} {}", line.trim()).unwrap();
        });
    }
    for (name, v6) in [("ipv4", false), ("ipv6", true)] {
        writeln!(text, "address-family {name} unicast").unwrap();
        for neighbour in &setup.neighbours {
            writeln!(text, "neighbor {} activate", neighbour.address).unwrap();
            if neighbour.client {
                writeln!(text, "neighbor {} route-reflector-client", neighbour.address).unwrap();
            } else if v6 && !neighbour.address.contains(':') {
                writeln!(text, "neighbor {} route-map v6 out", neighbour.address).unwrap();
            }
        }
        for route in setup.routes.iter().filter(|route| route.is_v6() == v6) {
            writeln!(text, "network {} route-map {}", route.prefix, map(route)).unwrap();
        }
        text.push_str("exit-address-family\n");
    }
    text + "exit\n"
}

fn seen(path: &Value) -> Seen {
    let words = |value: &Value| text(&value["string"]).split_whitespace().map(str::to_owned).collect();
    let used = path["nexthops"].as_array().into_iter().flatten().find(|hop| hop["scope"] != "link-local");
    Seen {
        next_hop: used.map(|hop| text(&hop["ip"])).unwrap_or_default(),
        as_path: text(&path["aspath"]["string"]).replace("Local", ""),
        local_pref: path["locPrf"].as_u64(),
        med: path["metric"].as_u64(),
        communities: words(&path["community"]),
        large: words(&path["largeCommunity"]),
        originator: path["originatorId"].as_str().map(str::to_owned),
        clusters: super::texts(&path["clusterList"]["list"]),
    }
}

impl Daemon for Frr {
    fn session(&self, neighbour: &str) -> Session {
        let shown = self.frr.json(&format!("show bgp neighbors {neighbour} json"))[neighbour].clone();
        let families = shown["addressFamilyInfo"].as_object().cloned().unwrap_or_default();
        let accepted = families.values().filter_map(|family| family["acceptedPrefixCounter"].as_u64());
        Session {
            established: shown["bgpState"] == "Established",
            since: shown["connectionsEstablished"].to_string(),
            prefixes: usize::try_from(accepted.sum::<u64>()).unwrap(),
        }
    }

    fn paths(&self, prefix: &str) -> Vec<Seen> {
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let shown = self.frr.json(&format!("show bgp {family} unicast {prefix} json"));
        let mut paths = shown["paths"].as_array().cloned().unwrap_or_default();
        paths.retain(|path| path["sourced"] != true && path["aspath"]["string"] != "sourced");
        paths.sort_by_key(|path| path["bestpath"]["overall"] != true);
        paths.iter().filter(|path| path["peer"]["routerId"].is_string()).map(seen).collect()
    }

    fn announce(&self, route: &Route) {
        let mut setup = self.setup.borrow_mut();
        setup.routes.retain(|known| known.prefix != route.prefix);
        setup.routes.push(route.clone());
        let head = format!("configure terminal\n{}router bgp {}\n", route_map(route), setup.asn);
        let network = format!("network {} route-map {}", route.prefix, map(route));
        self.frr.ask(&format!("{head}address-family {} unicast\n{network}", family(route)));
    }

    fn withdraw(&self, prefix: &str) {
        let mut setup = self.setup.borrow_mut();
        setup.routes.retain(|known| known.prefix != prefix);
        let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
        let asn = setup.asn;
        self.frr.ask(&format!(
            "configure terminal\nrouter bgp {asn}\naddress-family {family} unicast\nno network {prefix}"
        ));
    }

    fn refresh(&self, neighbour: &str) {
        self.frr.ask(&format!("clear bgp ipv4 unicast {neighbour} soft in"));
    }

    fn words(&self) -> String {
        self.frr.ask("show bgp neighbors") + &self.frr.log()
    }

    fn kill(&mut self) {
        self.frr.kill_bgpd();
    }

    fn start_again(&mut self) {
        self.frr.start_bgpd(&config(&self.setup.borrow()));
    }
}

//! BIRD: asked over its control socket.

use super::{Daemon, Neighbour, Route, Seen, Session, Setup};
use lasthop_testkit::bird::{self, BirdStart, base};
use lasthop_testkit::netns::Host;
use std::cell::RefCell;
use std::fmt::Write;

pub(crate) struct Bird {
    bird: bird::Bird,
    setup: RefCell<Setup>,
}

impl Bird {
    pub(crate) fn start(host: &Host, setup: &Setup) -> Self {
        let bird = bird::Bird::start(host, &config(setup)).unwrap();
        Self { bird, setup: RefCell::new(setup.clone()) }
    }
}

/// The protocol's name for a neighbour.
fn name(address: &str) -> String {
    format!("p{}", address.replace(['.', ':'], "_"))
}

fn config(setup: &Setup) -> String {
    let mut text = base(&setup.address());
    for (family, v6) in [("ipv4", false), ("ipv6", true)] {
        write!(text, "protocol static s{} {{ {family}; ", u8::from(v6)).unwrap();
        for route in setup.routes.iter().filter(|route| route.is_v6() == v6) {
            write!(text, "route {} unreachable {{ ", route.prefix).unwrap();
            for community in &route.communities {
                write!(text, "bgp_community.add(({})); ", community.replace(':', ",")).unwrap();
            }
            if let Some(med) = route.med {
                write!(text, "bgp_med = {med}; ").unwrap();
            }
            text.push_str("};\n");
        }
        text.push_str("}\n");
    }
    setup.neighbours.iter().for_each(|neighbour| text.push_str(&session(setup, neighbour)));
    text
}

fn session(setup: &Setup, neighbour: &Neighbour) -> String {
    let mut options = format!("hold time {}; {}", neighbour.hold, neighbour.more);
    for (is_set, option) in [(neighbour.passive, "passive yes;"), (neighbour.client, "rr client;")] {
        options.push_str(if is_set { option } else { "" });
    }
    match neighbour.restart {
        Some(time) => write!(options, "graceful restart on; graceful restart time {time};").unwrap(),
        None => options.push_str("graceful restart aware;"),
    }
    if let Some(password) = &neighbour.password {
        write!(options, "password \"{password}\";").unwrap();
    }
    let paths = if neighbour.several { "add paths rx;" } else { "" };
    let reach = if neighbour.more.contains("multihop") { "" } else { "direct;" };
    // Reflected routes keep their next hop; its own are given one.
    format!(
        "protocol bgp {} {{
           local {} as {}; neighbor {} as {}; {reach}
           connect delay time 1; connect retry time 1; error wait time 1, 2; {options}
           ipv4 {{ {paths} import all; export all; next hop address {}; }};
           ipv6 {{ {paths} import all; export all; next hop address {}; }};
         }}\n",
        name(&neighbour.address),
        setup.towards(&neighbour.address),
        setup.asn,
        neighbour.address,
        neighbour.asn,
        setup.address(),
        setup.address_v6()
    )
}

/// The values of a line of attributes: `(64512, 7) (1, 2)`.
fn tuples(text: &str) -> Vec<String> {
    let inner = text.split(')').filter_map(|part| part.split('(').nth(1));
    inner.map(|tuple| tuple.replace(' ', "").replace(',', ":")).collect()
}

impl Daemon for Bird {
    fn session(&self, neighbour: &str) -> Session {
        let name = name(neighbour);
        let shown = self.bird.ask(&format!("show protocols all {name}")).unwrap_or_default();
        let head = shown.lines().find(|line| line.contains(&name)).unwrap_or_default().to_owned();
        Session {
            established: shown.contains("BGP state:          Established"),
            since: head.split_whitespace().skip(4).take(2).collect::<Vec<_>>().join(" "),
            prefixes: self.bird.routes_from(&name).unwrap_or_default(),
        }
    }

    fn paths(&self, prefix: &str) -> Vec<Seen> {
        let shown = self.bird.route(prefix).unwrap().unwrap_or_default();
        shown
            .split("Type: BGP")
            .skip(1)
            .map(|path| {
                let value = |key: &str| {
                    let line = path.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "));
                    line.map(str::to_owned)
                };
                let number = |key| value(key).and_then(|text| text.parse().ok());
                Seen {
                    next_hop: value("BGP.next_hop").unwrap_or_default().split(' ').next().unwrap().to_owned(),
                    as_path: value("BGP.as_path").unwrap_or_default(),
                    local_pref: number("BGP.local_pref"),
                    med: number("BGP.med"),
                    communities: tuples(&value("BGP.community").unwrap_or_default()),
                    large: tuples(&value("BGP.large_community").unwrap_or_default()),
                    originator: value("BGP.originator_id"),
                    clusters: value("BGP.cluster_list")
                        .unwrap_or_default()
                        .split_whitespace()
                        .map(str::to_owned)
                        .collect(),
                }
            })
            .collect()
    }

    fn announce(&self, route: &Route) {
        let mut setup = self.setup.borrow_mut();
        setup.routes.retain(|known| known.prefix != route.prefix);
        setup.routes.push(route.clone());
        self.bird.configure(&config(&setup)).unwrap();
    }

    fn withdraw(&self, prefix: &str) {
        let mut setup = self.setup.borrow_mut();
        setup.routes.retain(|known| known.prefix != prefix);
        self.bird.configure(&config(&setup)).unwrap();
    }

    fn refresh(&self, neighbour: &str) {
        self.bird.ask(&format!("reload in {}", name(neighbour))).unwrap();
    }

    fn words(&self) -> String {
        self.bird.ask("show protocols all").unwrap_or_default() + &self.bird.log()
    }

    fn kill(&mut self) {
        self.bird.kill().unwrap();
    }

    fn start_again(&mut self) {
        self.bird.rewrite(|_| config(&self.setup.borrow())).unwrap();
        self.bird.restart(BirdStart::Recover).unwrap();
    }
}

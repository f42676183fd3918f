//! After any sequence of events, what is learned and what each peer has been sent equals what a plain reading of the RFCs
//! makes of the present state: RFC 4271 sections 5 and 9, RFC 4456 sections 6, 8 and 9, RFC 1997.

#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it must be")]

mod common;

use common::raw::{Bench, RawAttributes, RawOpen, SUT, attribute, hex, message, nlri, passive, sut_config, update};
use lasthop_bgp::config::ReflectMode;
use lasthop_bgp::{ConnId, Input, Origin, PathSource, PathVerdict, Start};
use lasthop_net::{Family, NextHops, Prefix};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

/// Peers 0 and 1 are external (AS 65001, 65002), 2 and 3 clients, 4 and 5 plain internal peers.
const PEERS: usize = 6;

fn address(peer: usize) -> [u8; 4] {
    [10, 99, 1, u8::try_from(peer).unwrap() + 2]
}

fn asn(peer: usize) -> u32 {
    if peer < 2 { 65001 + u32::try_from(peer).unwrap() } else { 65000 }
}

/// Not in the order of the addresses, so that the two tie-breaks can be told apart.
fn identifier(peer: usize) -> [u8; 4] {
    [192, 0, 2, 100 + [3, 1, 5, 0, 4, 2][peer]]
}

#[derive(Clone, Debug, PartialEq)]
struct Route {
    hop: u8,
    local_pref: u32,
    path: Vec<u32>,
    origin: u8,
    med: Option<u32>,
    originator: Option<u8>,
    clusters: usize,
    community: Option<u32>,
}

#[derive(Clone, Debug)]
enum Op {
    Announce(usize, usize, Route),
    Withdraw(usize, usize),
    Own(usize, u32),
    NotOwn(usize),
    Down(usize),
    Up(usize),
    Congested(usize),
    Drained(usize),
    Refresh(usize),
    Reflect(usize, bool),
}

fn prefixes() -> Vec<Prefix> {
    ["10.65.0.0/26", "10.65.0.24/32", "0.0.0.0/0", "fd65::/64", "fd65::24/128"].map(|p| p.parse().unwrap()).to_vec()
}

fn route() -> impl Strategy<Value = Route> {
    let path = proptest::collection::vec(prop_oneof![Just(7u32), Just(8), Just(65000)], 0..3);
    let community = prop_oneof![4 => Just(None), 1 => Just(Some(0xffff_ff01)), 1 => Just(Some(0xffff_ff02)), 1 => Just(Some(0xffff_ff03))];
    (
        (1u8..4, prop_oneof![3 => Just(100u32), 1 => Just(200)], path, 0u8..2),
        (proptest::option::of(0u32..3), proptest::option::of(1u8..4), 0usize..3, community),
    )
        .prop_map(|((hop, local_pref, path, origin), (med, originator, clusters, community))| Route {
            hop,
            local_pref,
            path,
            origin,
            med,
            originator,
            clusters,
            community,
        })
}

fn op() -> impl Strategy<Value = Op> {
    let (peer, place) = (0..PEERS, 0..5usize);
    prop_oneof![
        12 => (peer.clone(), place.clone(), route()).prop_map(|(a, b, c)| Op::Announce(a, b, c)),
        5 => (peer.clone(), place.clone()).prop_map(|(a, b)| Op::Withdraw(a, b)),
        2 => (place.clone(), 100u32..102).prop_map(|(a, b)| Op::Own(a, b)),
        2 => place.prop_map(Op::NotOwn),
        1 => peer.clone().prop_map(Op::Down),
        3 => peer.clone().prop_map(Op::Up),
        1 => peer.clone().prop_map(Op::Congested),
        1 => peer.clone().prop_map(Op::Drained),
        1 => peer.clone().prop_map(Op::Refresh),
        1 => (4..PEERS, any::<bool>()).prop_map(|(a, b)| Op::Reflect(a, b)),
    ]
}

/// The present state, in plain.
#[derive(Default)]
struct Model {
    up: BTreeMap<usize, ConnId>,
    routes: BTreeMap<(Prefix, usize), Route>,
    own: BTreeMap<Prefix, u32>,
    clients: BTreeSet<usize>,
}

fn hop_of(prefix: Prefix, hop: u8) -> IpAddr {
    match prefix.family() {
        Family::V4 => IpAddr::from([10, 99, 7, hop]),
        Family::V6 => format!("fd99::{hop}").parse().unwrap(),
    }
}

impl Model {
    fn new() -> Self {
        Self { clients: BTreeSet::from([2, 3]), ..Self::default() }
    }

    fn as_path(peer: usize, route: &Route) -> Vec<u32> {
        let mut path = route.path.clone();
        if peer < 2 {
            path.insert(0, asn(peer));
        }
        path
    }

    fn usable(peer: usize, route: &Route) -> bool {
        let looped = Self::as_path(peer, route).contains(&65000);
        // Cluster 2 of the three below is ours.
        !looped && (peer < 2 || route.clusters < 2)
    }

    /// Best path and all that tie with it before the tie-breaks.
    fn choose(&self, prefix: Prefix) -> (Option<usize>, Vec<usize>) {
        let mut alive: Vec<(usize, &Route)> = self
            .routes
            .range((prefix, 0)..=(prefix, PEERS))
            .map(|((_, peer), route)| (*peer, route))
            .filter(|(peer, route)| Self::usable(*peer, route))
            .collect();
        let preference = |(peer, route): &(usize, &Route)| if *peer < 2 { 100 } else { route.local_pref };
        let most = alive.iter().map(preference).max();
        alive.retain(|a| Some(preference(a)) == most);
        let shortest = alive.iter().map(|a| Self::as_path(a.0, a.1).len()).min();
        alive.retain(|a| Some(Self::as_path(a.0, a.1).len()) == shortest);
        let origin = alive.iter().map(|a| a.1.origin).min();
        alive.retain(|a| Some(a.1.origin) == origin);
        let all = alive.clone();
        alive.retain(|a| {
            let first = Self::as_path(a.0, a.1).first().copied();
            all.iter().all(|b| {
                Self::as_path(b.0, b.1).first().copied() != first || b.1.med.unwrap_or(0) >= a.1.med.unwrap_or(0)
            })
        });
        if alive.iter().any(|a| a.0 < 2) {
            alive.retain(|a| a.0 < 2);
        }
        let equal = alive.iter().map(|a| a.0).collect();
        let key = |(peer, route): &(usize, &Route)| {
            let internal = *peer >= 2;
            let id = route.originator.filter(|_| internal).map_or(identifier(*peer), |last| [192, 0, 2, 100 + last]);
            (id, if internal { route.clusters } else { 0 }, address(*peer))
        };
        (alive.iter().min_by_key(|a| key(a)).map(|a| a.0), equal)
    }

    fn learned(&self) -> BTreeMap<Prefix, NextHops> {
        let mut out = BTreeMap::new();
        for prefix in prefixes() {
            let (_, equal) = self.choose(prefix);
            let hops: BTreeSet<IpAddr> =
                equal.iter().map(|peer| hop_of(prefix, self.routes[&(prefix, *peer)].hop)).collect();
            if !hops.is_empty() {
                out.insert(prefix, hops.into_iter().collect());
            }
        }
        out
    }

    /// What a peer is to have, as the attributes that matter.
    fn shown(&self, to: usize) -> BTreeMap<Prefix, Shown> {
        let mut out = BTreeMap::new();
        for prefix in prefixes() {
            let ours: IpAddr = match prefix.family() {
                Family::V4 => SUT.into(),
                Family::V6 => "fd00::1".parse().unwrap(),
            };
            if let Some(local_pref) = self.own.get(&prefix) {
                let internal = to >= 2;
                let path = if internal { vec![] } else { vec![65000] };
                let local_pref = internal.then_some(*local_pref);
                let shown = Shown { hop: ours, path, local_pref, med: None, originator: None, clusters: 0 };
                out.insert(prefix, shown);
                continue;
            }
            let Some(from) = self.choose(prefix).0.filter(|from| *from != to) else { continue };
            let route = &self.routes[&(prefix, from)];
            let reflected = from >= 2 && to >= 2;
            let client = |peer: usize| self.clients.contains(&peer);
            let hidden = match route.community {
                Some(0xffff_ff02) => true,
                Some(_) => to < 2,
                None => false,
            };
            if hidden || reflected && !client(from) && !client(to) {
                continue;
            }
            let mut path = Self::as_path(from, route);
            if to < 2 {
                path.insert(0, 65000);
            }
            let originator = route.originator.map_or(identifier(from), |last| [192, 0, 2, 100 + last]);
            out.insert(
                prefix,
                Shown {
                    hop: if to < 2 { ours } else { hop_of(prefix, route.hop) },
                    path,
                    local_pref: (to >= 2).then_some(if from < 2 { 100 } else { route.local_pref }),
                    med: route.med.filter(|_| to >= 2),
                    originator: reflected.then(|| Ipv4Addr::from(originator)),
                    clusters: if reflected { route.clusters + 1 } else { 0 },
                },
            );
        }
        out
    }
}

#[derive(Debug, PartialEq)]
struct Shown {
    hop: IpAddr,
    path: Vec<u32>,
    local_pref: Option<u32>,
    med: Option<u32>,
    originator: Option<Ipv4Addr>,
    clusters: usize,
}

fn shown(raw: &RawAttributes) -> Shown {
    let value = |kind: u8| raw.get(&kind).map(|(_, value)| value.as_slice());
    let number = |kind: u8| value(kind).map(|v| u32::from_be_bytes(v.try_into().unwrap()));
    let hop = match (value(3), value(14)) {
        (Some(hop), None) => IpAddr::from(<[u8; 4]>::try_from(hop).unwrap()),
        (None, Some(reach)) => IpAddr::from(<[u8; 16]>::try_from(&reach[4..20]).unwrap()),
        other => panic!("{other:?}"),
    };
    let path = value(2).unwrap();
    Shown {
        hop,
        path: path.get(2..).unwrap_or(&[]).chunks(4).map(|c| u32::from_be_bytes(c.try_into().unwrap())).collect(),
        local_pref: number(5),
        med: number(4),
        originator: number(9).map(Ipv4Addr::from_bits),
        clusters: value(10).map_or(0, |list| list.len() / 4),
    }
}

fn encoded(peer: usize, prefix: Prefix, route: &Route) -> Vec<u8> {
    let path = Model::as_path(peer, route);
    let mut segment = Vec::new();
    if !path.is_empty() {
        segment = vec![2, u8::try_from(path.len()).unwrap()];
        path.iter().for_each(|asn| segment.extend(asn.to_be_bytes()));
    }
    let mut out = [attribute(0x40, 1, &[route.origin]), attribute(0x40, 2, &segment)].concat();
    let hop = hop_of(prefix, route.hop);
    if let IpAddr::V4(hop) = hop {
        out.extend(attribute(0x40, 3, &hop.octets()));
    }
    if let Some(med) = route.med {
        out.extend(attribute(0x80, 4, &med.to_be_bytes()));
    }
    if peer >= 2 {
        out.extend(attribute(0x40, 5, &route.local_pref.to_be_bytes()));
        if let Some(last) = route.originator {
            out.extend(attribute(0x80, 9, &[192, 0, 2, 100 + last]));
        }
        let clusters = [[1, 1, 1, 1], [192, 0, 2, 1]];
        if route.clusters > 0 {
            out.extend(attribute(0x80, 10, &clusters[..route.clusters].concat()));
        }
    }
    if let Some(community) = route.community {
        out.extend(attribute(0xc0, 8, &community.to_be_bytes()));
    }
    match hop {
        IpAddr::V4(_) => update(&[], &out, &nlri(&[prefix])),
        IpAddr::V6(hop) => {
            let reach = [&hex("0002 01 10")[..], &hop.octets(), &[0], &nlri(&[prefix])].concat();
            out.extend(attribute(0x80, 14, &reach));
            update(&[], &out, &[])
        }
    }
}

fn withdrawal(prefix: Prefix) -> Vec<u8> {
    match prefix.family() {
        Family::V4 => update(&nlri(&[prefix]), &[], &[]),
        Family::V6 => update(&[], &attribute(0x80, 15, &[&hex("0002 01")[..], &nlri(&[prefix])].concat()), &[]),
    }
}

fn configured(peer: usize, clients: &BTreeSet<usize>) -> lasthop_bgp::config::PeerConfig {
    let mut config = passive(address(peer), asn(peer));
    config.reflect = if clients.contains(&peer) { ReflectMode::Client } else { ReflectMode::NonClient };
    config.next_hop_v6 = Some("fd00::1".parse().unwrap());
    config
}

fn step(bench: &mut Bench, model: &mut Model, op: Op) {
    match op {
        Op::Announce(peer, place, route) => {
            let Some(conn) = model.up.get(&peer) else { return };
            let prefix = prefixes()[place];
            bench.send(*conn, &encoded(peer, prefix, &route));
            model.routes.insert((prefix, peer), route);
        }
        Op::Withdraw(peer, place) => {
            let Some(conn) = model.up.get(&peer) else { return };
            bench.send(*conn, &withdrawal(prefixes()[place]));
            model.routes.remove(&(prefixes()[place], peer));
        }
        Op::Own(place, local_pref) => {
            let origin = Origin { local_pref, med: None };
            bench.with(|speaker, now| speaker.advertise(now, prefixes()[place], origin));
            model.own.insert(prefixes()[place], local_pref);
        }
        Op::NotOwn(place) => {
            bench.with(|speaker, now| speaker.withdraw(now, prefixes()[place]));
            model.own.remove(&prefixes()[place]);
        }
        Op::Down(peer) => {
            if let Some(conn) = model.up.remove(&peer) {
                bench.input(Input::Closed { conn, reason: "reset".to_owned() });
                model.routes.retain(|(_, from), _| *from != peer);
            }
        }
        Op::Up(peer) => {
            model
                .up
                .entry(peer)
                .or_insert_with(|| bench.connect(address(peer), &RawOpen::new(asn(peer), identifier(peer))));
        }
        Op::Congested(peer) => drop(model.up.get(&peer).map(|conn| bench.input(Input::Congested { conn: *conn }))),
        Op::Drained(peer) => drop(model.up.get(&peer).map(|conn| bench.input(Input::Drained { conn: *conn }))),
        Op::Refresh(peer) => {
            if let Some(conn) = model.up.get(&peer) {
                bench.send(*conn, &message(5, &[0, 1, 0, 1]));
            }
        }
        Op::Reflect(peer, client) => {
            if client {
                model.clients.insert(peer)
            } else {
                model.clients.remove(&peer)
            };
            bench.set_peer(configured(peer, &model.clients));
        }
    }
}

fn check(bench: &Bench, model: &Model) {
    assert_eq!(bench.learned, model.learned());
    for (peer, conn) in &model.up {
        let seen = &bench.seen[conn];
        let got: BTreeMap<Prefix, Shown> = seen.routes.iter().map(|(prefix, raw)| (*prefix, shown(raw))).collect();
        assert_eq!(got, model.shown(*peer), "peer {peer}");
        let status = bench.speaker.peers().into_iter().find(|s| s.address == IpAddr::from(address(*peer))).unwrap();
        assert_eq!(status.prefixes_out, got.len(), "peer {peer}");
        let mine = || model.routes.iter().filter(|((_, from), _)| from == peer);
        assert_eq!(status.prefixes_in, mine().count(), "peer {peer}");
        let refused = mine().filter(|(_, route)| !Model::usable(*peer, route)).count();
        assert_eq!(status.prefixes_refused, refused, "peer {peer}");
    }
    for prefix in prefixes() {
        let why = bench.speaker.why(prefix);
        let best = why.paths.iter().find(|path| path.verdict == PathVerdict::Best).map(|path| path.from);
        let expect = match (model.own.get(&prefix), model.choose(prefix).0) {
            (Some(_), _) => Some(PathSource::Local),
            (None, best) => best.map(|peer| PathSource::Peer(address(peer).into())),
        };
        assert_eq!(best, expect, "{why:?}");
        for report in why.advertised {
            let peer = (0..PEERS).find(|peer| IpAddr::from(address(*peer)) == report.peer).unwrap();
            let shown = model.up.contains_key(&peer).then(|| model.shown(peer).remove(&prefix)).flatten();
            assert_eq!(report.outcome.ok(), shown.map(|shown| shown.hop), "why {prefix} to peer {peer}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn learned_and_sent_equal_the_plain_reading_after_any_sequence(ops in proptest::collection::vec(op(), 1..120)) {
        let mut bench = Bench::new(sut_config(65000), Start::Cold);
        let mut model = Model::new();
        for peer in 0..PEERS {
            bench.set_peer(configured(peer, &model.clients));
        }
        bench.with(|speaker, now| speaker.own_routes_complete(now));
        for op in ops {
            step(&mut bench, &mut model, op);
        }
        for conn in model.up.values() {
            bench.input(Input::Drained { conn: *conn });
        }
        check(&bench, &model);
    }
}

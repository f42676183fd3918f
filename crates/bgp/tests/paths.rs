//! Several paths of a prefix over one session (RFC 7911).
#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it must be")]

mod common;

use common::raw::{Bench, RawOpen, attribute, hex, parameters, passive, sut_config, update};
use common::{Net, SECOND, prefix};
use lasthop_bgp::config::{AddPath, PeerConfig, ReflectMode, Switch};
use lasthop_bgp::{PeerState, Start};

const PEER: [u8; 4] = [10, 99, 1, 2];
const ROUTE: &str = "203.0.113.0/24";

fn bench() -> Bench {
    let mut bench = Bench::new(sut_config(65000), Start::Cold);
    bench.set_peer(PeerConfig { add_path: AddPath { receive: Switch::On, send: 0 }, ..passive(PEER, 65001) });
    bench.with(|speaker, now| speaker.own_routes_complete(now));
    bench
}

/// It sends several paths of IPv4.
fn open() -> RawOpen {
    let mut open = RawOpen::new(65001, [192, 0, 2, 2]);
    let known = open.parameters[3..].to_vec();
    open.parameters = parameters(&[known, hex("4504 00010102 400a 0078 00010180 00020180")].concat());
    open
}

fn announce(med: u32, nlri: &str) -> Vec<u8> {
    let attributes = [
        attribute(0x40, 1, &[0]),
        attribute(0x40, 2, &hex("0201 0000fde9")),
        attribute(0x40, 3, &PEER),
        attribute(0x80, 4, &med.to_be_bytes()),
    ];
    update(&[], &attributes.concat(), &hex(nlri))
}

fn meds(bench: &Bench) -> Vec<String> {
    let paths = bench.speaker.paths(Some(prefix(ROUTE)));
    let med = |(name, value): &(&str, String)| (*name == "MULTI_EXIT_DISC").then(|| value.clone());
    let mut meds: Vec<String> = paths.iter().flat_map(|path| path.attributes.iter().find_map(med)).collect();
    meds.sort();
    meds
}

#[test]
fn paths_are_told_apart_replaced_and_withdrawn_by_their_identifier() {
    let mut bench = bench();
    let conn = bench.connect(PEER, &open());
    bench.send(conn, &announce(30, "00000003 18cb0071"));
    bench.send(conn, &announce(10, "00000001 18cb0071 00000001 18cb0072"));
    bench.send(conn, &announce(20, "00000000 18cb0071"));
    assert_eq!(meds(&bench), ["10", "20", "30"]);
    let status = &bench.speaker.peers()[0];
    assert_eq!((status.prefixes_in, status.state), (2, PeerState::Established), "prefixes are counted, not paths");
    bench.send(conn, &announce(40, "00000001 18cb0071"));
    assert_eq!(meds(&bench), ["20", "30", "40"], "the same identifier replaces");
    bench.send(conn, &update(&hex("00000000 18cb0071"), &[], &[]));
    assert_eq!(meds(&bench), ["30", "40"]);
    bench.send(conn, &update(&hex("00000009 18cb0071"), &[], &[]));
    assert_eq!(meds(&bench), ["30", "40"], "one that was never told");
    // Of equal paths of one peer the lower identifier is the best.
    bench.send(conn, &announce(30, "00000001 18cb0071"));
    assert_eq!(bench.learned[&prefix(ROUTE)].len(), 1);
    assert!(bench.speaker.paths(Some(prefix(ROUTE)))[1].verdict.to_string().contains("equal cost"));
    // The session breaks: all of them are stale, and swept one by one.
    bench.input(lasthop_bgp::Input::Closed { conn, reason: "gone".to_owned() });
    assert_eq!(bench.speaker.peers()[0].prefixes_stale, 3);
    let conn = bench.connect(PEER, &open());
    bench.send(conn, &announce(30, "00000003 18cb0071"));
    bench.send(conn, &update(&[], &[], &[]));
    assert_eq!(meds(&bench), ["30"]);
    let status = &bench.speaker.peers()[0];
    assert_eq!((status.prefixes_in, status.prefixes_stale, status.prefixes_refused), (1, 0, 0));
}

#[test]
fn a_prefix_that_is_too_short_for_its_identifier_ends_the_session() {
    let mut bench = bench();
    let conn = bench.connect(PEER, &open());
    bench.send(conn, &announce(1, "000001"));
    assert_eq!(bench.seen[&conn].notification().map(|n| (n.0, n.1)), Some((3, 10)));
}

#[test]
fn a_reflector_shows_all_paths_to_who_asked_and_the_best_to_others() {
    for send in [2, 8] {
        let mut net = Net::new();
        let reflector = net.add();
        let clients: Vec<usize> = (0..5).map(|_| net.add()).collect();
        for (place, client) in clients.iter().enumerate() {
            net.link(reflector, *client, |at_reflector, at_client| {
                at_reflector.reflect = ReflectMode::Client;
                if place == 4 {
                    at_reflector.add_path.send = send;
                    at_client.add_path.receive = Switch::On;
                }
            });
        }
        let (plain, asker) = (clients[3], clients[4]);
        for client in &clients[..3] {
            net.nodes[*client].own.insert(prefix("10.65.9.9/32"));
        }
        net.start_all();
        net.run_for(SECOND * 5);
        let seen = |net: &Net, node: usize| {
            let paths = net.nodes[node].speaker.as_ref().unwrap().paths(Some(prefix("10.65.9.9/32")));
            let mut hops: Vec<String> = paths.iter().map(|path| path.next_hop.to_string()).collect();
            hops.sort();
            hops
        };
        let hops = |net: &Net, of: &[usize]| of.iter().map(|c| net.nodes[*c].address.to_string()).collect::<Vec<_>>();
        assert_eq!(seen(&net, plain).len(), 1);
        let most = usize::from(send).min(3);
        assert_eq!(seen(&net, asker), hops(&net, &clients[..most]), "{send}");
        // The best goes: only that one is withdrawn, and the next one is there at once.
        net.nodes[asker].lost.clear();
        net.withdraw(clients[0], prefix("10.65.9.9/32"));
        net.run_for(SECOND);
        assert_eq!(seen(&net, asker), hops(&net, &clients[1..3]));
        assert_eq!(net.nodes[asker].lost, []);
        for client in &clients[1..3] {
            net.withdraw(*client, prefix("10.65.9.9/32"));
        }
        net.run_for(SECOND);
        assert_eq!((seen(&net, asker).len(), seen(&net, plain).len()), (0, 0));
        net.assert_all_established();
    }
}

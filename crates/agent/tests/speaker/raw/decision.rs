//! The decision (R5 of the interop scenarios): two speakers say the same prefix, equal but for one thing, to us, to BIRD and
//! to FRR with their default settings. All three choose the same, at every step.
//!
//! The cost of the way to the next hop is the one step that is left out: who is on the same link is as near as anybody.

use super::{Open, Raw, attribute, good, hex, joined, update};
use crate::bird::{hosts, speaker};
use crate::daemon::{Kind, Neighbour, Setup, US};
use crate::support::{LIMIT, peer};
use lasthop_agent::speaker::Question;
use lasthop_bgp::config::{ConnectMode, PeerConfig};
use std::collections::BTreeMap;

const OURS: u32 = 65000;
const PREFIX: &str = "203.0.113.0/24";
/// The two that speak. By everything that is compared last the first one wins.
const SPEAKERS: [[u8; 4]; 2] = [[10, 99, 0, 4], [10, 99, 0, 5]];

/// What the two say that is different, and who wins.
struct Tie {
    what: &'static str,
    attributes: [Vec<(u8, u8, Vec<u8>)>; 2],
    winner: usize,
}

fn path(kind: u8, asns: &[u32]) -> Vec<u8> {
    let numbers: Vec<u8> = asns.iter().flat_map(|asn| asn.to_be_bytes()).collect();
    [&[kind, u8::try_from(asns.len()).unwrap()][..], &numbers].concat()
}

fn number(value: u32) -> Vec<u8> {
    value.to_be_bytes().into()
}

/// Ties by the ASes of the two.
fn ties() -> Vec<([u32; 2], Vec<Tie>)> {
    let tie = |what, first: Vec<_>, second: Vec<_>, winner| Tie { what, attributes: [first, second], winner };
    let originator = |last: u8| (9, 0x80, vec![192, 0, 2, last]);
    let clusters = |count: u8| (10, 0x80, (0..count).flat_map(|i| [192, 0, 2, 50 + i]).collect::<Vec<u8>>());
    let long = |asns: &[u32]| (2, 0x40, path(2, asns));
    let set = [path(2, &[65001]), path(1, &[65010, 65011, 65012])].concat();
    vec![
        (
            [OURS, OURS],
            vec![
                tie("LOCAL_PREF", vec![(5, 0x40, number(100))], vec![(5, 0x40, number(200))], 1),
                tie("AS_PATH length inside", vec![long(&[65010, 65011])], vec![long(&[65010])], 1),
                tie("ORIGINATOR_ID for the identifier", vec![originator(20)], vec![originator(10)], 1),
                tie("CLUSTER_LIST length", vec![originator(10), clusters(3)], vec![originator(10), clusters(2)], 1),
                tie("the peer's address", vec![originator(10), clusters(1)], vec![originator(10), clusters(1)], 0),
                tie("identifier", vec![], vec![], 0),
            ],
        ),
        (
            [65001, 65001],
            vec![
                tie("AS_PATH length", vec![long(&[65001, 65010, 65011])], vec![long(&[65001, 65010])], 1),
                tie("an AS_SET counts once", vec![long(&[65001, 65010, 65011])], vec![(2, 0x40, set)], 1),
                tie("ORIGIN", vec![(1, 0x40, vec![2])], vec![(1, 0x40, vec![0])], 1),
                tie("MED of one AS", vec![(4, 0x80, number(20))], vec![(4, 0x80, number(10))], 1),
                tie("no MED is the lowest", vec![(4, 0x80, number(20))], vec![], 1),
            ],
        ),
        ([65001, 65002], vec![tie("MED of two ASes", vec![(4, 0x80, number(20))], vec![(4, 0x80, number(10))], 0)]),
        ([OURS, 65002], vec![tie("outside before inside", vec![long(&[65010])], vec![], 1)]),
    ]
}

fn said(asn: u32, own: [u8; 4], more: &[(u8, u8, Vec<u8>)]) -> Vec<u8> {
    let mut attributes: BTreeMap<u8, Vec<u8>> = good((asn != OURS).then_some(asn), own);
    for (kind, flags, value) in more {
        attributes.insert(*kind, attribute(*flags, *kind, value));
    }
    update(&[], &joined(&attributes), &hex("18cb0071"))
}

#[test]
fn the_same_path_is_chosen_as_by_bird_and_frr_at_every_step() {
    for (asns, ties) in ties() {
        let [ours, birds, frrs, first, second] = hosts();
        let addresses = SPEAKERS.map(|[a, b, c, d]| format!("{a}.{b}.{c}.{d}"));
        let setup = |number| {
            let setups = addresses.iter().zip(asns).map(|(address, asn)| {
                Neighbour::new(address, asn).change(|neighbour| {
                    neighbour.passive = true;
                    neighbour.restart = None;
                })
            });
            setups.fold(Setup::new(number, OURS), Setup::with)
        };
        let daemons = [Kind::Bird.start(&birds, &setup(2)), Kind::Frr.start(&frrs, &setup(3))];
        let waits = addresses.iter().zip(asns);
        let waits = waits.map(|(address, asn)| PeerConfig { connect: ConnectMode::Passive, ..peer(US, address, asn) });
        let (_speaker, mut agent) = speaker(&ours, US, OURS, waits.collect());
        agent.wait("listening", LIMIT, |agent| agent.listening.is_some());
        let mut sessions: Vec<[Raw; 2]> = [US, "10.99.0.2", "10.99.0.3"]
            .into_iter()
            .map(|to| {
                let open = |at: usize| Open::new(asns[at], SPEAKERS[at]);
                [Raw::established(&first, to, &open(0)), Raw::established(&second, to, &open(1))]
            })
            .collect();
        for Tie { what, attributes, winner } in ties {
            // The loser speaks last in one round and first in the other: age decides nothing. But to FRR it does between two
            // strangers before their identifiers are compared.
            let orders: &[[usize; 2]] = if asns == [65001, 65002] { &[[0, 1]] } else { &[[0, 1], [1, 0]] };
            for order in orders.iter().copied() {
                for pair in &mut sessions {
                    for at in order {
                        pair[at].send(&said(asns[at], SPEAKERS[at], &attributes[at]));
                        std::thread::sleep(std::time::Duration::from_millis(30));
                    }
                }
                let expected = &addresses[winner];
                let end = std::time::Instant::now() + LIMIT;
                loop {
                    let why = agent.ask(Question::Why(PREFIX.parse().unwrap()));
                    let ours = why["paths"][0]["nextHop"].as_str().unwrap_or_default().to_owned();
                    let theirs = daemons.each_ref().map(|daemon| daemon.daemon.paths(PREFIX));
                    let chosen = theirs.each_ref().map(|paths| paths.first().map(|path| path.next_hop.clone()));
                    let all =
                        why["paths"].as_array().unwrap().len() == 2 && theirs.iter().all(|paths| paths.len() == 2);
                    if all && ours == *expected && chosen.iter().all(|chosen| chosen.as_ref() == Some(expected)) {
                        break;
                    }
                    assert!(
                        std::time::Instant::now() < end,
                        "{what}, {order:?}: {expected} should win; we chose {ours}, BIRD and FRR {chosen:?}\n{why:#}"
                    );
                    sessions.iter_mut().flatten().for_each(Raw::listen);
                }
                for pair in &mut sessions {
                    pair.iter_mut().for_each(|raw| raw.send(&update(&hex("18cb0071"), &[], &[])));
                }
                agent.learned(PREFIX, &[]);
                for daemon in &daemons {
                    daemon.has_not(&mut agent, PREFIX);
                }
            }
            println!("{what}: all three agree");
        }
    }
}

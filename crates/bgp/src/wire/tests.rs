//! What is encoded is decoded, and no octets whatsoever make the decoder panic.

#[path = "../../tests/common/dice.rs"]
mod dice;

use super::capability::{Capabilities, Forwarding, GracefulRestart, PathsMode};
use super::nlri::{Nlri, PathIds};
use super::*;
use crate::attributes::{AsPath, Attributes, OriginCode, Segment, SegmentKind, Unknown};
use crate::config::Role;
use dice::Dice;
use lasthop_net::{Asn, Prefix};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Octets as messages, of which there are to be so many.
fn messages((bytes, count): (Vec<u8>, u64)) -> Vec<Vec<u8>> {
    let all = one_by_one(&bytes);
    assert_eq!((all.concat(), all.len() as u64), (bytes, count));
    all
}

fn reach(block: &AttributeBlock, prefixes: &[Nlri]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let count = pack_reach(block, prefixes, &mut out);
    messages((out, count))
}

fn gone(family: Family, prefixes: &[Nlri]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let count = pack_withdraw((family, PathIds::Absent), prefixes, &mut out);
    messages((out, count))
}

fn as_path() -> impl Strategy<Value = AsPath> {
    let asn = prop_oneof![1..65536u32, 65536..u32::MAX].prop_map(Asn);
    let kind = prop_oneof![3 => Just(SegmentKind::Sequence), 1 => Just(SegmentKind::Set)];
    vec((kind, vec(asn, 1..20)).prop_map(|(kind, asns)| Segment { kind, asns }), 1..4).prop_map(AsPath)
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let first = (any::<bool>(), as_path(), any::<Option<u32>>(), any::<u32>(), any::<bool>());
    let second = (any::<Option<(u16, u32)>>(), vec(any::<u32>(), 0..80), vec(any::<[u8; 8]>(), 0..4));
    let third = (vec(any::<[u32; 3]>(), 0..4), any::<Option<u32>>(), vec(any::<u32>(), 0..4), vec(any::<u8>(), 0..300));
    (first, second, third).prop_map(
        |((v6, as_path, med, local_pref, atomic), (aggregator, communities, extended), rest)| {
            let (large, originator, clusters, opaque) = rest;
            let next_hop: IpAddr = if v6 { "fd00::7".parse().unwrap() } else { "10.0.0.7".parse().unwrap() };
            Attributes {
                origin: OriginCode::Egp,
                as_path,
                med,
                local_pref: Some(local_pref),
                atomic_aggregate: atomic,
                aggregator: aggregator.map(|(asn, id)| (Asn(u32::from(asn) * 3), Ipv4Addr::from_bits(id))),
                communities,
                extended,
                large,
                originator_id: originator.map(Ipv4Addr::from_bits),
                cluster_list: clusters.into_iter().map(Ipv4Addr::from_bits).collect(),
                unknown: vec![Unknown { kind: 200, value: opaque }],
                ..Attributes::bare(next_hop)
            }
        },
    )
}

fn prefixes(family: Family) -> impl Strategy<Value = Vec<Prefix>> {
    vec((any::<u128>(), 0..=family.bits()), 1..1500).prop_map(move |given| {
        let prefix = |(bits, len): (u128, u8)| {
            let address = match family {
                Family::V4 => IpAddr::V4(Ipv4Addr::from_bits((bits >> 96) as u32)),
                // Never the IPv4-mapped ones, which are no IPv6 prefixes.
                Family::V6 => IpAddr::V6(Ipv6Addr::from_bits(bits | 1 << 127)),
            };
            Prefix::new(address, len)
        };
        given.into_iter().filter_map(prefix).filter(|p| p.family() == family).collect()
    })
}

fn plain(prefixes: &[Prefix]) -> Vec<Nlri> {
    prefixes.iter().map(|prefix| Nlri::from(*prefix)).collect()
}

fn usual(width: AsnWidth) -> Format {
    Format { width, longest: MAX_LEN, ids: PathIds::Absent }
}

fn decoded(messages: &[Vec<u8>], width: AsnWidth) -> Vec<Update> {
    let (families, none) = (Family::ALL.into(), BTreeSet::new());
    let asn4 = width == AsnWidth::Four;
    let context =
        Context { kind: PeerKind::Internal, asn4, families: &families, extended_next_hop: true, paths: &none };
    messages
        .iter()
        .map(|message| match split(message, MAX_EXTENDED_LEN) {
            Ok(Framed::Message(MessageType::Update, body, taken)) if taken == message.len() => {
                Update::parse(body, &context).unwrap()
            }
            other => panic!("{other:?}"),
        })
        .collect()
}

proptest! {
    #[test]
    fn announcements_survive_encoding_and_fill_messages(
        attributes in attributes(),
        (v4, v6) in (prefixes(Family::V4), prefixes(Family::V6)),
        (wide, over) in any::<(bool, bool)>(),
    ) {
        let width = if wide { AsnWidth::Four } else { AsnWidth::Two };
        // IPv4 over an IPv6 next hop now and then (RFC 8950).
        let (family, prefixes) =
            if over || attributes.next_hop.is_ipv4() { (Family::V4, v4) } else { (Family::V6, v6) };
        let prefixes = plain(&prefixes);
        let messages = reach(&AttributeBlock::encode(&attributes, family, usual(width)), &prefixes);
        let mut got = Vec::new();
        for update in decoded(&messages, width) {
            prop_assert!(update.problems.is_empty() && update.withdrawn.is_empty() && update.end_of_rib.is_none());
            for (back, some) in update.announced {
                // A 2-octet peer sees segments joined, and 23456 where an AGGREGATOR of its own says AS4_PATH is stale.
                let stale = !wide && attributes.aggregator.is_some_and(|(asn, _)| asn.0 < 65536 && asn != Asn::TRANS);
                if wide {
                    prop_assert_eq!(&back, &attributes);
                } else if !stale {
                    prop_assert_eq!(back.as_path.asns().collect::<Vec<_>>(), attributes.as_path.asns().collect::<Vec<_>>());
                    prop_assert_eq!(&back.aggregator, &attributes.aggregator);
                }
                got.extend(some);
            }
        }
        prop_assert_eq!(got, prefixes);
        for message in messages.iter().rev().skip(1) {
            prop_assert!(message.len() > MAX_LEN - 18, "a message of {} octets is not full", message.len());
        }
    }

    #[test]
    fn withdrawals_survive_encoding((v4, v6) in (prefixes(Family::V4), prefixes(Family::V6))) {
        for (family, prefixes) in [(Family::V4, v4), (Family::V6, v6)] {
            let prefixes = plain(&prefixes);
            let messages = gone(family, &prefixes);
            let got: Vec<Nlri> = decoded(&messages, AsnWidth::Four).into_iter().flat_map(|u| u.withdrawn).collect();
            prop_assert_eq!(got, prefixes);
        }
    }

    #[test]
    fn opens_survive_encoding(
        (asn, hold, id) in (1u32.., prop_oneof![Just(0u16), 3u16..], 1u32..),
        (families, refresh, extended) in (btree_set(prop_oneof![Just(Family::V4), Just(Family::V6)], 0..3), any::<bool>(), any::<bool>()),
        restart: Option<(bool, u16, bool)>,
        (role, paths, long_lived) in (prop::option::of(0usize..5), any::<Option<(bool, bool)>>(), any::<Option<u32>>()),
        more: bool,
    ) {
        let forwarding = |preserved| if preserved { Forwarding::Preserved } else { Forwarding::Lost };
        let long_lived = long_lived.filter(|_| !families.is_empty()).map(|time| {
            let time = Duration::from_secs(u64::from(time & 0xff_ffff));
            families.iter().map(|f| (*f, (forwarding(more), time))).collect()
        });
        let add_path = paths.filter(|(receives, sends)| *receives || *sends).map(|(receives, sends)| {
            families.iter().map(|f| (*f, PathsMode { receives, sends })).collect()
        });
        let graceful_restart = restart.map(|(restarted, time, preserved)| GracefulRestart {
            restarted,
            notification: more,
            time: Duration::from_secs(u64::from(time & 0xfff)),
            families: families.iter().map(|f| (*f, forwarding(preserved))).collect(),
        });
        let capabilities = Capabilities {
            multiprotocol: !families.is_empty(),
            families,
            asn4: Some(Asn(asn)),
            route_refresh: refresh,
            extended_message: extended,
            graceful_restart,
            long_lived,
            add_path: add_path.unwrap_or_default(),
            enhanced_refresh: more,
            extended_next_hop: more,
            role: role.map(|role| [Role::Provider, Role::RouteServer, Role::RouteServerClient, Role::Customer, Role::Peer][role]),
            two_roles: false,
        };
        let open = Open { asn: Asn(asn), hold_time: hold, router_id: Ipv4Addr::from_bits(id), capabilities };
        let message = open.encode();
        let Ok(Framed::Message(MessageType::Open, body, _)) = split(&message, MAX_LEN) else { panic!("{message:?}") };
        prop_assert_eq!(Open::parse(body), Ok(open));
    }
}

#[test]
fn attributes_that_fill_a_message_go_in_a_longer_one_where_the_peer_takes_it() {
    let mut attributes = Attributes::bare([10, 0, 0, 7].into());
    attributes.local_pref = Some(100);
    attributes.communities = (0..15_000).collect();
    let prefixes = plain(&["10.65.0.0/26".parse().unwrap(), "10.65.0.64/26".parse().unwrap()]);
    let block = |longest| {
        AttributeBlock::encode(&attributes, Family::V4, Format { width: AsnWidth::Four, longest, ids: PathIds::Absent })
    };
    assert!(!block(MAX_LEN).fits() && reach(&block(MAX_LEN), &prefixes).is_empty());
    let messages = reach(&block(MAX_EXTENDED_LEN), &prefixes);
    let [message] = &messages[..] else { panic!("{} messages", messages.len()) };
    assert!(message.len() > 60_000);
    let updates = decoded(&messages, AsnWidth::Four);
    assert_eq!(updates[0].announced, [(attributes.clone(), prefixes)]);
}

#[test]
fn end_of_rib_is_known_as_such_for_each_family() {
    for family in Family::ALL {
        let updates = decoded(&[end_of_rib(family)], AsnWidth::Four);
        assert_eq!(updates, [Update { end_of_rib: Some(family), ..Update::default() }]);
    }
}

/// Good messages of every kind, to be spoilt.
fn seeds() -> Vec<Vec<u8>> {
    let mut attributes = Attributes::bare("10.0.0.7".parse().unwrap());
    attributes.as_path = AsPath(vec![
        Segment { kind: SegmentKind::Sequence, asns: vec![Asn(65001), Asn(70000)] },
        Segment { kind: SegmentKind::Set, asns: vec![Asn(5), Asn(6)] },
    ]);
    attributes.med = Some(5);
    attributes.local_pref = Some(100);
    attributes.atomic_aggregate = true;
    attributes.aggregator = Some((Asn(70000), Ipv4Addr::new(1, 2, 3, 4)));
    attributes.communities = vec![1, 2];
    attributes.extended = vec![[0, 2, 0, 0, 0, 0, 0, 1]];
    attributes.large = vec![[1, 2, 3]];
    attributes.originator_id = Some(Ipv4Addr::new(1, 1, 1, 1));
    attributes.cluster_list = vec![Ipv4Addr::new(2, 2, 2, 2)];
    attributes.otc = Some(Asn(65001));
    attributes.unknown = vec![Unknown { kind: 99, value: vec![1, 2, 3] }];
    let v4: Vec<Prefix> = ["10.65.0.0/26", "0.0.0.0/0", "10.65.0.24/32"].map(|p| p.parse().unwrap()).to_vec();
    let v6: Vec<Prefix> = ["fd00::/64", "::/0", "fd65::1/128"].map(|p| p.parse().unwrap()).to_vec();
    let mut seeds = Vec::new();
    for width in [AsnWidth::Two, AsnWidth::Four] {
        seeds.extend(reach(&AttributeBlock::encode(&attributes, Family::V4, usual(width)), &plain(&v4)));
        let six = Attributes { next_hop: "fd00::7".parse().unwrap(), ..attributes.clone() };
        seeds.extend(reach(&AttributeBlock::encode(&six, Family::V6, usual(width)), &plain(&v6)));
    }
    seeds.extend(gone(Family::V4, &plain(&v4)));
    seeds.extend(gone(Family::V6, &plain(&v6)));
    seeds.push(Notification::new((6, 2), *b"\x05hello").encode());
    seeds.push(frame(MessageType::RouteRefresh, &[0, 1, 0, 1]));
    seeds.push(keepalive());
    let restart = GracefulRestart {
        restarted: true,
        notification: true,
        time: Duration::from_secs(120),
        families: Family::ALL.into_iter().map(|f| (f, Forwarding::Preserved)).collect(),
    };
    let capabilities = Capabilities {
        families: BTreeSet::from(Family::ALL),
        multiprotocol: true,
        asn4: Some(Asn(70000)),
        route_refresh: true,
        extended_message: true,
        graceful_restart: Some(restart),
        long_lived: Some(Family::ALL.into_iter().map(|f| (f, (Forwarding::Lost, Duration::from_secs(60)))).collect()),
        add_path: Family::ALL.into_iter().map(|f| (f, PathsMode { receives: true, sends: true })).collect(),
        enhanced_refresh: true,
        extended_next_hop: true,
        role: Some(Role::Peer),
        two_roles: false,
    };
    let router_id = Ipv4Addr::new(9, 9, 9, 9);
    seeds.push(Open { asn: Asn(70000), hold_time: 90, router_id, capabilities }.encode());
    seeds
}

#[test]
fn three_hundred_thousand_spoilt_messages_never_panic() {
    let seeds = seeds();
    let mut dice = Dice(0x1a57_0b0b);
    let mut whole = 0;
    for _ in 0..300_000 {
        let mut message = seeds[dice.roll(seeds.len())].clone();
        for _ in 0..=dice.roll(4) {
            let at = HEADER_LEN.min(message.len()) + dice.roll(message.len().saturating_sub(HEADER_LEN) + 1);
            match dice.roll(5) {
                0 => message.truncate(at.max(HEADER_LEN)),
                1 => message.insert(at.min(message.len()), u8::try_from(dice.roll(256)).unwrap()),
                2 if at < message.len() => drop(message.remove(at)),
                3 if at < message.len() => message[at] ^= 1 << dice.roll(8),
                _ if at < message.len() => message[at] = [0, 1, 0x7f, 0x80, 0xff][dice.roll(5)],
                _ => {}
            }
        }
        // Mostly keep the length right, so that what is inside is looked at.
        if dice.roll(20) != 0 {
            let len = u16::try_from(message.len()).unwrap().to_be_bytes();
            message[16..18].copy_from_slice(&len);
        }
        whole += decode_any(&message);
    }
    assert!(whole > 400_000, "only {whole} were looked into");
}

#[test]
fn every_prefix_of_every_good_message_is_partial_or_refused() {
    for seed in seeds() {
        for cut in 0..seed.len() {
            assert_eq!(split(&seed[..cut], MAX_LEN).ok(), Some(Framed::Partial));
        }
        assert!(decode_any(&seed) > 0);
    }
}

/// Each attribute we know, spoilt: its code, flags, a wrong value, and what becomes of it from an external and an internal peer.
const SPOILT: &[(u8, u8, &[u8], [Outcome; 2])] = {
    use Outcome::{AttributeDiscard as Discard, TreatAsWithdraw as Withdraw};
    &[
        (1, 0x40, &[3], [Withdraw, Withdraw]),
        (2, 0x40, &[2, 1, 0, 0], [Withdraw, Withdraw]),
        (3, 0x40, &[10, 0, 0], [Withdraw, Withdraw]),
        (4, 0x80, &[0, 0, 0], [Withdraw, Withdraw]),
        (5, 0x40, &[0, 0, 0], [Discard, Withdraw]),
        (6, 0x40, &[1], [Discard, Discard]),
        (7, 0xc0, &[0, 0, 0], [Discard, Discard]),
        (8, 0xc0, &[0, 0, 0], [Withdraw, Withdraw]),
        (9, 0x80, &[0, 0, 0], [Discard, Withdraw]),
        (10, 0x80, &[0, 0, 0], [Discard, Withdraw]),
        (16, 0xc0, &[0, 0, 0], [Withdraw, Withdraw]),
        (17, 0xc0, &[2, 1, 0, 0, 0, 7], [Discard, Discard]),
        (18, 0xc0, &[0, 0, 0, 7, 1, 1, 1, 1], [Discard, Discard]),
        (32, 0xc0, &[0, 0, 0], [Withdraw, Withdraw]),
        (35, 0xc0, &[0, 0, 0], [Withdraw, Withdraw]),
    ]
};

#[test]
fn an_error_in_any_attribute_says_where_it_is_which_it_is_and_what_is_done() {
    let (families, none) = (Family::ALL.into(), BTreeSet::new());
    let known: Vec<u8> = SPOILT.iter().map(|(code, ..)| *code).collect();
    for code in 0..=u8::MAX {
        let ours = super::attribute::path(code) != "UPDATE unknown attribute" && !matches!(code, 14 | 15);
        assert_eq!(ours, known.contains(&code), "attribute {code} is missing here");
    }
    for (code, flags, value, outcomes) in SPOILT {
        for (kind, outcome) in [PeerKind::External, PeerKind::Internal].into_iter().zip(outcomes) {
            // After ORIGIN, or before it.
            let origin: &[u8] = if *code == 1 { &[] } else { &[0x40, 1, 1, 0] };
            let spoilt = [&[*flags, *code, u8::try_from(value.len()).unwrap()][..], value].concat();
            let attributes = [origin, &spoilt].concat();
            let mut body = vec![0, 0];
            body.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
            body.extend(&attributes);
            body.extend([24, 203, 0, 113]);
            let context = Context { kind, asn4: true, families: &families, extended_next_hop: false, paths: &none };
            let update = Update::parse(&body, &context).unwrap();
            let problem = update.problems.iter().find(|problem| problem.path == super::attribute::path(*code)).unwrap();
            assert_eq!(&problem.outcome, outcome, "{code} {kind:?}: {problem}");
            // Header, two lengths, ORIGIN, then flags, code and length of this one.
            assert_eq!(problem.offset, HEADER_LEN + 4 + origin.len() + 3, "{code}: {problem}");
            assert!(problem.to_string().contains(&format!("octet {}", problem.offset)));
            // Flags that are wrong are found before the value is looked at.
            let mut body = body.clone();
            body[4 + origin.len()] ^= 0x80;
            let update = Update::parse(&body, &context);
            let withdrawn = update.is_ok_and(|update| update.announced.is_empty() && !update.problems.is_empty());
            assert!(withdrawn, "{code} with wrong flags");
        }
    }
}

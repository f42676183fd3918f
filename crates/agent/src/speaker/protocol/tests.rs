use super::*;
use lasthop_bgp::config::*;
use lasthop_net::{Asn, Family};
use proptest::prelude::*;
use std::time::Duration;

fn prefix() -> impl Strategy<Value = Prefix> {
    prop_oneof![
        (any::<[u8; 4]>(), 0u8..=32).prop_map(|(bits, len)| Prefix::new(IpAddr::from(bits), len).unwrap()),
        (any::<[u8; 16]>(), 0u8..=128).prop_map(|(bits, len)| Prefix::new(IpAddr::from(bits), len).unwrap()),
    ]
}

fn peer() -> impl Strategy<Value = PeerConfig> {
    let choices = (0usize..2, 0usize..2, 0usize..3, 0usize..4);
    (any::<IpAddr>(), any::<u16>(), any::<u32>(), any::<Option<u32>>(), any::<Option<IpAddr>>(), choices).prop_map(
        |(address, port, asn, local_asn, local_address, (connect, reflect, next_hop, families))| PeerConfig {
            port,
            local_asn: local_asn.map(Asn),
            local_address,
            next_hop_v4: None,
            next_hop_v6: Some("fd00::1".parse().unwrap()),
            connect: [ConnectMode::Active, ConnectMode::Passive][connect],
            reflect: [ReflectMode::NonClient, ReflectMode::Client][reflect],
            next_hop: [NextHop::Auto, NextHop::OurSelf, NextHop::Keep][next_hop],
            families: Family::ALL
                .into_iter()
                .enumerate()
                .filter(|(i, _)| families & (1 << i) != 0)
                .map(|f| f.1)
                .collect(),
            import: policy(port),
            auth: local_asn.map(|_| Auth::Md5(Secret::new("key"))),
            bfd: local_address.map(|_| Bfd::default()),
            ..every_field_set(address, Asn(asn))
        },
    )
}

/// A policy in which each kind of match and change comes; more or less of it.
fn policy(size: u16) -> Policy {
    let rule = Rule {
        name: "rule".to_owned(),
        prefix: Some(PrefixMatch {
            prefix: "10.65.0.0/16".parse().unwrap(),
            operator: PrefixOperator::NotIn,
            lengths: Some(Lengths { min: 24, max: 32 }),
        }),
        outside: vec!["fd00::/8".parse().unwrap()],
        source: Some(RouteSource::External),
        communities: vec![Community::Standard(1), Community::Extended([2; 8]), Community::Large([3; 3])],
        as_path: vec![Asn(4)],
        local_pref: Some(5),
        changes: vec![
            RouteChange::AddCommunity(Community::Large([6; 3])),
            RouteChange::RemoveCommunity(Community::Standard(7)),
            RouteChange::Prepend(vec![Asn(8), Asn(9)]),
            RouteChange::SetLocalPref(10),
            RouteChange::SetMed(11),
        ],
        verdict: Some(Verdict::Reject),
    };
    match size % 4 {
        0 => Policy::Missing,
        count => Policy::new(vec![rule; usize::from(count) - 1], Verdict::Accept),
    }
}

fn every_field_set(address: IpAddr, asn: Asn) -> PeerConfig {
    let limit = |action| PrefixLimit { max: 10, warn_percent: 75, action };
    PeerConfig {
        interface: Some("eth0".parse().unwrap()),
        admin: Admin::Down("maintenance".to_owned()),
        auth: Some(Auth::Ao { key: Secret::new("secret"), id: 7 }),
        ttl: Ttl::Security(2),
        allowed_own_as: 3,
        limits: [
            (Family::V4, limit(LimitAction::Warn)),
            (Family::V6, limit(LimitAction::Close(Some(Duration::from_secs(4))))),
        ]
        .into(),
        export: policy(3),
        role: Some(Role::Customer),
        role_mode: RoleMode::Strict,
        add_path: AddPath { receive: Switch::On, send: 5 },
        extended_next_hop: Switch::On,
        restart: RestartMode::Helper,
        restart_time: Some(Duration::from_secs(6)),
        long_lived: Some(Duration::from_secs(7)),
        graceful_shutdown: Switch::Off,
        ..PeerConfig::new(address, asn)
    }
}

fn to_speaker() -> impl Strategy<Value = ToSpeaker> {
    let config = SpeakerConfig {
        asn: Asn(64512),
        router_id: "10.0.0.1".parse().unwrap(),
        cluster_id: None,
        port: 179,
        bind: [[10, 0, 0, 1].into()].into(),
        restart_time: Duration::from_secs(120),
        deferral: Duration::from_secs(30),
        drain: Drain::Yes,
    };
    let prefixes = || prop::collection::vec(prefix(), 0..20);
    prop_oneof![
        any::<u32>().prop_map(|version| ToSpeaker::Hello { version }),
        any::<u32>().prop_map(move |asn| ToSpeaker::Configure(SpeakerConfig { asn: Asn(asn), ..config.clone() })),
        prop::collection::vec(peer(), 0..5).prop_map(ToSpeaker::Peers),
        prefixes().prop_map(ToSpeaker::Advertise),
        (any::<u64>(), prefixes()).prop_map(|(seq, prefixes)| ToSpeaker::Withdraw { seq, prefixes }),
        Just(ToSpeaker::Complete),
        (any::<u64>(), prefix()).prop_map(|(id, p)| ToSpeaker::Ask { id, question: Question::Paths(Some(p)) }),
        (any::<u64>(), prefix()).prop_map(|(id, p)| ToSpeaker::Ask { id, question: Question::Why(p) }),
    ]
}

proptest! {
    #[test]
    fn messages_cut_anywhere_arrive_whole(messages in prop::collection::vec(to_speaker(), 1..8), cut in 1usize..50) {
        let mut bytes = Vec::new();
        for message in &messages {
            encode(message, &mut bytes).unwrap();
        }
        let mut frames = Frames::default();
        let mut arrived = Vec::new();
        for part in bytes.chunks(cut) {
            frames.room().extend_from_slice(part);
            while let Some(message) = frames.take::<ToSpeaker>().unwrap() {
                arrived.push(message);
            }
        }
        prop_assert_eq!(arrived, messages);
    }

    #[test]
    fn noise_is_refused_without_a_panic(noise in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut frames = Frames::default();
        let mut framed = u32::try_from(noise.len()).unwrap().to_be_bytes().to_vec();
        framed.extend_from_slice(&noise);
        frames.room().extend_from_slice(&framed);
        let _ = frames.take::<ToSpeaker>();
        let mut frames = Frames::default();
        frames.room().extend_from_slice(&noise);
        let _ = frames.take::<ToAgent>();
    }

    #[test]
    fn learned_routes_survive(routes in prop::collection::vec((prefix(), prop::collection::vec(any::<IpAddr>(), 0..4)), 0..50)) {
        let routes: Vec<LearnedRoute> =
            routes.into_iter().map(|(prefix, hops)| (prefix, hops.into_iter().collect())).collect();
        let mut bytes = Vec::new();
        encode(&ToAgent::Learned(routes.clone()), &mut bytes).unwrap();
        let mut frames = Frames::default();
        frames.room().extend_from_slice(&bytes);
        prop_assert_eq!(frames.take().unwrap(), Some(ToAgent::Learned(routes)));
    }
}

fn refusal(bytes: &[u8]) -> String {
    let mut frames = Frames::default();
    frames.room().extend_from_slice(bytes);
    frames.take::<ToSpeaker>().unwrap_err().to_string()
}

#[test]
fn a_frame_that_is_no_message_is_refused_with_the_reason() {
    assert!(refusal(&u32::MAX.to_be_bytes()).contains("4294967295 bytes is longer than 16777216"));
    assert!(refusal(&[0, 0, 0, 1, 99]).contains("is no message"));
    // Hello with a byte behind it.
    assert!(refusal(&[0, 0, 0, 3, 0, 1, 7]).contains("1 bytes too many"));
    // Advertise of 10.0.0.0/33.
    assert!(refusal(&[0, 0, 0, 8, 3, 1, 0, 10, 0, 0, 0, 33]).contains("is no message"));
}

#[test]
fn a_message_beyond_the_limit_is_not_sent_and_leaves_nothing_behind() {
    let mut out = vec![1, 2, 3];
    let message = ToAgent::Answer { id: 1, answer: Ok("x".repeat(FRAME_LIMIT)) };
    assert!(matches!(encode(&message, &mut out), Err(ProtocolError::TooLong(_))));
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn ten_thousand_learned_routes_cost_little() {
    let routes: Vec<LearnedRoute> = (0..10_000u32)
        .map(|i| {
            (Prefix::host(IpAddr::from((0x0a41_0000 + i).to_be_bytes())), IpAddr::from([172, 18, 203, 126]).into())
        })
        .collect();
    let start = std::time::Instant::now();
    let mut frames = Frames::default();
    for part in routes.chunks(ROUTES_PER_FRAME) {
        encode(&ToAgent::Learned(part.to_vec()), frames.room()).unwrap();
    }
    let size = frames.bytes.len();
    let mut count = 0;
    while let Some(ToAgent::Learned(part)) = frames.take().unwrap() {
        count += part.len();
    }
    println!("10,000 routes: {size} bytes, written and read in {:?}", start.elapsed());
    assert_eq!(count, 10_000);
    assert!(size < 200_000, "{size} bytes");
}

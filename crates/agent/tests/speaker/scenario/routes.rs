//! What goes over a session, and what the other end makes of it.

use super::{OUR_AS, OURS, Scene, THEIR_AS, THEIRS, THEM, inside, outside};
use crate::bird::{hosts, speaker};
use crate::daemon::{Kind, Neighbour, Route, Setup, US};
use crate::support::{LIMIT, config, peer};
use lasthop_agent::speaker::Question;
use lasthop_bgp::config::{
    AddPath, Community, LimitAction, PeerConfig, Policy, PrefixLimit, PrefixMatch, PrefixOperator, RouteChange, Rule,
    Verdict,
};
use lasthop_net::Family;
use std::time::Duration;

/// What we say of the best path to a prefix.
fn path(scene: &mut Scene, prefix: &str) -> serde_json::Value {
    scene.agent.ask(Question::Paths(Some(prefix.parse().unwrap())))[0]["attributes"].clone()
}

/// R1, another AS: our AS in front once, our own address, no LOCAL_PREF.
pub(super) fn attributes_outside(kind: Kind) {
    let (mut setup, config) = outside();
    setup.routes[0].med = Some(7);
    let mut scene = Scene::new(kind, &setup, config);
    scene.settled();
    let seen = scene.has(OURS[0]);
    assert_eq!((seen.as_path.as_str(), seen.next_hop.as_str()), ("64512", US), "{seen:?}");
    // BIRD and OpenBGPD show their own default where none was sent.
    let shown = match kind {
        Kind::Bird | Kind::OpenBgpd => Some(100),
        _ => None,
    };
    assert_eq!(seen.local_pref, shown, "{seen:?}");
    assert_eq!(scene.has(OURS[1]).next_hop, "fd00:99::1");
    let learned = path(&mut scene, THEIRS[0]);
    assert_eq!((&learned["AS_PATH"], &learned["LOCAL_PREF"]), (&"64513".into(), &serde_json::Value::Null), "{learned}");
    assert_eq!(learned["MULTI_EXIT_DISC"], "7", "{learned}");
}

/// R1, our own AS: an empty AS_PATH, LOCAL_PREF 100.
pub(super) fn attributes_inside(kind: Kind) {
    let (setup, config) = inside();
    let mut scene = Scene::new(kind, &setup, config);
    scene.settled();
    let seen = scene.has(OURS[0]);
    assert_eq!((seen.as_path.as_str(), seen.next_hop.as_str(), seen.local_pref), ("", US, Some(100)), "{seen:?}");
    let learned = path(&mut scene, THEIRS[0]);
    assert_eq!(learned["LOCAL_PREF"], "100", "{learned}");
    assert_eq!(learned["AS_PATH"].as_str().unwrap_or_default(), "", "{learned}");
}

/// R2: the last word counts, however often it changes.
pub(super) fn a_thousand_changes(kind: Kind) {
    let (setup, config) = outside();
    let mut scene = Scene::new(kind, &setup, config);
    scene.settled();
    let since = scene.peer.daemon.session(US).since;
    for round in 0..1000 {
        scene.agent.advertise(&["10.65.1.0/26", "10.65.2.0/26"]);
        scene.agent.withdraw(round, &["10.65.1.0/26", "10.65.2.0/26"]);
    }
    scene.agent.advertise(&["10.65.2.0/26"]);
    scene.agent.wait("all withdrawn", LIMIT, |agent| agent.withdrawn.contains(&999));
    scene.has("10.65.2.0/26");
    scene.peer.has_not(&mut scene.agent, "10.65.1.0/26");
    assert_eq!(scene.peer.daemon.session(US).since, since);
    // And the other way.
    for _ in 0..5 {
        scene.peer.daemon.announce(&Route::new("198.51.100.0/24"));
        scene.agent.learned("198.51.100.0/24", &[THEM]);
        scene.peer.daemon.withdraw("198.51.100.0/24");
        scene.agent.learned("198.51.100.0/24", &[]);
    }
}

/// R3: our AS has four octets; the daemon takes them, or only two.
pub(super) fn long_as_numbers(kind: Kind) {
    const LONG: u32 = 4_200_000_001;
    for old in [false, true] {
        let more = match (old, kind) {
            (false, _) => "",
            (true, Kind::ExaBgp) => "asn4 disable;",
            // FRR and GoBGP cannot be told to do without; OpenBGPD refuses 23456 as a neighbour's AS; BIRD reads our
            // capability even so.
            (true, _) => continue,
        };
        let [a, b] = hosts();
        let known = if old { 23456 } else { LONG };
        let setup = Setup::new(2, THEIR_AS).with(Neighbour::new(US, known).change(|n| n.more = more.to_owned()));
        let peer_of = kind.start(&b, &setup.route(THEIRS[0]));
        let (_speaker, mut agent) = speaker(&a, US, LONG, vec![peer(US, THEM, THEIR_AS)]);
        agent.config = config(LONG, US);
        agent.own = [OURS[0].parse().unwrap()].into();
        peer_of.established(&mut agent, US, THEM);
        let seen = peer_of.has(&mut agent, OURS[0]);
        // One that knows only two octets may show either of what it got: AS_PATH, or what AS4_PATH makes of it.
        let shown = seen.as_path.clone();
        assert!(shown == LONG.to_string() || (old && shown == "23456"), "{seen:?}");
        agent.learned(THEIRS[0], &[THEM]);
        let report = agent.ask(Question::Peers);
        let wide = report[0]["negotiated"]["capabilities"].to_string().contains("4-octet AS");
        assert_eq!(wide, !old, "{report}");
    }
}

/// R8: what two strangers say to each other through us keeps its communities, and those that say so go no further.
pub(super) fn communities(kind: Kind) {
    let [a, b, c] = hosts();
    let communities = vec!["64513:7".to_owned(), "64513:8".to_owned()];
    let left = Setup::new(2, THEIR_AS)
        .with(Neighbour::new(US, OUR_AS))
        .routed(Route { communities, ..Route::new("203.0.113.0/24") })
        .route("198.51.100.0/24")
        .route("192.0.2.0/24");
    let left = left.but(|neighbour| {
        if kind == Kind::Frr {
            neighbour.more = "send-community all".to_owned();
        }
    });
    let left = kind.start(&b, &left);
    let right = kind.start(&c, &Setup::new(3, 64514).with(Neighbour::new(US, OUR_AS)));
    let rule = Rule {
        changes: vec![RouteChange::AddCommunity(Community::Large([64512, 1, 2]))],
        verdict: Some(Verdict::Accept),
        ..Rule::default()
    };
    let export = Policy::new(vec![rule], Verdict::Reject);
    // Strangers keep such routes to themselves, so these are given to them on the way in.
    let kept = |prefix: &str, community| Rule {
        prefix: Some(PrefixMatch { prefix: prefix.parse().unwrap(), operator: PrefixOperator::Equal, lengths: None }),
        changes: vec![RouteChange::AddCommunity(Community::Standard(community))],
        ..Rule::default()
    };
    let rules = vec![kept("198.51.100.0/24", 0xffff_ff01), kept("192.0.2.0/24", 0xffff_ff02)];
    let import = Policy::new(rules, Verdict::Accept);
    let peers = vec![
        PeerConfig { import, ..peer(US, "10.99.0.2", THEIR_AS) },
        PeerConfig { export, ..peer(US, "10.99.0.3", 64514) },
    ];
    let (_speaker, mut agent) = speaker(&a, US, OUR_AS, peers);
    left.established(&mut agent, US, "10.99.0.2");
    right.established(&mut agent, US, "10.99.0.3");
    for prefix in ["203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24"] {
        agent.learned(prefix, &["10.99.0.2"]);
    }
    let seen = right.has(&mut agent, "203.0.113.0/24");
    assert_eq!(seen.as_path, "64512 64513", "{seen:?}");
    assert!(["64513:7", "64513:8"].iter().all(|one| seen.communities.contains(&(*one).to_owned())), "{seen:?}");
    assert_eq!(seen.large, ["64512:1:2"], "{seen:?}");
    agent.listen_for(Duration::from_millis(500));
    assert_eq!(right.daemon.session(US).prefixes, 1, "no-export and no-advertise stay");
    for (prefix, community) in [("198.51.100.0/24", "no-export"), ("192.0.2.0/24", "no-advertise")] {
        let why = agent.ask(Question::Why(prefix.parse().unwrap()));
        assert!(why["advertised"].to_string().contains(community), "{why}");
    }
}

/// R12: asked again, we say everything again; nothing goes by that.
pub(super) fn said_again(kind: Kind) {
    let (setup, config) = outside();
    let mut scene = Scene::new(kind, &setup, config);
    scene.settled();
    let since = scene.peer.daemon.session(US).since;
    let before = scene.report()["counters"]["updatesOut"].as_u64().unwrap();
    scene.peer.daemon.refresh(US);
    scene.agent.listen_for(Duration::from_secs(1));
    let after = scene.report()["counters"]["updatesOut"].as_u64().unwrap();
    // GoBGP keeps what it was told, and asks itself.
    assert!(after > before || kind == Kind::GoBgp, "{before} messages before, {after} after");
    for prefix in OURS {
        assert_eq!(scene.peer.daemon.paths(prefix).len(), 1, "{prefix}");
    }
    assert_eq!(scene.peer.daemon.session(US).since, since);
}

/// R13: one prefix more than is allowed, and the session ends; only told of, and it does not.
pub(super) fn too_many_prefixes(kind: Kind) {
    let (mut setup, config) = outside();
    setup.routes = (0..11).map(|i| Route::new(&format!("203.0.113.{}/28", i * 16))).collect();
    let limited = |action| {
        let limit = PrefixLimit { max: 10, warn_percent: 75, action };
        PeerConfig { limits: [(Family::V4, limit)].into(), ..config.clone() }
    };
    let mut scene = Scene::new(kind, &setup, limited(LimitAction::Warn));
    scene.established();
    scene.agent.wait("all routes", LIMIT, |agent| agent.routes.len() == 11);
    let report = scene.report();
    assert!(report["notes"].to_string().contains("10"), "{report}");
    scene.agent.set_peers(vec![limited(LimitAction::Close(None))]);
    scene.agent.wait("the limit", LIMIT, |agent| {
        agent.states[0].last_error.as_deref().unwrap_or_default().contains("may announce 10")
    });
    scene.agent.wait("no routes", LIMIT, |agent| agent.routes.is_empty());
    scene.says(&[
        "number of prefixes reached",
        "max prefix",
        "\"Subcode\":1",
        "6/1",
        "maximum number",
        "prefix limit",
        "max-prefix exceeded",
        "BgEAAQEAAAAK",
    ]);
    scene.agent.listen_for(Duration::from_secs(3));
    assert!(!scene.agent.states[0].is_established(), "it stays down");
    scene.agent.set_peers(vec![config]);
    scene.established();
    scene.agent.wait("all routes", LIMIT, |agent| agent.routes.len() == 11);
}

/// R16: nobody said what may pass to and from a stranger: nothing does.
pub(super) fn without_a_policy(kind: Kind) {
    let (setup, config) = outside();
    let mute = PeerConfig { import: Policy::Missing, export: Policy::Missing, ..config.clone() };
    let mut scene = Scene::new(kind, &setup, mute);
    let since = scene.established().since;
    scene.agent.listen_for(Duration::from_secs(1));
    assert!(scene.agent.routes.is_empty(), "{:?}", scene.agent.routes);
    assert_eq!(scene.peer.daemon.session(US).prefixes, 0);
    let report = scene.report();
    assert!(report["notes"].to_string().contains("policy"), "{report}");
    // Said now, it passes at once.
    scene.agent.set_peers(vec![config]);
    scene.settled();
    assert_eq!(scene.peer.daemon.session(US).since, since, "the session stood all the time");
}

/// R17: policies change, the session does not, and only what differs is sent.
pub(super) fn policy_changes(kind: Kind) {
    let (setup, config) = outside();
    let mut scene = Scene::new(kind, &setup, config.clone());
    scene.settled();
    let since = scene.peer.daemon.session(US).since;
    let rule = |prefix: &str, verdict, changes| Rule {
        prefix: Some(PrefixMatch { prefix: prefix.parse().unwrap(), operator: PrefixOperator::Equal, lengths: None }),
        verdict: Some(verdict),
        changes,
        ..Rule::default()
    };
    let sent = |scene: &mut Scene| scene.report()["counters"]["updatesOut"].as_u64().unwrap();
    let before = sent(&mut scene);
    let med = vec![RouteChange::SetMed(77)];
    let export = Policy::new(vec![rule(OURS[0], Verdict::Accept, med)], Verdict::Accept);
    let changed = PeerConfig { export, ..config.clone() };
    scene.agent.set_peers(vec![changed.clone()]);
    scene.peer.has_so(&mut scene.agent, OURS[0], |seen| seen.med == Some(77));
    assert_eq!(sent(&mut scene), before + 1, "one prefix differs");
    let export = Policy::new(vec![rule(OURS[0], Verdict::Reject, Vec::new())], Verdict::Accept);
    scene.agent.set_peers(vec![PeerConfig { export, ..config.clone() }]);
    scene.peer.has_not(&mut scene.agent, OURS[0]);
    scene.has(OURS[1]);
    let import = Policy::new(vec![rule(THEIRS[0], Verdict::Reject, Vec::new())], Verdict::Accept);
    scene.agent.set_peers(vec![PeerConfig { import, ..config.clone() }]);
    scene.agent.learned(THEIRS[0], &[]);
    scene.agent.set_peers(vec![config]);
    scene.settled();
    assert_eq!(scene.peer.daemon.session(US).since, since, "the session stood all the time");
}

/// R14: two strangers have the same prefix; one that takes several paths is told of both, another of the best alone.
pub(super) fn several_paths(kind: Kind) {
    for several in [true, false] {
        let [a, b, c, d] = hosts();
        let stranger = |number: u8| {
            let setup = Setup::new(number, 64600 + u32::from(number)).with(Neighbour::new(US, OUR_AS));
            setup.route("203.0.113.0/24")
        };
        let first = Kind::Bird.start(&c, &stranger(3));
        let second = Kind::Bird.start(&d, &stranger(4));
        let setup = Setup::new(2, OUR_AS).with(Neighbour::new(US, OUR_AS).change(|n| n.several = several));
        let inner = kind.start(&b, &setup);
        let paths = AddPath { send: if several { 4 } else { 0 }, ..AddPath::default() };
        let peers = vec![
            PeerConfig { add_path: paths, ..peer(US, THEM, OUR_AS) },
            peer(US, "10.99.0.3", 64603),
            peer(US, "10.99.0.4", 64604),
        ];
        let (_speaker, mut agent) = speaker(&a, US, OUR_AS, peers);
        first.established(&mut agent, US, "10.99.0.3");
        second.established(&mut agent, US, "10.99.0.4");
        inner.established(&mut agent, US, THEM);
        agent.learned("203.0.113.0/24", &["10.99.0.3", "10.99.0.4"]);
        let count = |agent: &mut crate::support::Agent, wanted: usize| {
            inner.until(agent, &format!("{wanted} paths"), |daemon| {
                (daemon.paths("203.0.113.0/24").len() == wanted).then_some(())
            });
        };
        count(&mut agent, if several { 2 } else { 1 });
        if several {
            first.daemon.withdraw("203.0.113.0/24");
            count(&mut agent, 1);
            assert_eq!(inner.daemon.paths("203.0.113.0/24")[0].as_path, "64604", "the other one is left");
        }
    }
}

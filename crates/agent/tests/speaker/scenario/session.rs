//! How sessions come up, why they do not, and how they end.

use super::{OUR_AS, OURS, Scene, THEIR_AS, THEIRS, THEM, inside, outside};
use crate::bird::{hosts, speaker};
use crate::daemon::{Kind, Neighbour, Setup, US};
use crate::support::{LIMIT, peer};
use lasthop_bgp::config::{Admin, Auth, ConnectMode, PeerConfig, Role, RoleMode, Secret};
use lasthop_testkit::netns::{Frames, Host};
use std::time::Duration;

/// Connections between two hosts, as one of them sees them.
fn connections(host: &Host) -> Vec<String> {
    let shown = host.run("ss", &["-Htn", "state", "established", "( sport = 179 or dport = 179 )"]).unwrap();
    shown.lines().map(str::to_owned).collect()
}

/// S1: both connect, one session remains, with all that both offer.
pub(super) fn one_session(kind: Kind) {
    let (setup, config) = outside();
    let mut scene = Scene::new(kind, &setup.but(|neighbour| neighbour.hold = 30), config);
    scene.settled();
    scene.agent.listen_for(Duration::from_secs(2));
    let left = connections(&scene.ours);
    assert_eq!(left.len(), 1, "{left:?}");
    let report = scene.report();
    let negotiated = &report["negotiated"];
    assert_eq!(negotiated["holdSeconds"], 30, "{report}");
    assert_eq!(negotiated["families"], serde_json::json!(["IPv4", "IPv6"]), "{report}");
    let capabilities = negotiated["capabilities"].to_string();
    for known in ["route refresh", "4-octet AS"] {
        assert!(capabilities.contains(known), "{known}: {report}");
    }
}

/// S2: what an internal peer told us is not told to another one.
pub(super) fn no_transit(kind: Kind) {
    let [a, b, c] = hosts();
    let setup = |number| Setup::new(number, OUR_AS).with(Neighbour::new(US, OUR_AS));
    let second = kind.start(&b, &setup(2).route("203.0.113.0/24"));
    let third = kind.start(&c, &setup(3).route("198.51.100.0/24"));
    let peers = ["10.99.0.2", "10.99.0.3"].map(|address| peer(US, address, OUR_AS)).into();
    let (_speaker, mut agent) = speaker(&a, US, OUR_AS, peers);
    agent.own = ["10.65.0.0/26".parse().unwrap()].into();
    second.established(&mut agent, US, "10.99.0.2");
    third.established(&mut agent, US, "10.99.0.3");
    agent.learned("203.0.113.0/24", &["10.99.0.2"]);
    agent.learned("198.51.100.0/24", &["10.99.0.3"]);
    for (daemon, other) in [(&second, "198.51.100.0/24"), (&third, "203.0.113.0/24")] {
        daemon.has(&mut agent, "10.65.0.0/26");
        assert_eq!(daemon.daemon.paths(other), [], "{other}");
        assert_eq!(daemon.daemon.session(US).prefixes, 1);
    }
}

/// S3: either side alone connects; one that waits sends nothing.
pub(super) fn who_connects(kind: Kind) {
    for ours in [ConnectMode::Passive, ConnectMode::Active] {
        let (setup, config) = outside();
        let theirs_waits = ours == ConnectMode::Active;
        let setup = setup.but(|neighbour| neighbour.passive = theirs_waits);
        let mut scene = Scene::new(kind, &setup, PeerConfig { connect: ours, ..config });
        scene.settled();
        let left = connections(&scene.ours).join("");
        let expected = if theirs_waits { format!("{THEM}:179") } else { format!("{US}:179") };
        assert!(left.split_whitespace().any(|word| word == expected), "{expected}: {left}");
    }
}

/// S4: the daemon is of another AS than we are told.
pub(super) fn wrong_as(kind: Kind) {
    let (setup, _) = outside();
    let mut scene = Scene::new(kind, &setup, peer(US, THEM, 64599));
    scene.agent.wait("the reason", LIMIT * 2, |agent| {
        let error = agent.states.first().and_then(|state| state.last_error.clone()).unwrap_or_default();
        error.contains("64599") || error.to_lowercase().contains("bad peer as")
    });
    let before = scene.speaker.log().matches("2/2").count();
    scene.agent.listen_for(Duration::from_secs(4));
    assert!(!scene.agent.states[0].is_established());
    // Either of us may be the one that says it; ours are in the log.
    let tried = scene.speaker.log().matches("2/2").count() - before;
    assert!(tried <= 8, "{tried} tries in 4 s\n{}", scene.speaker.log());
    scene.says(&["peer as", "remote as", "as unacceptable", "bad peer", "open message error", "\"Type\":10"]);
}

/// S14: nothing is heard of the daemon for the hold time.
pub(super) fn silence(kind: Kind) {
    let (setup, config) = outside();
    let config = PeerConfig { hold_time: Duration::from_secs(3), ..config };
    let mut scene = Scene::new(kind, &setup.but(|neighbour| neighbour.hold = 3), config);
    scene.settled();
    scene.theirs.frames(Frames::Lost).unwrap();
    let time = scene.agent.wait("down", LIMIT, |agent| !agent.states[0].is_established());
    assert!((Duration::from_millis(1900)..Duration::from_millis(4500)).contains(&time), "{time:?}");
    assert!(scene.last_error().to_lowercase().contains("hold tim"), "{}", scene.last_error());
    scene.theirs.frames(Frames::Pass).unwrap();
    scene.settled();
}

/// S18: taken down by our operator, who says why.
pub(super) fn down_with_a_text(kind: Kind) {
    let (setup, config) = outside();
    let mut scene = Scene::new(kind, &setup, config.clone());
    scene.settled();
    let text = "Wartung bis 6 Uhr früh";
    scene.agent.set_peers(vec![PeerConfig { admin: Admin::Down(text.to_owned()), ..config.clone() }]);
    scene.agent.wait("down", LIMIT, |agent| !agent.states[0].is_established());
    match kind {
        Kind::Frr => scene.says(&["Administrative Shutdown"]),
        // Inside a Hard Reset, and not decoded.
        Kind::GoBgp => scene.says(&["BgIXV2FydHVuZyBiaXMgNiBVaHIgZnLDvGg="]),
        // Printed as it is, or octet by octet where it is not ASCII.
        _ => scene.says(&["Wartung bis 6 Uhr fr"]),
    }
    scene.peer.has_not(&mut scene.agent, OURS[0]);
    scene.agent.set_peers(vec![config]);
    scene.settled();
    // And for good.
    scene.agent.set_peers(Vec::new());
    scene.says(&["de-configured", "deconfigured", "unconfigured", "(6,3)", "\"BgM="]);
}

/// S19: the same password, another one, and a longer one later.
pub(super) fn password(kind: Kind) {
    let key = |text: &str| Some(Auth::Md5(Secret::new(text)));
    let (setup, config) = inside();
    // The last octet is more than FRR and OpenBGPD take.
    let secret = "x".repeat(if matches!(kind, Kind::Frr | Kind::OpenBgpd) { 79 } else { 80 });
    let setup = setup.but(|neighbour| neighbour.password = Some(secret.clone()));
    let mut scene = Scene::new(kind, &setup, PeerConfig { auth: key("wrong"), ..config.clone() });
    scene.agent.listen_for(Duration::from_secs(4));
    assert!(!scene.agent.states[0].is_established());
    assert!(!scene.peer.daemon.session(US).established);
    scene.agent.set_peers(vec![PeerConfig { auth: key(&secret), ..config }]);
    scene.settled();
}

/// S24: many prefixes with one set of attributes are packed as long as the daemon takes.
pub(super) fn long_messages(kind: Kind) {
    const MANY: u32 = 20_000;
    let (setup, config) = outside();
    let setup = setup.but(|neighbour| {
        if kind == Kind::Bird {
            neighbour.more = "enable extended messages;".to_owned();
        }
    });
    let mut scene = Scene::new(kind, &setup, config);
    scene.settled();
    let before = scene.report()["counters"]["updatesOut"].as_u64().unwrap();
    let host = |i: u32| format!("{}/32", std::net::Ipv4Addr::from(0x0a42_0000 + i));
    let prefixes: Vec<String> = (0..MANY).map(host).collect();
    let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    scene.agent.advertise(&prefixes);
    scene.peer.until(&mut scene.agent, "all prefixes", |daemon| {
        (daemon.session(US).prefixes == MANY as usize + OURS.len()).then_some(())
    });
    let report = scene.report();
    let sent = report["counters"]["updatesOut"].as_u64().unwrap() - before;
    let long = report["negotiated"]["capabilities"].to_string().contains("extended messages");
    assert_eq!(long, matches!(kind, Kind::Bird | Kind::Frr), "{report}");
    // We pack up to 4096 octets whatever the other takes, some 800 prefixes in each.
    assert!((u64::from(MANY) * 5 / 4096..=40).contains(&sent), "{MANY} prefixes in {sent} messages: {report}");
    assert!(scene.agent.states[0].is_established());
}

/// S28: both families over IPv6, with the right next hops.
pub(super) fn ipv6_transport(kind: Kind) {
    let (ours, theirs) = ("fd00:99::1", "fd00:99::2");
    let setup = Setup::new(2, THEIR_AS).with(Neighbour::new(ours, OUR_AS)).route(THEIRS[0]).route(THEIRS[1]);
    let mut scene = Scene::new(kind, &setup, peer(ours, theirs, THEIR_AS));
    scene.peer.established(&mut scene.agent, ours, theirs);
    assert_eq!(scene.has(OURS[0]).next_hop, US);
    assert_eq!(scene.has(OURS[1]).next_hop, ours);
    scene.agent.learned(THEIRS[1], &[theirs]);
    // Over IPv6 OpenBGPD has no IPv4 address to name.
    if kind != Kind::OpenBgpd {
        scene.agent.learned(THEIRS[0], &[THEM]);
    }
}

/// S27: provider and customer come together; two customers do not, and who insists on a role does not without.
pub(super) fn roles(kind: Kind) {
    let told = |role: &str| match kind {
        Kind::Bird => format!("local role {role};"),
        Kind::Frr => format!("local-role {role}"),
        _ => format!("announce policy {role}"),
    };
    for (ours, theirs, mode, is_up) in [
        (Role::Customer, "provider", RoleMode::Strict, true),
        (Role::Customer, "customer", RoleMode::Lenient, false),
        (Role::Customer, "", RoleMode::Strict, false),
        (Role::Customer, "", RoleMode::Lenient, true),
    ] {
        let (setup, config) = outside();
        let setup =
            setup.but(|neighbour| neighbour.more = if theirs.is_empty() { String::new() } else { told(theirs) });
        let mut scene = Scene::new(kind, &setup, PeerConfig { role: Some(ours), role_mode: mode, ..config });
        if is_up {
            scene.settled();
            continue;
        }
        scene.agent.wait("the reason", LIMIT * 2, |agent| {
            let error = agent.states.first().and_then(|state| state.last_error.clone()).unwrap_or_default();
            error.to_lowercase().contains("role")
        });
        scene.agent.listen_for(Duration::from_secs(1));
        assert!(!scene.agent.states[0].is_established(), "{theirs}, {mode:?}");
    }
}

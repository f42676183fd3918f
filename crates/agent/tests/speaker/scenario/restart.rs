//! What stays while either end is away (RFC 4724).

use super::{OURS, Scene, THEM, inside};
use crate::daemon::{Kind, Setup, US};
use crate::support::LIMIT;
use lasthop_bgp::config::{Admin, PeerConfig};
use lasthop_testkit::netns::Frames;
use std::time::{Duration, Instant};

/// G1: we are killed and come back; the daemon keeps our routes meanwhile, and drops afterwards what we do not say again.
pub(super) fn we_are_killed(kind: Kind) {
    let (setup, config) = inside();
    let mut scene = Scene::new(kind, &setup, config);
    scene.agent.advertise(&["10.65.9.0/26"]);
    scene.settled();
    scene.has("10.65.9.0/26");
    let since = scene.peer.daemon.session(US).since;
    scene.speaker.kill();
    scene.agent.wait("cut", LIMIT, |agent| !agent.client.is_connected());
    scene.agent.withdraw(1, &["10.65.9.0/26"]);
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        for prefix in OURS {
            assert_eq!(scene.peer.daemon.paths(prefix).len(), 1, "{prefix} is kept while we are away");
        }
    }
    scene.speaker.start_again();
    scene.agent.states.clear();
    let mut looks = 0;
    let begun = Instant::now();
    while scene.peer.daemon.session(US).since == since || !scene.peer.daemon.session(US).established {
        assert_eq!(scene.peer.daemon.paths(OURS[0]).len(), 1, "kept until we are back: look {looks}");
        if looks % 20 == 19 {
            scene.peer.daemon.nudge(US);
        }
        scene.agent.listen_for(Duration::from_millis(50));
        looks += 1;
        assert!(begun.elapsed() < LIMIT * 3, "not back");
    }
    scene.settled();
    scene.peer.has_not(&mut scene.agent, "10.65.9.0/26");
    assert_eq!(scene.peer.daemon.paths(OURS[0]).len(), 1);
}

/// G2: the daemon is killed and comes back; we keep what it said, and drop what it does not say again.
pub(super) fn it_is_killed(kind: Kind) {
    let (setup, config) = inside();
    let mut scene = Scene::new(kind, &setup.route("198.51.100.0/24"), config);
    scene.settled();
    scene.agent.learned("198.51.100.0/24", &[THEM]);
    scene.peer.daemon.kill();
    scene.agent.wait("down", LIMIT, |agent| !agent.states[0].is_established());
    scene.agent.listen_for(Duration::from_millis(500));
    assert_eq!(scene.agent.routes.len(), 3, "kept while it is away: {:?}", scene.agent.routes);
    scene.peer.daemon.start_again();
    let mut least = usize::MAX;
    scene.agent.wait("up again", LIMIT * 2, |agent| {
        least = least.min(agent.routes.len());
        agent.states[0].is_established()
    });
    assert_eq!(least, 3, "kept until it is back");
    scene.settled();
    scene.agent.listen_for(Duration::from_secs(1));
    assert_eq!(scene.agent.routes.len(), 3, "{:?}", scene.agent.routes);
}

/// G3: the daemon does not come back: its routes go with its restart time.
pub(super) fn it_stays_away(kind: Kind) {
    let (setup, config) = inside();
    let mut scene = Scene::new(kind, &setup.but(|neighbour| neighbour.restart = Some(4)), config);
    scene.settled();
    let negotiated = scene.report()["negotiated"]["gracefulRestart"]["restartSeconds"].clone();
    assert_eq!(negotiated, 4);
    scene.peer.daemon.kill();
    scene.agent.wait("down", LIMIT, |agent| !agent.states[0].is_established());
    let time = scene.agent.wait("gone", LIMIT, |agent| agent.routes.is_empty());
    assert!((Duration::from_secs(3)..Duration::from_secs(6)).contains(&time), "{time:?}");
}

/// G6: the hold timer ends the session, and both keep what the other said; taken down by its operator, neither does.
pub(super) fn notified(kind: Kind) {
    let (setup, config) = inside();
    let config = PeerConfig { hold_time: Duration::from_secs(3), ..config };
    let mut scene = Scene::new(kind, &setup.but(|neighbour| neighbour.hold = 3), config.clone());
    scene.settled();
    let capabilities = scene.report()["negotiated"]["capabilities"].to_string();
    assert!(capabilities.contains("graceful restart on NOTIFICATION"), "{capabilities}");
    scene.theirs.frames(Frames::Lost).unwrap();
    scene.agent.wait("down", LIMIT, |agent| !agent.states[0].is_established());
    scene.agent.listen_for(Duration::from_secs(3));
    assert_eq!(scene.agent.routes.len(), 2, "kept by us");
    assert!(!scene.peer.daemon.session(US).established);
    assert_eq!(scene.peer.daemon.paths(OURS[0]).len(), 1, "kept by it");
    scene.theirs.frames(Frames::Pass).unwrap();
    scene.settled();
    scene.agent.set_peers(vec![PeerConfig { admin: Admin::Down("for good".to_owned()), ..config }]);
    scene.agent.wait("none", LIMIT, |agent| agent.routes.is_empty());
    scene.peer.has_not(&mut scene.agent, OURS[0]);
}

/// G9: with nothing to say, End-of-RIB is said of each family within a second.
pub(super) fn empty_tables(kind: Kind) {
    let setup = Setup { routes: Vec::new(), ..inside().0 };
    let setup = setup.but(|neighbour| {
        if kind == Kind::Bird {
            neighbour.more = "debug { packets };".to_owned();
        }
    });
    let mut scene = Scene::new(kind, &setup, inside().1);
    scene.agent.own.clear();
    scene.established();
    let begun = Instant::now();
    let mark = match kind {
        Kind::Bird => "Got END-OF-RIB",
        Kind::Frr => "rcvd End-of-RIB",
        Kind::GoBgp => "EOR received",
        Kind::OpenBgpd => "EOR marker",
        Kind::ExaBgp => "\"eor\"",
    };
    // OpenBGPD logs its own as well.
    let expected = if kind == Kind::OpenBgpd { 4 } else { 2 };
    scene.peer.until(&mut scene.agent, "End-of-RIB of both families", |daemon| {
        (daemon.words().matches(mark).count() >= expected).then_some(())
    });
    println!("End-of-RIB of both families {:?} after the session was up", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

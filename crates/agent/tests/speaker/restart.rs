//! Either side is killed and comes back: routes stay where they were (RFC 4724).

use crate::support::{Agent, LIMIT, Speaker, bird_routes, bird_session, config, peer};
use lasthop_agent::speaker::OnStop;
use lasthop_bgp::config::{PeerConfig, ReflectMode};
use lasthop_testkit::bird::{Bird, BirdStart, base};
use lasthop_testkit::netns::{Host, Net, eventually};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const OURS: [&str; 2] = ["10.65.0.21/32", "fd00:65::15/128"];
const THEIRS: [&str; 2] = ["10.65.2.0/24", "fd00:65:2::/64"];

fn hosts() -> (Host, Host) {
    let net = Net::new().unwrap();
    let host = |i: u8| net.host(&format!("h{i}"), &[&format!("10.99.0.{i}/24"), &format!("fd00:99::{i}/64")]).unwrap();
    (host(1), host(2))
}

fn bird(host: &Host, more: &str) -> Bird {
    let config = base("10.99.0.2")
        + &bird_routes(&format!("route 10.65.2.0/24 unreachable; {more}"), "route fd00:65:2::/64 unreachable;")
        + &bird_session("peer", ("10.99.0.2", 64512), ("10.99.0.1", 64512), "graceful restart on;");
    Bird::start(host, &config).unwrap()
}

fn agent(speaker: &Speaker) -> Agent {
    let mut agent =
        Agent::new(&speaker.socket(), config(64512, "10.99.0.1"), vec![peer("10.99.0.1", "10.99.0.2", 64512)]);
    agent.own = OURS.map(|text| text.parse().unwrap()).into();
    agent
}

/// Both sides have everything.
fn settle(agent: &mut Agent, bird: &Bird) {
    agent.established("10.99.0.2");
    for prefix in OURS {
        bird.has_route(prefix, LIMIT).unwrap();
    }
    agent.learned(THEIRS[0], &["10.99.0.2"]);
    agent.learned(THEIRS[1], &["fd00:99::2"]);
    agent.wait("in sync", LIMIT, |agent| agent.in_sync);
}

/// Like [`while_bird_keeps`], for our routes.
fn while_bird_keeps_ours<R>(bird: &Bird, work: impl FnOnce() -> R) -> R {
    while_bird_keeps(bird, &OURS, work)
}

/// Runs `work` while BIRD is asked all the time whether it has these routes.
fn while_bird_keeps<R>(bird: &Bird, prefixes: &[&str], work: impl FnOnce() -> R) -> R {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(Ordering::Relaxed) {
                for prefix in prefixes {
                    if bird.route(prefix).unwrap().is_none() {
                        return Err(format!("{prefix} was gone after {looks} looks"));
                    }
                }
                looks += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(looks)
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        let looks = watch.join().unwrap().unwrap();
        assert!(looks > 0);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Whether BIRD keeps routes of ours from a session before, and waits for our End-of-RIB.
fn is_waiting(bird: &Bird) -> bool {
    bird.ask("show protocols all peer").unwrap().contains("Neighbor graceful restart active")
}

/// Waits until BIRD has a session with us and our End-of-RIB in it.
fn refreshed(bird: &Bird) {
    bird.established("peer", LIMIT).unwrap();
    eventually("our End-of-RIB is at BIRD", LIMIT, || Ok(!is_waiting(bird))).unwrap();
}

#[test]
fn a_killed_speaker_comes_back_and_bird_keeps_its_routes() {
    let (a, b) = hosts();
    let bird = bird(&b, "");
    let mut speaker = Speaker::start(&a);
    let mut agent = agent(&speaker);
    agent.advertise(&["10.65.0.99/32"]);
    settle(&mut agent, &bird);
    bird.has_route("10.65.0.99/32", LIMIT).unwrap();
    let before = agent.routes.clone();
    std::thread::sleep(Duration::from_millis(150));
    while_bird_keeps_ours(&bird, || {
        speaker.kill();
        agent.wait("cut", LIMIT, |agent| !agent.client.is_connected());
        // This one goes while nobody is there to withdraw it.
        agent.withdraw(1, &["10.65.0.99/32"]);
        std::thread::sleep(Duration::from_millis(300));
        assert!(is_waiting(&bird) && bird.route("10.65.0.99/32").unwrap().is_some(), "kept while we are away");
        speaker.start_again();
        let start = Instant::now();
        agent
            .wait("in sync again", LIMIT, |agent| agent.in_sync && agent.connects >= 2 && agent.withdrawn.contains(&1));
        println!("in sync {:?} after the new start", start.elapsed());
        assert_eq!(agent.routes, before, "in sync means all of them");
        refreshed(&bird);
        bird.has_no_route("10.65.0.99/32", LIMIT).unwrap();
    });
}

#[test]
fn a_killed_speaker_comes_back_without_its_agent() {
    let (a, b) = hosts();
    let bird = bird(&b, "");
    let mut speaker = Speaker::start(&a);
    let mut first = agent(&speaker);
    settle(&mut first, &bird);
    std::thread::sleep(Duration::from_millis(150));
    drop(first);
    while_bird_keeps_ours(&bird, || {
        std::thread::sleep(Duration::from_millis(200));
        speaker.kill();
        std::thread::sleep(Duration::from_millis(200));
        assert!(is_waiting(&bird));
        speaker.start_again();
        refreshed(&bird);
        bird.has_route(OURS[0], LIMIT).unwrap();
        // The agent comes back and finds everything as it was.
        let mut second = agent(&speaker);
        second.wait("in sync", LIMIT, |agent| agent.in_sync);
        assert_eq!(second.routes.len(), 2, "{:?}", second.routes);
    });
}

#[test]
fn a_speaker_that_is_killed_again_and_again_keeps_its_routes() {
    let (a, b) = hosts();
    let bird = bird(&b, "");
    let mut speaker = Speaker::start(&a);
    let mut agent = agent(&speaker);
    settle(&mut agent, &bird);
    let before = agent.routes.clone();
    std::thread::sleep(Duration::from_millis(150));
    while_bird_keeps_ours(&bird, || {
        for pause in [0, 5, 20, 50, 200] {
            speaker.kill();
            agent.wait("cut", LIMIT, |agent| !agent.client.is_connected());
            agent.states.clear();
            speaker.start_again();
            agent.established("10.99.0.2");
            agent.listen_for(Duration::from_millis(pause));
        }
        agent.wait("in sync again", LIMIT, |agent| agent.in_sync);
        assert_eq!(agent.routes, before);
        refreshed(&bird);
    });
}

#[test]
fn a_killed_reflector_comes_back_and_its_clients_keep_the_routes_of_each_other() {
    let [a, b, c, d] = crate::bird::hosts();
    let client = |own: &str, prefix: u8| {
        base(own)
            + &bird_routes(&format!("route 10.65.{prefix}.0/24 unreachable;"), "")
            + &bird_session("peer", (own, 64512), ("10.99.0.3", 64512), "graceful restart on;")
    };
    let left = Bird::start(&a, &client("10.99.0.1", 1)).unwrap();
    let right = Bird::start(&b, &client("10.99.0.2", 2)).unwrap();
    let peers = ["10.99.0.1", "10.99.0.2", "10.99.0.4"]
        .map(|address| PeerConfig { reflect: ReflectMode::Client, ..peer("10.99.0.3", address, 64512) });
    let mut reflector = Speaker::start(&c);
    let mut its_agent = Agent::new(&reflector.socket(), config(64512, "10.99.0.3"), peers.into());
    its_agent.established("10.99.0.1");
    its_agent.established("10.99.0.2");
    let third = Speaker::start(&d);
    let mut agent =
        Agent::new(&third.socket(), config(64512, "10.99.0.4"), vec![peer("10.99.0.4", "10.99.0.3", 64512)]);
    agent.learned("10.65.1.0/24", &["10.99.0.1"]);
    agent.learned("10.65.2.0/24", &["10.99.0.2"]);
    left.has_route("10.65.2.0/24", LIMIT).unwrap();
    right.has_route("10.65.1.0/24", LIMIT).unwrap();
    std::thread::sleep(Duration::from_millis(150));
    while_bird_keeps(&left, &["10.65.2.0/24"], || {
        while_bird_keeps(&right, &["10.65.1.0/24"], || {
            reflector.kill();
            its_agent.wait("cut", LIMIT, |agent| !agent.client.is_connected());
            its_agent.in_sync = false;
            agent.wait("down", LIMIT, |agent| !agent.states[0].is_established());
            reflector.start_again();
            its_agent.wait("in sync again", LIMIT, |agent| agent.in_sync);
            let mut least = usize::MAX;
            agent.wait("up", LIMIT, |agent| {
                least = least.min(agent.routes.len());
                agent.states[0].is_established()
            });
            refreshed(&left);
            refreshed(&right);
            agent.listen_for(Duration::from_millis(300));
            assert_eq!((least, agent.routes.len()), (2, 2));
        });
    });
}

#[test]
fn an_agent_that_comes_back_changes_only_what_differs() {
    let (a, b) = hosts();
    let bird = bird(&b, "");
    let speaker = Speaker::start(&a);
    let mut first = agent(&speaker);
    first.advertise(&["10.65.0.98/32"]);
    settle(&mut first, &bird);
    bird.has_route("10.65.0.98/32", LIMIT).unwrap();
    let since = bird.ask("show protocols peer").unwrap();
    let updates = |bird: &Bird| {
        let all = bird.ask("show protocols all peer").unwrap();
        let lines = all.lines().filter(|line| line.contains("Import updates") || line.contains("Import withdraws"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = updates(&bird);
    drop(first);
    let mut second = agent(&speaker);
    second.advertise(&["10.65.0.98/32"]);
    second.wait("in sync", LIMIT, |agent| agent.in_sync);
    second.listen_for(Duration::from_millis(200));
    assert_eq!(updates(&bird), before, "nothing differs, so nothing is said");
    drop(second);
    let mut third = agent(&speaker);
    third.wait("in sync", LIMIT, |agent| agent.in_sync);
    bird.has_no_route("10.65.0.98/32", LIMIT).unwrap();
    assert_eq!(third.routes.len(), 2);
    assert_eq!(bird.ask("show protocols peer").unwrap(), since, "the session stood all the time");
}

#[test]
fn a_killed_bird_comes_back_and_its_routes_stay_learned() {
    let (a, b) = hosts();
    let routes: String = (0..500).map(|i| format!("route 10.66.{}.{}/32 unreachable;", i / 256, i % 256)).collect();
    let mut bird = bird(&b, &routes);
    let speaker = Speaker::start(&a);
    let mut agent = agent(&speaker);
    settle(&mut agent, &bird);
    agent.wait("all", LIMIT, |agent| agent.routes.len() == 502);
    bird.kill().unwrap();
    agent.wait("down", LIMIT, |agent| !agent.states[0].is_established());
    agent.listen_for(Duration::from_millis(500));
    assert_eq!(agent.routes.len(), 502, "kept while it is away");
    bird.restart(BirdStart::Recover).unwrap();
    let mut least = usize::MAX;
    agent.wait("up again", LIMIT, |agent| {
        least = least.min(agent.routes.len());
        agent.states[0].is_established()
    });
    agent.listen_for(Duration::from_secs(1));
    assert_eq!((least.min(agent.routes.len()), agent.routes.len()), (502, 502));
    assert_eq!(agent.connects, 1);
    settle(&mut agent, &bird);
}

#[test]
fn routes_that_a_restarted_bird_does_not_announce_again_go_after_its_end_of_rib() {
    let (a, b) = hosts();
    let mut bird = bird(&b, "route 10.66.0.1/32 unreachable;");
    let speaker = Speaker::start(&a);
    let mut agent = agent(&speaker);
    settle(&mut agent, &bird);
    agent.learned("10.66.0.1/32", &["10.99.0.2"]);
    bird.kill().unwrap();
    agent.wait("down", LIMIT, |agent| !agent.states[0].is_established());
    bird.rewrite(|config| config.replace("route 10.66.0.1/32 unreachable;", "")).unwrap();
    bird.restart(BirdStart::Recover).unwrap();
    agent.learned("10.66.0.1/32", &[]);
    assert!(agent.states[0].is_established(), "not before it is back: {:?}", agent.states);
    settle(&mut agent, &bird);
}

#[test]
fn in_sync_comes_only_after_everything_was_told() {
    let (a, b) = hosts();
    let routes: String = (0..5000).map(|i| format!("route 10.66.{}.{}/32 unreachable;", i / 256, i % 256)).collect();
    let bird = bird(&b, &routes);
    let mut speaker = Speaker::start(&a);
    let mut agent = agent(&speaker);
    for start in ["cold", "restarted"] {
        agent.wait("in sync", LIMIT, |agent| agent.in_sync);
        assert_eq!(agent.routes.len(), 5002, "{start}");
        settle(&mut agent, &bird);
        speaker.kill();
        agent.wait("cut", LIMIT, |agent| !agent.client.is_connected());
        agent.in_sync = false;
        speaker.start_again();
    }
    agent.wait("in sync", LIMIT, |agent| agent.in_sync);
    assert_eq!(agent.routes.len(), 5002);
}

#[test]
fn a_stopped_speaker_leaves_its_routes_unless_told_otherwise() {
    for on_stop in [OnStop::KeepRoutes, OnStop::Withdraw] {
        let (a, b) = hosts();
        let bird = bird(&b, "");
        let mut speaker = Speaker::start_with(&a, on_stop);
        let mut agent = agent(&speaker);
        settle(&mut agent, &bird);
        speaker.process.signal(nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(speaker.process.wait(LIMIT).unwrap().success());
        match on_stop {
            OnStop::KeepRoutes => {
                std::thread::sleep(Duration::from_millis(300));
                assert!(bird.route(OURS[0]).unwrap().is_some());
                assert!(is_waiting(&bird));
            }
            OnStop::Withdraw => {
                bird.has_no_route(OURS[0], LIMIT).unwrap();
                assert!(bird.log().contains("Administrative shutdown"), "{}", bird.log());
            }
        }
    }
}

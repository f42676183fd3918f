//! What else of the protocol shows with a real FRR and a real BIRD at the other end: policies, limits, roles, shutdown texts.

use crate::bird::{hosts, speaker};
use crate::frr::Frr;
use crate::support::{LIMIT, bird_routes, bird_session, peer};
use lasthop_agent::speaker::Question;
use lasthop_bgp::config::{
    AddPath, Admin, Auth, Community, LimitAction, PeerConfig, Policy, PrefixLimit, Role, RoleMode, RouteChange, Rule,
    Secret, Switch, Ttl, Verdict,
};
use lasthop_net::{Asn, Family};
use lasthop_testkit::bird::{Bird, base};
use std::time::Duration;

const FRR: &str = "router bgp 64513
  bgp router-id 10.99.0.2
  no bgp ebgp-requires-policy
  no bgp network import-check
  neighbor 10.99.0.1 remote-as 64512
  neighbor 10.99.0.1 timers connect 1
  neighbor 10.99.0.1 password secret
  neighbor 10.99.0.1 ttl-security hops 1
  neighbor 10.99.0.1 local-role provider strict-mode
  address-family ipv4 unicast
   network 10.65.2.0/24
   network 10.65.3.0/24
  exit-address-family
 exit
";

#[test]
fn with_an_frr_everything_of_a_fabric_port_at_once() {
    let [a, b] = hosts();
    let frr = Frr::start(&b, FRR);
    let rule = Rule {
        changes: vec![
            RouteChange::AddCommunity(Community::Large([64512, 1, 2])),
            RouteChange::AddCommunity(Community::Standard(64512 << 16 | 7)),
            RouteChange::Prepend(vec![Asn(64512)]),
        ],
        verdict: Some(Verdict::Accept),
        ..Rule::default()
    };
    let config = PeerConfig {
        auth: Some(Auth::Md5(Secret::new("secret"))),
        ttl: Ttl::Security(1),
        role: Some(Role::Customer),
        role_mode: RoleMode::Strict,
        export: Policy::new(vec![rule], Verdict::Reject),
        families: [Family::V4].into(),
        ..peer("10.99.0.1", "10.99.0.2", 64513)
    };
    let (_speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, vec![config.clone()]);
    agent.own = ["10.65.0.0/26".parse().unwrap()].into();
    agent.established("10.99.0.2");
    agent.learned("10.65.2.0/24", &["10.99.0.2"]);
    let path = frr.has_route("ipv4", "10.65.0.0/26", LIMIT)["paths"][0].clone();
    assert_eq!(path["aspath"]["string"], "64512 64512", "{path}");
    assert_eq!(path["community"]["string"], "64512:7", "{path}");
    assert_eq!(path["largeCommunity"]["string"], "64512:1:2", "{path}");
    // It is our provider: what it tells goes on to customers only.
    let paths = agent.ask(Question::Paths(Some("10.65.2.0/24".parse().unwrap())));
    assert_eq!(paths[0]["attributes"]["OTC"], "64513", "{paths}");
    let peers = agent.ask(Question::Peers);
    println!("{}", peers[0]["negotiated"]["capabilities"]);

    // The policy changes, the session does not; in its own eyes.
    let neighbour = frr.json("show bgp neighbors 10.99.0.1 json")["10.99.0.1"].clone();
    let established = neighbour["connectionsEstablished"].clone();
    agent.set_peers(vec![PeerConfig { export: Policy::accept_all(), ..config.clone() }]);
    agent.listen_for(Duration::from_millis(500));
    let path = frr.has_route("ipv4", "10.65.0.0/26", LIMIT)["paths"][0].clone();
    assert_eq!(path["aspath"]["string"], "64512", "{path}");
    let neighbour = frr.json("show bgp neighbors 10.99.0.1 json")["10.99.0.1"].clone();
    assert_eq!(neighbour["connectionsEstablished"], established);

    // The operator takes it down, and FRR shows why.
    let text = "rack move, back at 6";
    agent.set_peers(vec![PeerConfig { admin: Admin::Down(text.to_owned()), ..config.clone() }]);
    agent.wait("down", LIMIT, |agent| !agent.states[0].is_established());
    agent.listen_for(Duration::from_millis(500));
    let shown = frr.ask("show bgp neighbors 10.99.0.1");
    assert!(shown.contains(text) || shown.contains("Administrative Shutdown"), "{shown}");
    let limit = PrefixLimit { max: 1, warn_percent: 75, action: LimitAction::Close(None) };
    agent.set_peers(vec![PeerConfig { limits: [(Family::V4, limit)].into(), ..config }]);
    agent.wait("the limit", LIMIT, |agent| {
        agent.states[0].last_error.as_deref().unwrap_or_default().contains("prefixes of IPv4, and may announce 1")
    });
    let shown = frr.ask("show bgp neighbors 10.99.0.1");
    assert!(shown.contains("Maximum Number of Prefixes Reached"), "{shown}");
}

#[test]
fn bird_keeps_routes_over_a_notification_and_for_long_and_asks_for_them_again() {
    let [a, b] = hosts();
    let session = bird_session(
        "peer",
        ("10.99.0.2", 64513),
        ("10.99.0.1", 64512),
        "enable extended messages; graceful restart on; graceful restart time 2; long lived graceful restart on; long lived stale time 3600;",
    );
    let bird = base("10.99.0.2")
        + &bird_routes("route 10.65.2.0/24 unreachable;", "route fd00:65:2::/64 unreachable;")
        + &session;
    let mut bird = Bird::start(&b, &bird).unwrap();
    let config = PeerConfig {
        long_lived: Some(Duration::from_secs(3600)),
        restart_time: Some(Duration::from_secs(2)),
        ..peer("10.99.0.1", "10.99.0.2", 64513)
    };
    let (mut speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, vec![config]);
    agent.own = ["10.65.0.0/26".parse().unwrap()].into();
    agent.established("10.99.0.2");
    agent.learned("10.65.2.0/24", &["10.99.0.2"]);
    bird.has_route("10.65.0.0/26", LIMIT).unwrap();
    let peers = agent.ask(Question::Peers);
    let capabilities = peers[0]["negotiated"]["capabilities"].to_string();
    for known in ["enhanced route refresh", "long-lived graceful restart", "extended messages"] {
        assert!(capabilities.contains(known), "{capabilities}");
    }
    // A refresh says everything again, and nothing is lost by it.
    bird.ask("reload in peer").unwrap();
    agent.listen_for(Duration::from_millis(500));
    bird.has_route("10.65.0.0/26", LIMIT).unwrap();
    bird.ask("reload out peer").unwrap();

    // BIRD dies: its routes are kept past its restart time, as the last choice.
    bird.kill().unwrap();
    agent.listen_for(Duration::from_secs(4));
    agent.learned("10.65.2.0/24", &["10.99.0.2"]);
    let paths = agent.ask(Question::Paths(Some("10.65.2.0/24".parse().unwrap())));
    assert_eq!(paths[0]["attributes"]["COMMUNITIES"], "llgr-stale", "{paths}");
    bird.restart(lasthop_testkit::bird::BirdStart::Recover).unwrap();
    agent.established("10.99.0.2");
    for wait in 0.. {
        let paths = agent.ask(Question::Paths(Some("10.65.2.0/24".parse().unwrap())));
        if paths[0]["attributes"]["COMMUNITIES"].is_null() && paths[0]["stale"] == false {
            break;
        }
        assert!(wait < 100, "told again, it is fresh: {paths}");
        agent.listen_for(Duration::from_millis(200));
    }

    // We die: BIRD keeps ours the same way.
    bird.has_route("10.65.0.0/26", LIMIT).unwrap();
    speaker.kill();
    std::thread::sleep(Duration::from_secs(4));
    let route = bird.has_route("10.65.0.0/26", LIMIT).unwrap();
    assert!(route.contains("65535, 6") || route.contains("(65535,6)"), "{route}");
}

/// A speaker and its neighbour that know of each other nothing but the link.
fn unnumbered(config: PeerConfig) -> PeerConfig {
    PeerConfig {
        interface: Some("eth0".parse().unwrap()),
        local_address: None,
        next_hop_v4: None,
        next_hop_v6: None,
        extended_next_hop: Switch::On,
        ..config
    }
}

/// The link-local address of a host's eth0, and its index.
fn on_link(host: &lasthop_testkit::netns::Host) -> (String, String) {
    let shown = host.run("ip", &["-6", "-br", "-o", "address", "show", "dev", "eth0", "scope", "link"]).unwrap();
    let address = shown.split_whitespace().find(|word| word.starts_with("fe80")).unwrap();
    let link = host.run("ip", &["-o", "link", "show", "dev", "eth0"]).unwrap();
    let index = link.split(':').next().unwrap();
    (address.trim_end_matches("/64").to_owned(), index.trim().to_owned())
}

#[test]
fn unnumbered_with_bird_and_with_frr_ipv4_goes_over_the_link() {
    for with_frr in [false, true] {
        let [a, b] = hosts();
        let ((ours, index), (theirs, _)) = (on_link(&a), on_link(&b));
        let (bird, frr) = if with_frr {
            let config = format!(
                "router bgp 64513
                  bgp router-id 10.99.0.2
                  no bgp ebgp-requires-policy
                  no bgp network import-check
                  neighbor {ours} remote-as 64512
                  neighbor {ours} interface eth0
                  neighbor {ours} timers connect 1
                  neighbor {ours} capability extended-nexthop
                  address-family ipv4 unicast
                   network 10.65.2.0/24
                  exit-address-family
                 exit
                "
            );
            (None, Some(Frr::start(&b, &config)))
        } else {
            let config = format!(
                "{}protocol bgp peer {{
                   local {theirs} as 64513; neighbor {ours}%eth0 as 64512; direct;
                   connect delay time 1; connect retry time 1; error wait time 1, 2;
                   ipv4 {{ import all; export all; extended next hop on; }};
                 }}
                 {}",
                base("10.99.0.2"),
                bird_routes("route 10.65.2.0/24 unreachable;", "")
            );
            (Some(Bird::start(&b, &config).unwrap()), None)
        };
        let config = PeerConfig { families: [Family::V4].into(), ..unnumbered(peer("10.99.0.1", &theirs, 64513)) };
        let (_speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, vec![config]);
        agent.own = ["10.65.0.0/26".parse().unwrap()].into();
        agent.established(&theirs);
        let scoped = theirs.replacen("fe80:", &format!("fe80:{:x}:", index.parse::<u16>().unwrap()), 1);
        // FRR names its global address, which is on the same link.
        agent.learned("10.65.2.0/24", &[if with_frr { "fd00:99::2" } else { &scoped }]);
        match (bird, frr) {
            (Some(bird), _) => {
                let route = bird.has_route("10.65.0.0/26", LIMIT).unwrap();
                assert!(route.contains(&ours), "{route}");
            }
            (_, Some(frr)) => {
                let route = frr.has_route("ipv4", "10.65.0.0/26", LIMIT);
                assert!(route.to_string().contains(&ours), "{route}");
            }
            _ => unreachable!(),
        }
    }
}

#[test]
fn bird_and_we_tell_each_other_several_paths_of_a_prefix() {
    let [a, b, c] = hosts();
    let session = bird_session("peer", ("10.99.0.2", 64512), ("10.99.0.1", 64512), "")
        .replace("{ import", "{ add paths on; import");
    let bird = base("10.99.0.2")
        + "protocol static one { ipv4; route 10.65.2.0/24 unreachable { bgp_med = 1; }; }\n"
        + "protocol static two { ipv4; route 10.65.2.0/24 unreachable { bgp_med = 2; }; }\n"
        + &session;
    let bird = Bird::start(&b, &bird).unwrap();
    let other = base("10.99.0.3")
        + &bird_routes("route 10.65.0.0/26 unreachable;", "")
        + &bird_session("peer", ("10.99.0.3", 64513), ("10.99.0.1", 64512), "");
    let _other = Bird::start(&c, &other).unwrap();
    let several = AddPath { receive: Switch::On, send: 4 };
    let peers = vec![
        PeerConfig { add_path: several, ..peer("10.99.0.1", "10.99.0.2", 64512) },
        peer("10.99.0.1", "10.99.0.3", 64513),
    ];
    let (_speaker, mut agent) = speaker(&a, "10.99.0.1", 64512, peers);
    agent.own = ["10.65.0.0/26".parse().unwrap()].into();
    agent.established("10.99.0.2");
    agent.established("10.99.0.3");
    agent.learned("10.65.2.0/24", &["10.99.0.2"]);
    agent.listen_for(Duration::from_secs(1));
    let paths = agent.ask(Question::Paths(Some("10.65.2.0/24".parse().unwrap())));
    assert_eq!(paths.as_array().unwrap().len(), 2, "{paths}\n{}", bird.ask("show route all").unwrap());
    agent.wait("the other's path", LIMIT, |agent| agent.routes.contains_key(&"10.65.0.0/26".parse().unwrap()));
    let shown = |bird: &Bird| {
        let shown = bird.ask("show route for 10.65.0.0/26 all").unwrap();
        shown.matches("BGP.next_hop:").count()
    };
    let end = std::time::Instant::now() + LIMIT;
    while shown(&bird) != 2 && std::time::Instant::now() < end {
        agent.listen_for(Duration::from_millis(100));
    }
    assert_eq!(shown(&bird), 2, "{}", bird.ask("show route for 10.65.0.0/26 all").unwrap());
    bird.ask("disable one").unwrap();
    agent.listen_for(Duration::from_secs(1));
    let paths = agent.ask(Question::Paths(Some("10.65.2.0/24".parse().unwrap())));
    assert_eq!(paths.as_array().unwrap().len(), 1, "{paths}");
    agent.withdraw(1, &["10.65.0.0/26"]);
    agent.listen_for(Duration::from_secs(1));
    assert_eq!(shown(&bird), 1);
}

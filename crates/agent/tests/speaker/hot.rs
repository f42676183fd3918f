//! Changes of every setting that is declared hot, or for the next session, as BIRD and FRR see them: no session notices.

use crate::bird::{hosts, speaker};
use crate::frr::Frr;
use crate::support::{Agent, LIMIT, bird_session, peer};
use lasthop_agent::speaker::protocol::ToSpeaker;
use lasthop_bgp::config::{
    Auth, Bfd, ConnectMode, Drain, Effect, LimitAction, NextHop, PeerConfig, Policy, PrefixLimit, ReflectMode,
    RestartMode, Secret, SpeakerConfig, Switch, Ttl, Verdict,
};
use lasthop_net::Family;
use lasthop_testkit::bird::{Bird, base};
use std::collections::BTreeSet;
use std::time::Duration;

const OURS: &str = "10.99.0.1";
const THEIRS: &str = "10.99.0.2";

type PeerChange = (&'static str, fn(&mut PeerConfig));
type SpeakerChange = (&'static str, fn(&mut SpeakerConfig));

/// A change of each setting of a peer that may change while the session is up. `admin` is not among them: it is there to
/// end sessions.
const PEER: [PeerChange; 20] = [
    ("port", |peer| peer.port = 1790),
    ("next_hop_v4", |peer| peer.next_hop_v4 = Some([10, 99, 0, 77].into())),
    ("next_hop_v6", |peer| peer.next_hop_v6 = None),
    ("connect", |peer| peer.connect = ConnectMode::Passive),
    ("reflect", |peer| peer.reflect = ReflectMode::Client),
    ("next_hop", |peer| peer.next_hop = NextHop::OurSelf),
    ("hold_time", |peer| peer.hold_time = Duration::from_secs(9)),
    ("auth", |peer| peer.auth = Some(Auth::Md5(Secret::new("another")))),
    ("ttl", |peer| peer.ttl = Ttl::Security(1)),
    ("allowed_own_as", |peer| peer.allowed_own_as = 3),
    ("limits", |peer| {
        let limit = PrefixLimit { max: 1, warn_percent: 50, action: LimitAction::Warn };
        peer.limits = [(Family::V4, limit)].into();
    }),
    ("import", |peer| peer.import = Policy::new(Vec::new(), Verdict::Reject)),
    ("export", |peer| peer.export = Policy::new(Vec::new(), Verdict::Reject)),
    ("restart", |peer| peer.restart = RestartMode::Off),
    ("restart_time", |peer| peer.restart_time = Some(Duration::from_secs(7))),
    ("long_lived", |peer| peer.long_lived = Some(Duration::from_secs(70))),
    ("graceful_shutdown", |peer| peer.graceful_shutdown = Switch::Off),
    ("bfd", |peer| peer.bfd = Some(Bfd::default())),
    // Two at once, and all policies away: an internal session goes on without any.
    ("import", |peer| (peer.import, peer.export) = (Policy::Missing, Policy::Missing)),
    ("ttl", |peer| peer.ttl = Ttl::Hops(5)),
];

/// The same of ourselves.
const SPEAKER: [SpeakerChange; 6] = [
    ("cluster_id", |speaker| speaker.cluster_id = Some([1, 1, 1, 1].into())),
    ("port", |speaker| speaker.port = 1791),
    ("bind", |speaker| speaker.bind = [[10, 99, 0, 1].into()].into()),
    ("restart_time", |speaker| speaker.restart_time = Duration::from_secs(9)),
    ("deferral", |speaker| speaker.deferral = Duration::from_secs(9)),
    ("drain", |speaker| speaker.drain = Drain::Yes),
];

/// Makes each change and takes it back; what the peer says of the session stays the same all the while.
fn nobody_notices(agent: &mut Agent, view: impl Fn() -> String) {
    let before = view();
    let (peers, config) = (agent.peers.clone(), agent.config.clone());
    for (field, change) in PEER {
        let mut changed = peers[0].clone();
        change(&mut changed);
        assert!(peers[0].changes(&changed).iter().any(|one| one.field == field), "{field} is changed to what it was");
        for peer in [changed, peers[0].clone()] {
            agent.set_peers(vec![peer]);
            agent.listen_for(Duration::from_millis(250));
            assert_eq!(view(), before, "{field}");
        }
    }
    for (field, change) in SPEAKER {
        let mut changed = config.clone();
        change(&mut changed);
        for config in [changed, config.clone()] {
            agent.client.send(&ToSpeaker::Configure(config));
            agent.listen_for(Duration::from_millis(250));
            assert_eq!(view(), before, "{field} of the speaker");
        }
    }
    // And that the peer would notice.
    let mut changed = peers[0].clone();
    changed.families = [Family::V4].into();
    agent.set_peers(vec![changed]);
    agent.wait("down", LIMIT, |agent| !agent.states.first().is_some_and(|state| state.is_established()));
    agent.established(THEIRS);
    assert_ne!(view(), before, "a reset is seen");
}

#[test]
fn every_setting_that_may_change_under_a_session_is_in_the_tables() {
    let missing = |fields: &'static [(&'static str, Effect)], tried: BTreeSet<&str>| -> Vec<&str> {
        let may = fields.iter().filter(|(_, effect)| *effect != Effect::Reset).map(|(name, _)| *name);
        may.filter(|name| !tried.contains(name)).collect()
    };
    assert_eq!(missing(PeerConfig::FIELDS, PEER.iter().map(|(name, _)| *name).collect()), ["admin"]);
    assert_eq!(missing(SpeakerConfig::FIELDS, SPEAKER.iter().map(|(name, _)| *name).collect()), [""; 0]);
}

#[test]
fn bird_sees_no_session_go_when_what_is_hot_changes() {
    let [a, b] = hosts();
    let bird = base(THEIRS) + &bird_session("peer", (THEIRS, 64512), (OURS, 64512), "");
    let bird = Bird::start(&b, &bird).unwrap();
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![peer(OURS, THEIRS, 64512)]);
    agent.own = ["10.65.0.21/32".parse().unwrap()].into();
    agent.established(THEIRS);
    bird.has_route("10.65.0.21/32", LIMIT).unwrap();
    // Its state, and since when.
    nobody_notices(&mut agent, || {
        let said = bird.ask("show protocols peer").unwrap();
        said.lines().find(|line| line.contains("peer ")).unwrap_or_default().to_owned()
    });
}

#[test]
fn frr_sees_no_session_go_when_what_is_hot_changes() {
    let [a, b] = hosts();
    let frr = Frr::start(
        &b,
        "router bgp 64512
  bgp router-id 10.99.0.2
  neighbor 10.99.0.1 remote-as 64512
  neighbor 10.99.0.1 timers connect 1
  address-family ipv6 unicast
   neighbor 10.99.0.1 activate
  exit-address-family
 exit
",
    );
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![peer(OURS, THEIRS, 64512)]);
    agent.own = ["10.65.0.21/32".parse().unwrap()].into();
    agent.established(THEIRS);
    frr.has_route("ipv4", "10.65.0.21/32", LIMIT);
    nobody_notices(&mut agent, || {
        let said = frr.json("show bgp neighbors 10.99.0.1 json")["10.99.0.1"].clone();
        let of = |name: &str| said[name].to_string();
        ["bgpState", "connectionsEstablished", "connectionsDropped"].map(of).join(" ")
    });
}

//! Route policy between whole speakers: what passes, what is said where it does not, and that a change touches no session.
#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it must be")]

mod common;

use common::{Net, SECOND, prefix};
use lasthop_bgp::config::{
    Community, Drain, Policy, PrefixMatch, PrefixOperator, RouteChange, RouteSource, Rule, Verdict,
};
use lasthop_bgp::{NotAdvertised, PathVerdict, PeerState, Refusal};
use lasthop_net::Asn;

/// Node 0 in AS 64512, node 1 in AS 64513, each with one prefix.
fn two(change: impl Fn(&mut lasthop_bgp::config::PeerConfig, &mut lasthop_bgp::config::PeerConfig)) -> Net {
    let mut net = Net::new();
    let (a, b) = (net.add(), net.add());
    net.nodes[b].config.asn = Asn(64513);
    net.link(a, b, |at_a, at_b| {
        at_a.asn = Asn(64513);
        change(at_a, at_b);
    });
    net.nodes[a].own.insert(prefix("10.65.0.0/26"));
    net.nodes[b].own.insert(prefix("203.0.113.0/24"));
    net.start_all();
    net.run_for(SECOND * 5);
    net
}

fn within(text: &str) -> Option<PrefixMatch> {
    Some(PrefixMatch { prefix: prefix(text), operator: PrefixOperator::In, lengths: None })
}

#[test]
fn an_external_peer_without_policy_passes_nothing_and_says_so() {
    let net = two(|at_a, _| (at_a.import, at_a.export) = (Policy::Missing, Policy::Missing));
    assert!(net.nodes[0].learned.is_empty() && net.nodes[1].learned.is_empty());
    let speaker = net.nodes[0].speaker.as_ref().unwrap();
    let why = speaker.why(prefix("203.0.113.0/24"));
    assert_eq!(why.paths[0].verdict, PathVerdict::Refused(Refusal::NoPolicy));
    let why = speaker.why(prefix("10.65.0.0/26"));
    assert_eq!(why.advertised[0].outcome, Err(NotAdvertised::NoPolicy));
    assert!(why.advertised[0].outcome.as_ref().unwrap_err().to_string().contains("RFC 8212"));
    let status = &speaker.peers()[0];
    assert_eq!((status.state, status.prefixes_in, status.prefixes_refused), (PeerState::Established, 1, 1));
}

#[test]
fn an_import_policy_is_changed_and_taken_back_without_a_session_noticing() {
    let mut net = two(|_, _| {});
    let theirs = prefix("203.0.113.0/24");
    let change = |net: &mut Net, import: Policy| {
        let mut config = net.nodes[0].peers.values().next().unwrap().clone();
        config.import = import;
        net.with(0, |speaker, now| speaker.set_peer(now, config));
        net.run_for(SECOND);
    };
    let attribute = |net: &Net, name: &str| {
        let paths = net.nodes[0].speaker.as_ref().unwrap().paths(Some(theirs));
        paths[0].attributes.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone())
    };
    let reject = Rule {
        name: "no-documentation".to_owned(),
        prefix: within("203.0.113.0/24"),
        verdict: Some(Verdict::Reject),
        ..Rule::default()
    };
    let prefer = Rule { changes: vec![RouteChange::SetLocalPref(250)], ..Rule::default() };
    assert!(net.nodes[0].learned.contains_key(&theirs));
    change(&mut net, Policy::new(vec![prefer.clone()], Verdict::Accept));
    assert_eq!(attribute(&net, "LOCAL_PREF").as_deref(), Some("250"));
    change(&mut net, Policy::new(vec![prefer, reject], Verdict::Accept));
    assert!(!net.nodes[0].learned.contains_key(&theirs));
    let paths = net.nodes[0].speaker.as_ref().unwrap().paths(Some(theirs));
    assert_eq!(paths[0].verdict, PathVerdict::Filtered("no-documentation".to_owned()));
    assert_eq!(paths[0].verdict.to_string(), "the import policy rejects it (no-documentation)");
    change(&mut net, Policy::accept_all());
    assert_eq!(attribute(&net, "LOCAL_PREF"), None, "what the peer said is remembered");
    assert!(net.nodes[0].learned.contains_key(&theirs));
    for node in &net.nodes {
        assert_eq!(node.speaker.as_ref().unwrap().peers()[0].counters.lost, 0);
    }
}

#[test]
fn an_export_policy_changes_what_is_sent_and_only_that() {
    let mut net = two(|_, _| {});
    for index in 0..100u8 {
        net.advertise(0, prefix(&format!("10.65.1.{index}/32")));
    }
    net.run_for(SECOND);
    assert_eq!(net.nodes[1].learned.len(), 101);
    let mut config = net.nodes[0].peers.values().next().unwrap().clone();
    config.export = Policy::new(
        vec![
            Rule { prefix: within("10.65.1.7/32"), verdict: Some(Verdict::Reject), ..Rule::default() },
            Rule {
                prefix: within("10.65.1.8/32"),
                source: Some(RouteSource::Own),
                changes: vec![
                    RouteChange::Prepend(vec![Asn(64512)]),
                    RouteChange::AddCommunity(Community::Large([64512, 1, 2])),
                    RouteChange::SetMed(7),
                ],
                ..Rule::default()
            },
        ],
        Verdict::Accept,
    );
    let sent = net.sent;
    net.with(0, |speaker, now| speaker.set_peer(now, config));
    net.run_for(SECOND);
    assert_eq!(net.nodes[1].lost, [prefix("10.65.1.7/32")]);
    assert!(net.sent - sent < 200, "{} octets for two prefixes of 101", net.sent - sent);
    let paths = net.nodes[1].speaker.as_ref().unwrap().paths(Some(prefix("10.65.1.8/32")));
    for (name, value) in [("AS_PATH", "64512 64512"), ("LARGE_COMMUNITIES", "64512:1:2"), ("MULTI_EXIT_DISC", "7")] {
        assert!(paths[0].attributes.contains(&(name, value.to_owned())), "{name}: {paths:?}");
    }
    let why = net.nodes[0].speaker.as_ref().unwrap().why(prefix("10.65.1.7/32"));
    assert!(matches!(why.advertised[0].outcome, Err(NotAdvertised::Policy(_))));
}

#[test]
fn who_drains_is_the_last_choice_of_its_peers_at_once() {
    let mut net = two(|_, _| {});
    let ours = prefix("10.65.0.0/26");
    let mut config = net.nodes[0].config.clone();
    config.drain = Drain::Yes;
    net.with(0, |speaker, now| speaker.configure(now, config));
    net.run_for(SECOND);
    let path = net.nodes[1].speaker.as_ref().unwrap().paths(Some(ours)).remove(0);
    assert!(path.attributes.contains(&("COMMUNITIES", "graceful-shutdown".to_owned())), "{path:?}");
    assert!(path.attributes.contains(&("LOCAL_PREF", "0".to_owned())), "RFC 8326 section 4.1: {path:?}");
    assert!(net.nodes[1].lost.is_empty(), "nothing was withdrawn in between");
}

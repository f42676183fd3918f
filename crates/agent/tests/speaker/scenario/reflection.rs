//! We as a reflector of daemons, and as the client of one.

use super::{OUR_AS, THEIR_AS};
use crate::bird::{hosts, speaker};
use crate::daemon::{Kind, Neighbour, Setup, US};
use crate::support::{Agent, Speaker, config, peer};
use lasthop_bgp::config::{PeerConfig, ReflectMode};
use std::time::Duration;

fn client_of_us(address: &str) -> PeerConfig {
    PeerConfig { reflect: ReflectMode::Client, ..peer(US, address, OUR_AS) }
}

/// RR1, RR2: two clients and a third one that is none. Clients' routes go to all, the third's to clients.
pub(super) fn reflected(kind: Kind) {
    let [a, b, c, d] = hosts();
    let setup = |number: u8| {
        let setup = Setup::new(number, OUR_AS).with(Neighbour::new(US, OUR_AS));
        setup.route(&format!("203.0.{number}.0/24"))
    };
    let daemons = [(&b, 2), (&c, 3), (&d, 4)].map(|(host, number)| kind.start(host, &setup(number)));
    let peers = vec![client_of_us("10.99.0.2"), client_of_us("10.99.0.3"), peer(US, "10.99.0.4", OUR_AS)];
    let (_speaker, mut agent) = speaker(&a, US, OUR_AS, peers);
    agent.config.cluster_id = Some("192.0.2.1".parse().unwrap());
    for (daemon, number) in daemons.iter().zip(2..) {
        daemon.established(&mut agent, US, &format!("10.99.0.{number}"));
    }
    for (daemon, own) in daemons.iter().zip(2u8..) {
        for other in (2u8..5).filter(|other| *other != own) {
            let seen = daemon.has(&mut agent, &format!("203.0.{other}.0/24"));
            let from = format!("10.99.0.{other}");
            assert_eq!((&seen.next_hop, seen.originator.as_deref()), (&from, Some(from.as_str())), "{seen:?}");
            assert_eq!((&seen.clusters[..], seen.local_pref), (&["192.0.2.1".to_owned()][..], Some(100)), "{seen:?}");
            assert_eq!(seen.as_path, "", "{seen:?}");
        }
        assert_eq!(daemon.daemon.session(US).prefixes, 2, "and nothing comes back");
    }
    // Another client is none any more: hot.
    let since = daemons[0].daemon.session(US).since;
    agent.set_peers(["10.99.0.2", "10.99.0.3", "10.99.0.4"].map(|address| peer(US, address, OUR_AS)).into());
    daemons[0].has_not(&mut agent, "203.0.3.0/24");
    daemons[2].has_not(&mut agent, "203.0.2.0/24");
    assert_eq!(daemons[0].daemon.session(US).since, since);
}

/// RR1 the other way: the daemon reflects between two of us.
pub(super) fn client(kind: Kind) {
    let [a, b, c] = hosts();
    let client = |address: &str| Neighbour::new(address, OUR_AS).change(|neighbour| neighbour.client = true);
    let reflector = kind.start(&b, &Setup::new(2, OUR_AS).with(client(US)).with(client("10.99.0.3")));
    let (_left, mut left) = speaker(&a, US, OUR_AS, vec![peer(US, "10.99.0.2", OUR_AS)]);
    let right_speaker = Speaker::start(&c);
    let its_peers = vec![peer("10.99.0.3", "10.99.0.2", OUR_AS)];
    let mut right = Agent::new(&right_speaker.socket(), config(OUR_AS, "10.99.0.3"), its_peers);
    left.own = ["10.65.0.0/26", "fd00:65:1::/64"].map(|prefix| prefix.parse().unwrap()).into();
    right.own = ["10.65.0.64/26", "fd00:65:2::/64"].map(|prefix| prefix.parse().unwrap()).into();
    reflector.established(&mut left, US, "10.99.0.2");
    reflector.established(&mut right, "10.99.0.3", "10.99.0.2");
    left.learned("10.65.0.64/26", &["10.99.0.3"]);
    left.learned("fd00:65:2::/64", &["fd00:99::3"]);
    right.learned("10.65.0.0/26", &[US]);
    right.learned("fd00:65:1::/64", &["fd00:99::1"]);
    left.withdraw(1, &["10.65.0.0/26"]);
    right.learned("10.65.0.0/26", &[]);
}

/// RR7: what reflection adds is not for strangers.
pub(super) fn nothing_outside(kind: Kind) {
    let [a, b, c] = hosts();
    // The client is BIRD throughout: what the stranger shows is the question.
    let inner = Setup::new(2, OUR_AS).with(Neighbour::new(US, OUR_AS)).route("10.65.2.0/24");
    let inner = Kind::Bird.start(&b, &inner);
    let stranger = kind.start(&c, &Setup::new(3, THEIR_AS).with(Neighbour::new(US, OUR_AS)));
    let peers = vec![client_of_us("10.99.0.2"), peer(US, "10.99.0.3", THEIR_AS)];
    let (_speaker, mut agent) = speaker(&a, US, OUR_AS, peers);
    agent.config.cluster_id = Some("192.0.2.1".parse().unwrap());
    inner.established(&mut agent, US, "10.99.0.2");
    stranger.established(&mut agent, US, "10.99.0.3");
    let seen = stranger.has(&mut agent, "10.65.2.0/24");
    agent.listen_for(Duration::from_millis(200));
    assert_eq!((seen.originator, seen.clusters.len()), (None, 0));
    assert_eq!((seen.as_path.as_str(), seen.next_hop.as_str()), ("64512", US));
}

/// RR5: a client of the daemon, which is our client, and a client of ours: each reflector is in the list once.
pub(super) fn three_levels(kind: Kind) {
    let [a, b, c, d] = hosts();
    let bottom = Setup::new(4, OUR_AS).with(Neighbour::new("10.99.0.2", OUR_AS)).route("203.0.113.0/24");
    let bottom = Kind::Bird.start(&d, &bottom);
    let client = Neighbour::new("10.99.0.4", OUR_AS).change(|neighbour| neighbour.client = true);
    let middle = kind.start(&b, &Setup::new(2, OUR_AS).with(client).with(Neighbour::new(US, OUR_AS)));
    let other = Kind::Bird.start(&c, &Setup::new(3, OUR_AS).with(Neighbour::new(US, OUR_AS)).route("198.51.100.0/24"));
    let (_speaker, mut agent) = speaker(&a, US, OUR_AS, vec![client_of_us("10.99.0.2"), client_of_us("10.99.0.3")]);
    agent.config.cluster_id = Some("192.0.2.1".parse().unwrap());
    middle.established(&mut agent, US, "10.99.0.2");
    other.established(&mut agent, US, "10.99.0.3");
    let up = other.has(&mut agent, "203.0.113.0/24");
    assert_eq!((up.next_hop.as_str(), up.originator.as_deref()), ("10.99.0.4", Some("10.99.0.4")), "{up:?}");
    assert_eq!(up.clusters, ["192.0.2.1", "10.99.0.2"], "{up:?}");
    let down = bottom.has(&mut agent, "198.51.100.0/24");
    assert_eq!((down.next_hop.as_str(), down.originator.as_deref()), ("10.99.0.3", Some("10.99.0.3")), "{down:?}");
    assert_eq!(down.clusters, ["10.99.0.2", "192.0.2.1"], "{down:?}");
    other.daemon.withdraw("198.51.100.0/24");
    bottom.has_not(&mut agent, "198.51.100.0/24");
}

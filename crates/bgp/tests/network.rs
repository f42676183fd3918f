//! Whole networks of speakers under virtual time.

#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it must be")]

mod common;

use common::dice::Dice;
use common::{Net, SECOND, own_prefixes, prefix};
use lasthop_bgp::config::ReflectMode;
use lasthop_bgp::{Start, StopMode};

fn with_hosts(count: usize) -> Net {
    let mut net = Net::new();
    for index in 0..count {
        net.add();
        net.nodes[index].own.extend(own_prefixes(index));
    }
    net
}

fn mesh(count: usize) -> Net {
    let mut net = with_hosts(count);
    for a in 0..count {
        for b in 0..a {
            net.link(a, b, |_, _| {});
        }
    }
    net
}

/// The first `reflectors` nodes reflect for all others and peer with each other.
fn reflected(reflectors: usize, clients: usize) -> Net {
    let mut net = with_hosts(reflectors + clients);
    for a in 0..reflectors {
        net.nodes[a].own.clear();
        for b in 0..a {
            net.link(a, b, |_, _| {});
        }
        for client in reflectors..reflectors + clients {
            net.link(a, client, |at_reflector, _| at_reflector.reflect = ReflectMode::Client);
        }
    }
    net
}

/// One at the top, `middle` below it, `leaves` below each of them.
fn three_levels(middle: usize, leaves: usize) -> Net {
    let mut net = with_hosts(1 + middle + middle * leaves);
    for m in 1..=middle {
        net.link(0, m, |at_top, _| at_top.reflect = ReflectMode::Client);
        for leaf in 0..leaves {
            let leaf = 1 + middle + (m - 1) * leaves + leaf;
            net.link(m, leaf, |at_middle, _| at_middle.reflect = ReflectMode::Client);
        }
    }
    net
}

fn topologies() -> Vec<(&'static str, Net)> {
    vec![
        ("mesh of 12", mesh(12)),
        ("one reflector, 60 clients", reflected(1, 60)),
        ("two reflectors, 30 clients", reflected(2, 30)),
        ("three levels", three_levels(4, 8)),
    ]
}

#[test]
fn every_prefix_reaches_every_host_in_every_topology() {
    for (name, mut net) in topologies() {
        net.start_all();
        net.run_for(SECOND * 10);
        net.assert_all_established();
        net.assert_converged();
        for (index, node) in net.nodes.iter().enumerate() {
            assert_eq!(node.in_sync, 1, "{name}: node {index} is told once that it is in sync");
        }
    }
}

#[test]
fn a_withdrawal_clears_the_prefix_everywhere_and_a_new_one_reaches_all() {
    for (_, mut net) in topologies() {
        net.start_all();
        net.run_for(SECOND * 10);
        let last = net.nodes.len() - 1;
        let gone = own_prefixes(last)[0];
        net.withdraw(last, gone);
        net.advertise(last, prefix("192.0.2.7/32"));
        net.run_for(SECOND);
        net.assert_converged();
        // And moves to another host.
        net.advertise(last - 1, gone);
        net.run_for(SECOND);
        net.assert_converged();
    }
}

#[test]
fn a_restart_with_graceful_restart_loses_no_route_anywhere() {
    for (name, mut net) in topologies() {
        net.start_all();
        net.run_for(SECOND * 10);
        for victim in [0, net.nodes.len() - 1] {
            net.kill(victim);
            net.run_for(SECOND * 5);
            net.start(victim, Start::Restarted);
            net.run_for(SECOND * 60);
            net.assert_all_established();
            net.assert_converged();
            for (index, node) in net.nodes.iter().enumerate() {
                assert_eq!(node.lost, [], "{name}: node {index} lost routes when {victim} restarted");
            }
            assert_eq!(net.nodes[victim].in_sync, 1, "{name}");
        }
    }
}

#[test]
fn all_restarting_at_once_lose_no_route() {
    for (name, mut net) in topologies() {
        net.start_all();
        net.run_for(SECOND * 10);
        (0..net.nodes.len()).for_each(|index| net.kill(index));
        net.run_for(SECOND);
        (0..net.nodes.len()).for_each(|index| net.start(index, Start::Restarted));
        net.run_for(SECOND * 60);
        net.assert_all_established();
        net.assert_converged();
        for (index, node) in net.nodes.iter().enumerate() {
            assert_eq!(node.lost, [], "{name}: node {index}");
        }
    }
}

#[test]
fn routes_not_announced_again_after_a_restart_are_swept_at_end_of_rib() {
    let mut net = reflected(1, 5);
    net.start_all();
    net.run_for(SECOND * 10);
    net.kill(3);
    let gone = own_prefixes(3)[1];
    net.nodes[3].own.remove(&gone);
    net.run_for(SECOND * 5);
    assert!(net.nodes[4].learned.contains_key(&gone), "kept while the host is away");
    net.start(3, Start::Restarted);
    net.run_for(SECOND * 5);
    net.assert_converged();
}

#[test]
fn a_peer_that_does_not_come_back_is_dropped_at_its_restart_time() {
    let mut net = mesh(3);
    net.start_all();
    net.run_for(SECOND * 10);
    net.kill(2);
    net.run_for(SECOND * 119);
    assert!(net.nodes[0].learned.contains_key(&own_prefixes(2)[0]));
    net.run_for(SECOND * 2);
    net.nodes[2].own.clear();
    net.assert_converged();
}

#[test]
fn a_cold_start_drops_what_was_kept() {
    let mut net = mesh(3);
    net.start_all();
    net.run_for(SECOND * 10);
    net.kill(2);
    net.nodes[2].own.clear();
    net.run_for(SECOND * 5);
    net.start(2, Start::Cold);
    net.run_for(SECOND * 5);
    net.assert_converged();
}

#[test]
fn an_administrative_stop_clears_routes_at_once_and_keep_routes_does_not() {
    for (mode, kept) in [(StopMode::Cease, false), (StopMode::KeepRoutes, true)] {
        let mut net = reflected(1, 4);
        net.start_all();
        net.run_for(SECOND * 10);
        net.stop(2, mode);
        net.run_for(SECOND);
        assert_eq!(net.nodes[3].learned.contains_key(&own_prefixes(2)[0]), kept, "{mode:?}");
    }
}

#[test]
fn sessions_lost_to_tcp_come_back_without_a_lost_route() {
    for (name, mut net) in topologies() {
        net.start_all();
        net.run_for(SECOND * 10);
        for round in 0..5 {
            let victim = net.nodes.len() - 1 - round;
            for other in 0..net.nodes.len() {
                net.break_tcp(victim, other);
            }
        }
        net.run_for(SECOND * 15);
        net.assert_all_established();
        net.assert_converged();
        for node in &net.nodes {
            assert_eq!(node.lost, [], "{name}");
        }
    }
}

#[test]
fn a_silent_peer_is_given_up_after_the_hold_time_and_comes_back_within_30_seconds() {
    let mut net = mesh(3);
    net.start_all();
    net.run_for(SECOND * 10);
    net.cut(0, 2);
    net.run_for(SECOND * 91);
    assert_eq!((net.established(0), net.established(1), net.established(2)), (1, 2, 1));
    let status = net.nodes[0].speaker.as_ref().unwrap().peers();
    assert!(status.iter().any(|peer| peer.last_error.is_some()), "{status:?}");
    net.heal();
    net.run_for(SECOND * 30);
    net.assert_all_established();
    net.assert_converged();
}

#[test]
fn of_two_reflectors_one_may_die_without_a_lost_route() {
    let mut net = reflected(2, 20);
    net.start_all();
    net.run_for(SECOND * 10);
    net.stop(0, StopMode::Cease);
    net.run_for(SECOND * 5);
    net.assert_converged();
    for node in &net.nodes {
        assert_eq!(node.lost, []);
    }
}

#[test]
fn a_hundred_and_fifty_clients_of_one_reflector_converge() {
    let mut net = reflected(1, 150);
    net.start_all();
    net.run_for(SECOND * 10);
    net.assert_all_established();
    net.assert_converged();
}

#[test]
fn a_network_at_rest_sends_nothing_but_keepalives() {
    let mut net = reflected(2, 10);
    net.start_all();
    net.run_for(SECOND * 10);
    let sent = net.sent;
    net.run_for(SECOND * 29);
    // 21 sessions, two ends, at most one KEEPALIVE of 19 octets each 30 s.
    assert!(net.sent - sent <= 21 * 2 * 19, "{} octets", net.sent - sent);
}

#[test]
fn both_ends_dialling_at_once_leave_exactly_one_connection() {
    for delay in [0, 1, 7, 50, 300] {
        let mut net = mesh(8);
        net.delay = std::time::Duration::from_millis(delay);
        net.start_all();
        net.run_for(SECOND * 10);
        net.assert_all_established();
        net.assert_converged();
        let flaps: u64 =
            net.nodes.iter().flat_map(|n| n.speaker.as_ref().unwrap().peers()).map(|p| p.counters.lost).sum();
        assert_eq!(flaps, 0, "with a delay of {delay} ms");
    }
}

#[test]
fn after_any_mishaps_the_network_converges_to_what_its_hosts_announce_now() {
    for seed in 1..12 {
        let mut dice = Dice(u64::wrapping_mul(seed, 0x9e37_79b9_7f4a_7c15));
        let mut net = match seed % 4 {
            0 => mesh(6),
            1 => reflected(1, 8),
            2 => reflected(2, 6),
            _ => three_levels(2, 3),
        };
        let hosts = net.nodes.len();
        net.start_all();
        for _ in 0..40 {
            let (a, b) = (dice.roll(hosts), dice.roll(hosts));
            match (dice.roll(7), net.nodes[a].speaker.is_some()) {
                (0, true) => net.kill(a),
                (0, false) => net.start(a, [Start::Cold, Start::Restarted][dice.roll(2)]),
                (1, true) => net.stop(a, [StopMode::Cease, StopMode::KeepRoutes][dice.roll(2)]),
                (2, _) => net.break_tcp(a, b),
                (3, _) => net.cut(a, b),
                (4, _) => net.heal(),
                (5, true) if !net.nodes[a].own.is_empty() => net.withdraw(a, own_prefixes(a)[dice.roll(4)]),
                (6, true) if !net.nodes[a].own.is_empty() => net.advertise(a, own_prefixes(a)[dice.roll(4)]),
                _ => {}
            }
            net.run_for(SECOND * u32::try_from(dice.roll(40)).unwrap() / 4);
        }
        net.heal();
        for index in 0..hosts {
            if net.nodes[index].speaker.is_none() {
                net.start(index, Start::Restarted);
            }
        }
        // Restart times, hold times and back-off are over by then.
        net.run_for(SECOND * 400);
        net.assert_all_established();
        net.assert_converged();
    }
}

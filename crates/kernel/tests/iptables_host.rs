//! Host endpoints, workloads to their host, and NAT, by iptables on both backends.

mod netns;
mod probes;
mod tables;

use lasthop_compute::EndpointToHost;
use lasthop_kernel::iptables::{Backend, Iptables};
use lasthop_kernel::nft::PolicyScope;
use lasthop_net::{Family, Prefix};
use lasthop_policy::ir::*;
use netns::Netns;
use probes::{Packet, probe};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use tables::*;

const BACKENDS: [Backend; 2] = [Backend::Legacy, Backend::Nft];
const HOST: u8 = 1;
const OUTSIDE: u8 = 2;

/// TCP and UDP packets to these ports, each from a port of its own.
fn sent(
    world: &World,
    (from, to): (&Netns, &Netns),
    (source, destination): (IpAddr, IpAddr),
    ports: &[u16],
) -> Vec<bool> {
    let everybody: BTreeSet<IpAddr> = [source, destination].into();
    world.host.enter(|| lasthop_kernel::conntrack::delete_for(&everybody)).expect("connections are forgotten");
    let packet = |port: &u16| Packet { source, destination, protocol: 17, from: 30_000 + port, to: *port };
    probe(from, to, &ports.iter().map(packet).collect::<Vec<_>>())
}

/// Each way in which a packet meets the host's interface, with these ports.
struct Ways<'a>(&'a World, Family);

impl Ways<'_> {
    fn input(&self, ports: &[u16]) -> Vec<bool> {
        let Self(world, family) = self;
        let ends = (underlay(*family, OUTSIDE), underlay(*family, HOST));
        sent(world, (&world.outside, &world.host), ends, ports)
    }

    fn output(&self, ports: &[u16]) -> Vec<bool> {
        let Self(world, family) = self;
        let ends = (underlay(*family, HOST), underlay(*family, OUTSIDE));
        sent(world, (&world.host, &world.outside), ends, ports)
    }

    fn forward_in(&self, ports: &[u16]) -> Vec<bool> {
        let Self(world, family) = self;
        let ends = (underlay(*family, OUTSIDE), address(*family, 1));
        sent(world, (&world.outside, world.guest(1)), ends, ports)
    }

    fn forward_out(&self, ports: &[u16]) -> Vec<bool> {
        let Self(world, family) = self;
        let ends = (address(*family, 1), underlay(*family, OUTSIDE));
        sent(world, (world.guest(1), &world.outside), ends, ports)
    }

    fn to_workload(&self, ports: &[u16]) -> Vec<bool> {
        let Self(world, family) = self;
        let ends = (underlay(*family, HOST), address(*family, 1));
        sent(world, (&world.host, world.guest(1)), ends, ports)
    }

    fn all(&self, ports: &[u16]) -> [Vec<bool>; 4] {
        [self.input(ports), self.output(ports), self.forward_in(ports), self.forward_out(ports)]
    }
}

fn open(made: &mut Made) {
    let stack = made.open();
    (1..=3).for_each(|number| made.workload(number, stack, stack));
}

/// A stack that allows these ports and denies others, or says nothing of them.
fn only(made: &mut Made, what: &str, allowed: &[u16], otherwise: TierDefault) -> StackId {
    let end = if otherwise == TierDefault::Deny { End::Deny } else { End::GoOn };
    let rules = allowed.iter().map(|port| Rule {
        protocol: Some(17),
        destination: Side { ports: ports(&[(*port, *port)]), ..Side::default() },
        ..rule(Action::Allow)
    });
    let program = made.program((what, Direction::Ingress, Force::Enforced), rules.collect());
    made.stack(vec![(vec![program], otherwise)], end)
}

fn failsafe(port: u16) -> BTreeSet<Failsafe> {
    Family::ALL.map(|family| Failsafe { protocol: 17, net: Prefix::default_route(family), port }).into()
}

fn check(world: &World, iptables: &mut Iptables, made: &Made, expect: impl Fn(&Ways<'_>, &str)) {
    apply(world, iptables, &made.0);
    let again = world.host.enter(|| iptables.sync_policy(&made.0, PolicyScope::All));
    assert_eq!(again.writes, 0, "{again:?}");
    for family in Family::ALL {
        expect(&Ways(world, family), &format!("{family}"));
    }
}

#[test]
fn interfaces_of_the_host_have_policy() {
    let world = World::new();
    let (yes, no) = (true, false);
    for backend in BACKENDS {
        let mut plain = Made::default();
        open(&mut plain);
        let mut iptables = driver(&world, backend, &plain.0);
        check(&world, &mut iptables, &plain, |ways, what| {
            assert_eq!(ways.all(&[1]), [[yes]; 4], "nothing said: {what} {backend:?}");
        });
        let mut normal = plain.clone();
        let input = only(&mut normal, "in", &[1], TierDefault::Deny);
        let output = only(&mut normal, "out", &[2], TierDefault::Deny);
        (normal.0.failsafe_in, normal.0.failsafe_out) = (failsafe(8), failsafe(9));
        let policy = InterfacePolicy { input: Some(input), output: Some(output), ..InterfacePolicy::default() };
        normal.0.interfaces.insert(Interface::Named(name("eth0")), policy);
        check(&world, &mut iptables, &normal, |ways, what| {
            let seen = ways.all(&[1, 2, 8, 9]);
            let wanted = [[yes, no, yes, no], [no, yes, no, yes], [yes; 4], [yes; 4]];
            assert_eq!(seen, wanted, "to and from the host: {what} {backend:?}");
            assert_eq!(ways.to_workload(&[1]), [yes], "the host reaches its workloads: {what}");
        });
        assert!(world.host.run("ping -c1 -W1 127.0.0.1 && ping -c1 -W1 ::1").0, "the host's talk with itself");
        let mut forward = plain.clone();
        let into = only(&mut forward, "forward in", &[1, 3], TierDefault::Deny);
        let out_of = only(&mut forward, "forward out", &[2, 3], TierDefault::Deny);
        (forward.0.failsafe_in, forward.0.failsafe_out) = (failsafe(8), failsafe(9));
        let mut policy = InterfacePolicy { forward_in: Some(into), ..InterfacePolicy::default() };
        forward.0.interfaces.insert(Interface::Named(name("eth0")), policy);
        check(&world, &mut iptables, &forward, |ways, what| {
            let wanted = [[yes; 3], [yes; 3], [yes, no, no], [yes; 3]];
            assert_eq!(ways.all(&[1, 2, 8]), wanted, "forwarded in, no failsafes: {what} {backend:?}");
        });
        // The wildcard's forward policy also meets what workloads send and get, on either side.
        policy.forward_out = Some(out_of);
        forward.0.interfaces = [(Interface::Any, policy)].into();
        check(&world, &mut iptables, &forward, |ways, what| {
            let wanted = [vec![yes; 3], vec![yes; 3], vec![no, no, yes], vec![no, no, yes]];
            assert_eq!(ways.all(&[1, 2, 3]), wanted, "the wildcard: {what} {backend:?}");
        });
        // An interface with an endpoint of its own does not meet the wildcard's policy.
        let mut wild = normal.clone();
        wild.0.interfaces = [
            (Interface::Any, InterfacePolicy { input: Some(input), ..InterfacePolicy::default() }),
            (Interface::Named(name("eth0")), InterfacePolicy { output: Some(output), ..InterfacePolicy::default() }),
        ]
        .into();
        check(&world, &mut iptables, &wild, |ways, what| {
            assert_eq!(ways.input(&[1, 2]), [yes, yes], "{what}");
            assert_eq!(ways.output(&[1, 2]), [no, yes], "{what}");
        });
        world.host.enter(|| iptables.remove_all()).expect("removed");
    }
}

#[test]
fn policy_before_tracking_and_before_dnat_settles_a_packet() {
    let world = World::new();
    let (yes, no) = (true, false);
    for backend in BACKENDS {
        let mut early = Made::default();
        open(&mut early);
        let before = only(&mut early, "before", &[1, 2], TierDefault::Deny);
        let none = only(&mut early, "none", &[5], TierDefault::Deny);
        early.0.failsafe_in = failsafe(8);
        let policy = InterfacePolicy {
            before_dnat: Some(before),
            input: Some(none),
            forward_in: Some(none),
            ..InterfacePolicy::default()
        };
        early.0.interfaces.insert(Interface::Named(name("eth0")), policy);
        let mut iptables = driver(&world, backend, &early.0);
        check(&world, &mut iptables, &early, |ways, what| {
            let seen = [ways.input(&[1, 2, 5, 8]), ways.forward_in(&[1, 2, 5, 8])];
            // What is allowed before DNAT meets no further policy; a failsafe port meets it, and is open again on the way in.
            assert_eq!(seen, [[yes, yes, no, yes], [yes, yes, no, no]], "before DNAT: {what} {backend:?}");
            assert_eq!(ways.output(&[7]), [yes]);
        });
        let mut untracked = Made::default();
        open(&mut untracked);
        let first = only(&mut untracked, "untracked", &[1], TierDefault::Pass);
        let none = only(&mut untracked, "none", &[5], TierDefault::Deny);
        let policy = InterfacePolicy {
            untracked_in: Some(first),
            untracked_out: Some(first),
            input: Some(none),
            output: Some(none),
            ..InterfacePolicy::default()
        };
        untracked.0.interfaces.insert(Interface::Named(name("eth0")), policy);
        check(&world, &mut iptables, &untracked, |ways, what| {
            for seen in [ways.input(&[1, 2, 5]), ways.output(&[1, 2, 5])] {
                assert_eq!(seen, [yes, no, yes], "{what} {backend:?}");
            }
            let known = world.host.sh("cat /proc/net/nf_conntrack 2>/dev/null || conntrack -L 2>/dev/null; true");
            let tracks = |port: u16| known.contains(&format!("sport={} dport={port} ", 30_000 + port));
            assert!(known.is_empty() || (!tracks(1) && tracks(5)), "what is untracked leaves no entry: {known}");
        });
        world.host.enter(|| iptables.remove_all()).expect("removed");
    }
}

#[test]
fn workloads_and_their_host() {
    let world = World::new();
    let mut made = Made::default();
    let stack = made.open();
    let out = only(&mut made, "out", &[1, 179], TierDefault::Deny);
    made.workload(1, out, stack);
    made.workload(2, stack, stack);
    for backend in BACKENDS {
        let mut iptables = driver(&world, backend, &made.0);
        for action in [EndpointToHost::Drop, EndpointToHost::Return, EndpointToHost::Accept] {
            world.host.enter(|| iptables.sync_skeleton(&guard(action), &nat())).expect("the skeleton");
            // What others say comes after us, and only if we leave it to them.
            let program = if backend == Backend::Nft { "tables-nft" } else { "tables-legacy" };
            let others = |verb: &str| {
                for family in ["ip", "ip6"] {
                    world.host.sh(&format!("{family}{program} {verb} INPUT -i lhw1 -p udp --dport 1 -j DROP"));
                }
            };
            for (foreign, passes) in [(false, action != EndpointToHost::Drop), (true, action == EndpointToHost::Accept)]
            {
                if foreign {
                    others("-A");
                }
                for family in Family::ALL {
                    let ends = (address(family, 1), underlay(family, HOST));
                    let seen = sent(&world, (world.guest(1), &world.host), ends, &[1, 2]);
                    assert_eq!(seen, [passes, false], "{action:?} {family} {backend:?} {foreign}");
                    let tcp = Packet { source: ends.0, destination: ends.1, protocol: 6, from: 9, to: 179 };
                    assert_eq!(probe(world.guest(1), &world.host, &[tcp]), [false], "never to BGP");
                }
                if foreign {
                    others("-D");
                }
            }
        }
        // NAT is for what leaves the pools.
        for (family, filter) in [(Family::V4, "udp and src 172.31.0.1"), (Family::V6, "udp and src fd00:172::1")] {
            let ends = (address(family, 2), underlay(family, OUTSIDE));
            let seen = world.outside.count("eth0", filter, || {
                assert_eq!(sent(&world, (world.guest(2), &world.outside), ends, &[4, 5]), [true, true]);
            });
            assert_eq!(seen, 2, "{family} {backend:?}");
        }
        let drops = world.host.enter(|| iptables.drops()).expect("drops");
        assert_eq!([drops["spoofed"], drops["unforwardable"], drops["invalid"]], [0; 3]);
        world.host.enter(|| iptables.remove_all()).expect("removed");
    }
}

#[test]
fn log_rules_note_as_settings_say() {
    let world = World::new();
    for backend in BACKENDS {
        let mut made = Made::default();
        let policy = made.one(vec![rule(Action::Log), rule(Action::Allow)]);
        let mut iptables = driver(&world, backend, &policy);
        let save = if backend == Backend::Nft { "iptables-nft-save" } else { "iptables-legacy-save" };
        let rate = |packets, seconds| Some(Rate { packets, per: Duration::from_secs(seconds) });
        for (rate, burst, listed) in [
            (None, 5, ""),
            (rate(10, 60), 7, "-m limit --limit 10/min --limit-burst 7 "),
            (rate(9_999, 1), 9_999, "-m limit --limit "),
            (rate(1, 86_400), 9_999, "-m limit --limit 1/day --limit-burst 1 "),
        ] {
            let log = Logging { prefix: "seen %k/%n".to_owned(), rate, burst };
            let policy = HostPolicy { log, ..policy.clone() };
            apply(&world, &mut iptables, &policy);
            let all = world.host.sh(save);
            let line = all.lines().find(|line| line.contains("--log-prefix")).expect("a log rule").to_owned();
            assert!(line.contains(listed) && line.contains("--log-prefix \"seen "), "{backend:?} {listed}: {line}");
            assert_eq!(line.contains("-m limit"), rate.is_some(), "{backend:?}: {line}");
            world.host.enter(|| {
                iptables.read_back().expect("read back");
                assert_eq!(iptables.sync_policy(&policy, PolicyScope::All).writes, 0, "{listed}");
            });
        }
        world.host.enter(|| iptables.remove_all()).expect("removed");
    }
}

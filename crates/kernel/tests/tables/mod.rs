//! A host with three workloads in namespaces, policy by hand, and the iptables driver on it.
//!
//! ```text
//! host: lhw1 10.65.0.1, lhw2 10.65.0.2, lhw3 10.65.0.3 (fd00:65::1, ...), eth0 172.31.0.1 ─ 172.31.0.2 outside (fd00:172::)
//! ```
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use crate::netns::Netns;
use crate::probes::{Packet, probe};
use lasthop_compute::{EndpointToHost, Guard, Nat, Source};
use lasthop_kernel::iptables::{Backend, Config, Iptables};
use lasthop_kernel::nft::PolicyScope;
use lasthop_kernel::reconcile::Scope;
use lasthop_net::{Family, IfName, Prefix};
use lasthop_policy::ir::*;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Protocol, source port (ICMP: type), destination port (ICMP: code).
pub type Probe = (u8, u16, u16);

pub const BACKENDS: [Backend; 2] = [Backend::Legacy, Backend::Nft];
pub const MAC: &str = "ee:ee:ee:ee:ee:ee";

pub fn name(text: &str) -> IfName {
    text.parse().expect("a name")
}

pub fn address(family: Family, workload: u8) -> IpAddr {
    let text = match family {
        Family::V4 => format!("10.65.0.{workload}"),
        Family::V6 => format!("fd00:65::{workload}"),
    };
    text.parse().expect("an address")
}

pub fn underlay(family: Family, number: u8) -> IpAddr {
    let text = match family {
        Family::V4 => format!("172.31.0.{number}"),
        Family::V6 => format!("fd00:172::{number}"),
    };
    text.parse().expect("an address")
}

/// A host with three workloads and a neighbour.
pub struct World {
    pub host: Netns,
    pub outside: Netns,
    pub workloads: Vec<Netns>,
}

impl World {
    pub fn new() -> Self {
        let (host, outside) = (Netns::new("h"), Netns::new("o"));
        host.sh(&format!(
            "ip link add eth0 type veth peer name eth0 netns {}
             sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.eth0.accept_dad=0 net.netfilter.nf_conntrack_checksum=0
             ip link set eth0 up; ip addr add 172.31.0.1/24 dev eth0; ip -6 addr add fd00:172::1/64 dev eth0 nodad",
            outside.name
        ));
        outside
            .sh("ip link set eth0 up; ip addr add 172.31.0.2/24 dev eth0; ip -6 addr add fd00:172::2/64 dev eth0 nodad
             ip route add 10.65.0.0/16 via 172.31.0.1; ip -6 route add fd00:65::/32 via fd00:172::1");
        let workloads = (1..=3u8)
            .map(|number| {
                let guest = Netns::new("w");
                host.sh(&format!(
                    "ip link add lhw{number} type veth peer name eth0 netns {}
                     sysctl -qw net.ipv6.conf.lhw{number}.accept_dad=0; ip link set lhw{number} address {MAC} up",
                    guest.name
                ));
                guest.sh(&format!(
                    "ip link set eth0 up; ip addr add 10.65.0.{number}/32 dev eth0; ip -6 addr add fd00:65::{number}/128 dev eth0 nodad
                     ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1
                     ip -6 route add default via fe80::1 dev eth0
                     for a in 169.254.1.1 fe80::1; do ip neigh add $a lladdr {MAC} dev eth0 nud permanent; done"
                ));
                let mac = guest.mac("eth0");
                host.sh(&format!(
                    "for a in 10.65.0.{number} fd00:65::{number}; do
                       ip route add $a dev lhw{number}; ip neigh add $a lladdr {mac} dev lhw{number} nud permanent; done"
                ));
                guest
            })
            .collect();
        Self { host, outside, workloads }
    }

    pub fn guest(&self, number: u8) -> &Netns {
        &self.workloads[usize::from(number) - 1]
    }

    /// Which packets from one workload arrive at another; each is (protocol, from, to).
    pub fn between(&self, (from, to): (u8, u8), family: Family, packets: &[Probe]) -> Vec<bool> {
        let packet = |(protocol, first, second): &(u8, u16, u16)| Packet {
            source: address(family, from),
            destination: address(family, to),
            protocol: *protocol,
            from: *first,
            to: *second,
        };
        probe(self.guest(from), self.guest(to), &packets.iter().map(packet).collect::<Vec<_>>())
    }
}

pub fn sources() -> BTreeSet<Source> {
    let source = |number: u8, family| Source {
        link: name(&format!("lhw{number}")),
        prefix: Prefix::host(address(family, number)),
    };
    Family::ALL.into_iter().flat_map(|family| (1..=3).map(move |number| source(number, family))).collect()
}

pub fn guard(action: EndpointToHost) -> Guard {
    Guard { link_prefixes: ["lh".to_owned()].into(), endpoint_to_host: action }
}

pub fn nat() -> Nat {
    let pools: BTreeSet<Prefix> = ["10.65.0.0/16", "fd00:65::/32"].map(|p| p.parse().expect("a prefix")).into();
    Nat { sources: pools.clone(), inside: pools }
}

/// A driver with everything in place.
pub fn driver(world: &World, backend: Backend, policy: &HostPolicy) -> Iptables {
    let mut iptables = Iptables::new(Config::find(backend).expect("iptables and ipset are installed"));
    world.host.enter(|| {
        iptables.read_back().expect("read back");
        iptables.sync_skeleton(&guard(EndpointToHost::Drop), &nat()).expect("the skeleton");
        let outcome = iptables.sync_sources(&sources(), Scope::All);
        assert!(outcome.failed.is_empty(), "{outcome:?}");
    });
    apply(world, &mut iptables, policy);
    iptables
}

pub fn apply(world: &World, iptables: &mut Iptables, policy: &HostPolicy) {
    let outcome = world.host.enter(|| iptables.sync_policy(policy, PolicyScope::All));
    assert!(outcome.failed.is_empty(), "{outcome:?}");
}

pub fn rule(action: Action) -> Rule {
    Rule {
        action,
        family: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: Side::default(),
        destination: Side::default(),
    }
}

pub fn ports(ranges: &[(u16, u16)]) -> Option<Ports> {
    let ranges = ranges.iter().map(|(first, last)| PortRange::new(*first, *last).expect("a range")).collect();
    Some(Ports { ranges, sets: BTreeSet::new() })
}

pub fn digest(number: u8) -> SetId {
    SetId(Digest([number; 16]))
}

/// A policy by hand.
#[derive(Clone, Default)]
pub struct Made(pub HostPolicy);

impl Made {
    pub fn program(&mut self, (name, direction, force): (&str, Direction, Force), rules: Vec<Rule>) -> ProgramId {
        let program = Program { owner: Owner::Profile(name.to_owned()), direction, force, rules };
        let id = program.id();
        self.0.programs.insert(id, Arc::new(program));
        id
    }

    pub fn stack(&mut self, steps: Vec<(Vec<ProgramId>, TierDefault)>, end: End) -> StackId {
        let step = |(number, (programs, otherwise)): (usize, (Vec<ProgramId>, TierDefault))| Step {
            name: StepName::Tier(format!("tier{number}")),
            programs,
            otherwise,
        };
        let stack = Stack { steps: steps.into_iter().enumerate().map(step).collect(), end };
        let id = stack.id();
        self.0.stacks.insert(id, Arc::new(stack));
        id
    }

    pub fn open(&mut self) -> StackId {
        self.stack(Vec::new(), End::GoOn)
    }

    pub fn workload(&mut self, number: u8, from: StackId, to: StackId) {
        self.0.workloads.insert(name(&format!("lhw{number}")), WorkloadPolicy { from, to });
    }

    /// All workloads talk freely, but what goes to workload 2 meets this stack.
    pub fn before_second(mut self, to: StackId) -> HostPolicy {
        let open = self.open();
        self.workload(1, open, open);
        self.workload(2, open, to);
        self.workload(3, open, open);
        self.0
    }

    /// One program before workload 2, then deny.
    pub fn rules(rules: Vec<Rule>) -> HostPolicy {
        let mut made = Self::default();
        made.one(rules)
    }

    pub fn one(&mut self, rules: Vec<Rule>) -> HostPolicy {
        let program = self.program(("p", Direction::Ingress, Force::Enforced), rules);
        let stack = self.stack(vec![(vec![program], TierDefault::Deny)], End::Deny);
        self.clone().before_second(stack)
    }
}

pub fn tcp(port: u16) -> (u8, u16, u16) {
    (6, 40000, port)
}

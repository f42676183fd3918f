//! Kernels as engines: the hosts of a case are network namespaces with the policy that our drivers put in force there, probes
//! are real packets, and what comes out where it ought to has arrived.
//!
//! ```text
//! probe ─▶ TUN of a workload ┐                 ┌─▶ TUN of a workload
//!          raw socket of host ├─▶ a namespace ─┤─▶ raw socket of the host
//!          TUN of an uplink   ┘                └─▶ TUN of an uplink ─▶ that of another namespace
//! ```
//!
//! The kernel forwards a packet in the very call that writes it to a TUN, so nobody has to wait. Namespaces and links stay from
//! case to case; policy changes from that of one to that of the next.

pub use super::node::Dataplane;
use super::node::{Node, Translation, is_unicast};
use super::packet::{self, Turn};
use super::policy::UPLINK;
use super::{Answer, Case, Engine, Probe};
use anyhow::{Context, Result};
use lasthop_model::NodeName;
use lasthop_model::policy::Stage;
use lasthop_policy::decide::{Packet, Transport};
use lasthop_policy::ir::HostPolicy;
use lasthop_policy::journey::Party;
use std::collections::BTreeMap;

/// Changes policy before it is put in force, to see that probes notice.
pub type Tamper = Box<dyn FnMut(&mut HostPolicy)>;

/// Sends real packets.
pub struct Kernel {
    dataplane: Dataplane,
    nodes: Vec<Node>,
    cookie: u32,
    tamper: Option<Tamper>,
}

/// Where a packet got to.
enum End {
    Arrived,
    Lost(String),
}

impl Kernel {
    /// An engine of this dataplane. Its namespaces go with it.
    #[must_use]
    pub fn new(dataplane: Dataplane) -> Self {
        Self { dataplane, nodes: Vec::new(), cookie: 0x4c48_0000, tamper: None }
    }

    /// The same with policy that was tampered with.
    #[must_use]
    pub fn tampered(dataplane: Dataplane, tamper: Tamper) -> Self {
        Self { tamper: Some(tamper), ..Self::new(dataplane) }
    }

    fn set_up(&mut self, case: &Case) -> Result<BTreeMap<NodeName, usize>> {
        let mut numbers = BTreeMap::new();
        for (number, (name, site)) in case.sites.iter().enumerate() {
            if self.nodes.len() <= number {
                self.nodes.push(Node::new(self.dataplane)?);
            }
            let mut policy = case.world.host(name, &site.interfaces).policy;
            policy.failsafe_in = site.failsafe_in.clone();
            policy.failsafe_out = site.failsafe_out.clone();
            if let Some(tamper) = &mut self.tamper {
                tamper(&mut policy);
            }
            let node = &mut self.nodes[number];
            node.become_host(case, name, &policy).with_context(|| format!("host {name}"))?;
            for probe in &case.probes {
                node.listen(family(&probe.packet), probe.packet.transport.protocol())?;
            }
            numbers.insert(name.clone(), number);
        }
        Ok(numbers)
    }
}

impl Engine for Kernel {
    fn judge(&mut self, case: &Case) -> Result<Vec<Answer>> {
        let numbers = self.set_up(case)?;
        let untracked = case.world.policies.values().any(|policy| policy.stage == Stage::Untracked);
        let mut answers = Vec::new();
        for probe in &case.probes {
            if let Some(why) = unsendable(probe) {
                answers.push(Answer { arrives: None, why, ..Answer::default() });
                continue;
            }
            let end = Way { kernel: self, case, numbers: &numbers }.probe(probe, untracked)?;
            for number in numbers.values() {
                self.nodes[*number].forget()?;
            }
            let (arrives, why) = match end {
                End::Arrived => (true, "the packet arrived".to_owned()),
                End::Lost(why) => (false, why),
            };
            answers.push(Answer { arrives: Some(arrives), why, ..Answer::default() });
        }
        Ok(answers)
    }
}

/// Why no kernel forwards such a packet, whatever policy says.
fn unsendable(probe: &Probe) -> Option<String> {
    let Packet { source, destination, transport } = &probe.packet;
    if let Some(address) = [source, destination].into_iter().find(|address| !is_unicast(address)) {
        return Some(format!("{address} is no address that a router forwards"));
    }
    // net/netfilter/nf_conntrack_proto_icmp.c, nf_conntrack_proto_icmpv6.c: what may begin a connection.
    match transport {
        Transport::Icmp { protocol: 1, kind, .. } if ![8, 13, 15, 17].contains(kind) && probe.expected => {
            Some(format!("ICMP type {kind} begins no connection: it is invalid to connection tracking"))
        }
        _ => None,
    }
}

fn family(packet: &Packet) -> libc::c_int {
    if packet.source.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

/// How packets of a case go from one party to another.
struct Way<'a> {
    kernel: &'a mut Kernel,
    case: &'a Case,
    numbers: &'a BTreeMap<NodeName, usize>,
}

impl Way<'_> {
    fn probe(&mut self, probe: &Probe, untracked: bool) -> Result<End> {
        let mut sent = probe.packet;
        if let (Some((address, port)), Transport::Ports { protocol, source, destination }) =
            (probe.before_dnat, probe.packet.transport)
        {
            sent.destination = address;
            sent.transport = Transport::Ports { protocol, source, destination: port };
            let rule = Translation { protocol, from: (address, port), to: (probe.packet.destination, destination) };
            let entry = self.number(&probe.from).or_else(|| self.number(&probe.to)).context("no host translates")?;
            self.kernel.nodes[entry].translate(Some(rule))?;
            let end = self.travel((&probe.from, &probe.to), &sent, Turn::First);
            self.kernel.nodes[entry].translate(None)?;
            return end;
        }
        let end = self.travel((&probe.from, &probe.to), &sent, Turn::First)?;
        if !untracked || matches!(end, End::Lost(_)) {
            return Ok(end);
        }
        let back = self.travel((&probe.to, &probe.from), &packet::answer(sent), Turn::Answer)?;
        Ok(match back {
            End::Arrived => End::Arrived,
            End::Lost(why) => End::Lost(format!("the packet arrived, but its answer did not: {why}")),
        })
    }

    fn travel(&mut self, (from, to): (&Party, &Party), packet: &Packet, turn: Turn) -> Result<End> {
        self.kernel.cookie = self.kernel.cookie.wrapping_add(1);
        let cookie = self.kernel.cookie;
        let mut bytes = packet::build(packet, turn, cookie);
        let (here, there) = (self.number(from), self.number(to));
        if let Some(number) = here {
            let node = &self.kernel.nodes[number];
            match from {
                Party::Workload(_) => node.receive(&self.link(from)?, &bytes)?,
                Party::Host(_) | Party::Outside => node.send(packet.destination, &bytes),
            }
            if here == there {
                return self.arrived(number, to, (packet, cookie));
            }
            match node.sent(UPLINK, cookie)? {
                Some(passed) => bytes = passed,
                None => return Ok(End::Lost(format!("it did not leave the host of {from:?}"))),
            }
        }
        let Some(number) = there else { return Ok(End::Arrived) };
        self.kernel.nodes[number].receive(UPLINK, &bytes)?;
        self.arrived(number, to, (packet, cookie))
    }

    fn arrived(&self, number: usize, to: &Party, (packet, cookie): (&Packet, u32)) -> Result<End> {
        let node = &self.kernel.nodes[number];
        let arrived = match to {
            Party::Workload(_) => node.sent(&self.link(to)?, cookie)?.is_some(),
            Party::Host(_) => node.got(family(packet), packet.transport.protocol(), cookie),
            Party::Outside => node.sent(UPLINK, cookie)?.is_some(),
        };
        Ok(if arrived { End::Arrived } else { End::Lost(format!("it did not come out at {to:?}")) })
    }

    fn link(&self, party: &Party) -> Result<String> {
        let Party::Workload(key) = party else { return Ok(UPLINK.to_owned()) };
        let endpoint = self.case.world.workloads.get(key).with_context(|| format!("there is no workload {key}"))?;
        Ok(endpoint.link.to_string())
    }

    fn number(&self, party: &Party) -> Option<usize> {
        let node = match party {
            Party::Workload(key) => &self.case.world.workloads.get(key)?.node,
            Party::Host(node) => node,
            Party::Outside => return None,
        };
        self.numbers.get(node).copied()
    }
}

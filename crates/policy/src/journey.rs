//! A packet's whole way: which policies it meets from its source to its destination, host by host, and what each says.
//!
//! ```text
//! workload ─▶ its egress ─▶ [forward at its host] ─▶ uplink ─▶ [untracked, before DNAT, forward] ─▶ ingress ─▶ workload
//! workload ─▶ its egress ─▶ endpoint-to-host action ─▶ its own host
//! host ─▶ [untracked, output] ─▶ uplink ─▶ [untracked, before DNAT, input] ─▶ host
//! ```
//! In brackets: host endpoints, where there are some. A host reaches its own workloads whatever policy says.
//!
//! * What untracked or pre-DNAT policy allows meets no further host endpoint policy on that host, coming in or going out.
//! * A failsafe port passes the policy of the stage where it is asked, no more: the packet stays tracked and meets the next stages.

use crate::decide::{Decision, Packet, Tell, Transport, Verdict, decide, verdict};
use crate::ir::{Direction, Failsafe, Interface, InterfacePolicy, Stack, StackId};
use crate::world::{Host, Interfaces, World};
use lasthop_model::{EndpointKey, EndpointToHost, NodeName};
use lasthop_net::IfName;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// Where a packet comes from or goes to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// A workload.
    Workload(EndpointKey),
    /// A host itself.
    Host(NodeName),
    /// Something that no host of ours guards.
    Outside,
}

/// What a host's policy depends on beside resources of policy.
#[derive(Clone, Debug)]
pub struct Site {
    /// Its own interfaces.
    pub interfaces: Interfaces,
    /// The one towards other hosts.
    pub uplink: IfName,
    /// What traffic of workloads to their own host meets.
    pub endpoint_to_host: EndpointToHost,
    /// Failsafe ports for packets to the host.
    pub failsafe_in: BTreeSet<Failsafe>,
    /// Failsafe ports for packets from the host.
    pub failsafe_out: BTreeSet<Failsafe>,
}

/// All hosts, ready to be asked about packets.
#[derive(Debug)]
pub struct Network<'a> {
    pub(crate) world: &'a World,
    pub(crate) hosts: BTreeMap<NodeName, (Site, Host)>,
}

/// A place where a packet was judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A workload's own policy.
    Workload(EndpointKey, Direction),
    /// Host endpoint policy.
    Interface(NodeName, Stage),
    /// Host endpoint policy, for replies of a connection that is not tracked.
    Reply(NodeName, Stage),
    /// The host itself, as its workloads reach it.
    OwnHost(NodeName),
    /// From a host to its own workload.
    OwnWorkload(EndpointKey),
}

/// The stages of host endpoint policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// To the host.
    Input,
    /// From the host.
    Output,
    /// Forwarded, where it came in.
    ForwardIn,
    /// Forwarded, where it goes out.
    ForwardOut,
    /// Before its destination is translated.
    BeforeDnat,
    /// Before connection tracking, where it came in.
    UntrackedIn,
    /// Before connection tracking, where it goes out.
    UntrackedOut,
}

/// What was said at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// Policy decided.
    Policy(Decision),
    /// A failsafe port.
    Failsafe(Failsafe),
    /// The endpoint-to-host action.
    EndpointToHost(EndpointToHost),
    /// Always allowed.
    Always,
}

/// One place on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Where.
    pub place: Place,
    /// What was said.
    pub word: Word,
}

/// A packet's way, up to where it was denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journey {
    /// Places in order. Those where nothing is said are left out.
    pub hops: Vec<Hop>,
    /// What becomes of the packet. `GoOn`: it reaches its own host, whose other rules decide.
    pub verdict: Verdict,
}

/// What is asked: a packet as it arrives, who sends it to whom, and its destination before translation, if it was translated.
#[derive(Clone, Debug)]
pub struct Question {
    /// Who sends it.
    pub from: Party,
    /// Whom it reaches.
    pub to: Party,
    /// The packet as it arrives there.
    pub packet: Packet,
    /// Destination address and port as it was sent.
    pub before_dnat: Option<(IpAddr, u16)>,
}

impl<'a> Network<'a> {
    /// Works out the policy of these hosts.
    #[must_use]
    pub fn new(world: &'a World, sites: impl IntoIterator<Item = (NodeName, Site)>) -> Self {
        let host = |(node, site): (NodeName, Site)| {
            let host = world.host(&node, &site.interfaces);
            (node, (site, host))
        };
        Self { world, hosts: sites.into_iter().map(host).collect() }
    }

    /// The hosts.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.hosts.keys()
    }

    /// Where a packet goes, and what becomes of it.
    #[must_use]
    pub fn journey(&self, question: &Question) -> Journey {
        let mut way = Way { network: self, question, tell: Tell::Reasons, hops: Vec::new(), untracked: false };
        let verdict = way.there_and_back();
        Journey { hops: way.hops, verdict }
    }

    /// What becomes of a packet, without the reasons: for who asks very often.
    #[must_use]
    pub fn verdict(&self, question: &Question) -> Verdict {
        Way { network: self, question, tell: Tell::Verdict, hops: Vec::new(), untracked: false }.there_and_back()
    }

    /// What a workload's own policy says.
    #[must_use]
    pub fn at_workload(&self, key: &EndpointKey, direction: Direction, packet: &Packet) -> Option<Decision> {
        let (host, stack) = self.of_workload(key, direction)?;
        Some(decide(stack, host, packet))
    }

    /// A workload's own policy, and the host that it is on.
    fn of_workload(&self, key: &EndpointKey, direction: Direction) -> Option<(&Host, &Stack)> {
        let endpoint = self.world.workloads.get(key)?;
        let (_, host) = self.hosts.get(&endpoint.node)?;
        let policy = host.policy.workloads.get(&endpoint.link)?;
        let stack = match direction {
            Direction::Ingress => policy.to,
            Direction::Egress => policy.from,
        };
        Some((host, host.policy.stacks.get(&stack)?))
    }

    fn node_of(&self, party: &Party) -> Option<&NodeName> {
        match party {
            Party::Workload(key) => self.world.workloads.get(key).map(|endpoint| &endpoint.node),
            Party::Host(node) => self.hosts.get_key_value(node).map(|(node, _)| node),
            Party::Outside => None,
        }
    }
}

/// The way has ended: the packet is denied.
struct Denied;

struct Way<'a> {
    network: &'a Network<'a>,
    question: &'a Question,
    tell: Tell,
    hops: Vec<Hop>,
    /// Some host does not track the connection, so that its replies meet policy too.
    untracked: bool,
}

/// Which link a packet comes in by or goes out by.
#[derive(Clone, Copy)]
enum Link {
    Workload,
    Uplink,
}

impl Way<'_> {
    fn go(&mut self) -> Result<Verdict, Denied> {
        let question = self.question;
        let here = self.network.node_of(&question.from);
        let there = self.network.node_of(&question.to);
        let same = here.is_some() && here == there;
        match (&question.from, here) {
            (Party::Workload(key), Some(node)) => {
                let accepted = self.enter(node, Link::Workload)?;
                self.workload(key, Direction::Egress)?;
                match &question.to {
                    Party::Host(_) if same => return self.own_host(node),
                    Party::Workload(to) if same => {
                        if !accepted {
                            self.stage(node, Link::Workload, Stage::ForwardIn)?;
                        }
                        self.workload(to, Direction::Ingress)?;
                        if !accepted {
                            self.stage(node, Link::Workload, Stage::ForwardOut)?;
                        }
                        return Ok(Verdict::Allow);
                    }
                    _ => {
                        if !accepted {
                            self.stage(node, Link::Workload, Stage::ForwardIn)?;
                            self.stage(node, Link::Uplink, Stage::ForwardOut)?;
                        }
                    }
                }
            }
            (Party::Host(_), Some(node)) => match &question.to {
                Party::Workload(to) if same => {
                    self.hops.push(Hop { place: Place::OwnWorkload(to.clone()), word: Word::Always });
                    return Ok(Verdict::Allow);
                }
                Party::Host(_) if same => return Ok(Verdict::Allow),
                _ => {
                    if self.stage(node, Link::Uplink, Stage::UntrackedOut)? != Verdict::Allow {
                        self.stage(node, Link::Uplink, Stage::Output)?;
                    }
                }
            },
            _ => {}
        }
        let Some(node) = there else { return Ok(Verdict::Allow) };
        let accepted = self.enter(node, Link::Uplink)?;
        match &question.to {
            Party::Workload(to) => {
                if !accepted {
                    self.stage(node, Link::Uplink, Stage::ForwardIn)?;
                }
                self.workload(to, Direction::Ingress)?;
                if !accepted {
                    self.stage(node, Link::Workload, Stage::ForwardOut)?;
                }
            }
            Party::Host(_) if !accepted => {
                self.stage(node, Link::Uplink, Stage::Input)?;
            }
            Party::Host(_) | Party::Outside => {}
        }
        Ok(Verdict::Allow)
    }

    fn there_and_back(&mut self) -> Verdict {
        match self.go() {
            Ok(verdict) if verdict != Verdict::Deny && self.untracked && self.back().is_err() => Verdict::Deny,
            Ok(verdict) => verdict,
            Err(Denied) => Verdict::Deny,
        }
    }

    /// Asks a stack; what says something is told.
    fn ask(&mut self, (stack, host): (&Stack, &Host), packet: &Packet, place: impl FnOnce() -> Place) -> Verdict {
        if self.tell == Tell::Verdict {
            return verdict(stack, host, packet);
        }
        let decision = decide(stack, host, packet);
        let verdict = decision.verdict;
        if verdict != Verdict::GoOn {
            self.hops.push(Hop { place: place(), word: Word::Policy(decision) });
        }
        verdict
    }

    /// Comes into a host; says whether policy has allowed the packet there for good.
    fn enter(&mut self, node: &NodeName, link: Link) -> Result<bool, Denied> {
        if self.stage(node, link, Stage::UntrackedIn)? == Verdict::Allow {
            return Ok(true);
        }
        Ok(self.stage(node, link, Stage::BeforeDnat)? == Verdict::Allow)
    }

    /// The first reply to a connection that is not tracked.
    fn back(&mut self) -> Result<(), Denied> {
        let packet = self.question.packet;
        let reply = Packet {
            source: packet.destination,
            destination: packet.source,
            transport: match packet.transport {
                Transport::Ports { protocol, source, destination } => {
                    Transport::Ports { protocol, source: destination, destination: source }
                }
                other => other,
            },
        };
        for (party, out, failsafes) in [
            (&self.question.to, Stage::UntrackedOut, Stage::UntrackedIn),
            (&self.question.from, Stage::UntrackedIn, Stage::UntrackedOut),
        ] {
            let network = self.network;
            let Some((site, host)) = network.node_of(party).and_then(|node| network.hosts.get(node)) else { continue };
            let Some(stack) = stack_at(site, host, Link::Uplink, out).and_then(|id| host.policy.stacks.get(&id)) else {
                continue;
            };
            if failsafe(site, failsafes, &packet).is_some() {
                continue;
            }
            if verdict(stack, host, &reply) == Verdict::Deny {
                let hop = |node: &NodeName| Hop {
                    place: Place::Reply(node.clone(), out),
                    word: Word::Policy(decide(stack, host, &reply)),
                };
                self.hops.extend(network.node_of(party).map(hop));
                return Err(Denied);
            }
        }
        Ok(())
    }

    fn own_host(&mut self, node: &NodeName) -> Result<Verdict, Denied> {
        let Some((site, _)) = self.network.hosts.get(node) else { return Err(Denied) };
        let action = site.endpoint_to_host;
        self.hops.push(Hop { place: Place::OwnHost(node.clone()), word: Word::EndpointToHost(action) });
        match action {
            EndpointToHost::Drop => Err(Denied),
            EndpointToHost::Accept => Ok(Verdict::Allow),
            EndpointToHost::Return => Ok(Verdict::GoOn),
        }
    }

    fn workload(&mut self, key: &EndpointKey, direction: Direction) -> Result<(), Denied> {
        let Some((host, stack)) = self.network.of_workload(key, direction) else { return Err(Denied) };
        let verdict = self.ask((stack, host), &self.question.packet, || Place::Workload(key.clone(), direction));
        if verdict == Verdict::Allow { Ok(()) } else { Err(Denied) }
    }

    fn stage(&mut self, node: &NodeName, link: Link, stage: Stage) -> Result<Verdict, Denied> {
        let network = self.network;
        let Some((site, host)) = network.hosts.get(node) else { return Ok(Verdict::GoOn) };
        let Some(stack) = stack_at(site, host, link, stage) else { return Ok(Verdict::GoOn) };
        let packet = match (stage, self.question.before_dnat) {
            (Stage::UntrackedIn | Stage::BeforeDnat, Some((address, port))) => {
                as_sent(self.question.packet, address, port)
            }
            _ => self.question.packet,
        };
        let place = Place::Interface(node.clone(), stage);
        let early = matches!(stage, Stage::UntrackedIn | Stage::UntrackedOut | Stage::BeforeDnat);
        if let Some(failsafe) = failsafe(site, stage, &packet) {
            self.hops.push(Hop { place, word: Word::Failsafe(failsafe) });
            // It passes this stage's policy, no more: it is tracked, and meets the stages that follow.
            return Ok(if early { Verdict::GoOn } else { Verdict::Allow });
        }
        let Some(stack) = host.policy.stacks.get(&stack) else { return Err(Denied) };
        let verdict = self.ask((stack, host), &packet, || place);
        let untracked = matches!(stage, Stage::UntrackedIn | Stage::UntrackedOut);
        self.untracked |= untracked && verdict == Verdict::Allow;
        if verdict == Verdict::Deny { Err(Denied) } else { Ok(verdict) }
    }
}

/// Which policy a packet meets at a stage, if any.
fn stack_at(site: &Site, host: &Host, link: Link, stage: Stage) -> Option<StackId> {
    let interfaces = &host.policy.interfaces;
    let any = || interfaces.get(&Interface::Any);
    let policy: &InterfacePolicy = match (link, stage) {
        (Link::Uplink, _) => interfaces.get(&Interface::Named(site.uplink.clone())).or_else(any)?,
        (Link::Workload, Stage::ForwardIn | Stage::ForwardOut | Stage::BeforeDnat) => any()?,
        (Link::Workload, _) => return None,
    };
    match stage {
        Stage::Input => policy.input,
        Stage::Output => policy.output,
        Stage::ForwardIn => policy.forward_in,
        Stage::ForwardOut => policy.forward_out,
        Stage::BeforeDnat => policy.before_dnat,
        Stage::UntrackedIn => policy.untracked_in,
        Stage::UntrackedOut => policy.untracked_out,
    }
}

fn as_sent(packet: Packet, destination: IpAddr, port: u16) -> Packet {
    let transport = match packet.transport {
        Transport::Ports { protocol, source, .. } => Transport::Ports { protocol, source, destination: port },
        other => other,
    };
    Packet { destination, transport, ..packet }
}

fn failsafe(site: &Site, stage: Stage, packet: &Packet) -> Option<Failsafe> {
    let (ports, peer) = match stage {
        Stage::Input | Stage::BeforeDnat | Stage::UntrackedIn => (&site.failsafe_in, packet.source),
        Stage::Output | Stage::UntrackedOut => (&site.failsafe_out, packet.destination),
        Stage::ForwardIn | Stage::ForwardOut => return None,
    };
    let Transport::Ports { protocol, destination, .. } = packet.transport else { return None };
    ports.iter().find(|f| f.protocol == protocol && f.port == destination && f.net.contains(peer)).copied()
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Input => "to the host",
            Self::Output => "from the host",
            Self::ForwardIn => "forwarded, coming in",
            Self::ForwardOut => "forwarded, going out",
            Self::BeforeDnat => "before its destination is translated",
            Self::UntrackedIn => "before connection tracking, coming in",
            Self::UntrackedOut => "before connection tracking, going out",
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(key, direction) => write!(f, "{direction} of {key}"),
            Self::Interface(node, stage) => write!(f, "host endpoint of {node}, {stage}"),
            Self::Reply(node, stage) => write!(f, "host endpoint of {node}, {stage}, the untracked reply"),
            Self::OwnHost(node) => write!(f, "host {node}, from its workload"),
            Self::OwnWorkload(key) => write!(f, "{key}, from its host"),
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(decision) => write!(f, "{decision}"),
            Self::Failsafe(failsafe) => {
                let protocol = crate::decide::protocol_name(failsafe.protocol);
                write!(f, "allowed: {protocol} port {} is a failsafe port", failsafe.port)
            }
            Self::EndpointToHost(EndpointToHost::Drop) => f.write_str("denied by defaultEndpointToHostAction: Drop"),
            Self::EndpointToHost(EndpointToHost::Accept) => {
                f.write_str("allowed by defaultEndpointToHostAction: Accept")
            }
            Self::EndpointToHost(EndpointToHost::Return) => {
                f.write_str("left to the host's other rules by defaultEndpointToHostAction: Return")
            }
            Self::Always => f.write_str("allowed: a host reaches its own workloads"),
        }
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.word)
    }
}

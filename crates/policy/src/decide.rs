//! The specification: what becomes of a packet at one endpoint, and why.
//!
//! Reads a [`Stack`] as [`crate::ir`] says, step by step. Every dataplane is held against this.

use crate::ir::{
    Action, Digest, Direction, End, Force, HostPolicy, Icmp, Member, Owner, Ports, Program, ProgramId, Rule, SetId,
    SetKind, Side, Stack, Step, StepName, TierDefault,
};
use lasthop_net::{Family, Prefix};
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
const UDPLITE: u8 = 136;

/// The first packet of a connection, as policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// What it carries.
    pub transport: Transport,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// A protocol with ports.
    Ports {
        /// Its number: TCP, UDP, UDPLite or SCTP.
        protocol: u8,
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP, or ICMPv6.
    Icmp {
        /// 1 or 58.
        protocol: u8,
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// Any other protocol.
    Other(u8),
}

/// The programs and sets that a stack refers to.
pub trait Knowledge {
    /// A program.
    fn program(&self, id: ProgramId) -> Option<&Program>;
    /// Whether an address is in a set of addresses.
    fn has_address(&self, set: SetId, address: IpAddr) -> bool;
    /// Whether a port of an address is in a set of ports.
    fn has_port(&self, set: SetId, member: (IpAddr, u8, u16)) -> bool;
    /// What a set stands for, in words.
    fn describe(&self, set: SetId) -> String;
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It does not.
    Deny,
    /// Nothing is said here: it goes on.
    GoOn,
}

/// A rule, by its place in the resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleName {
    /// Whose.
    pub owner: Owner,
    /// In which list.
    pub direction: Direction,
    /// Its index there, from 0.
    pub index: usize,
}

/// What decided.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A rule.
    Rule(RuleName),
    /// Policies of a tier apply to the endpoint, none answered, and the tier denies then.
    TierDefault {
        /// The tier.
        tier: String,
        /// Those policies.
        asked: Vec<Owner>,
    },
    /// No tier answered, and no profile did.
    NoProfileAnswers {
        /// Those profiles.
        asked: Vec<Owner>,
    },
    /// No tier answered, and there is no profile.
    NoProfile,
    /// Nobody answered where silence is consent.
    Silence,
    /// A program is named that nobody knows.
    Lost(ProgramId),
}

/// A rule that would have allowed the packet, but for this.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NearMiss {
    /// What differed; at least one thing.
    pub differences: Vec<Difference>,
    /// The rule.
    pub rule: RuleName,
}

/// One thing that a rule asks for and a packet has not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// The field of the rule.
    pub field: &'static str,
    /// What the rule asks for.
    pub wanted: String,
    /// What the packet has.
    pub was: String,
}

/// A verdict and the path to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of the packet.
    pub verdict: Verdict,
    /// What decided.
    pub by: Cause,
    /// Rules that passed it on to the next tier before.
    pub passed: Vec<RuleName>,
    /// Rules that noted it.
    pub logged: Vec<RuleName>,
    /// What staged policies would have said, and by which rule.
    pub staged: Vec<(RuleName, Action)>,
    /// If denied by default: the rules that came nearest to allowing it, nearest first.
    pub near: Vec<NearMiss>,
}

/// How many near misses are told.
const NEAREST: usize = 3;

/// Decides about a packet at one endpoint in one direction.
#[must_use]
pub fn decide(stack: &Stack, known: &impl Knowledge, packet: &Packet) -> Decision {
    let mut walk = Walk::new(known, packet, Tell::Reasons);
    let (verdict, by) = walk.go(stack);
    walk.finish(verdict, by)
}

/// As [`decide`], without the reasons: for who asks very often.
#[must_use]
pub fn verdict(stack: &Stack, known: &impl Knowledge, packet: &Packet) -> Verdict {
    Walk::new(known, packet, Tell::Verdict).go(stack).0
}

/// What is wanted of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tell {
    /// The verdict alone.
    Verdict,
    /// How it came about, too.
    Reasons,
}

/// What decided.
enum By<'a> {
    Rule(&'a Program, usize),
    Lost(ProgramId),
    Step(&'a Step),
    NoProfile,
    Silence,
}

enum Said<'a> {
    Final(Verdict, &'a Program, usize),
    Lost(ProgramId),
    Pass,
    Nothing,
}

struct Walk<'a, K> {
    known: &'a K,
    packet: &'a Packet,
    tell: Tell,
    passed: Vec<(&'a Program, usize)>,
    logged: Vec<(&'a Program, usize)>,
    staged: Vec<(&'a Program, usize, Action)>,
    /// Rules that would have allowed the packet and do not match.
    missed: Vec<(&'a Program, usize)>,
}

impl<'a, K: Knowledge> Walk<'a, K> {
    fn new(known: &'a K, packet: &'a Packet, tell: Tell) -> Self {
        Self { known, packet, tell, passed: Vec::new(), logged: Vec::new(), staged: Vec::new(), missed: Vec::new() }
    }

    fn go(&mut self, stack: &'a Stack) -> (Verdict, By<'a>) {
        for step in &stack.steps {
            match self.step(&step.programs) {
                Said::Final(verdict, program, index) => return (verdict, By::Rule(program, index)),
                Said::Lost(program) => return (Verdict::Deny, By::Lost(program)),
                Said::Pass => {}
                Said::Nothing if step.otherwise == TierDefault::Pass => {}
                Said::Nothing => return (Verdict::Deny, By::Step(step)),
            }
        }
        match stack.end {
            End::Deny => (Verdict::Deny, By::NoProfile),
            End::GoOn => (Verdict::GoOn, By::Silence),
        }
    }

    fn step(&mut self, programs: &[ProgramId]) -> Said<'a> {
        for id in programs {
            // A program that is not there is not known to allow anything.
            let Some(program) = self.known.program(*id) else { return Said::Lost(*id) };
            if program.force == Force::Staged && self.tell == Tell::Verdict {
                continue;
            }
            let Some((index, action)) = self.first_match(program) else { continue };
            if program.force == Force::Staged {
                self.staged.push((program, index, action));
                continue;
            }
            match action {
                Action::Allow => return Said::Final(Verdict::Allow, program, index),
                Action::Deny => return Said::Final(Verdict::Deny, program, index),
                Action::Pass => {
                    self.passed.push((program, index));
                    return Said::Pass;
                }
                Action::Log => {}
            }
        }
        Said::Nothing
    }

    /// The first rule with a final action that matches.
    fn first_match(&mut self, program: &'a Program) -> Option<(usize, Action)> {
        for (index, rule) in program.rules.iter().enumerate() {
            if rule.action == Action::Log && self.tell == Tell::Verdict {
                continue;
            }
            match (matches(rule, self.packet, self.known), rule.action) {
                (true, Action::Log) if program.force == Force::Enforced => self.logged.push((program, index)),
                (true, Action::Log) => {}
                (true, action) => return Some((index, action)),
                (false, Action::Allow) if program.force == Force::Enforced && self.tell == Tell::Reasons => {
                    self.missed.push((program, index));
                }
                (false, _) => {}
            }
        }
        None
    }

    fn finish(self, verdict: Verdict, by: By<'a>) -> Decision {
        let by = match by {
            By::Rule(program, index) => Cause::Rule(name(program, index)),
            By::Lost(program) => Cause::Lost(program),
            By::NoProfile => Cause::NoProfile,
            By::Silence => Cause::Silence,
            By::Step(step) => {
                let asked = step.programs.iter().filter_map(|id| self.known.program(*id));
                let asked = asked.filter(|p| p.force == Force::Enforced).map(|p| p.owner.clone()).collect();
                match &step.name {
                    StepName::Tier(tier) => Cause::TierDefault { tier: tier.clone(), asked },
                    StepName::Profiles => Cause::NoProfileAnswers { asked },
                }
            }
        };
        let mut near = Vec::new();
        if verdict == Verdict::Deny && !matches!(by, Cause::Rule(_)) {
            near.extend(self.missed.iter().map(|(program, index)| NearMiss {
                differences: differences(&program.rules[*index], self.packet, self.known),
                rule: name(program, *index),
            }));
            near.sort_by_key(|miss| miss.differences.len());
            near.truncate(NEAREST);
        }
        let names = |rules: &[(&Program, usize)]| rules.iter().map(|(program, index)| name(program, *index)).collect();
        Decision {
            verdict,
            by,
            passed: names(&self.passed),
            logged: names(&self.logged),
            staged: self.staged.iter().map(|(program, index, action)| (name(program, *index), *action)).collect(),
            near,
        }
    }
}

fn name(program: &Program, index: usize) -> RuleName {
    RuleName { owner: program.owner.clone(), direction: program.direction, index }
}

impl Packet {
    /// Its family.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.source)
    }
}

impl Transport {
    /// A packet of this protocol with these ports, if it has ports at all.
    #[must_use]
    pub fn of(protocol: u8, source: u16, destination: u16) -> Self {
        match protocol {
            TCP | UDP | SCTP | UDPLITE => Self::Ports { protocol, source, destination },
            ICMP | ICMPV6 => Self::Icmp { protocol, kind: 8, code: 0 },
            other => Self::Other(other),
        }
    }

    /// The protocol's number.
    #[must_use]
    pub fn protocol(self) -> u8 {
        match self {
            Self::Ports { protocol, .. } | Self::Icmp { protocol, .. } | Self::Other(protocol) => protocol,
        }
    }
}

/// What a rule asks for and a packet has not.
fn differences(rule: &Rule, packet: &Packet, known: &impl Knowledge) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(rule, packet, known, &mut |field, words| {
        let (wanted, was) = words();
        found.push(Difference { field, wanted, was });
    });
    found
}

/// Whether there is no difference.
fn matches(rule: &Rule, packet: &Packet, known: &impl Knowledge) -> bool {
    let mut same = true;
    compare(rule, packet, known, &mut |_, _| same = false);
    same
}

/// Is told of each difference: the field, and on demand what is wanted and what was.
type See<'a> = dyn FnMut(&'static str, &dyn Fn() -> (String, String)) + 'a;

/// Looks for what a rule asks for and a packet has not; nothing: the rule matches.
fn compare(rule: &Rule, packet: &Packet, known: &impl Knowledge, see: &mut See<'_>) {
    let protocol = packet.transport.protocol();
    if let Some(wanted) = rule.family.filter(|family| *family != packet.family()) {
        let version = |family| match family {
            Family::V4 => "4".to_owned(),
            Family::V6 => "6".to_owned(),
        };
        see("ipVersion", &|| (version(wanted), version(packet.family())));
    }
    if let Some(wanted) = rule.protocol.filter(|wanted| *wanted != protocol) {
        see("protocol", &|| (protocol_name(wanted), protocol_name(protocol)));
    }
    if rule.not_protocol == Some(protocol) {
        see("notProtocol", &|| (format!("not {}", protocol_name(protocol)), protocol_name(protocol)));
    }
    let is = |icmp: Icmp| match packet.transport {
        Transport::Icmp { kind, code, .. } => icmp.kind == kind && icmp.code.is_none_or(|wanted| wanted == code),
        _ => false,
    };
    if let Some(icmp) = rule.icmp.filter(|icmp| !is(*icmp)) {
        see("icmp", &|| (in_words(icmp), packet.transport.to_string()));
    }
    if let Some(icmp) = rule.not_icmp.filter(|icmp| is(*icmp)) {
        see("notICMP", &|| (format!("not {}", in_words(icmp)), packet.transport.to_string()));
    }
    let ports = match packet.transport {
        Transport::Ports { source, destination, .. } => (Some(source), Some(destination)),
        _ => (None, None),
    };
    let source = Half { address: packet.source, protocol, port: ports.0, fields: &SOURCE };
    let destination = Half { address: packet.destination, protocol, port: ports.1, fields: &DESTINATION };
    source.compare(&rule.source, known, see);
    destination.compare(&rule.destination, known, see);
}

/// Names of the fields of one side of a rule: nets, notNets, selector, notSelector, ports, notPorts.
type Fields = [&'static str; 6];
const SOURCE: Fields =
    ["source.nets", "source.notNets", "source.selector", "source.notSelector", "source.ports", "source.notPorts"];
const DESTINATION: Fields = [
    "destination.nets",
    "destination.notNets",
    "destination.selector",
    "destination.notSelector",
    "destination.ports",
    "destination.notPorts",
];

/// One end of a packet.
struct Half<'a> {
    address: IpAddr,
    protocol: u8,
    port: Option<u16>,
    fields: &'a Fields,
}

impl Half<'_> {
    fn compare(&self, side: &Side, known: &impl Knowledge, see: &mut See<'_>) {
        let [nets, not_nets, selector, not_selector, ports, not_ports] = *self.fields;
        let was = || self.address.to_string();
        let port = || self.port.map_or_else(|| "none".to_owned(), |port| port.to_string());
        if let Some(wanted) = side.nets.as_ref().filter(|wanted| !contains(wanted, self.address)) {
            see(nets, &|| (one_of(wanted), was()));
        }
        if contains(&side.not_nets, self.address) {
            see(not_nets, &|| (format!("not {}", one_of(&side.not_nets)), was()));
        }
        for set in side.within.iter().filter(|set| !known.has_address(**set, self.address)) {
            see(selector, &|| (known.describe(*set), was()));
        }
        for set in side.not_within.iter().filter(|set| known.has_address(**set, self.address)) {
            see(not_selector, &|| (format!("not {}", known.describe(*set)), was()));
        }
        if let Some(wanted) = side.ports.as_ref().filter(|wanted| !self.is_in(wanted, known)) {
            see(ports, &|| (ports_in_words(wanted, known), port()));
        }
        if let Some(refused) = side.not_ports.as_ref().filter(|refused| self.is_in(refused, known)) {
            see(not_ports, &|| (format!("not {}", ports_in_words(refused, known)), port()));
        }
    }

    fn is_in(&self, ports: &Ports, known: &impl Knowledge) -> bool {
        let Some(port) = self.port else { return false };
        ports.ranges.iter().any(|range| range.bounds().contains(&port))
            || ports.sets.iter().any(|set| known.has_port(*set, (self.address, self.protocol, port)))
    }
}

/// The prefixes that hold an address, the longest first, of at least this length.
pub(crate) fn prefixes_of(address: IpAddr, shortest: u8) -> impl Iterator<Item = Prefix> {
    let host = Prefix::host(address);
    (shortest..=host.len()).rev().filter_map(move |len| Prefix::new(host.address(), len))
}

fn contains(nets: &BTreeSet<Prefix>, address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(address))
}

fn one_of(nets: &BTreeSet<Prefix>) -> String {
    let texts: Vec<String> = nets.iter().map(ToString::to_string).collect();
    if texts.is_empty() { "nothing".to_owned() } else { texts.join(" or ") }
}

fn ports_in_words(ports: &Ports, known: &impl Knowledge) -> String {
    let range = |range: &crate::ir::PortRange| {
        let (first, last) = range.bounds().into_inner();
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    let ranges = ports.ranges.iter().map(range);
    let texts: Vec<String> = ranges.chain(ports.sets.iter().map(|set| known.describe(*set))).collect();
    texts.join(" or ")
}

fn in_words(icmp: Icmp) -> String {
    match icmp.code {
        Some(code) => format!("type {} code {code}", icmp.kind),
        None => format!("type {}", icmp.kind),
    }
}

/// A protocol by its usual name.
#[must_use]
pub fn protocol_name(protocol: u8) -> String {
    match protocol {
        ICMP => "ICMP".to_owned(),
        TCP => "TCP".to_owned(),
        UDP => "UDP".to_owned(),
        ICMPV6 => "ICMPv6".to_owned(),
        SCTP => "SCTP".to_owned(),
        UDPLITE => "UDPLite".to_owned(),
        other => other.to_string(),
    }
}

impl Knowledge for HostPolicy {
    fn program(&self, id: ProgramId) -> Option<&Program> {
        self.programs.get(&id).map(AsRef::as_ref)
    }

    fn has_address(&self, set: SetId, address: IpAddr) -> bool {
        let Some(set) = self.sets.get(&set) else { return false };
        let shortest = if set.kind == SetKind::Nets { 0 } else { Prefix::host(address).len() };
        prefixes_of(address, shortest).any(|net| set.members.contains(&Member::Net(net)))
    }

    fn has_port(&self, set: SetId, (address, protocol, port): (IpAddr, u8, u16)) -> bool {
        self.sets.get(&set).is_some_and(|set| set.members.contains(&Member::Port(address, protocol, port)))
    }

    fn describe(&self, SetId(Digest(bytes)): SetId) -> String {
        format!("set {:02x}{:02x}{:02x}{:02x}", bytes[0], bytes[1], bytes[2], bytes[3])
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports { protocol, destination, .. } => write!(f, "{} port {destination}", protocol_name(*protocol)),
            Self::Icmp { protocol, kind, code } => {
                write!(f, "{} type {kind} code {code}", protocol_name(*protocol))
            }
            Self::Other(protocol) => write!(f, "protocol {protocol}"),
        }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {}, {}", self.source, self.destination, self.transport)
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy { key, .. } => write!(f, "{key}"),
            Self::Profile(name) => write!(f, "Profile/{name}"),
            Self::MissingProfile(name) => write!(f, "Profile/{name}, which does not exist"),
            Self::Unusable { key, reason } => write!(f, "{key}, which cannot be programmed ({reason})"),
        }
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            Owner::Policy { tier, .. } => {
                write!(f, "{} rule {} of {} (tier {tier})", self.direction, self.index, self.owner)
            }
            Owner::Profile(_) => write!(f, "{} rule {} of {}", self.direction, self.index, self.owner),
            Owner::MissingProfile(_) | Owner::Unusable { .. } => write!(f, "{}", self.owner),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |owners: &[Owner]| owners.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::Rule(rule) => write!(f, "{rule}"),
            Self::TierDefault { tier, asked } => {
                write!(f, "the default of tier {tier}: {} apply, and no rule of theirs matches", list(asked))
            }
            Self::NoProfileAnswers { asked } => write!(f, "the default: no rule of {} matches", list(asked)),
            Self::NoProfile => f.write_str("the default: no policy decides, and the endpoint has no profile"),
            Self::Silence => f.write_str("nothing: no policy decides here"),
            Self::Lost(program) => write!(f, "a program that is not there ({})", program.0),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, the rule asks for {}", self.field, self.was, self.wanted)
    }
}

impl fmt::Display for NearMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let differences: Vec<String> = self.differences.iter().map(ToString::to_string).collect();
        write!(f, "{} would have allowed it, but {}", self.rule, differences.join("; "))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allowed",
            Self::Deny => "denied",
            Self::GoOn => "not judged",
        })
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.verdict, self.by)
    }
}

//! Policy in the form that dataplanes render: everything resolved, canonical, and each thing under one name.
//!
//! ```text
//! HostPolicy ─┬─ workloads: link ─▶ (from, to) ─┐
//!             ├─ hosts: interface ─▶ stacks ────┴─▶ Stack: steps ─▶ Program: rules ─▶ sets
//!             └─ sets: members
//! ```
//!
//! * A [`Program`] is one policy's (or profile's) rules for one direction. It carries its owner, so that counters and reasons can name
//!   it: two policies with the same rules are two programs; one policy on a thousand endpoints is one.
//! * A [`Stack`] is the whole of what an endpoint's packets meet in one direction: tiers in order, then profiles. Endpoints with the
//!   same stack share it.
//! * Order of evaluation: steps in order; in a step its programs in order; in a program its rules in order; the first rule that
//!   matches with a final action decides. `Log` is not final. `Pass` ends the step and the next one is asked.
//!   A step whose programs all stay silent ends in [`Step::otherwise`]. After the last step comes [`Stack::end`].
//! * A staged program never decides: its rules are looked at and counted, and evaluation goes on behind it.

pub use crate::logging::Logging;
use lasthop_model::FailsafePort;
pub use lasthop_model::policy::{Action, Icmp, PortRange, TierDefault};
pub use lasthop_model::{DenyAction, Key, Rate};

use lasthop_net::{Family, IfName, Prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// The first half of a SHA-256 over the canonical text of what it stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 16]);

/// Names a [`Program`] by whose it is and for what, not by its rules: so an edit of a policy that a thousand endpoints have is a
/// change of one program, and of nothing that refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProgramId(pub Digest);

/// Names a [`Stack`] by the programs that it is made of, and their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StackId(pub Digest);

/// Names a set by its definition, not by its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetId(pub Digest);

/// Which way packets go, as the endpoint sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// To the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

/// Whose rules a program holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A policy of any kind, in its tier.
    Policy {
        /// The tier.
        tier: String,
        /// The policy.
        key: Key,
    },
    /// A profile.
    Profile(String),
    /// A profile that endpoints name and that does not exist: denies.
    MissingProfile(String),
    /// A policy or profile that cannot be programmed, and why: denies.
    Unusable {
        /// What names it.
        key: Key,
        /// Why, in words.
        reason: String,
    },
}

/// Whether a program decides or is only counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Force {
    /// It decides.
    Enforced,
    /// It is only counted.
    Staged,
}

/// One policy's rules for one direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Program {
    /// Whose.
    pub owner: Owner,
    /// Which way.
    pub direction: Direction,
    /// Whether it decides.
    pub force: Force,
    /// The rules. Their index here is their index in the resource.
    pub rules: Vec<Rule>,
}

/// One rule: matches if everything that it names does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// What happens then.
    pub action: Action,
    /// Only this family.
    pub family: Option<Family>,
    /// Only this protocol.
    pub protocol: Option<u8>,
    /// Any protocol but this.
    pub not_protocol: Option<u8>,
    /// Only this ICMP (or ICMPv6) type and code; the protocol is named too.
    pub icmp: Option<Icmp>,
    /// Any type and code but this; the protocol is named too.
    pub not_icmp: Option<Icmp>,
    /// The packet's source.
    pub source: Side,
    /// The packet's destination.
    pub destination: Side,
}

/// What a rule asks of one side of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Side {
    /// The address is in one of these; `None`: any address. Canonical: no duplicates, none inside another.
    /// Some and empty never matches.
    pub nets: Option<BTreeSet<Prefix>>,
    /// The address is in none of these. Canonical as above.
    pub not_nets: BTreeSet<Prefix>,
    /// The address is in every one of these sets of addresses.
    pub within: BTreeSet<SetId>,
    /// The address is in none of these sets of addresses.
    pub not_within: BTreeSet<SetId>,
    /// The port is one of these; `None`: any port, and any protocol.
    pub ports: Option<Ports>,
    /// The port is none of these. A protocol without ports has none, so this holds.
    pub not_ports: Option<Ports>,
}

/// Ports: by number, or as (address, protocol, port) in a set. Holds if one of them does.
/// A packet without ports (its protocol is neither TCP, UDP, UDPLite nor SCTP) is in none.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    /// By number: ascending, disjoint, not adjacent.
    pub ranges: Vec<PortRange>,
    /// Sets of [`Member::Port`].
    pub sets: BTreeSet<SetId>,
}

/// All that an endpoint's packets meet in one direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stack {
    /// Tiers in order, then profiles.
    pub steps: Vec<Step>,
    /// What becomes of a packet after the last step.
    pub end: End,
}

/// A tier, or the profiles.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Step {
    /// Which.
    pub name: StepName,
    /// Its programs, in order; never empty.
    pub programs: Vec<ProgramId>,
    /// What becomes of a packet that none of them decides. A step of staged programs only has `Pass`.
    pub otherwise: TierDefault,
}

/// What a step is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StepName {
    /// A tier.
    Tier(String),
    /// The profiles.
    Profiles,
}

/// What becomes of a packet after the last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// It is dropped: workloads, and host endpoints for packets to and from the host.
    Deny,
    /// It goes on: stages in which silence is consent (untracked, before DNAT, and forward without forward tiers).
    GoOn,
}

/// What a set holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKind {
    /// Addresses of endpoints alone: only [`Member::Net`] of single addresses, so that a hash set does.
    Addresses,
    /// [`Member::Net`] of any length (a network set is, or may be, among them). May overlap.
    Nets,
    /// [`Member::Port`].
    Ports,
}

/// A member of a set. Both families are in one set; a dataplane that cannot do that splits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// An address or prefix.
    Net(Prefix),
    /// An address, a protocol and a port.
    Port(IpAddr, u8, u16),
}

/// A set and its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// What it holds.
    pub kind: SetKind,
    /// Its members.
    pub members: BTreeSet<Member>,
}

/// What guards one workload link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkloadPolicy {
    /// Packets from the workload (egress).
    pub from: StackId,
    /// Packets to the workload (ingress).
    pub to: StackId,
}

/// What guards one of the host's own interfaces. `None`: nothing is said there, packets go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfacePolicy {
    /// From this interface to the host itself. Failsafe ports come first.
    pub input: Option<StackId>,
    /// From the host itself out of this interface. Failsafe ports come first.
    pub output: Option<StackId>,
    /// From this interface, forwarded. No failsafes.
    pub forward_in: Option<StackId>,
    /// Out of this interface, forwarded. No failsafes.
    pub forward_out: Option<StackId>,
    /// From this interface, before the destination is translated; an allowed packet meets no further host endpoint policy.
    /// Failsafe ports come first.
    pub before_dnat: Option<StackId>,
    /// From this interface, before connection tracking; an allowed packet is not tracked and meets no further
    /// host endpoint policy. Failsafe ports come first, in both directions of a flow; they stay tracked and meet the later stages.
    pub untracked_in: Option<StackId>,
    /// Out of this interface, before connection tracking.
    pub untracked_out: Option<StackId>,
}

/// One of the host's own interfaces.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interface {
    /// The one of this name.
    Named(IfName),
    /// Every one that is not named and is no workload's; its forward and pre-DNAT policy also meet packets of workload links.
    Any,
}

/// A port that no host endpoint policy closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Failsafe {
    /// Protocol number: TCP or UDP.
    pub protocol: u8,
    /// The other side is in here.
    pub net: Prefix,
    /// Destination port.
    pub port: u16,
}

/// All of policy that one host's kernel ought to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPolicy {
    /// Programs that stacks refer to, no others.
    pub programs: BTreeMap<ProgramId, Arc<Program>>,
    /// Stacks that endpoints refer to, no others.
    pub stacks: BTreeMap<StackId, Arc<Stack>>,
    /// Sets that programs refer to, no others.
    pub sets: BTreeMap<SetId, Set>,
    /// Workload links. A link that is not here passes nothing.
    pub workloads: BTreeMap<IfName, WorkloadPolicy>,
    /// The host's own interfaces.
    pub interfaces: BTreeMap<Interface, InterfacePolicy>,
    /// Failsafe ports for packets to the host.
    pub failsafe_in: BTreeSet<Failsafe>,
    /// Failsafe ports for packets from the host.
    pub failsafe_out: BTreeSet<Failsafe>,
    /// What happens to denied packets.
    pub deny: DenyAction,
    /// How `Log` rules note packets.
    pub log: Logging,
}

/// Which keys of [`HostPolicy`] may have changed since changes were last taken. Only saves work: what is right is read there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyChanges {
    /// Programs.
    pub programs: BTreeSet<ProgramId>,
    /// Stacks.
    pub stacks: BTreeSet<StackId>,
    /// Sets that came, went or changed their kind; all their members with them.
    pub sets: BTreeSet<SetId>,
    /// Members of sets that stay.
    pub members: BTreeSet<(SetId, Member)>,
    /// Workload links.
    pub workloads: BTreeSet<IfName>,
    /// The host's own interfaces, failsafe ports, the deny action, logging: rare, and small.
    pub host: bool,
}

impl PolicyChanges {
    /// Adds what else may have changed.
    pub fn add(&mut self, more: Self) {
        self.programs.extend(more.programs);
        self.stacks.extend(more.stacks);
        self.sets.extend(more.sets);
        self.members.extend(more.members);
        self.workloads.extend(more.workloads);
        self.host |= more.host;
    }
}

impl Program {
    /// Its name: of one owner there is one program for each direction, in force or staged.
    #[must_use]
    pub fn id(&self) -> ProgramId {
        ProgramId(Digest::of(&(&self.owner, self.direction, self.force)))
    }

    /// The sets that its rules refer to.
    pub fn sets(&self) -> impl Iterator<Item = SetId> {
        self.rules.iter().flat_map(|rule| [&rule.source, &rule.destination]).flat_map(Side::sets)
    }
}

impl Stack {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> StackId {
        StackId(Digest::of(self))
    }

    /// A stack that allows everything.
    #[must_use]
    pub fn allow_all() -> Self {
        Self { steps: Vec::new(), end: End::GoOn }
    }
}

impl Failsafe {
    /// What a setting means: without a prefix, both families.
    #[must_use]
    pub fn all_of(ports: &BTreeSet<FailsafePort>) -> BTreeSet<Self> {
        let nets = |port: &FailsafePort| match port.net {
            Some(net) => vec![net],
            None => Family::ALL.map(Prefix::default_route).to_vec(),
        };
        let one = |port: &FailsafePort| {
            let FailsafePort { protocol, port: number, .. } = *port;
            nets(port).into_iter().map(move |net| Self { protocol, net, port: number })
        };
        ports.iter().flat_map(one).collect()
    }
}

impl Side {
    /// The sets that it refers to.
    pub fn sets(&self) -> impl Iterator<Item = SetId> {
        let ports = self.ports.iter().chain(&self.not_ports).flat_map(|ports| &ports.sets);
        self.within.iter().chain(&self.not_within).chain(ports).copied()
    }
}

impl Digest {
    /// Of anything whose [`std::hash::Hash`] covers all of it: the bytes that it feeds to a hasher, each field led by its
    /// length or variant, are the canonical text. The same on every build for one version of this crate and of its types.
    #[must_use]
    pub fn of(value: &impl std::hash::Hash) -> Self {
        let mut hasher = Sha(sha2::Sha256::default());
        value.hash(&mut hasher);
        let whole = sha2::Digest::finalize(hasher.0);
        let mut half = [0; 16];
        half.copy_from_slice(&whole[..16]);
        Self(half)
    }
}

/// Feeds what it is given to SHA-256.
struct Sha(sha2::Sha256);

impl std::hash::Hasher for Sha {
    fn write(&mut self, bytes: &[u8]) {
        sha2::Digest::update(&mut self.0, bytes);
    }

    /// Not asked for: [`Digest::of`] takes the whole digest.
    fn finish(&self) -> u64 {
        0
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

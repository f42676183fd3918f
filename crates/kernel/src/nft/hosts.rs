//! Host endpoints: what guards the host's own interfaces (pure).
//!
//! ```text
//! prerouting -300  host_untracked_in    allowed: untracked, marked       output -300  host_untracked_out
//! prerouting -150  host_before_dnat     allowed: marked
//! input +1, output 0, forward -1 and +2: established, marked, failsafes (not forward), then the interface's stack
//! ```
//!
//! * A base chain is only there if an interface has policy of its kind, so it costs nothing elsewhere.
//! * An interface that has an endpoint of its own without policy of a kind passes; only others meet the wildcard's.
//! * The loopback, workloads' links (but in forward and before DNAT, where the wildcard's policy meets their packets too) and
//!   neighbour discovery are never closed.

use super::expr::{Base, Compare, Expr, Meta, Reg, Verdict};
use super::policy::Stage;
use super::ranges;
use super::ruleset::{Chain, Hook, Point, Role, Rule};
use super::skeleton::{
    CT_GOING_ON, CT_INVALID, FILTER, HOST_ALLOWED, addresses, compare, count_and_drop, ct_state, decide, family,
    icmpv6, meta, payload, per_prefix, rule,
};
use lasthop_net::{IfName, Prefix};
use lasthop_policy::ir::{Failsafe, Interface, InterfacePolicy, StackId};
use std::collections::{BTreeMap, BTreeSet};

/// Where packets meet a host endpoint's policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    UntrackedIn,
    UntrackedOut,
    BeforeDnat,
    Input,
    Output,
    ForwardIn,
    ForwardOut,
}

/// What guards the host's own interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hosts {
    /// The chain that is asked; `None` if it cannot be had: packets are dropped.
    pub(super) stacks: BTreeMap<Interface, BTreeMap<Place, Option<String>>>,
    pub(super) failsafe_in: BTreeSet<Failsafe>,
    pub(super) failsafe_out: BTreeSet<Failsafe>,
}

/// Which end of a packet a failsafe port is at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    /// A request: the destination port; the other side is the source of what comes in, the destination of what goes out.
    Asked,
    /// An answer: the source port.
    Answers,
}

impl Place {
    pub(super) const ALL: [Self; 7] = [
        Self::UntrackedIn,
        Self::UntrackedOut,
        Self::BeforeDnat,
        Self::Input,
        Self::Output,
        Self::ForwardIn,
        Self::ForwardOut,
    ];

    /// The stack that an interface has here.
    pub(super) fn of(self, policy: &InterfacePolicy) -> Option<StackId> {
        match self {
            Self::UntrackedIn => policy.untracked_in,
            Self::UntrackedOut => policy.untracked_out,
            Self::BeforeDnat => policy.before_dnat,
            Self::Input => policy.input,
            Self::Output => policy.output,
            Self::ForwardIn => policy.forward_in,
            Self::ForwardOut => policy.forward_out,
        }
    }

    /// What Allow does here.
    pub(super) fn stage(self) -> Stage {
        match self {
            Self::UntrackedIn | Self::UntrackedOut => Stage::Untracked,
            Self::BeforeDnat => Stage::BeforeDnat,
            Self::Input | Self::Output | Self::ForwardIn | Self::ForwardOut => Stage::Filter,
        }
    }

    fn chain(self) -> (&'static str, Point, i32) {
        match self {
            Self::UntrackedIn => ("host_untracked_in", Point::Prerouting, libc::NF_IP_PRI_RAW),
            Self::UntrackedOut => ("host_untracked_out", Point::Output, libc::NF_IP_PRI_RAW),
            Self::BeforeDnat => ("host_before_dnat", Point::Prerouting, libc::NF_IP_PRI_MANGLE),
            Self::Input => ("host_input", Point::Input, FILTER + 1),
            Self::Output => ("host_output", Point::Output, FILTER),
            Self::ForwardIn => ("host_forward_in", Point::Forward, FILTER - 1),
            Self::ForwardOut => ("host_forward_out", Point::Forward, FILTER + 2),
        }
    }

    /// Whether the interface is the one that packets leave by.
    fn interface(self) -> Meta {
        match self {
            Self::UntrackedOut | Self::Output | Self::ForwardOut => Meta::OutputName,
            Self::UntrackedIn | Self::BeforeDnat | Self::Input | Self::ForwardIn => Meta::InputName,
        }
    }
}

/// Whether a chain of this name guards host interfaces.
pub(super) fn is_base_chain(name: &str) -> bool {
    Place::ALL.iter().any(|place| place.chain().0 == name)
}

impl Hosts {
    /// The base chains that are needed.
    pub(super) fn chains(&self, prefixes: &[&str]) -> BTreeMap<String, Chain> {
        let needed = |place: &Place| self.stacks.values().any(|stacks| stacks.contains_key(place));
        Place::ALL
            .into_iter()
            .filter(needed)
            .map(|place| {
                let (name, point, priority) = place.chain();
                let hook = Some(Hook { role: Role::Filter, point, priority });
                (name.to_owned(), Chain { hook, rules: self.rules(place, prefixes), foreign_policy: false })
            })
            .collect()
    }

    /// The same with every stack closed whose chain is not there.
    pub(super) fn with_only(&self, is_there: impl Fn(&str) -> bool) -> Self {
        let mut hosts = self.clone();
        for chain in hosts.stacks.values_mut().flat_map(BTreeMap::values_mut) {
            *chain = chain.take().filter(|name| is_there(name));
        }
        hosts
    }

    /// All chains that are referred to.
    pub(super) fn references(&self) -> BTreeSet<&str> {
        self.stacks.values().flat_map(BTreeMap::values).flatten().map(String::as_str).collect()
    }

    fn rules(&self, place: Place, prefixes: &[&str]) -> Vec<Rule> {
        let key = place.interface();
        let accept = || Expr::Verdict(Verdict::Accept);
        let forward = matches!(place, Place::ForwardIn | Place::ForwardOut);
        let mut rules = Vec::new();
        if place.stage() != Stage::Untracked {
            rules.push(rule("established", [ct_state(CT_GOING_ON), vec![accept()]]));
        }
        if place.stage() == Stage::Filter {
            rules.push(rule("allowed before", [allowed_before(), vec![accept()]]));
        }
        if !forward {
            rules.push(rule("loopback", [meta(key, b"lo\0"), vec![accept()]]));
            if place != Place::BeforeDnat {
                rules.extend(per_prefix(prefixes, key, "workload", &accept()));
            }
            for (id, first, last) in [("router discovery", 133, 134), ("neighbour discovery", 135, 136)] {
                rules.push(rule(id, [icmpv6(255, first, last), vec![accept()]]));
            }
            rules.push(rule("listener discovery", [icmpv6(1, 130, 132), vec![accept()]]));
            rules.push(rule("listener report", [icmpv6(1, 143, 143), vec![accept()]]));
        }
        if place.stage() == Stage::Filter {
            rules.push(rule("invalid", [ct_state(CT_INVALID), count_and_drop()]));
        }
        rules.extend(self.failsafes(place));
        let named = |name: &IfName| {
            let mut padded = name.as_str().as_bytes().to_vec();
            padded.push(0);
            meta(key, &padded)
        };
        // Interfaces with an endpoint of their own first: `Named` sorts before `Any`.
        for (interface, stacks) in &self.stacks {
            let then = match stacks.get(&place) {
                Some(Some(chain)) => decide(Verdict::Goto(chain.clone())),
                Some(None) => count_and_drop(),
                None => vec![accept()],
            };
            rules.push(match interface {
                Interface::Named(name) => rule(&format!("interface {name}"), [named(name), then]),
                Interface::Any => rule("other interfaces", [then]),
            });
        }
        rules
    }

    fn failsafes(&self, place: Place) -> Vec<Rule> {
        let (asked, answered) = match place {
            Place::ForwardIn | Place::ForwardOut => return Vec::new(),
            Place::Input | Place::BeforeDnat => (&self.failsafe_in, None),
            Place::UntrackedIn => (&self.failsafe_in, Some(&self.failsafe_out)),
            Place::Output => (&self.failsafe_out, None),
            Place::UntrackedOut => (&self.failsafe_out, Some(&self.failsafe_in)),
        };
        let all = asked.iter().map(|failsafe| (failsafe, Port::Asked));
        let all = all.chain(answered.into_iter().flatten().map(|failsafe| (failsafe, Port::Answers)));
        all.map(|(failsafe, port)| {
            let mut exprs = family(failsafe.net.family());
            exprs.extend(meta(Meta::Transport, &[failsafe.protocol]));
            let offset = if port == Port::Asked { 2 } else { 0 };
            exprs.extend([payload(Base::Transport, offset, 2), compare(Compare::Eq, &failsafe.port.to_be_bytes())]);
            exprs.extend(other_side(failsafe.net, place.interface()));
            let kind = if port == Port::Asked { "failsafe" } else { "failsafe answer" };
            let id = format!("{kind} {} {} {}", failsafe.protocol, failsafe.net, failsafe.port);
            rule(&id, [exprs, decide(Verdict::Accept)])
        })
        .collect()
    }
}

/// The other side's address is in a prefix: the source of what comes in, the destination of what goes out.
fn other_side(net: Prefix, interface: Meta) -> Vec<Expr> {
    if net.len() == 0 {
        return Vec::new();
    }
    let (source, destination, len) = addresses(net.family());
    let offset = if interface == Meta::InputName { source } else { destination };
    let value = ranges::first(net);
    let mask = ranges::last(net).iter().zip(&value).map(|(last, first)| !(last ^ first)).collect();
    vec![
        payload(Base::Network, offset, len),
        Expr::Bitwise { reg: Reg::R1, mask, xor: vec![0; value.len()] },
        compare(Compare::Eq, &value),
    ]
}

/// The packet carries our bit.
fn allowed_before() -> Vec<Expr> {
    vec![
        Expr::Meta { key: Meta::Mark, to: Reg::R1 },
        Expr::Bitwise { reg: Reg::R1, mask: HOST_ALLOWED.to_ne_bytes().to_vec(), xor: vec![0; 4] },
        compare(Compare::Ne, &[0; 4]),
    ]
}

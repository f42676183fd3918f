//! From a policy as written to what dataplanes render.
//!
//! * A policy in a namespace applies to workloads of the namespace; selectors of its rules find what lives there, unless they
//!   name namespaces. `all()` as a namespace selector is any namespace, `global()` is none.
//! * What a rule asks of labels becomes one set of addresses per side; names of ports become sets of (address, protocol, port).
//! * Prefixes are made canonical: none twice, none inside another.

use crate::ir::{Action, Direction, Force, Key, Owner, PortRange, Ports, Program, Rule, SetId, Side};
use crate::labels::{NAMESPACE, OF_NAMESPACE, OF_SERVICE_ACCOUNT, SERVICE_ACCOUNT};
use crate::sets::SetDefinition;
use lasthop_model::policy::{self, Peer, Policy, Port, Profile, Staging, Subject};
use lasthop_model::selector::Selector;
use lasthop_net::{Family, Prefix};
use std::collections::{BTreeMap, BTreeSet};

/// A program and what its sets stand for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiled {
    /// The program.
    pub program: Program,
    /// Its sets.
    pub sets: BTreeMap<SetId, SetDefinition>,
}

/// The rules of a policy for one direction; `None` if it says nothing of that direction.
#[must_use]
pub fn policy(policy: &Policy, direction: Direction) -> Option<Compiled> {
    let rules = match direction {
        Direction::Ingress => policy.ingress.as_ref()?,
        Direction::Egress => policy.egress.as_ref()?,
    };
    let owner = Owner::Policy { tier: policy.tier.clone(), key: policy.key.clone() };
    let force = match policy.staging {
        Staging::Enforced => Force::Enforced,
        Staging::Staged(_) => Force::Staged,
    };
    let namespace = policy.key.namespace.as_deref();
    let subject = namespace.map(|_| subject(&policy.key, &policy.subject));
    let frame = Program { owner, direction, force, rules: Vec::new() };
    Some(Compiler { namespace, subject, sets: BTreeMap::new() }.fill(frame, rules))
}

/// The rules of a profile for one direction.
#[must_use]
pub fn profile(profile: &Profile, direction: Direction) -> Compiled {
    let rules = match direction {
        Direction::Ingress => &profile.ingress,
        Direction::Egress => &profile.egress,
    };
    let compiler = Compiler { namespace: None, subject: None, sets: BTreeMap::new() };
    let owner = Owner::Profile(profile.name.clone());
    compiler.fill(Program { owner, direction, force: Force::Enforced, rules: Vec::new() }, rules)
}

/// A program of one rule that asks nothing.
#[must_use]
pub fn always(owner: Owner, direction: Direction, action: Action) -> Program {
    let rule = Rule {
        action,
        family: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: Side::default(),
        destination: Side::default(),
    };
    Program { owner, direction, force: Force::Enforced, rules: vec![rule] }
}

/// Which endpoints a policy applies to, over effective labels.
#[must_use]
pub fn subject(key: &Key, subject: &Subject) -> Selector {
    let home = match (&key.namespace, &subject.namespaces) {
        (Some(namespace), _) => Some(Selector::equals(NAMESPACE, namespace)),
        (None, Some(namespaces)) => Some(of_namespaces(namespaces)),
        (None, None) => None,
    };
    let account = subject.service_accounts.as_ref().map(of_service_accounts);
    Selector::every(home.into_iter().chain([subject.selector.clone()]).chain(account))
}

/// A namespace selector over the labels of what lives in namespaces.
fn of_namespaces(selector: &Selector) -> Selector {
    if selector.is_global() {
        Selector::has(NAMESPACE).negated()
    } else {
        Selector::every([Selector::has(NAMESPACE), selector.prefixed(OF_NAMESPACE)])
    }
}

fn of_service_accounts(selector: &Selector) -> Selector {
    if selector.is_all() { Selector::has(SERVICE_ACCOUNT) } else { selector.prefixed(OF_SERVICE_ACCOUNT) }
}

/// Prefixes without duplicates and without those inside another.
#[must_use]
pub fn canonical(nets: &[Prefix]) -> BTreeSet<Prefix> {
    let mut kept: Vec<Prefix> = Vec::new();
    let mut sorted = nets.to_vec();
    sorted.sort_by_key(|net| (net.len(), *net));
    for net in sorted {
        if !kept.iter().any(|other| other.covers(net)) {
            kept.push(net);
        }
    }
    kept.into_iter().collect()
}

/// Port ranges, ascending, disjoint and not adjacent.
#[must_use]
pub fn merged(ranges: impl IntoIterator<Item = PortRange>) -> Vec<PortRange> {
    let mut bounds: Vec<(u16, u16)> =
        ranges.into_iter().map(|range| (*range.bounds().start(), *range.bounds().end())).collect();
    bounds.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in bounds {
        match merged.last_mut() {
            Some(before) if u32::from(first) <= u32::from(before.1) + 1 => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged.into_iter().filter_map(|(first, last)| PortRange::new(first, last)).collect()
}

struct Compiler<'a> {
    /// The policy's namespace.
    namespace: Option<&'a str>,
    /// Which endpoints the rules guard, if only workloads of the namespace.
    subject: Option<Selector>,
    sets: BTreeMap<SetId, SetDefinition>,
}

/// The family that a side's prefixes, wanted and not wanted, are of, if they are all of one: the rule is of that family.
fn family_of(peer: &Peer) -> Option<Family> {
    let mut families = peer.nets.iter().chain(&peer.not_nets).map(|net| net.family());
    let first = families.next()?;
    families.all(|family| family == first).then_some(first)
}

/// Whose side of a packet is compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Guarded,
    Others,
}

impl Compiler<'_> {
    fn fill(mut self, frame: Program, rules: &[policy::Rule]) -> Compiled {
        let rules = rules.iter().map(|rule| self.rule(frame.direction, rule)).collect();
        Compiled { program: Program { rules, ..frame }, sets: self.sets }
    }

    fn rule(&mut self, direction: Direction, rule: &policy::Rule) -> Rule {
        let (source, destination) = match direction {
            Direction::Ingress => (Whose::Others, Whose::Guarded),
            Direction::Egress => (Whose::Guarded, Whose::Others),
        };
        let mut source = self.side(&rule.source, source, rule.protocol);
        let mut destination = self.side(&rule.destination, destination, rule.protocol);
        // A service as source means its addresses, as destination also its ports.
        if let Some((addresses, _)) = rule.source.service.as_ref().map(|service| self.service(service)) {
            source.within.insert(self.set(addresses));
        }
        if let Some((_, ports)) = rule.destination.service.as_ref().map(|service| self.service(service)) {
            let set = self.set(ports);
            destination.ports.get_or_insert_default().sets.insert(set);
        }
        let family = match (rule.family, family_of(&rule.source), family_of(&rule.destination)) {
            (given, None, None) => given,
            (given, a, b) => {
                let mut wanted = [given, a, b].into_iter().flatten();
                let first = wanted.next();
                if wanted.any(|family| Some(family) != first) {
                    // Asked for both families at once: nothing is of both.
                    source.nets = Some(BTreeSet::new());
                }
                first
            }
        };
        Rule {
            action: rule.action,
            family,
            protocol: rule.protocol,
            not_protocol: rule.not_protocol,
            icmp: rule.icmp,
            not_icmp: rule.not_icmp,
            source,
            destination,
        }
    }

    fn side(&mut self, peer: &Peer, whose: Whose, protocol: Option<u8>) -> Side {
        let selected = self.selected(peer);
        let endpoints = match (&selected, whose, &self.subject) {
            (Some(selector), _, _) => selector.clone(),
            (None, Whose::Guarded, Some(subject)) => subject.clone(),
            (None, _, _) => Selector::all(),
        };
        let within = selected.map(|selector| self.set(SetDefinition::Selected(selector)));
        let not_within = peer.not_selector.clone().map(|selector| self.set(SetDefinition::Selected(selector)));
        Side {
            nets: (!peer.nets.is_empty()).then(|| canonical(&peer.nets)),
            not_nets: canonical(&peer.not_nets),
            within: within.into_iter().collect(),
            not_within: not_within.into_iter().collect(),
            ports: self.ports(&peer.ports, &endpoints, protocol),
            not_ports: self.ports(&peer.not_ports, &endpoints, protocol),
        }
    }

    /// What a rule asks of the labels of one side, as one selector.
    fn selected(&self, peer: &Peer) -> Option<Selector> {
        let names = (!peer.service_account_names.is_empty())
            .then(|| Selector::is_in(SERVICE_ACCOUNT, peer.service_account_names.iter().map(String::as_str)));
        let accounts = peer.service_accounts.as_ref().map(of_service_accounts);
        let asks = peer.selector.is_some() || peer.not_selector.is_some() || names.is_some() || accounts.is_some();
        let home = match (&peer.namespaces, self.namespace) {
            (Some(namespaces), _) => Some(of_namespaces(namespaces)),
            (None, Some(namespace)) if asks => Some(Selector::equals(NAMESPACE, namespace)),
            (None, _) => None,
        };
        let parts: Vec<Selector> = [home, peer.selector.clone(), names, accounts].into_iter().flatten().collect();
        (!parts.is_empty()).then(|| Selector::every(parts))
    }

    fn ports(&mut self, ports: &[Port], endpoints: &Selector, protocol: Option<u8>) -> Option<Ports> {
        if ports.is_empty() {
            return None;
        }
        let ranges = ports.iter().filter_map(|port| match port {
            Port::Range(range) => Some(*range),
            Port::Named(_) => None,
        });
        let mut compiled = Ports { ranges: merged(ranges), sets: BTreeSet::new() };
        let names = ports.iter().filter_map(|port| match port {
            Port::Named(name) => Some(name.clone()),
            Port::Range(_) => None,
        });
        // One set for all names, so that a rule is no longer with a hundred of them.
        let names: BTreeSet<String> = names.collect();
        if !names.is_empty() {
            let definition = SetDefinition::Named { endpoints: endpoints.clone(), protocol, ports: names };
            compiled.sets.insert(self.set(definition));
        }
        Some(compiled)
    }

    fn service(&self, service: &policy::ServiceName) -> (SetDefinition, SetDefinition) {
        let namespace = service.namespace.as_deref().or(self.namespace).unwrap_or("default").to_owned();
        let name = service.name.clone();
        (
            SetDefinition::ServiceAddresses { namespace: namespace.clone(), name: name.clone() },
            SetDefinition::ServicePorts { namespace, name },
        )
    }

    fn set(&mut self, definition: SetDefinition) -> SetId {
        let id = definition.id();
        self.sets.insert(id, definition);
        id
    }
}

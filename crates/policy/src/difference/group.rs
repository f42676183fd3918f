//! Who is concerned by a change: stations that are all concerned alike, named as a person would name them.

use super::view::Station;
use crate::journey::Party;
use crate::labels::NAMESPACE;
use crate::world::World;
use lasthop_model::{EndpointKey, Labels, NodeName};
use lasthop_net::{Family, Prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// Who is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Workloads, by those of their addresses that are meant.
    pub workloads: BTreeMap<EndpointKey, BTreeSet<IpAddr>>,
    /// Hosts, by those of their addresses that are meant.
    pub hosts: BTreeMap<NodeName, BTreeSet<IpAddr>>,
    /// What is neither.
    pub outside: Territory,
    words: String,
}

/// A part of the address space without our workloads' and hosts' addresses: what has its longest match among these in
/// `inside`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Territory {
    /// In.
    pub inside: BTreeSet<Prefix>,
    /// Out again.
    pub except: BTreeSet<Prefix>,
}

/// How many workloads are named before they are only counted.
const NAMED: usize = 4;

/// Everybody that there is.
pub(super) struct Register<'a> {
    /// For labels.
    pub(super) world: &'a World,
    /// Workloads and hosts, with the addresses that are compared.
    pub(super) parties: &'a BTreeMap<Party, BTreeSet<IpAddr>>,
    /// Parts of the address space, by family.
    pub(super) parts: BTreeMap<Family, BTreeSet<Prefix>>,
}

impl Group {
    pub(super) fn of<'a>(stations: impl IntoIterator<Item = &'a Station>, register: &Register<'_>) -> Self {
        let mut group = Self::default();
        let mut parts = BTreeSet::new();
        for station in stations {
            match (&station.party, station.part) {
                (Party::Workload(key), _) => {
                    group.workloads.entry(key.clone()).or_default().insert(station.address);
                }
                (Party::Host(node), _) => {
                    group.hosts.entry(node.clone()).or_default().insert(station.address);
                }
                (Party::Outside, part) => parts.extend(part),
            }
        }
        for (family, all) in &register.parts {
            let mine: BTreeSet<Prefix> = parts.iter().copied().filter(|part| part.family() == *family).collect();
            group.outside.draw(&mine, all);
        }
        group.words = group.describe(register);
        group
    }

    /// Whether an address of a party is meant.
    #[must_use]
    pub fn has(&self, party: &Party, address: IpAddr) -> bool {
        let among = |addresses: Option<&BTreeSet<IpAddr>>| addresses.is_some_and(|all| all.contains(&address));
        match party {
            Party::Workload(key) => among(self.workloads.get(key)),
            Party::Host(node) => among(self.hosts.get(node)),
            Party::Outside => self.outside.contains(address),
        }
    }

    /// The same parties as in `other`, whole, though in another family.
    pub(super) fn is_alike(&self, other: &Self, register: &Register<'_>) -> bool {
        self.workloads.keys().eq(other.workloads.keys())
            && self.hosts.keys().eq(other.hosts.keys())
            && self.outside.is_whole() == other.outside.is_whole()
            && [self, other].iter().all(|group| {
                group.is_complete(register) && (group.outside.is_whole() || group.outside.inside.is_empty())
            })
    }

    /// With the addresses of `other` too.
    pub(super) fn join(&mut self, other: Self, register: &Register<'_>) {
        for (key, addresses) in other.workloads {
            self.workloads.entry(key).or_default().extend(addresses);
        }
        for (node, addresses) in other.hosts {
            self.hosts.entry(node).or_default().extend(addresses);
        }
        self.outside.inside.extend(other.outside.inside);
        self.outside.except.extend(other.outside.except);
        self.words = self.describe(register);
    }

    fn families(&self) -> BTreeSet<Family> {
        let addresses = self.workloads.values().chain(self.hosts.values()).flatten();
        addresses.copied().map(Family::of).collect()
    }

    /// Whether every party is meant with all its addresses of these families.
    fn is_complete(&self, register: &Register<'_>) -> bool {
        let families = self.families();
        let whole = |party: &Party, meant: &BTreeSet<IpAddr>| {
            let all = register.parties.get(party).into_iter().flatten();
            all.filter(|address| families.contains(&Family::of(**address))).all(|address| meant.contains(address))
        };
        self.workloads.iter().all(|(key, meant)| whole(&Party::Workload(key.clone()), meant))
            && self.hosts.iter().all(|(node, meant)| whole(&Party::Host(node.clone()), meant))
    }

    fn describe(&self, register: &Register<'_>) -> String {
        let complete = self.is_complete(register);
        let mut parts = Vec::new();
        let by_label = || if complete { self.by_label(register) } else { None };
        if self.workloads.len() > 1 {
            parts.extend(by_label().or_else(|| Some(self.by_name(complete))));
        } else if !self.workloads.is_empty() {
            parts.push(self.by_name(complete));
        }
        if !self.hosts.is_empty() {
            let all = register.parties.keys().filter(|party| matches!(party, Party::Host(_))).count();
            parts.push(match self.hosts.len() {
                1 => format!("host {}", names(self.hosts.keys())),
                many if complete && many == all => "every host".to_owned(),
                _ => format!("hosts {}", names(self.hosts.keys())),
            });
        }
        if self.outside.is_whole() {
            parts.push("anywhere outside".to_owned());
        } else if !self.outside.inside.is_empty() {
            parts.push(self.outside.to_string());
        }
        parts.join(" and ")
    }

    fn by_name(&self, complete: bool) -> String {
        if complete {
            return names(self.workloads.keys());
        }
        let one = |(key, addresses): (&EndpointKey, &BTreeSet<IpAddr>)| {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            format!("{key} ({})", addresses.join(", "))
        };
        names(self.workloads.iter().map(one))
    }

    /// The fewest labels that just these workloads have in common.
    fn by_label(&self, register: &Register<'_>) -> Option<String> {
        let all: Vec<(bool, Labels)> = register
            .parties
            .keys()
            .filter_map(|party| match party {
                Party::Workload(key) => {
                    let mut labels = register.world.workloads.get(key)?.labels.clone();
                    labels.insert(NAMESPACE.to_owned(), key.namespace.clone());
                    Some((self.workloads.contains_key(key), labels))
                }
                Party::Host(_) | Party::Outside => None,
            })
            .collect();
        let members = || all.iter().filter(|(member, _)| *member).map(|(_, labels)| labels);
        let mut common = members().next()?.clone();
        members().for_each(|labels| common.retain(|key, value| labels.get(key) == Some(value)));
        let is_exact = |common: &Labels| {
            all.iter()
                .all(|(member, labels)| *member || common.iter().any(|(key, value)| labels.get(key) != Some(value)))
        };
        if !is_exact(&common) {
            return None;
        }
        for key in common.keys().filter(|key| *key != NAMESPACE).cloned().collect::<Vec<_>>().iter().rev() {
            let mut fewer = common.clone();
            fewer.remove(key);
            if is_exact(&fewer) {
                common = fewer;
            }
        }
        let namespace = common.remove(NAMESPACE);
        let several = all.iter().any(|(_, labels)| labels.get(NAMESPACE) != namespace.as_ref());
        let place = namespace.filter(|_| several).map(|namespace| format!(" in namespace {namespace}"));
        let labels: Vec<String> = common.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let which = if labels.is_empty() { String::new() } else { format!(" with {}", labels.join(" ")) };
        let place = place.unwrap_or_default();
        let every = if self.workloads.len() == all.len() || labels.is_empty() { "every workload" } else { "workloads" };
        Some(format!("{every}{which}{place} ({})", self.workloads.len()))
    }
}

fn names(of: impl ExactSizeIterator<Item = impl ToString>) -> String {
    let rest = of.len().saturating_sub(NAMED);
    let mut texts: Vec<String> = of.take(NAMED).map(|name| name.to_string()).collect();
    if rest > 0 {
        texts.push(format!("{rest} more"));
    }
    texts.join(", ")
}

impl Territory {
    /// Adds parts: each is its prefix without those of `all` that lie in it.
    fn draw(&mut self, parts: &BTreeSet<Prefix>, all: &BTreeSet<Prefix>) {
        for net in all {
            let around = all.iter().filter(|other| *other != net && other.covers(*net)).max_by_key(|other| other.len());
            match (parts.contains(net), around.is_some_and(|around| parts.contains(around))) {
                (true, false) => {
                    self.inside.insert(*net);
                }
                (false, true) => {
                    self.except.insert(*net);
                }
                _ => {}
            }
        }
    }

    /// Whether an address that is no workload's and no host's is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let longest = |of: &BTreeSet<Prefix>| of.iter().filter(|net| net.contains(address)).map(|net| net.len()).max();
        longest(&self.inside) > longest(&self.except)
    }

    /// Whether it is all of a family, or of both.
    fn is_whole(&self) -> bool {
        self.except.is_empty() && !self.inside.is_empty() && self.inside.iter().all(|net| net.len() == 0)
    }
}

impl fmt::Display for Territory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (inside, except) = (names(self.inside.iter()), names(self.except.iter()));
        if self.except.is_empty() { write!(f, "{inside}") } else { write!(f, "{inside} (but {except})") }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

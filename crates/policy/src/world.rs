//! Everything that policy depends on, and its plain meaning for a host: all at once, slow, read to be believed.
//!
//! ```text
//! resources ──▶ World ── host_policy(node) ──▶ HostPolicy       (what compute's engine is held against)
//!                 └──── decide, journey ─────▶ verdicts          (what explain, plan and tests ask)
//! ```

use crate::compile::{self, Compiled};
use crate::decide::Knowledge;
use crate::ir::{
    Direction, HostPolicy, Interface, InterfacePolicy, Member, Program, ProgramId, Set, SetId, SetKind, Stack, StackId,
    WorkloadPolicy,
};
use crate::labels::{self, Home};
use crate::order;
use crate::sets::SetDefinition;
use crate::stack::{self, Applying, At, Place};
use lasthop_model::policy::{
    EndpointSlice, HostEndpoint, HostInterface, Labelled, NamedPort, NetworkSet, Policy, Profile, Tier,
};
use lasthop_model::{EndpointKey, Key, Kind, Labels, NodeName, Resource, WorkloadEndpoint};
use lasthop_net::{IfName, Prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// All that policy depends on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// Policies of every kind.
    pub policies: BTreeMap<Key, Arc<Policy>>,
    /// Tiers, by name.
    pub tiers: BTreeMap<String, Tier>,
    /// Profiles, by name.
    pub profiles: BTreeMap<String, Profile>,
    /// Network sets.
    pub network_sets: BTreeMap<Key, NetworkSet>,
    /// Namespaces' labels, by name.
    pub namespaces: BTreeMap<String, Labels>,
    /// Service accounts' labels, by namespace and name.
    pub service_accounts: BTreeMap<(String, String), Labels>,
    /// What stands behind services.
    pub slices: BTreeMap<Key, EndpointSlice>,
    /// Workloads of all hosts.
    pub workloads: BTreeMap<EndpointKey, WorkloadEndpoint>,
    /// Host endpoints of all hosts, by name.
    pub hosts: BTreeMap<String, HostEndpoint>,
}

/// One host's policy, and what its sets stand for.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// The policy.
    pub policy: HostPolicy,
    /// Its sets' definitions.
    pub definitions: BTreeMap<SetId, SetDefinition>,
}

impl Knowledge for Host {
    fn program(&self, id: ProgramId) -> Option<&Program> {
        self.policy.program(id)
    }

    fn has_address(&self, set: SetId, address: IpAddr) -> bool {
        self.policy.has_address(set, address)
    }

    fn has_port(&self, set: SetId, member: (IpAddr, u8, u16)) -> bool {
        self.policy.has_port(set, member)
    }

    fn describe(&self, set: SetId) -> String {
        self.definitions.get(&set).map_or_else(|| self.policy.describe(set), ToString::to_string)
    }
}

/// One thing that selectors find.
#[derive(Clone, Debug)]
pub struct Item {
    /// Effective labels.
    pub labels: Labels,
    /// Addresses or prefixes.
    pub nets: Vec<Prefix>,
    /// Named ports.
    pub ports: Vec<NamedPort>,
}

/// A host's own interfaces and their addresses.
pub type Interfaces = BTreeMap<IfName, BTreeSet<IpAddr>>;

impl World {
    /// Takes in a resource, new or changed. Kinds that policy does not depend on are ignored.
    pub fn put(&mut self, key: &Key, resource: Resource) {
        match resource {
            Resource::Policy(policy) => {
                self.policies.insert(key.clone(), policy);
            }
            Resource::Tier(tier) => {
                self.tiers.insert(tier.name.clone(), tier);
            }
            Resource::Profile(profile) => {
                self.profiles.insert(profile.name.clone(), profile);
            }
            Resource::NetworkSet(set) => {
                self.network_sets.insert(key.clone(), set);
            }
            Resource::HostEndpoint(endpoint) => {
                self.hosts.insert(endpoint.name.clone(), endpoint);
            }
            Resource::Labelled(Labelled { labels, .. }) => match key.namespace.clone() {
                Some(namespace) => {
                    self.service_accounts.insert((namespace, key.name.clone()), labels);
                }
                None => {
                    self.namespaces.insert(key.name.clone(), labels);
                }
            },
            Resource::EndpointSlice(slice) => {
                self.slices.insert(key.clone(), slice);
            }
            Resource::WorkloadEndpoint(endpoint) => {
                self.workloads.insert(endpoint.key.clone(), endpoint);
            }
            Resource::Node(_)
            | Resource::IpPool(_)
            | Resource::BgpConfiguration(_)
            | Resource::BgpPeer(_)
            | Resource::BgpFilter(_)
            | Resource::Settings { .. }
            | Resource::Rollout(_)
            | Resource::RolloutReport(_) => {}
        }
    }

    /// Forgets a resource.
    pub fn remove(&mut self, key: &Key) {
        match key.kind {
            Kind::Tier => {
                self.tiers.remove(&key.name);
            }
            Kind::Profile => {
                self.profiles.remove(&key.name);
            }
            Kind::NetworkSet | Kind::GlobalNetworkSet => {
                self.network_sets.remove(key);
            }
            Kind::HostEndpoint => {
                self.hosts.remove(&key.name);
            }
            Kind::Namespace => {
                self.namespaces.remove(&key.name);
            }
            Kind::ServiceAccount => {
                let namespace = key.namespace.clone().unwrap_or_default();
                self.service_accounts.remove(&(namespace, key.name.clone()));
            }
            Kind::EndpointSlice => {
                self.slices.remove(key);
            }
            Kind::WorkloadEndpoint => {
                let namespace = key.namespace.clone().unwrap_or_default();
                self.workloads.remove(&EndpointKey { namespace, name: key.name.clone() });
            }
            _ => {
                self.policies.remove(key);
            }
        }
    }

    /// The effective labels of a workload.
    #[must_use]
    pub fn workload_labels(&self, endpoint: &WorkloadEndpoint) -> Labels {
        let namespace = &endpoint.key.namespace;
        let account = endpoint.service_account.as_ref();
        let of_account = |name: &String| self.service_accounts.get(&(namespace.clone(), name.clone()));
        let home = Home {
            namespace: Some((namespace, self.namespaces.get(namespace))),
            service_account: account.map(|name| (name.as_str(), of_account(name))),
            orchestrator: Some(endpoint.orchestrator.as_deref().unwrap_or("k8s")),
            name: None,
        };
        let profiles = endpoint.profiles.iter().flatten();
        labels::effective(
            &endpoint.labels,
            home,
            profiles.filter_map(|name| self.profiles.get(name)).map(|p| &p.labels),
        )
    }

    /// The effective labels of a host endpoint.
    #[must_use]
    pub fn host_labels(&self, endpoint: &HostEndpoint) -> Labels {
        let profiles = endpoint.profiles.iter().filter_map(|name| self.profiles.get(name));
        labels::effective(&endpoint.labels, Home::default(), profiles.map(|profile| &profile.labels))
    }

    /// The effective labels of a network set.
    #[must_use]
    pub fn network_set_labels(&self, set: &NetworkSet) -> Labels {
        let home = Home {
            namespace: set.key.namespace.as_deref().map(|name| (name, self.namespaces.get(name))),
            name: Some(&set.key.name),
            ..Home::default()
        };
        labels::effective(&set.labels, home, std::iter::empty())
    }

    /// Everything that selectors of rules find.
    pub fn items(&self) -> impl Iterator<Item = Item> {
        let workloads = self.workloads.values().map(|endpoint| Item {
            labels: self.workload_labels(endpoint),
            nets: endpoint.addresses.iter().map(|address| Prefix::host(*address)).collect(),
            ports: endpoint.ports.clone(),
        });
        let hosts = self.hosts.values().map(|endpoint| Item {
            labels: self.host_labels(endpoint),
            nets: endpoint.addresses.iter().map(|address| Prefix::host(*address)).collect(),
            ports: endpoint.ports.clone(),
        });
        let sets = self.network_sets.values().map(|set| Item {
            labels: self.network_set_labels(set),
            nets: set.nets.iter().copied().collect(),
            ports: Vec::new(),
        });
        workloads.chain(hosts).chain(sets)
    }

    /// The set that a definition stands for now.
    #[must_use]
    pub fn resolve(&self, definition: &SetDefinition, items: &[Item]) -> Set {
        let mut members = BTreeSet::new();
        match definition {
            SetDefinition::ServiceAddresses { namespace, name } => {
                for slice in self.slices_of(namespace, name) {
                    members.extend(slice.addresses.iter().map(|address| Member::Net(Prefix::host(*address))));
                }
            }
            SetDefinition::ServicePorts { namespace, name } => {
                for slice in self.slices_of(namespace, name) {
                    for address in &slice.addresses {
                        let ports = slice.ports.iter();
                        members.extend(ports.map(|(protocol, port)| Member::Port(*address, *protocol, *port)));
                    }
                }
            }
            SetDefinition::Selected(selector) | SetDefinition::Named { endpoints: selector, .. } => {
                for item in items.iter().filter(|item| selector.matches(&item.labels)) {
                    members.extend(definition.members_of(&item.nets, &item.ports));
                }
            }
        }
        Set { kind: kind_of(definition, &members), members }
    }

    fn slices_of(&self, namespace: &str, name: &str) -> impl Iterator<Item = &EndpointSlice> {
        self.slices
            .values()
            .filter(move |slice| slice.service == name && slice.key.namespace.as_deref() == Some(namespace))
    }

    /// What the kernel of a host ought to hold, but for settings (failsafe ports, the deny action). `interfaces` are the host's
    /// own, for host endpoints that are found by address.
    #[must_use]
    pub fn host(&self, node: &NodeName, interfaces: &Interfaces) -> Host {
        let mut links = BTreeMap::new();
        for endpoint in self.workloads.values().filter(|endpoint| endpoint.node == *node) {
            links.entry(endpoint.link.clone()).or_insert_with(|| endpoint.key.clone());
        }
        self.host_with(node, interfaces, &links)
    }

    /// The same, if these endpoints have these links.
    #[must_use]
    pub fn host_with(&self, node: &NodeName, interfaces: &Interfaces, links: &BTreeMap<IfName, EndpointKey>) -> Host {
        let mut building = Building { world: self, policy: HostPolicy::default(), definitions: BTreeMap::new() };
        for (link, endpoint) in links.iter().filter_map(|(link, key)| Some((link, self.workloads.get(key)?))) {
            let labels = self.workload_labels(endpoint);
            let [from, to] = [Direction::Egress, Direction::Ingress]
                .map(|direction| building.workload(endpoint, &labels, direction));
            building.policy.workloads.insert(link.clone(), WorkloadPolicy { from, to });
        }
        for (interface, endpoint) in guards(self.hosts.values().filter(|endpoint| endpoint.node == *node), interfaces) {
            let stacks = building.host(endpoint, &interface);
            building.policy.interfaces.insert(interface, stacks);
        }
        let items: Vec<Item> = self.items().collect();
        let Building { mut policy, definitions, .. } = building;
        policy.sets = definitions.iter().map(|(id, definition)| (*id, self.resolve(definition, &items))).collect();
        Host { policy, definitions }
    }
}

/// Which host endpoint guards which of a host's interfaces: the first by name of those that ask for it.
#[must_use]
pub fn guards<'a>(
    endpoints: impl Iterator<Item = &'a HostEndpoint>,
    interfaces: &Interfaces,
) -> BTreeMap<Interface, &'a HostEndpoint> {
    let mut guards = BTreeMap::new();
    for endpoint in endpoints {
        match &endpoint.interface {
            HostInterface::All => {
                guards.entry(Interface::Any).or_insert(endpoint);
            }
            HostInterface::Named(name) => {
                guards.entry(Interface::Named(name.clone())).or_insert(endpoint);
            }
            HostInterface::ByAddress => {
                for (name, _) in interfaces.iter().filter(|(_, of)| !of.is_disjoint(&endpoint.addresses)) {
                    guards.entry(Interface::Named(name.clone())).or_insert(endpoint);
                }
            }
        }
    }
    guards
}

/// What a set of this definition and with these members is kept as.
#[must_use]
pub fn kind_of<'a>(definition: &SetDefinition, members: impl IntoIterator<Item = &'a Member>) -> SetKind {
    match definition {
        SetDefinition::Named { .. } | SetDefinition::ServicePorts { .. } => SetKind::Ports,
        SetDefinition::Selected(_) | SetDefinition::ServiceAddresses { .. } => {
            let wide = |member: &Member| matches!(member, Member::Net(net) if !net.is_host());
            if members.into_iter().any(wide) { SetKind::Nets } else { SetKind::Addresses }
        }
    }
}

struct Building<'a> {
    world: &'a World,
    policy: HostPolicy,
    definitions: BTreeMap<SetId, SetDefinition>,
}

impl Building<'_> {
    fn workload(&mut self, endpoint: &WorkloadEndpoint, labels: &Labels, direction: Direction) -> StackId {
        let namespace = endpoint.key.namespace.as_str();
        let names = match &endpoint.profiles {
            Some(names) => names.clone(),
            None => vec![stack::namespace_profile(namespace)],
        };
        let applying = self.applying(labels, (At::Workload, Place::Normal), direction);
        let profiles = self.profiles(&names, Some(namespace), direction);
        let stack = stack::assemble(Place::Normal, applying, profiles);
        self.stack(stack.unwrap_or_else(Stack::allow_all))
    }

    fn host(&mut self, endpoint: &HostEndpoint, interface: &Interface) -> InterfacePolicy {
        let labels = self.world.host_labels(endpoint);
        stack::interface(interface, |place, direction| {
            let applying = self.applying(&labels, (At::Host, place), direction);
            let profiles = match place {
                Place::Normal => self.profiles(&endpoint.profiles, None, direction),
                Place::Forward | Place::BeforeDnat | Place::Untracked => Vec::new(),
            };
            stack::assemble(place, applying, profiles).map(|stack| self.stack(stack))
        })
    }

    fn applying(&mut self, labels: &Labels, (at, place): (At, Place), direction: Direction) -> Vec<Applying> {
        let mut applying = Vec::new();
        for policy in self.world.policies.values() {
            if !stack::is_asked(policy, at, place) || !compile::subject(&policy.key, &policy.subject).matches(labels) {
                continue;
            }
            let Some(compiled) = compile::policy(policy, direction) else { continue };
            let (tier_rank, otherwise) = order::tier(&policy.tier, &self.world.tiers);
            let force = compiled.program.force;
            applying.push(Applying {
                tier_rank,
                rank: order::policy(policy),
                tier: policy.tier.clone(),
                otherwise,
                program: self.program(compiled),
                force,
            });
        }
        applying
    }

    fn profiles(&mut self, names: &[String], namespace: Option<&str>, direction: Direction) -> Vec<ProgramId> {
        let known = &self.world.profiles;
        let compiled: Vec<Compiled> =
            names.iter().filter_map(|name| stack::profile(name, namespace, known, direction)).collect();
        compiled.into_iter().map(|compiled| self.program(compiled)).collect()
    }

    fn program(&mut self, compiled: Compiled) -> ProgramId {
        let Compiled { program, sets } = compiled;
        let id = program.id();
        self.definitions.extend(sets);
        self.policy.programs.entry(id).or_insert_with(|| Arc::new(program));
        id
    }

    fn stack(&mut self, stack: Stack) -> StackId {
        let id = stack.id();
        self.policy.stacks.entry(id).or_insert_with(|| Arc::new(stack));
        id
    }
}

//! Policy, kept event by event: what [`lasthop_policy::World`] says of one host, at the cost of what changed.
//!
//! ```text
//! resource ─▶ items (endpoints, network sets) ─▶ index of sets ────▶ members
//!          ─▶ policies ─▶ index of subjects ─▶ local endpoints ─▶ stacks ─▶ programs ─▶ sets in use
//! ```
//!
//! Only policies that apply to an endpoint of this host are compiled, and only sets that those speak of are kept.
//! Programs, stacks and sets are counted by who refers to them, and go with the last.

mod index;
mod interned;
mod items;
mod local;
mod sets;

use index::{Index, Move};
use items::{Item, ItemId, ItemName, Items};
use lasthop_model::policy::{EndpointSlice, HostEndpoint, HostInterface, Labelled, Policy, Profile, Tier};
use lasthop_model::{EndpointKey, Key, Kind, Labels, NodeName, Resource};
use lasthop_net::{IfName, Prefix};
use lasthop_policy::compile;
use lasthop_policy::ir::{HostPolicy, Member, PolicyChanges, SetId};
use lasthop_policy::labels::{self, Home};
use lasthop_policy::sets::SetDefinition;
use lasthop_policy::world::Interfaces;
use local::Local;
use sets::{Output, Sets};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A number for a policy, while it is known.
type PolicyId = u32;

/// What one host's kernel ought to hold of policy, kept event by event.
#[derive(Debug)]
pub(crate) struct Policies {
    node: NodeName,
    tiers: BTreeMap<String, Tier>,
    profiles: BTreeMap<String, Profile>,
    namespaces: BTreeMap<String, Labels>,
    service_accounts: BTreeMap<(String, String), Labels>,
    slices: BTreeMap<Key, EndpointSlice>,
    /// Host endpoints of this host.
    hosts: BTreeMap<String, HostEndpoint>,
    interfaces: Interfaces,
    policies: BTreeMap<PolicyId, Arc<Policy>>,
    names: BTreeMap<Key, PolicyId>,
    next: PolicyId,
    items: Items,
    /// Which endpoints of this host a policy applies to.
    subjects: Index<PolicyId, ItemId>,
    /// Which items a set stands for.
    selected: Index<SetId, ItemId>,
    sets: Sets,
    local: Local,
}

impl Policies {
    pub(crate) fn new(node: NodeName) -> Self {
        Self {
            node,
            tiers: BTreeMap::new(),
            profiles: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            service_accounts: BTreeMap::new(),
            slices: BTreeMap::new(),
            hosts: BTreeMap::new(),
            interfaces: Interfaces::new(),
            policies: BTreeMap::new(),
            names: BTreeMap::new(),
            next: 0,
            items: Items::default(),
            subjects: Index::default(),
            selected: Index::default(),
            sets: Sets::default(),
            local: Local::default(),
        }
    }

    /// Takes in a resource, new or changed. Kinds that policy does not depend on are ignored.
    pub(crate) fn put(&mut self, key: &Key, resource: &Resource, to: &mut Out<'_>) {
        match resource {
            Resource::Policy(policy) => self.put_policy(key, policy, to),
            Resource::Tier(tier) => {
                self.tiers.insert(tier.name.clone(), tier.clone());
                self.local.all_doubtful();
            }
            Resource::Profile(profile) => self.put_profile(&profile.name, Some(profile), to),
            Resource::NetworkSet(set) => {
                self.put_item(ItemName::NetworkSet(set.key.clone()), Item::of_network_set(set), to);
            }
            Resource::HostEndpoint(endpoint) => self.put_host(endpoint, to),
            Resource::Labelled(Labelled { labels, .. }) => self.put_labels(key, Some(labels), to),
            Resource::EndpointSlice(slice) => {
                let before = self.slices.insert(key.clone(), slice.clone());
                before.iter().chain([slice]).for_each(|slice| self.refresh_service(slice, to));
            }
            Resource::WorkloadEndpoint(endpoint) => {
                let name = ItemName::Workload(endpoint.key.clone());
                let id = self.put_item(name, Item::of_workload(endpoint), to);
                if endpoint.node == self.node {
                    self.local.add_workload(id);
                    self.put_subject(id);
                } else {
                    self.forget_local(id);
                }
            }
            Resource::Node(_)
            | Resource::IpPool(_)
            | Resource::BgpConfiguration(_)
            | Resource::BgpPeer(_)
            | Resource::BgpFilter(_)
            | Resource::Settings { .. }
            | Resource::Rollout(_)
            | Resource::RolloutReport(_) => return,
        }
        self.settle(to);
    }

    /// Forgets a resource.
    pub(crate) fn remove(&mut self, key: &Key, to: &mut Out<'_>) {
        match key.kind {
            Kind::Tier => {
                if self.tiers.remove(&key.name).is_some() {
                    self.local.all_doubtful();
                }
            }
            Kind::Profile => self.put_profile(&key.name, None, to),
            Kind::NetworkSet | Kind::GlobalNetworkSet => self.remove_item(&ItemName::NetworkSet(key.clone()), to),
            Kind::HostEndpoint => {
                self.remove_item(&ItemName::Host(key.name.as_str().into()), to);
                if self.hosts.remove(&key.name).is_some() {
                    self.local.interfaces_doubtful();
                }
            }
            Kind::Namespace | Kind::ServiceAccount => self.put_labels(key, None, to),
            Kind::EndpointSlice => {
                if let Some(slice) = self.slices.remove(key) {
                    self.refresh_service(&slice, to);
                }
            }
            Kind::WorkloadEndpoint => {
                let namespace = key.namespace.clone().unwrap_or_default();
                self.remove_item(&ItemName::Workload(EndpointKey { namespace, name: key.name.clone() }), to);
            }
            Kind::Node
            | Kind::IpPool
            | Kind::BgpConfiguration
            | Kind::BgpPeer
            | Kind::BgpFilter
            | Kind::FelixConfiguration
            | Kind::Rollout
            | Kind::RolloutReport => return,
            _ => {
                if let Some(id) = self.names.remove(key) {
                    self.local.doubtful(self.subjects.items(id));
                    self.subjects.remove_selector(id);
                    self.policies.remove(&id);
                    self.local.forget_policy(id);
                }
            }
        }
        self.settle(to);
    }

    /// Whether the host's own interfaces matter.
    pub(crate) fn needs_interfaces(&self) -> bool {
        self.hosts.values().any(|endpoint| endpoint.interface == HostInterface::ByAddress)
    }

    /// The host's own interfaces and their addresses are as given.
    pub(crate) fn set_interfaces(&mut self, interfaces: Interfaces, to: &mut Out<'_>) {
        if self.interfaces != interfaces {
            self.interfaces = interfaces;
            self.local.interfaces_doubtful();
            self.settle(to);
        }
    }

    /// The endpoint that has a workload link, if one has.
    pub(crate) fn set_link(&mut self, link: &IfName, owner: Option<&EndpointKey>, to: &mut Out<'_>) {
        let id = owner.and_then(|key| self.items.id(&ItemName::Workload(key.clone())));
        self.local.set_link(link, id);
        self.settle(to);
    }

    fn put_policy(&mut self, key: &Key, policy: &Arc<Policy>, to: &mut Out<'_>) {
        let id = self.names.get(key).copied().unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        match self.policies.get(&id) {
            Some(before) if before == policy => return,
            Some(before) if is_edit(before, policy) => {
                self.policies.insert(id, policy.clone());
                return self.edit(id, to);
            }
            _ => {}
        }
        self.names.insert(key.clone(), id);
        self.local.doubtful(self.subjects.items(id));
        self.policies.insert(id, policy.clone());
        self.local.forget_policy(id);
        let matched = self.subjects.put_selector(id, compile::subject(&policy.key, &policy.subject));
        self.local.doubtful(matched);
    }

    fn put_profile(&mut self, name: &str, profile: Option<&Profile>, to: &mut Out<'_>) {
        let before = match profile {
            Some(profile) => self.profiles.insert(name.to_owned(), profile.clone()),
            None => self.profiles.remove(name),
        };
        if before.as_ref() == profile {
            return;
        }
        // A namespace's own profile is not named by its endpoints.
        let mut concerned = self.items.with_profile(name);
        if let Some(namespace) = name.strip_prefix("kns.") {
            concerned.extend(self.items.in_namespace(namespace));
        }
        concerned.iter().for_each(|id| self.relabel(*id, to));
        self.local.doubtful(concerned);
    }

    fn put_labels(&mut self, key: &Key, labels: Option<&Labels>, to: &mut Out<'_>) {
        let namespace = match &key.namespace {
            None => {
                match labels {
                    Some(labels) => self.namespaces.insert(key.name.clone(), labels.clone()),
                    None => self.namespaces.remove(&key.name),
                };
                &key.name
            }
            Some(namespace) => {
                let account = (namespace.clone(), key.name.clone());
                match labels {
                    Some(labels) => self.service_accounts.insert(account, labels.clone()),
                    None => self.service_accounts.remove(&account),
                };
                namespace
            }
        };
        let account = key.namespace.as_ref().map(|_| &key.name);
        for id in self.items.in_namespace(namespace) {
            let lives = |item: &Item| account.is_none() || item.home.service_account.as_ref() == account;
            if self.items.get(id).is_some_and(lives) {
                self.relabel(id, to);
            }
        }
    }

    fn put_host(&mut self, endpoint: &HostEndpoint, to: &mut Out<'_>) {
        let name = ItemName::Host(endpoint.name.as_str().into());
        let id = self.put_item(name, Item::of_host(endpoint), to);
        if endpoint.node == self.node {
            self.local.add_host(id, &endpoint.name);
            self.put_subject(id);
            self.hosts.insert(endpoint.name.clone(), endpoint.clone());
        } else {
            self.forget_local(id);
            self.hosts.remove(&endpoint.name);
        }
        self.local.interfaces_doubtful();
    }

    fn put_item(&mut self, name: ItemName, item: Item, to: &mut Out<'_>) -> ItemId {
        let (id, before) = self.items.put(name, item);
        let same = |before: &Item, now: &Item| before.nets == now.nets && before.ports == now.ports;
        match (before, self.items.get(id)) {
            (Some(before), Some(now)) if same(&before, now) => self.relabel(id, to),
            (before, Some(now)) => {
                let now = now.clone();
                if let Some(before) = before {
                    let sets: Vec<SetId> = self.selected.selectors_of(id).collect();
                    self.take(&sets, &before, to);
                }
                let labels = self.effective(&now);
                self.selected.put_item(id, &labels);
                let sets: Vec<SetId> = self.selected.selectors_of(id).collect();
                self.give(&sets, &now, to);
            }
            (_, None) => {}
        }
        id
    }

    fn remove_item(&mut self, name: &ItemName, to: &mut Out<'_>) {
        if let Some((id, item)) = self.items.remove(name) {
            let sets: Vec<SetId> = self.selected.selectors_of(id).collect();
            self.take(&sets, &item, to);
            self.selected.remove_item(id);
            self.forget_local(id);
        }
    }

    fn give(&mut self, sets: &[SetId], item: &Item, to: &mut Out<'_>) {
        for &set in sets {
            let Some(in_use) = self.sets.get(set) else { continue };
            let members = in_use.definition.members_of(&item.nets, &item.ports);
            self.sets.give(set, members, &mut to.sets());
        }
    }

    fn take(&mut self, sets: &[SetId], item: &Item, to: &mut Out<'_>) {
        for &set in sets {
            let Some(in_use) = self.sets.get(set) else { continue };
            let members = in_use.definition.members_of(&item.nets, &item.ports);
            self.sets.take(set, members, &mut to.sets());
        }
    }

    /// Labels that an item sees may have changed.
    fn relabel(&mut self, id: ItemId, to: &mut Out<'_>) {
        let Some(item) = self.items.get(id).cloned() else { return };
        let labels = self.effective(&item);
        for one in self.selected.put_item(id, &labels) {
            match one {
                Move::Joined(set, _) => self.give(&[set], &item, to),
                Move::Left(set, _) => self.take(&[set], &item, to),
            }
        }
        if self.local.is_local(id) {
            self.put_subject(id);
        }
    }

    /// The policies that apply to an endpoint of this host may have changed.
    fn put_subject(&mut self, id: ItemId) {
        let Some(item) = self.items.get(id) else { return };
        let labels = self.effective(item);
        self.subjects.put_item(id, &labels);
        self.local.doubtful([id]);
    }

    fn forget_local(&mut self, id: ItemId) {
        if self.local.is_local(id) {
            self.subjects.remove_item(id);
            self.local.remove(id);
        }
    }

    fn effective(&self, item: &Item) -> Labels {
        let home = &item.home;
        let namespace = home.namespace.as_deref();
        let account = namespace.zip(home.service_account.as_deref());
        let of_account = |namespace: &str, name: &str| self.service_accounts.get(&(namespace.into(), name.into()));
        let places = Home {
            namespace: namespace.map(|name| (name, self.namespaces.get(name))),
            service_account: account.map(|(namespace, name)| (name, of_account(namespace, name))),
            orchestrator: home.orchestrator.as_deref(),
            name: home.name.as_deref(),
        };
        let profiles = home.profiles.iter().flatten().filter_map(|name| self.profiles.get(name));
        labels::effective(&item.labels, places, profiles.map(|profile| &profile.labels))
    }

    /// The sets of a service, if they are in use, hold what its slices say.
    fn refresh_service(&mut self, slice: &EndpointSlice, to: &mut Out<'_>) {
        let Some(namespace) = slice.key.namespace.clone() else { return };
        let name = slice.service.clone();
        for definition in [
            SetDefinition::ServiceAddresses { namespace: namespace.clone(), name: name.clone() },
            SetDefinition::ServicePorts { namespace, name },
        ] {
            self.fill_service(definition.id(), &definition, to);
        }
    }

    fn fill_service(&mut self, id: SetId, definition: &SetDefinition, to: &mut Out<'_>) {
        let (SetDefinition::ServiceAddresses { namespace, name } | SetDefinition::ServicePorts { namespace, name }) =
            definition
        else {
            return;
        };
        if self.sets.get(id).is_none() {
            return;
        }
        let of_service = |slice: &&EndpointSlice| {
            slice.service == *name && slice.key.namespace.as_deref() == Some(namespace.as_str())
        };
        let mut members = BTreeSet::new();
        for slice in self.slices.values().filter(of_service) {
            for address in &slice.addresses {
                match definition {
                    SetDefinition::ServicePorts { .. } => {
                        members.extend(slice.ports.iter().map(|(p, port)| Member::Port(*address, *p, *port)));
                    }
                    _ => {
                        members.insert(Member::Net(Prefix::host(*address)));
                    }
                }
            }
        }
        self.sets.replace(id, &members, &mut to.sets());
    }
}

/// Whether two editions of a policy differ in nothing but rules: whom it applies to, where and when is the same.
fn is_edit(before: &Policy, now: &Policy) -> bool {
    let directions = |policy: &Policy| [policy.ingress.is_some(), policy.egress.is_some()];
    let rules = (now.ingress.clone(), now.egress.clone());
    directions(before) == directions(now) && Policy { ingress: rules.0, egress: rules.1, ..before.clone() } == *now
}

/// Where policy is written.
pub(crate) struct Out<'a> {
    pub(crate) policy: &'a mut HostPolicy,
    pub(crate) changes: &'a mut PolicyChanges,
}

impl Out<'_> {
    fn sets(&mut self) -> Output<'_> {
        Output { sets: &mut self.policy.sets, changes: self.changes }
    }
}

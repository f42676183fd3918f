//! What selectors find: workloads of all hosts, host endpoints, network sets; kept small, since a cluster has many.

use super::interned::Interned;
use lasthop_model::policy::{HostEndpoint, NamedPort, NetworkSet};
use lasthop_model::{EndpointKey, Key, Labels, WorkloadEndpoint};
use lasthop_net::Prefix;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A number for an item, while it is known.
pub(crate) type ItemId = u32;

/// What names an item.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ItemName {
    Workload(EndpointKey),
    Host(Box<str>),
    NetworkSet(Key),
}

/// Where an item lives; shared by all that live there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Home {
    pub(crate) namespace: Option<String>,
    pub(crate) service_account: Option<String>,
    pub(crate) orchestrator: Option<String>,
    /// `None`: the namespace's own.
    pub(crate) profiles: Option<Vec<String>>,
    /// Its own name, of kinds that are found by it.
    pub(crate) name: Option<String>,
}

/// An item.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) home: Arc<Home>,
    /// Own labels.
    pub(crate) labels: Arc<Labels>,
    pub(crate) nets: Box<[Prefix]>,
    pub(crate) ports: Arc<[NamedPort]>,
}

/// All items, by number and by what changes them.
#[derive(Debug, Default)]
pub(crate) struct Items {
    names: BTreeMap<ItemName, ItemId>,
    items: BTreeMap<ItemId, Item>,
    free: Vec<ItemId>,
    by_namespace: BTreeMap<String, BTreeSet<ItemId>>,
    by_profile: BTreeMap<String, BTreeSet<ItemId>>,
    homes: Interned<Home>,
    labels: Interned<Labels>,
    ports: Interned<[NamedPort]>,
}

impl Items {
    pub(crate) fn get(&self, id: ItemId) -> Option<&Item> {
        self.items.get(&id)
    }

    pub(crate) fn id(&self, name: &ItemName) -> Option<ItemId> {
        self.names.get(name).copied()
    }

    pub(crate) fn in_namespace(&self, namespace: &str) -> BTreeSet<ItemId> {
        self.by_namespace.get(namespace).cloned().unwrap_or_default()
    }

    pub(crate) fn with_profile(&self, profile: &str) -> BTreeSet<ItemId> {
        self.by_profile.get(profile).cloned().unwrap_or_default()
    }

    /// Takes in an item and returns its number, and what it was before.
    pub(crate) fn put(&mut self, name: ItemName, item: Item) -> (ItemId, Option<Item>) {
        let item = Item {
            home: self.homes.shared(item.home),
            labels: self.labels.shared(item.labels),
            ports: self.ports.shared(item.ports),
            nets: item.nets,
        };
        let next = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        let free = &mut self.free;
        let id = *self.names.entry(name).or_insert_with(|| free.pop().unwrap_or(next));
        let before = self.items.insert(id, item);
        if let Some(before) = &before {
            self.unlink(id, &before.home.clone());
        }
        let home = self.items.get(&id).map(|item| item.home.clone());
        for home in home.iter() {
            if let Some(namespace) = &home.namespace {
                self.by_namespace.entry(namespace.clone()).or_default().insert(id);
            }
            for profile in home.profiles.iter().flatten() {
                self.by_profile.entry(profile.clone()).or_default().insert(id);
            }
        }
        (id, before)
    }

    /// Forgets an item.
    pub(crate) fn remove(&mut self, name: &ItemName) -> Option<(ItemId, Item)> {
        let id = self.names.remove(name)?;
        let item = self.items.remove(&id)?;
        self.unlink(id, &item.home);
        self.free.push(id);
        Some((id, item))
    }

    fn unlink(&mut self, id: ItemId, home: &Home) {
        let leave = |map: &mut BTreeMap<String, BTreeSet<ItemId>>, key: &String| {
            if let Some(ids) = map.get_mut(key) {
                ids.remove(&id);
                if ids.is_empty() {
                    map.remove(key);
                }
            }
        };
        if let Some(namespace) = &home.namespace {
            leave(&mut self.by_namespace, namespace);
        }
        for profile in home.profiles.iter().flatten() {
            leave(&mut self.by_profile, profile);
        }
    }
}

impl Item {
    pub(crate) fn of_workload(endpoint: &WorkloadEndpoint) -> Self {
        let home = Home {
            namespace: Some(endpoint.key.namespace.clone()),
            service_account: endpoint.service_account.clone(),
            orchestrator: Some(endpoint.orchestrator.clone().unwrap_or_else(|| "k8s".to_owned())),
            profiles: endpoint.profiles.clone(),
            name: None,
        };
        Self {
            home: Arc::new(home),
            labels: Arc::new(endpoint.labels.clone()),
            nets: endpoint.addresses.iter().map(|address| Prefix::host(*address)).collect(),
            ports: endpoint.ports.clone().into(),
        }
    }

    pub(crate) fn of_host(endpoint: &HostEndpoint) -> Self {
        let home = Home {
            namespace: None,
            service_account: None,
            orchestrator: None,
            profiles: Some(endpoint.profiles.clone()),
            name: None,
        };
        Self {
            home: Arc::new(home),
            labels: Arc::new(endpoint.labels.clone()),
            nets: endpoint.addresses.iter().map(|address| Prefix::host(*address)).collect(),
            ports: endpoint.ports.clone().into(),
        }
    }

    pub(crate) fn of_network_set(set: &NetworkSet) -> Self {
        let home = Home {
            namespace: set.key.namespace.clone(),
            service_account: None,
            orchestrator: None,
            profiles: Some(Vec::new()),
            name: Some(set.key.name.clone()),
        };
        Self {
            home: Arc::new(home),
            labels: Arc::new(set.labels.clone()),
            nets: set.nets.iter().copied().collect(),
            ports: Arc::new([]),
        }
    }
}

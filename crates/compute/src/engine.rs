//! The fast meaning: one event costs what it changes, whatever the host holds.
//!
//! Held against [`crate::desired`] after every event of random sequences (tests/engine.rs).

use crate::oracle::{
    about_address, about_endpoint, announced, guarded, indirect, policy_settings, put_address, put_link,
};
use crate::policy::{Out, Policies};
use crate::snapshot::Reach;
use crate::{Changes, Desired, Event, Finding, Route, Snapshot, Source, Sysctl, desired, link, peers};
use lasthop_model::{EndpointKey, NodeName, Settings, WorkloadEndpoint};
use lasthop_net::{IfName, Prefix};
use lasthop_policy::world::Interfaces;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Keeps [`Desired`] up to date, event by event, and remembers which keys an event touched.
#[derive(Debug)]
pub struct Engine {
    node: NodeName,
    snapshot: Snapshot,
    settings: Settings,
    desired: Desired,
    changes: Changes,
    policies: Policies,
    /// Endpoints by the link they ask for: the first by name has it.
    by_link: BTreeMap<IfName, BTreeSet<EndpointKey>>,
    /// Endpoints that have their link, by the addresses they ask for: the first by name has it.
    by_address: BTreeMap<IpAddr, BTreeSet<EndpointKey>>,
}

impl Engine {
    /// An engine for `node` that knows nothing yet. The guard is wanted from the first moment.
    #[must_use]
    pub fn new(node: NodeName) -> Self {
        let mut engine = Self {
            policies: Policies::new(node.clone()),
            node,
            snapshot: Snapshot::default(),
            settings: Settings::default(),
            desired: Desired::default(),
            changes: Changes::default(),
            by_link: BTreeMap::new(),
            by_address: BTreeMap::new(),
        };
        engine.rebuild();
        engine
    }

    /// Takes in an event.
    pub fn apply(&mut self, event: Event) {
        let about = match &event {
            Event::Put(key, _) | Event::Gone(key) | Event::Invalid { key, .. } => Some(key.clone()),
            Event::Learned { .. } | Event::Blocks(_) | Event::Secret { .. } => None,
        };
        let mut out = Out { policy: &mut self.desired.policy, changes: &mut self.changes.policy };
        match &event {
            Event::Put(key, resource) => self.policies.put(key, resource, &mut out),
            Event::Invalid { key, stand_in: Some(resource), .. } => self.policies.put(key, resource, &mut out),
            Event::Gone(key) | Event::Invalid { key, .. } => self.policies.remove(key, &mut out),
            Event::Learned { .. } | Event::Blocks(_) | Event::Secret { .. } => {}
        }
        match self.snapshot.take(&self.node, event) {
            Reach::Nothing => {}
            Reach::Endpoint { key, before } => {
                self.endpoint_changed(&key, before.as_ref());
                if self.snapshot.has_workload_peers() {
                    self.refresh_bgp();
                }
            }
            Reach::Route(prefix) => self.refresh_route(prefix),
            Reach::Bgp => self.refresh_bgp(),
            Reach::Everything => self.rebuild(),
        }
        if let Some(key) = about {
            let about = key.to_string();
            if let Some(reason) = self.snapshot.invalid.get(&key) {
                self.desired.findings.insert(about, Finding::Invalid { reason: reason.clone() });
            } else if let Some(Finding::Invalid { .. }) = self.desired.findings.get(&about) {
                self.desired.findings.remove(&about);
            }
        }
    }

    /// What the host ought to hold now.
    #[must_use]
    pub fn desired(&self) -> &Desired {
        &self.desired
    }

    /// What is known now.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Whether a host endpoint of this host is found by address, so that [`Self::set_interfaces`] matters.
    #[must_use]
    pub fn needs_interfaces(&self) -> bool {
        self.policies.needs_interfaces()
    }

    /// The host's own interfaces, that is, all but workloads' links, and their addresses are as given.
    pub fn set_interfaces(&mut self, interfaces: Interfaces) {
        let mut out = Out { policy: &mut self.desired.policy, changes: &mut self.changes.policy };
        self.policies.set_interfaces(interfaces, &mut out);
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The keys touched since this was last asked.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    fn endpoint_changed(&mut self, key: &EndpointKey, before: Option<&WorkloadEndpoint>) {
        let after = self.snapshot.endpoints.get(key).cloned();
        if before == after.as_ref() {
            return;
        }
        self.desired.findings.remove(&about_endpoint(key));
        let links: BTreeSet<IfName> = before.into_iter().chain(&after).map(|e| e.link.clone()).collect();
        let mut addresses: BTreeSet<IpAddr> =
            before.into_iter().chain(&after).flat_map(|e| e.addresses.iter().copied()).collect();
        for address in before.iter().flat_map(|e| &e.addresses) {
            self.unclaim(*address, key);
        }
        if let Some(before) = before {
            leave(&mut self.by_link, &before.link, key);
        }
        if let Some(after) = &after {
            self.by_link.entry(after.link.clone()).or_default().insert(key.clone());
        }
        for link in &links {
            addresses.extend(self.refresh_link(link));
        }
        for address in addresses {
            self.refresh_address(address);
        }
    }

    /// Gives a link to the first of those that ask for it, and returns the addresses that this may move.
    fn refresh_link(&mut self, link: &IfName) -> BTreeSet<IpAddr> {
        self.forget_link(link);
        let mut moved = BTreeSet::new();
        let mut owner: Option<EndpointKey> = None;
        for key in self.by_link.get(link).cloned().unwrap_or_default() {
            let Some(endpoint) = self.snapshot.endpoints.get(&key).cloned() else { continue };
            moved.extend(endpoint.addresses.iter().copied());
            for &address in &endpoint.addresses {
                self.unclaim(address, &key);
            }
            let about = about_endpoint(&key);
            match (guarded(&endpoint, &self.settings), &owner) {
                (Err(finding), _) => {
                    self.desired.findings.insert(about, finding);
                }
                (Ok(()), Some(by)) => {
                    self.desired.findings.insert(about, Finding::LinkTaken { link: link.clone(), by: by.clone() });
                }
                (Ok(()), None) => {
                    self.desired.findings.remove(&about);
                    put_link(&mut self.desired, &endpoint, &self.settings);
                    for &address in &endpoint.addresses {
                        self.by_address.entry(address).or_default().insert(key.clone());
                    }
                    self.note_link(link, &endpoint);
                    owner = Some(key);
                }
            }
        }
        self.guard(link, owner.as_ref());
        moved
    }

    /// The policy of a link is that of the endpoint that has it.
    fn guard(&mut self, link: &IfName, owner: Option<&EndpointKey>) {
        let mut out = Out { policy: &mut self.desired.policy, changes: &mut self.changes.policy };
        self.policies.set_link(link, owner, &mut out);
    }

    /// Takes away what a link had, but for what goes with its addresses.
    fn forget_link(&mut self, link: &IfName) {
        if self.desired.links.remove(link).is_none() {
            return;
        }
        self.changes.links.insert(link.clone());
        for sysctl in sysctl_keys(link) {
            self.desired.sysctls.remove(&sysctl);
            self.changes.sysctls.insert(sysctl);
        }
        let lowest = Source { link: link.clone(), prefix: Prefix::default_route(lasthop_net::Family::V4) };
        let of_link = |source: &&Source| source.link == *link;
        let sources: Vec<Source> = self.desired.sources.range(lowest..).take_while(of_link).cloned().collect();
        for source in sources {
            self.desired.sources.remove(&source);
            self.changes.sources.insert(source);
        }
    }

    fn note_link(&mut self, link: &IfName, endpoint: &WorkloadEndpoint) {
        self.changes.links.insert(link.clone());
        self.changes.sysctls.extend(sysctl_keys(link));
        let allowed = endpoint.allowed_sources.iter();
        self.changes.sources.extend(allowed.map(|&prefix| Source { link: link.clone(), prefix }));
    }

    fn unclaim(&mut self, address: IpAddr, key: &EndpointKey) {
        leave(&mut self.by_address, &address, key);
        self.desired.findings.remove(&about_address(key, address));
    }

    /// Gives an address to the first of those that have their link and ask for it.
    fn refresh_address(&mut self, address: IpAddr) {
        let prefix = Prefix::host(address);
        if let Some(Route::Direct { link }) = self.desired.routes.get(&prefix) {
            let link = link.clone();
            let source = Source { link: link.clone(), prefix };
            let neighbour = (link, address);
            if !self.allowed_anyway(&source) {
                self.desired.sources.remove(&source);
            }
            self.desired.neighbours.remove(&neighbour);
            self.desired.routes.remove(&prefix);
            self.changes.sources.insert(source);
            self.changes.neighbours.insert(neighbour);
        }
        let claims = self.by_address.get(&address).cloned().unwrap_or_default();
        if let Some(endpoint) = claims.first().and_then(|key| self.snapshot.endpoints.get(key)) {
            put_address(&mut self.desired, endpoint, address);
            self.changes.sources.insert(Source { link: endpoint.link.clone(), prefix });
            self.changes.neighbours.insert((endpoint.link.clone(), address));
        }
        let mut owner: Option<&EndpointKey> = None;
        for key in &claims {
            let about = about_address(key, address);
            match owner {
                None => {
                    self.desired.findings.remove(&about);
                    owner = Some(key);
                }
                Some(by) => {
                    self.desired.findings.insert(about, Finding::AddressTaken { address, by: by.clone() });
                }
            }
        }
        self.refresh_route(prefix);
    }

    /// Whether a source is allowed on its link by the endpoint's list, whoever has the address.
    fn allowed_anyway(&self, source: &Source) -> bool {
        let owner = self.desired.links.get(&source.link).and_then(|l| self.snapshot.endpoints.get(&l.endpoint));
        self.settings.source_spoofing == lasthop_model::SourceSpoofing::Any
            && owner.is_some_and(|owner| owner.allowed_sources.contains(&source.prefix))
    }

    fn refresh_route(&mut self, prefix: Prefix) {
        let direct = matches!(self.desired.routes.get(&prefix), Some(Route::Direct { .. }));
        let indirect = indirect(&self.snapshot, (&self.settings, &self.desired.gateways), prefix);
        self.desired.elsewhere.remove(&prefix);
        match (direct, indirect) {
            (true, Some(route)) => drop(self.desired.elsewhere.insert(prefix, route)),
            (true, None) => {}
            (false, Some(route)) => drop(self.desired.routes.insert(prefix, route)),
            (false, None) => drop(self.desired.routes.remove(&prefix)),
        }
        self.changes.routes.insert(prefix);
        let known = self.desired.advertise.contains(&prefix);
        if announced(&self.snapshot, prefix, direct.then_some(prefix)) {
            self.desired.advertise.insert(prefix);
            self.changes.advertise.insert(prefix);
        } else if known {
            self.desired.advertise.remove(&prefix);
            self.changes.advertise.insert(prefix);
        }
    }

    fn refresh_bgp(&mut self) {
        let of_bgp = |finding: &Finding| matches!(finding, Finding::NodeUnknown | Finding::PeerUnusable { .. });
        self.desired.findings.retain(|_, finding| !of_bgp(finding));
        let Desired { routes, findings, .. } = &mut self.desired;
        self.desired.bgp = peers::intent(&self.snapshot, &self.node, (routes, findings));
        self.changes.bgp = true;
    }

    /// Starts over from the plain meaning: for what is rare and reaches everything (settings, pools).
    fn rebuild(&mut self) {
        self.settings = self.snapshot.settings(&self.node);
        let policy = std::mem::take(&mut self.desired.policy);
        let before = std::mem::replace(&mut self.desired, desired(&self.snapshot, &self.node));
        self.desired.policy = policy_settings(policy, &self.settings);
        let links: BTreeSet<IfName> = before.links.keys().chain(self.desired.links.keys()).cloned().collect();
        for link in links {
            let owner = self.desired.links.get(&link).map(|link| link.endpoint.clone());
            self.guard(&link, owner.as_ref());
        }
        self.by_link.clear();
        self.by_address.clear();
        for (key, endpoint) in &self.snapshot.endpoints {
            self.by_link.entry(endpoint.link.clone()).or_default().insert(key.clone());
            if self.desired.links.get(&endpoint.link).is_some_and(|link| link.endpoint == *key) {
                for &address in &endpoint.addresses {
                    self.by_address.entry(address).or_default().insert(key.clone());
                }
            }
        }
        let after = &self.desired;
        let changes = &mut self.changes;
        changed(&mut changes.links, &before.links, &after.links);
        changed(&mut changes.routes, &before.routes, &after.routes);
        changed(&mut changes.routes, &before.elsewhere, &after.elsewhere);
        changed(&mut changes.neighbours, &before.neighbours, &after.neighbours);
        changed(&mut changes.sysctls, &before.sysctls, &after.sysctls);
        changes.sources.extend(before.sources.symmetric_difference(&after.sources).cloned());
        changes.advertise.extend(before.advertise.symmetric_difference(&after.advertise).copied());
        if before.metric != after.metric {
            changes.routes.extend(after.routes.keys());
        }
        changes.skeleton = true;
        changes.bgp = true;
        changes.policy.host = true;
    }
}

fn sysctl_keys(link: &IfName) -> impl Iterator<Item = Sysctl> {
    link::link_sysctls(link).into_iter().map(|(key, _)| key)
}

fn leave<K: Ord>(index: &mut BTreeMap<K, BTreeSet<EndpointKey>>, at: &K, key: &EndpointKey) {
    if let Some(keys) = index.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(at);
        }
    }
}

fn changed<K: Ord + Clone, V: PartialEq>(keys: &mut BTreeSet<K>, before: &BTreeMap<K, V>, after: &BTreeMap<K, V>) {
    keys.extend(before.iter().filter(|(k, v)| after.get(k) != Some(v)).map(|(k, _)| k.clone()));
    keys.extend(after.keys().filter(|k| !before.contains_key(k)).cloned());
}

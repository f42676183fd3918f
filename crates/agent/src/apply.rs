//! One cycle: the kernel and the speaker are made to agree with what compute says, in the one safe order.
//!
//! Coming: guard and sets → anti-spoofing → sysctls → neighbour → link up → route → acknowledged → advertised.
//! Going: withdrawn → route → link → neighbour → anti-spoofing. Never announced before it works, never taken
//! away before it is withdrawn ([`crate::withdraw`]). A failing key never stops the others; it is looked at again in the next cycle.

use crate::api::Drift;
use crate::run::{Agent, DRIFT_KEPT, Known, Look};
use lasthop_compute::{Changes, Event, Route};
use lasthop_kernel::iptables::Backend;
use lasthop_kernel::nft::{PolicyKey, PolicyScope, Repair, Repaired};
use lasthop_kernel::reconcile::{Outcome, Pending, Scope};
use lasthop_kernel::{Dataplane, KernelEvent};
use lasthop_model::{self as model, IptablesBackend};
use lasthop_net::{IfName, Prefix};
use lasthop_policy::ir::PolicyChanges;
use lasthop_policy::world::Interfaces;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

/// From so many links on, it pays to look for a group of links to delete them by.
const TOGETHER: usize = 4;

/// The keys of one table in this cycle.
fn scope<'a, K>(everything: bool, keys: &'a BTreeSet<K>) -> Scope<'a, K> {
    if everything { Scope::All } else { Scope::Keys(keys) }
}

fn policy_scope(everything: bool, changes: &PolicyChanges) -> PolicyScope<'_> {
    if everything { PolicyScope::All } else { PolicyScope::Changed(changes) }
}

impl Agent {
    /// Makes the kernel and the speaker agree with what is desired now.
    pub(crate) fn cycle(&mut self) {
        if self.stopping {
            return;
        }
        self.choose_dataplane();
        self.survey();
        self.read_secrets();
        let mut changes = self.engine.take_changes();
        let mut everything = false;
        match std::mem::take(&mut self.look) {
            Look::At(more) => add(&mut changes, more),
            Look::Everything => everything = true,
            Look::Again => {
                everything = true;
                if let Err(error) = self.kernel.read_back() {
                    tracing::error!(%error, "cannot read the kernel back");
                    self.look = Look::Again;
                    return;
                }
                self.adopt_learned();
                add(&mut changes, self.engine.take_changes());
            }
        }
        if self.known == Known::Nothing || self.hold_until.is_some() {
            // Nothing is known, or it may be out of date: only the guard is put up, nothing is taken away.
            self.guard();
            if everything {
                self.look = Look::Everything;
            }
            return;
        }
        self.withdraw(&changes.advertise);
        self.forget_reasons(&changes, everything);
        self.take_routes_away(&changes, everything);
        self.turn_routes(&changes);
        self.take_links_away();
        let routes = self.put(&changes, everything);
        self.tell(&changes, &routes);
    }

    /// What carries guard and policy is a setting. The other one goes once this one is whole.
    fn choose_dataplane(&mut self) {
        let settings = self.engine.settings();
        let wanted = match (settings.dataplane, settings.iptables_backend) {
            (model::Dataplane::Auto | model::Dataplane::Nftables, _) => Dataplane::Nft,
            (model::Dataplane::Iptables, IptablesBackend::Auto) => Dataplane::Iptables(Backend::Auto),
            (model::Dataplane::Iptables, IptablesBackend::Legacy) => Dataplane::Iptables(Backend::Legacy),
            (model::Dataplane::Iptables, IptablesBackend::Nft) => Dataplane::Iptables(Backend::Nft),
        };
        if self.known == Known::Nothing || wanted == self.dataplane {
            return;
        }
        match self.kernel.use_dataplane(wanted) {
            Ok(()) => {
                self.dataplane = wanted;
                self.pending.remove("dataplane");
                if !matches!(self.look, Look::Again) {
                    self.look = Look::Everything;
                }
            }
            Err(error) => {
                tracing::error!(%error, "policy stays with what carried it");
                self.rollouts.refused.insert("dataplane".to_owned());
                self.pending.insert("dataplane".to_owned(), error.to_string());
            }
        }
    }

    /// Host endpoints that are found by address need to know the host's own interfaces. Looked at when links change, and
    /// whenever everything is.
    fn survey(&mut self) {
        let again = matches!(self.look, Look::Everything | Look::Again);
        if self.engine.needs_interfaces() && (again || std::mem::take(&mut self.links_changed)) {
            let interfaces = self.own_interfaces();
            self.engine.set_interfaces(interfaces);
        }
    }

    /// The host's own interfaces, that is, those that are no workload's, and their addresses.
    pub(crate) fn own_interfaces(&mut self) -> Interfaces {
        let prefixes = &self.engine.desired().guard.link_prefixes;
        let own = |name: &IfName| !prefixes.iter().any(|prefix| name.as_str().starts_with(prefix.as_str()));
        let names: Vec<IfName> = self.kernel.links().iter().map(|link| link.name.clone()).filter(own).collect();
        let mut interfaces = Interfaces::new();
        for name in names {
            match lasthop_kernel::link::addresses(&mut self.socket, &name) {
                Ok(specs) => drop(interfaces.insert(name, specs.into_iter().map(|spec| spec.address).collect())),
                Err(error) => tracing::debug!(%name, %error, "an interface went while it was looked at"),
            }
        }
        interfaces
    }

    /// What is looked at in this cycle is told anew; other reasons stand until their object is in force.
    fn forget_reasons(&mut self, changes: &Changes, everything: bool) {
        if everything {
            self.pending.clear();
            self.rollouts.refused.clear();
            self.yielding.clear();
        }
        if !self.yielding.is_empty() {
            self.yielding.retain(|prefix, _| !changes.routes.contains(prefix));
        }
        if self.pending.is_empty() {
            return;
        }
        let links = changes.links.iter().map(|link| format!("link {link}"));
        let guarded = changes.policy.workloads.iter().chain(&changes.links).map(|link| format!("policy {link}"));
        let routes = changes.routes.iter().map(|prefix| format!("route {prefix}"));
        let neighbours = changes.neighbours.iter().map(|(link, address)| format!("neighbour {address} on {link}"));
        let sysctls = changes.sysctls.iter().map(|key| format!("sysctl {key}"));
        let sources = changes.sources.iter().map(|source| format!("source {} on {}", source.prefix, source.link));
        for object in links.chain(guarded).chain(routes).chain(neighbours).chain(sysctls).chain(sources) {
            self.pending.remove(&object);
        }
    }

    fn guard(&mut self) {
        if !self.kernel.is_guarded() {
            let outcome = self.kernel.sync_skeleton(self.engine.desired());
            self.count("guard", &outcome, ToString::to_string);
        }
    }

    /// After a start the kernel's learned routes stand for what the speaker has yet to tell.
    fn adopt_learned(&mut self) {
        if self.voice.is_silent() || self.voice.is_in_sync() {
            return;
        }
        for (prefix, next_hops) in self.kernel.learned_routes() {
            if !self.engine.snapshot().learned.contains_key(&prefix) {
                self.stale.insert(prefix);
                self.engine.apply(Event::Learned { prefix, next_hops });
            }
        }
    }

    /// Routes that are not wanted any more go before anything that they rest on.
    fn take_routes_away(&mut self, changes: &Changes, everything: bool) {
        let wanted = &self.engine.desired().routes;
        let going: BTreeSet<Prefix> = changes.routes.iter().filter(|p| !wanted.contains_key(p)).copied().collect();
        if everything || !going.is_empty() {
            let outcome = self.kernel.remove_routes(self.engine.desired(), scope(everything, &going));
            self.acknowledge(&outcome);
            self.count("route", &outcome, ToString::to_string);
        }
    }

    /// What another host has too leads there before its link here goes, which would take the route with it.
    fn turn_routes(&mut self, changes: &Changes) {
        if self.leaving.is_empty() || !self.kernel.is_guarded() {
            return;
        }
        let wanted = &self.engine.desired().routes;
        let remote = |prefix: &&Prefix| matches!(wanted.get(*prefix), Some(Route::Remote { .. }));
        let turning: BTreeSet<Prefix> = changes.routes.iter().filter(remote).copied().collect();
        if !turning.is_empty() {
            let outcome = self.kernel.sync_routes(self.engine.desired(), Scope::Keys(&turning));
            self.acknowledge(&outcome);
            self.count("route", &outcome, ToString::to_string);
        }
    }

    /// Links that we made for workloads that are gone, and the records that were kept for their sake.
    fn take_links_away(&mut self) {
        let wanted = &self.engine.desired().links;
        let going: Vec<IfName> = self.leaving.keys().filter(|link| !wanted.contains_key(*link)).cloned().collect();
        if going.len() >= TOGETHER
            && let Err(error) = lasthop_kernel::link::delete_together(&mut self.socket, &going)
        {
            tracing::warn!(%error, "links do not go together; they go one by one");
        }
        for (link, forget) in std::mem::take(&mut self.leaving) {
            if self.engine.desired().links.contains_key(&link) {
                if self.is_departing(&link) {
                    self.leaving.insert(link, forget);
                }
                continue;
            }
            match lasthop_kernel::link::delete(&mut self.socket, &link) {
                Ok(_) => {
                    self.pending.remove(&format!("link {link}"));
                    if let Some(key) = forget.filter(|key| !self.engine.snapshot().endpoints.contains_key(key)) {
                        self.unrecord(&key);
                    }
                }
                Err(error) => {
                    self.pending.insert(format!("link {link}"), error.to_string());
                    self.leaving.insert(link, forget);
                }
            }
        }
    }

    fn put(&mut self, changes: &Changes, everything: bool) -> Outcome<Prefix> {
        let desired = self.engine.desired();
        if everything || changes.skeleton {
            let outcome = self.kernel.sync_skeleton(desired);
            self.count("guard", &outcome, ToString::to_string);
        }
        if !self.kernel.is_guarded() {
            // Without the guard nothing may be reachable; what is there already stays as it is. What this pass
            // was to look at is looked at once the guard is up.
            self.look = Look::Everything;
            return Outcome::default();
        }
        let mut closed = BTreeSet::new();
        let desired = self.engine.desired();
        let outcome = self.kernel.sync_sources(desired, scope(everything, &changes.sources));
        closed.extend(outcome.failed.keys().map(|source| source.link.clone()));
        self.count("source", &outcome, |source| format!("{} on {}", source.prefix, source.link));
        let desired = self.engine.desired();
        let outcome = self.kernel.sync_policy(desired, policy_scope(everything, &changes.policy));
        closed.extend(outcome.failed.keys().filter_map(|key| match key {
            PolicyKey::Link(link) => Some(link.clone()),
            _ => None,
        }));
        self.count("policy", &outcome, policy_part);
        self.tell_repairs();
        self.revoke(&changes.policy);
        let desired = self.engine.desired();
        let mut outcome = self.kernel.sync_sysctls(desired, scope(everything, &changes.sysctls));
        // That a link is absent is said once, of the link.
        outcome.pending.retain(|_, why| !matches!(why, Pending::LinkAbsent(_)));
        self.count("sysctl", &outcome, ToString::to_string);
        let desired = self.engine.desired();
        let outcome = self.kernel.sync_links(desired, scope(everything, &changes.links));
        closed.extend(outcome.failed.keys().cloned());
        self.count("link", &outcome, ToString::to_string);
        let desired = self.engine.desired();
        let outcome = self.kernel.sync_neighbours(desired, scope(everything, &changes.neighbours));
        self.count("neighbour", &outcome, |(link, address)| format!("{address} on {link}"));
        let desired = self.engine.desired();
        let mut outcome = self.kernel.sync_routes(desired, scope(everything, &changes.routes));
        self.hold_back(&closed, &mut outcome);
        self.acknowledge(&outcome);
        self.count("route", &outcome, ToString::to_string);
        outcome
    }

    /// Says what of policy somebody else has changed, in the policy's words. The change itself is counted when it is noticed.
    fn tell_repairs(&mut self) {
        for Repair { of, what } in self.kernel.take_repairs() {
            let links = &self.engine.desired().links;
            let object = match &of {
                Repaired::Link(name) => match links.get(name) {
                    Some(link) => format!("policy of {} on link {name}", link.endpoint),
                    None => of.to_string(),
                },
                Repaired::Part(words) => words.clone(),
            };
            tracing::warn!(object, what, "policy changed by another program");
            self.remember(object, what);
        }
    }

    fn remember(&mut self, object: String, action: String) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        self.drift.push_back(Drift { at, object, action });
        while self.drift.len() > DRIFT_KEPT {
            self.drift.pop_front();
        }
    }

    /// A route does not count before what stands between its link and the world is in force.
    fn hold_back(&mut self, closed: &BTreeSet<IfName>, routes: &mut Outcome<Prefix>) {
        for (prefix, link) in premature(closed, routes, &self.programmed, &self.engine.desired().routes) {
            routes.done.remove(&prefix);
            self.pending.insert(format!("route {prefix}"), format!("the policy of link {link} is not in force"));
            if let Look::At(changes) = &mut self.look {
                changes.routes.insert(prefix);
            }
        }
    }

    /// Remembers which routes are in force.
    fn acknowledge(&mut self, outcome: &Outcome<Prefix>) {
        self.programmed.extend(outcome.done.iter().copied());
        let not_ours = outcome.pending.keys().chain(outcome.yielding.keys());
        for prefix in outcome.removed.iter().chain(outcome.failed.keys()).chain(not_ours) {
            self.programmed.remove(prefix);
        }
        if !self.yielding.is_empty() {
            self.yielding.retain(|prefix, _| !outcome.done.contains(prefix));
        }
        self.yielding.extend(&outcome.yielding);
    }

    fn count<K: Ord>(&mut self, table: &str, outcome: &Outcome<K>, name: impl Fn(&K) -> String) {
        self.writes += outcome.writes as u64;
        self.refusals += outcome.failed.len() as u64;
        if !self.pending.is_empty() {
            for key in outcome.done.iter().chain(&outcome.removed) {
                self.pending.remove(&format!("{table} {}", name(key)));
            }
        }
        for (key, error) in &outcome.failed {
            tracing::warn!(object = format!("{table} {}", name(key)), %error, "the kernel refused");
            let object = format!("{table} {}", name(key));
            self.rollouts.refused.insert(object.clone());
            self.pending.insert(object, error.to_string());
        }
        for (key, why) in &outcome.pending {
            let object = format!("{table} {}", name(key));
            self.rollouts.refused.remove(&object);
            self.pending.insert(object, why.to_string());
        }
    }

    /// Tells the speaker who we are, and what the kernel has acknowledged; withdraws what it has lost.
    fn tell(&mut self, changes: &Changes, routes: &Outcome<Prefix>) {
        let desired = self.engine.desired();
        if let Some(bgp) = desired.bgp.as_ref().filter(|_| changes.bgp || self.voice.is_new()) {
            self.voice.configure(bgp);
        }
        let departing = self.departing();
        let works = |prefix: &Prefix| {
            desired.advertise.contains(prefix) && self.programmed.contains(prefix) && !departing.contains(prefix)
        };
        if self.voice.is_new() {
            self.voice.advertise(desired.advertise.iter(), works);
            self.voice.complete();
        } else {
            let touched = routes.done.iter().chain(&routes.removed).chain(routes.failed.keys());
            self.voice.advertise(touched.chain(routes.pending.keys()).chain(&changes.advertise), works);
        }
    }

    /// Takes in what happened in the kernel.
    pub(crate) fn notice(&mut self) {
        for event in self.kernel.drain_events() {
            match event {
                KernelEvent::Overrun => self.look = Look::Again,
                KernelEvent::Link { .. } => self.links_changed = true,
                _ => {}
            }
            let mut more = Changes::default();
            self.concerns(&event, &mut more);
            if let Some(object) = event.drift() {
                tracing::warn!(object, "changed by another program; put right");
                self.drift_repaired += 1;
                self.remember(object, "put right".to_owned());
            }
            if let Look::At(changes) = &mut self.look {
                add(changes, more);
            }
        }
    }

    /// Which keys an event in the kernel makes doubtful.
    fn concerns(&self, event: &KernelEvent, more: &mut Changes) {
        match event {
            KernelEvent::Link { name, .. } => self.link_concerns(name, more),
            KernelEvent::Route(prefix) => {
                more.routes.insert(*prefix);
            }
            KernelEvent::Neighbour(link, address) => {
                more.neighbours.insert((link.clone(), *address));
            }
            KernelEvent::Nft | KernelEvent::Iptables => more.skeleton = true,
            _ => {}
        }
    }

    /// All that hangs on a link.
    fn link_concerns(&self, link: &IfName, more: &mut Changes) {
        let desired = self.engine.desired();
        let Some(owner) = desired.links.get(link) else { return };
        more.links.insert(link.clone());
        let sysctls = lasthop_compute::link_sysctls(link);
        more.sysctls.extend(sysctls.into_iter().map(|(key, _)| key));
        let Some(endpoint) = self.engine.snapshot().endpoints.get(&owner.endpoint) else { return };
        for &address in &endpoint.addresses {
            let prefix = Prefix::host(address);
            if desired.routes.get(&prefix) == Some(&Route::Direct { link: link.clone() }) {
                more.routes.insert(prefix);
                more.neighbours.insert((link.clone(), address));
            }
        }
    }
}

/// What a part of policy is called among what is not in force.
fn policy_part(key: &PolicyKey) -> String {
    match key {
        PolicyKey::Link(link) => link.to_string(),
        PolicyKey::Set(id) => format!("set {}", id.0),
        PolicyKey::Stack(id) => format!("stack {}", id.0),
        PolicyKey::Part(name) => name.clone(),
        PolicyKey::Hosts => "host endpoints".to_owned(),
    }
}

/// The routes that are new, and lead to a link of which not all is in force.
fn premature(
    closed: &BTreeSet<IfName>,
    routes: &Outcome<Prefix>,
    programmed: &BTreeSet<Prefix>,
    wanted: &BTreeMap<Prefix, Route>,
) -> Vec<(Prefix, IfName)> {
    if closed.is_empty() {
        return Vec::new();
    }
    let link = |prefix: &Prefix| match wanted.get(prefix) {
        Some(Route::Direct { link }) if closed.contains(link) => Some((*prefix, link.clone())),
        _ => None,
    };
    routes.done.iter().filter(|prefix| !programmed.contains(prefix)).filter_map(link).collect()
}

fn add(changes: &mut Changes, more: Changes) {
    changes.links.extend(more.links);
    changes.routes.extend(more.routes);
    changes.neighbours.extend(more.neighbours);
    changes.sysctls.extend(more.sysctls);
    changes.sources.extend(more.sources);
    changes.skeleton |= more.skeleton;
    changes.bgp |= more.bgp;
    changes.advertise.extend(more.advertise);
    changes.policy.add(more.policy);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_held_back_while_its_link_is_closed_unless_it_works_already() {
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        let link = |text: &str| text.parse::<IfName>().unwrap();
        let wanted = BTreeMap::from([
            (prefix("10.65.0.1/32"), Route::Direct { link: link("lh1") }),
            (prefix("10.65.0.2/32"), Route::Direct { link: link("lh2") }),
            (prefix("fd65::2/128"), Route::Direct { link: link("lh2") }),
            (prefix("10.65.0.3/32"), Route::Direct { link: link("lh2") }),
        ]);
        let routes = Outcome { done: wanted.keys().copied().collect(), ..Outcome::default() };
        let programmed = BTreeSet::from([prefix("10.65.0.3/32")]);
        let held = |closed: &[&str]| {
            let closed = closed.iter().map(|name| link(name)).collect();
            let held = premature(&closed, &routes, &programmed, &wanted).into_iter();
            held.map(|(prefix, link)| format!("{prefix} {link}")).collect::<Vec<_>>()
        };
        assert_eq!(held(&[]), [""; 0]);
        assert_eq!(held(&["lh2"]), ["10.65.0.2/32 lh2", "fd65::2/128 lh2"]);
    }
}

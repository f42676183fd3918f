//! All of one network namespace: what is ours in it, made to agree with what is desired, and what others do to it.
//!
//! The caller keeps the order of the passes: guard and sources, settings, links (whose new MAC costs them their
//! neighbours), neighbours, routes; the reverse when going.
//! A key that another program changed, that failed, or whose reason to wait has gone is looked at in the next pass of its
//! table whatever that pass's scope is, so after [`Kernel::drain_events`] passes over nothing put everything right.

mod events;
mod forget;
mod guard;
mod plane;
mod poll;
mod watch;

pub use events::KernelEvent;
pub use plane::Dataplane;

use crate::Error;
use crate::link::{Admin, LinkState, Links};
use crate::marks::{Mark, Marks};
use crate::neighbours::{Neighbour, Neighbours};
use crate::netlink::{Message, Protocol, Socket};
use crate::reconcile::{Outcome, Pending, Reconciler, Scope, Want};
use crate::routes::{NextHop, OwnRoute, RTM_DELNEXTHOP, RouteEntry, Routes, Shape};
use crate::settings::Settings;
use forget::Forgetter;
use guard::Guards;
use lasthop_compute::{Desired, Link, Route, Sysctl};
use lasthop_net::{IfName, NextHops, Prefix};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use watch::Watch;

/// How a [`Kernel`] works.
#[derive(Clone, Debug, Default)]
pub struct KernelConfig {
    /// File that records what settings were before we changed them, and beside it (`.links`) MACs; best under /run. `None`: known only while running.
    pub settings_record: Option<PathBuf>,
}

/// One network namespace.
#[derive(Debug)]
pub struct Kernel {
    watch: Watch,
    queue: VecDeque<KernelEvent>,
    socket: Socket,
    links: Links,
    marks: Reconciler<Marks>,
    neighbours: Reconciler<Neighbours>,
    settings: Reconciler<Settings>,
    routes: Routes,
    guards: Guards,
    /// On which link an address was last desired.
    owners: BTreeMap<Prefix, IfName>,
    forgetter: Forgetter,
    /// What waits for a link to come.
    waiting: BTreeMap<IfName, Waiting>,
    /// Routes may have gone without a word.
    reread_routes: bool,
}

/// What waits for a link.
#[derive(Debug, Default)]
struct Waiting {
    neighbours: BTreeSet<(IfName, IpAddr)>,
    settings: BTreeSet<Sysctl>,
}

/// The alias of an endpoint's link.
#[must_use]
pub fn alias(link: &Link) -> String {
    format!("{}{}", crate::link::ALIAS_PREFIX, link.endpoint)
}

impl Kernel {
    /// Opens the calling thread's network namespace. Listens from now on; reads and changes nothing.
    pub fn open(config: &KernelConfig) -> Result<Self, Error> {
        let mut socket = Socket::open(Protocol::Route)?;
        may_configure(&mut socket)?;
        let guards = Guards::open()?;
        let macs = config.settings_record.as_ref().map(|path| path.with_extension("links"));
        let mut watch = Watch::open(guards.watch())?;
        let neighbours = Neighbours::open()?;
        let routes = Routes::open()?;
        let [table, hops] = routes.ports();
        watch.ignore(&[table, hops, neighbours.port()])?;
        Ok(Self {
            watch,
            guards,
            owners: BTreeMap::new(),
            forgetter: Forgetter::new(),
            queue: VecDeque::new(),
            socket,
            links: Links::default(),
            marks: Reconciler::new(Marks::open(macs)?),
            neighbours: Reconciler::new(neighbours),
            settings: Reconciler::new(Settings::open(config.settings_record.as_deref())?),
            routes,
            waiting: BTreeMap::new(),
            reread_routes: false,
        })
    }

    /// Reads everything that is ours, and writes nothing. What is not as we knew it is told by [`Self::drain_events`] and
    /// put right by the next passes.
    pub fn read_back(&mut self) -> Result<(), Error> {
        let first = self.links.iter().next().is_none();
        self.take_in();
        let changes = self.links.read_back(&mut self.socket)?;
        if !first {
            changes.iter().for_each(|(name, change)| self.note_link(name, *change));
        }
        self.marks.read_back()?;
        let responders = self.guards.read_back()?;
        // An agent that died before it gave a link its alias has left a responder on it.
        let served =
            self.links.iter().filter(|link| self.marks.table_ref().is_ours(link) || self.guards.serves(&link.name));
        self.neighbours.table().links = served.map(|link| (link.index, link.name.clone())).collect();
        let neighbours = self.neighbours.read_back()?;
        let settings = self.settings.read_back()?;
        self.settings.table_ref().tidy()?;
        let routes = self.routes.read_back()?;
        if first {
            // Nothing was known, so nothing is news.
            self.queue.clear();
        } else {
            self.queue.extend(neighbours.into_iter().map(|(link, address)| KernelEvent::Neighbour(link, address)));
            self.queue.extend(settings.into_iter().map(KernelEvent::Setting));
            self.queue.extend(routes.into_iter().map(KernelEvent::Route));
            self.queue.extend(responders.into_iter().map(KernelEvent::Responder));
        }
        Ok(())
    }

    /// A file that is readable when there may be something for [`Self::drain_events`].
    pub fn events(&self) -> Result<OwnedFd, Error> {
        self.watch.file()
    }

    /// What happened since the last call, not counting our own doing. The keys concerned are looked at by the next passes.
    pub fn drain_events(&mut self) -> Vec<KernelEvent> {
        self.take_in();
        self.queue.drain(..).collect()
    }

    /// A link.
    #[must_use]
    pub fn link(&self, name: &IfName) -> Option<&LinkState> {
        self.links.get(name)
    }

    /// All links.
    #[must_use]
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Our routes as they are in place.
    #[must_use]
    pub fn routes(&self) -> &BTreeMap<Prefix, OwnRoute> {
        self.routes.actual()
    }

    /// Other programs' routes of the main table for a prefix.
    #[must_use]
    pub fn foreign_routes(&self, prefix: Prefix) -> &[RouteEntry] {
        self.routes.foreign(prefix)
    }

    /// Our learned routes as they are in place, with the gateways they lead through: what an earlier run left.
    #[must_use]
    pub fn learned_routes(&self) -> BTreeMap<Prefix, NextHops> {
        let objects = self.routes.next_hops();
        let gateway = |id: &u32| match objects.get(id) {
            Some(NextHop::Single(egress)) => Some(egress.next_hop()),
            _ => None,
        };
        let gateways = |id: &u32| match objects.get(id) {
            Some(NextHop::Group(members)) => members.iter().filter_map(gateway).collect(),
            _ => gateway(id).into_iter().collect::<NextHops>(),
        };
        let learned = self.routes.actual().iter().filter_map(|(prefix, route)| match route.shape {
            Shape::Via { next_hop } => Some((*prefix, gateways(&next_hop))),
            _ => None,
        });
        learned.filter(|(_, gateways)| !gateways.is_empty()).collect()
    }

    /// Hangs the responder on workload links, marks them, gives them their MAC and brings them up.
    pub fn sync_links(&mut self, desired: &Desired, scope: Scope<'_, IfName>) -> Outcome<IfName> {
        self.take_in();
        let mut keys = match scope {
            Scope::All => {
                let marks = self.marks.table_ref();
                let marked = self.links.iter().filter(|link| marks.is_ours(link)).map(|link| link.name.clone());
                desired.links.keys().cloned().chain(marked).chain(self.marks.actual().keys().cloned()).collect()
            }
            Scope::Keys(keys) => keys.clone(),
        };
        keys.append(&mut self.marks.take_due());
        let responders = self.guards.sync_responders(desired, &self.links, scope);
        for name in &keys {
            let marks = self.marks.table_ref();
            let ours = |link: &&LinkState| marks.is_ours(link) || desired.links.contains_key(name);
            let mark = self.links.get(name).filter(ours).map(|link| marks.of(link));
            self.marks.observe(name.clone(), mark);
        }
        let links = &self.links;
        let mut outcome = self.marks.sync_keys(keys, |name| {
            let Some(wanted) = desired.links.get(name) else { return Want::Nothing };
            let Some(link) = links.get(name) else { return Want::Pending(Pending::LinkAbsent(name.clone())) };
            Want::Value(Mark {
                link: link.index,
                alias: Some(alias(wanted)),
                mac: wanted.host_mac.or(link.mac),
                admin: Admin::Up,
            })
        });
        self.adopt_marks(&outcome);
        outcome.writes += responders.writes;
        for (name, error) in responders.failed {
            outcome.done.remove(&name);
            outcome.failed.entry(name).or_insert(error);
        }
        outcome
    }

    /// Whether [`Self::label_links`] has something to do.
    #[must_use]
    pub fn has_unlabelled(&self) -> bool {
        self.marks.table_ref().has_late()
    }

    /// Gives links their alias, or takes it away, where that costs more than a caller should wait for.
    pub fn label_links(&mut self) {
        for (name, error) in self.marks.table().label() {
            tracing::warn!(link = %name, %error, "no alias");
            self.marks.distrust(name);
        }
    }

    /// What was just written is known at once, not only when it is announced.
    fn adopt_marks(&mut self, outcome: &Outcome<IfName>) {
        for name in &outcome.done {
            let Some(mark) = self.marks.actual().get(name) else { continue };
            self.neighbours.table().links.insert(mark.link, name.clone());
            let before = self.links.set(name, mark);
            if before.as_ref().is_some_and(|link| link.mac != mark.mac) {
                // With another MAC a link loses its neighbour entries (neigh_changeaddr).
                self.forget_neighbours(name);
            }
            if before.is_some_and(|link| link.admin == Admin::Down) {
                self.link_usable(name);
            }
        }
        for name in &outcome.removed {
            self.links.unmark(name);
        }
    }

    /// Keeps permanent neighbour entries.
    pub fn sync_neighbours(
        &mut self,
        desired: &Desired,
        scope: Scope<'_, (IfName, IpAddr)>,
    ) -> Outcome<(IfName, IpAddr)> {
        self.take_in();
        let Self { neighbours, links, waiting, .. } = self;
        let want = |key: &(IfName, IpAddr)| {
            let Some(mac) = desired.neighbours.get(key) else { return Want::Nothing };
            match links.get(&key.0) {
                Some(link) => Want::Value(Neighbour { link: link.index, mac: *mac }),
                None => {
                    waiting.entry(key.0.clone()).or_default().neighbours.insert(key.clone());
                    Want::Pending(Pending::LinkAbsent(key.0.clone()))
                }
            }
        };
        match scope {
            Scope::All => neighbours.sync_all(desired.neighbours.keys().cloned().collect(), want),
            Scope::Keys(keys) => neighbours.sync_keys(keys.clone(), want),
        }
    }

    /// Keeps kernel settings.
    pub fn sync_sysctls(&mut self, desired: &Desired, scope: Scope<'_, Sysctl>) -> Outcome<Sysctl> {
        self.take_in();
        let mut keys: BTreeSet<Sysctl> = match scope {
            Scope::All => desired.sysctls.keys().chain(self.settings.actual().keys()).cloned().collect(),
            Scope::Keys(keys) => keys.clone(),
        };
        keys.append(&mut self.settings.take_due());
        let mut unreadable = BTreeMap::new();
        for key in &keys {
            if desired.sysctls.contains_key(key) && !self.settings.actual().contains_key(key) {
                match self.settings.table().keep(key) {
                    Ok(value) => {
                        self.settings.observe(key.clone(), value);
                    }
                    Err(error) => {
                        unreadable.insert(key.clone(), error);
                    }
                }
            }
        }
        keys.retain(|key| !unreadable.contains_key(key));
        let absent: BTreeSet<Sysctl> =
            keys.iter().filter(|key| !self.settings.actual().contains_key(key)).cloned().collect();
        let waiting = &mut self.waiting;
        let mut outcome = self.settings.sync_keys(keys, |key| {
            let Some(value) = desired.sysctls.get(key) else { return Want::Nothing };
            if !absent.contains(key) {
                return Want::Value(value.clone());
            }
            match key.link() {
                Some(link) => {
                    waiting.entry(link.clone()).or_default().settings.insert(key.clone());
                    Want::Pending(Pending::LinkAbsent(link))
                }
                None => Want::Pending(Pending::Unsupported),
            }
        });
        self.settings.recheck(unreadable.keys().cloned());
        outcome.failed.append(&mut unreadable);
        outcome
    }

    /// Keeps the main table. Connections of an address that leaves its workload link are forgotten.
    pub fn sync_routes(&mut self, desired: &Desired, scope: Scope<'_, Prefix>) -> Outcome<Prefix> {
        self.take_in();
        let arrives = |address: &IpAddr| matches!(desired.routes.get(&(*address).into()), Some(Route::Direct { .. }));
        let (moving, departed): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) =
            self.departed(desired, scope).into_iter().partition(&arrives);
        self.forgetter.forget(moving);
        self.forgetter.wait(arrives);
        let outcome = self.routes.sync(desired, &self.links, scope);
        self.forgetter.forget(departed);
        outcome
    }

    /// Takes away routes in scope that are no longer desired, and changes no other.
    pub fn remove_routes(&mut self, desired: &Desired, scope: Scope<'_, Prefix>) -> Outcome<Prefix> {
        self.take_in();
        let departed = self.departed(desired, scope);
        let outcome = self.routes.remove(desired, scope);
        self.forgetter.forget(departed);
        outcome
    }

    /// Waits until the connections of all departed addresses are forgotten.
    pub fn finish_forgetting(&self) {
        self.forgetter.wait(|_| true);
    }

    /// The addresses that leave the workload link they were on, by removal or for another link. Whoever gets them next must
    /// not inherit their connections.
    fn departed(&mut self, desired: &Desired, scope: Scope<'_, Prefix>) -> BTreeSet<IpAddr> {
        let new_owner = |prefix: &Prefix| match desired.routes.get(prefix) {
            Some(Route::Direct { link }) if prefix.is_host() => Some(link.clone()),
            _ => None,
        };
        let every: BTreeSet<Prefix>;
        let keys = match scope {
            Scope::All => {
                let wanted = desired.routes.iter().filter(|(_, route)| matches!(route, Route::Direct { .. }));
                let direct = |route: &OwnRoute| matches!(route.shape, Shape::Direct { .. });
                let actual = self.routes.actual().iter().filter(|(_, route)| direct(route));
                let either = wanted.map(|(prefix, _)| prefix).chain(actual.map(|(prefix, _)| prefix));
                every = either.chain(self.owners.keys()).copied().collect();
                &every
            }
            Scope::Keys(keys) => keys,
        };
        let mut departed = BTreeSet::new();
        for &prefix in keys {
            let left_behind = || match self.routes.actual().get(&prefix)?.shape {
                Shape::Direct { link } if prefix.is_host() => Some(self.links.name(link).cloned()),
                _ => None,
            };
            let before = self.owners.get(&prefix).map(|owner| Some(owner.clone())).or_else(left_behind);
            let after = new_owner(&prefix);
            if before.as_ref().is_some_and(|before| *before != after) {
                departed.insert(prefix.address());
            }
            match after {
                Some(owner) => drop(self.owners.insert(prefix, owner)),
                None if before.is_some() => drop(self.owners.remove(&prefix)),
                None => {}
            }
        }
        departed
    }

    /// Takes away all that is ours and puts settings back. What could not be is told.
    pub fn remove_all(&mut self) -> Result<(), Vec<String>> {
        let nothing = Desired::default();
        let mut left = Vec::new();
        if let Err(error) = self.read_back() {
            left.push(error.to_string());
        }
        let routes = self.sync_routes(&nothing, Scope::All);
        left.extend(routes.failed.into_iter().map(|(key, error)| format!("route {key}: {error}")));
        let neighbours = self.sync_neighbours(&nothing, Scope::All);
        left.extend(
            neighbours.failed.into_iter().map(|((link, key), error)| format!("neighbour {key} on {link}: {error}")),
        );
        let links = self.sync_links(&nothing, Scope::All);
        self.label_links();
        left.extend(links.failed.into_iter().map(|(key, error)| format!("link {key}: {error}")));
        if let Err(error) = self.remove_guard() {
            left.push(error.to_string());
        }
        let settings = self.sync_sysctls(&nothing, Scope::All);
        left.extend(settings.failed.into_iter().map(|(key, error)| format!("setting {key}: {error}")));
        for tidied in [self.settings.table_ref().tidy(), self.marks.table().tidy()] {
            left.extend(tidied.err().map(|error| error.to_string()));
        }
        if left.is_empty() { Ok(()) } else { Err(left) }
    }
}

/// Asks the kernel whether it would let us change anything: deletes a next hop object that is never there.
fn may_configure(socket: &mut Socket) -> Result<(), Error> {
    let mut request = Message::new(RTM_DELNEXTHOP, 0).fixed(&[0; 8]);
    request.put_u32(1, u32::MAX);
    match socket.request(&request, "see whether the network may be configured") {
        Err(error) if error.errno() == Some(Errno::EPERM) => Err(Error::NotPermitted),
        _ => Ok(()),
    }
}

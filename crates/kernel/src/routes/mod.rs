//! The main table: direct routes to workloads, learned ones through other hosts, and refusals.
//!
//! Follows net/ipv4/fib_trie.c, net/ipv6/ip6_fib.c and net/ipv4/nexthop.c:
//! * a direct route takes the place of whatever has its key; a learned one yields to another program's route of the prefix;
//! * a workload whose link is absent leaves its address to where else BGP says that it is;
//! * learned routes go through next hop objects, which exist before and go after the routes;
//! * a link that goes down, or loses its carrier, takes IPv4 routes and next hop objects with it *without a word*: what
//!   went is concluded from the link's announcement.

mod foreign;
mod listing;
mod message;
mod nexthop;
mod resolve;
mod sets;
mod table;

pub use listing::{ListedRoute, Way, main_table, protocol_name};
pub use message::{OwnRoute, RouteEntry, Shape, wire_metric};
#[cfg(test)]
pub(crate) use nexthop::parse as parse_next_hop;
pub use nexthop::{Egress, NextHop};
pub(crate) use nexthop::{RTM_DELNEXTHOP, RTM_NEWNEXTHOP};

use crate::Error;
use crate::link::{Admin, Links};
use crate::netlink::{Protocol, Received, Socket};
use crate::reconcile::{self, Outcome, Pending, Reconciler, Scope, Want};
use foreign::Foreign;
use lasthop_compute::{Desired, Route};
use lasthop_net::{IfIndex, IfName, Metric, Prefix, RouteProtocol, TableId};
use nexthop::NextHopTable;
use sets::{InPlace, Sets};
use std::collections::{BTreeMap, BTreeSet};
use table::RouteTable;

/// Keeps the main table as desired.
#[derive(Debug)]
pub(crate) struct Routes {
    table: Reconciler<RouteTable>,
    hops: Reconciler<NextHopTable>,
    foreign: Foreign,
    sets: Sets,
    /// Direct routes whose link is absent or down.
    waiting: BTreeMap<IfName, BTreeSet<Prefix>>,
    metric: Option<Metric>,
    /// Whether the ways to next hops must be looked up anew.
    stale: bool,
    /// Whether all routes have been gone through, so that an object without a known user has none.
    settled: bool,
}

impl Routes {
    pub(crate) fn open() -> Result<Self, Error> {
        Ok(Self {
            table: Reconciler::new(RouteTable::new(Socket::open(Protocol::Route)?)),
            hops: Reconciler::new(NextHopTable::new(Socket::open(Protocol::Route)?)),
            foreign: Foreign::default(),
            sets: Sets::default(),
            waiting: BTreeMap::new(),
            metric: None,
            stale: true,
            settled: false,
        })
    }

    /// Ports of the sockets that write.
    pub(crate) fn ports(&self) -> [u32; 2] {
        [self.table.table_ref().port(), self.hops.table_ref().port()]
    }

    /// Reads everything; the prefixes where something is not as we knew it.
    pub(crate) fn read_back(&mut self) -> Result<BTreeSet<Prefix>, Error> {
        let changed_hops = self.hops.read_back()?;
        let mut changed = self.table.read_back()?;
        changed.extend(changed_hops.into_iter().flat_map(|id| self.sets.users(id)));
        let extra: Vec<Prefix> = self.table.table_ref().extra.keys().copied().collect();
        for prefix in &extra {
            self.table.distrust(*prefix);
        }
        changed.extend(extra);
        let others = std::mem::take(&mut self.table.table().others);
        let news = self.foreign.reset(others);
        for prefix in &news {
            self.contest(*prefix);
        }
        self.table.recheck(news);
        self.stale = true;
        Ok(changed)
    }

    /// Someone else's route with the key of our direct one: it is not known which comes first, so ours is made anew.
    fn contest(&mut self, prefix: Prefix) {
        if let Some(OwnRoute { metric, shape: Shape::Direct { .. } }) = self.table.actual().get(&prefix).copied()
            && self.foreign.has_metric(prefix, metric)
        {
            self.table.table().unclear.insert(prefix);
            self.table.distrust(prefix);
        }
    }

    /// Our routes as we know them to be in place.
    pub(crate) fn actual(&self) -> &BTreeMap<Prefix, OwnRoute> {
        self.table.actual()
    }

    /// Our next hop objects as we know them to be in place.
    pub(crate) fn next_hops(&self) -> &BTreeMap<u32, NextHop> {
        self.hops.actual()
    }

    /// Other programs' routes for a prefix.
    pub(crate) fn foreign(&self, prefix: Prefix) -> &[RouteEntry] {
        self.foreign.at(prefix)
    }

    /// Makes the main table hold what is desired.
    pub(crate) fn sync(&mut self, desired: &Desired, links: &Links, scope: Scope<'_, Prefix>) -> Outcome<Prefix> {
        let all = matches!(scope, Scope::All) || self.metric.is_some_and(|metric| metric != desired.metric);
        self.metric = Some(desired.metric);
        let mut keys: BTreeSet<Prefix> = match scope {
            Scope::Keys(keys) if !all => keys.clone(),
            _ => desired.routes.keys().copied().chain(self.sets.assigned()).collect(),
        };
        keys.append(&mut self.table.take_due());
        for prefix in &keys {
            let route = desired.routes.get(prefix).map(|wanted| in_force(wanted, desired, links, *prefix).0);
            let next_hops = match route {
                Some(Route::Remote { next_hops }) => Some(next_hops),
                _ => None,
            };
            self.sets.assign(*prefix, next_hops);
        }
        if all {
            keys.extend(self.table.actual().keys().copied());
        }
        self.look_up_next_hops(desired, links);
        self.settled |= all;
        let mut idle = self.sync_next_hops();
        if all {
            idle.extend(self.hops.actual().keys().copied().filter(|id| !self.sets.is_owned(*id)));
        }
        let outcome = self.sync_table(keys, desired, links);
        self.remove_next_hops(idle);
        outcome
    }

    /// Takes away routes in scope that are not desired; looks at no others. The objects behind them go in the next pass.
    pub(crate) fn remove(&mut self, desired: &Desired, scope: Scope<'_, Prefix>) -> Outcome<Prefix> {
        let unwanted = |key: &Prefix| !desired.routes.contains_key(key);
        let unwanted: BTreeSet<Prefix> = match scope {
            Scope::All => self.table.actual().keys().copied().chain(self.sets.assigned()).filter(unwanted).collect(),
            Scope::Keys(keys) => keys.iter().copied().filter(unwanted).collect(),
        };
        for prefix in &unwanted {
            self.sets.assign(*prefix, None);
        }
        // Next hop objects that became idle go in the next pass: what was only just read back is not yet known to be.
        self.table.sync_exactly(unwanted, |_| Want::Nothing)
    }

    fn remove_next_hops(&mut self, idle: BTreeSet<u32>) {
        let removed = self.hops.sync_exactly(idle, |_| Want::Nothing);
        for (id, error) in removed.failed {
            tracing::warn!(id, %error, "cannot remove a next hop object");
        }
    }

    /// Looks up the way to next hops that are new or whose way may have changed.
    fn look_up_next_hops(&mut self, desired: &Desired, links: &Links) {
        let addresses = if std::mem::take(&mut self.stale) { self.sets.hops() } else { self.sets.fresh_hops() };
        for address in addresses {
            let socket = self.table.table().socket();
            let egress = resolve::resolve(socket, address, links, &desired.links);
            let routes = self.sets.set_egress(address, egress);
            self.table.recheck(routes);
        }
        let routes = self.table.actual();
        let through = |prefix: &Prefix| match routes.get(prefix)?.shape {
            Shape::Via { next_hop } => Some(next_hop),
            _ => None,
        };
        let there = InPlace { ours: self.hops.actual(), taken: &self.hops.table_ref().taken };
        self.sets.number(there, through);
    }

    /// Writes the next hop objects that are wanted. Gives those that are not, to be removed after the routes.
    fn sync_next_hops(&mut self) -> BTreeSet<u32> {
        let touched = self.sets.take_touched();
        let due = self.hops.take_due();
        let ids = touched.iter().chain(&due).copied();
        let (wanted, mut idle): (BTreeSet<u32>, BTreeSet<u32>) = ids.partition(|id| self.sets.content(*id).is_some());
        if !self.settled {
            // What has only been read so far may yet turn out to be in use.
            let unsure: BTreeSet<u32> = idle.difference(&touched).copied().collect();
            idle.retain(|id| touched.contains(id));
            self.hops.recheck(unsure);
        }
        let sets = &self.sets;
        let outcome = self.hops.sync_exactly(wanted, |id| sets.content(*id).map_or(Want::Nothing, Want::Value));
        for (id, error) in outcome.failed {
            tracing::warn!(id, %error, "cannot program a next hop object");
        }
        idle
    }

    fn sync_table(&mut self, keys: BTreeSet<Prefix>, desired: &Desired, links: &Links) -> Outcome<Prefix> {
        let Self { table, foreign, sets, waiting, .. } = self;
        let want = |prefix: &Prefix| {
            let (route, absent) = match desired.routes.get(prefix) {
                Some(wanted) => in_force(wanted, desired, links, *prefix),
                None => return Want::Nothing,
            };
            if let Some(link) = absent {
                waiting.entry(link.clone()).or_default().insert(*prefix);
            }
            let shape = match (route, foreign.at(*prefix).first()) {
                (Route::Direct { link }, _) => direct(link, links),
                (_, Some(entry)) => return Want::Yields(reconcile::Foreign { protocol: entry.protocol }),
                (Route::Unreachable, None) => Ok(Shape::Unreachable),
                (Route::Remote { .. }, None) => match sets.object(*prefix) {
                    Some(Ok(next_hop)) => Ok(Shape::Via { next_hop }),
                    Some(Err((next_hop, why))) => Err(Pending::NextHopUnreachable { next_hop, why }),
                    None => return Want::Nothing,
                },
            };
            match shape {
                Ok(shape) => {
                    let value = OwnRoute { metric: wire_metric(prefix.family(), desired.metric), shape };
                    match absent {
                        Some(link) => Want::Meanwhile(value, Pending::LinkAbsent(link.clone())),
                        None => Want::Value(value),
                    }
                }
                Err(why) => {
                    if let Pending::LinkDown(link) = &why {
                        waiting.entry(link.clone()).or_default().insert(*prefix);
                    }
                    Want::Pending(why)
                }
            }
        };
        let outcome = table.sync_keys(keys, want);
        // A direct route that was written has taken the place of another with its key.
        for prefix in &outcome.done {
            if !foreign.at(*prefix).is_empty()
                && let Some(OwnRoute { metric, shape: Shape::Direct { .. } }) = table.actual().get(prefix)
            {
                foreign.remove_metric(*prefix, *metric);
            }
        }
        outcome
    }

    /// Takes in a route's announcement. Gives its prefix if it concerns a route of ours.
    pub(crate) fn observe_route(&mut self, message: Received<'_>) -> Option<Prefix> {
        if message.port == self.table.table_ref().port() || message.port == self.hops.table_ref().port() {
            return None;
        }
        let entry = RouteEntry::parse(message).filter(|entry| !entry.cloned)?;
        let ours = entry.protocol.is_ours() && entry.table == TableId::MAIN;
        if !ours && self.sets.any_hop_in(entry.prefix) {
            self.stale = true;
        }
        if entry.table != TableId::MAIN {
            return None;
        }
        let added = message.kind == libc::RTM_NEWROUTE;
        let replaces = added && message.flags & libc::NLM_F_REPLACE as u16 != 0;
        match (ours, added) {
            (true, true) => self.own_appeared(&entry, replaces),
            (true, false) => self.own_gone(&entry),
            (false, true) => self.foreign_appeared(entry, replaces),
            (false, false) => {
                self.foreign.remove(&entry);
                self.table.recheck([entry.prefix]);
                None
            }
        }
    }

    /// Someone made a route with a protocol number of ours.
    fn own_appeared(&mut self, entry: &RouteEntry, replaces: bool) -> Option<Prefix> {
        let (prefix, route) = (entry.prefix, OwnRoute::of(entry));
        match self.table.actual().get(&prefix).copied() {
            Some(known) if known == route => return None,
            Some(known) if !(replaces && known.metric == route.metric) => {
                self.table.table().extra.entry(prefix).or_default().push(route);
                self.table.distrust(prefix);
            }
            _ => {
                self.table.observe(prefix, Some(route));
            }
        }
        Some(prefix)
    }

    /// Someone deleted a route with a protocol number of ours.
    fn own_gone(&mut self, entry: &RouteEntry) -> Option<Prefix> {
        let (prefix, route) = (entry.prefix, OwnRoute::of(entry));
        let known = *self.table.actual().get(&prefix)?;
        // A route through an object that is gone is announced without it.
        let same = known == route || (known.metric == route.metric && known.protocol() == route.protocol());
        (same && self.table.observe(prefix, None)).then_some(prefix)
    }

    fn foreign_appeared(&mut self, entry: RouteEntry, replaces: bool) -> Option<Prefix> {
        let (prefix, metric) = (entry.prefix, entry.metric);
        let known = self.table.actual().get(&prefix).copied();
        if replaces && entry.tos == 0 {
            let contested = self.foreign.has_metric(prefix, metric);
            self.foreign.remove_metric(prefix, metric);
            if known.is_some_and(|known| known.metric == metric) {
                self.table.observe(prefix, None);
                if contested {
                    self.table.table().unclear.insert(prefix);
                }
            }
        }
        self.foreign.add(entry);
        self.contest(prefix);
        self.table.recheck([prefix]);
        known.map(|_| prefix)
    }

    /// Takes in a next hop object's announcement. Gives the routes of ours that go through it.
    pub(crate) fn observe_next_hop(&mut self, message: Received<'_>) -> BTreeSet<Prefix> {
        let own = message.port == self.hops.table_ref().port();
        let Some((id, protocol, content)) =
            nexthop::parse(message).filter(|(id, ..)| !own && nexthop::IDS.contains(id))
        else {
            return BTreeSet::new();
        };
        let users = self.sets.users(id);
        if message.kind == RTM_DELNEXTHOP {
            if !self.hops.observe(id, None) {
                return BTreeSet::new();
            }
            self.lose_objects(&BTreeSet::from([id]));
            return users;
        }
        let content = if protocol == RouteProtocol::LEARNED { content } else { NextHop::Odd };
        if self.hops.observe(id, Some(content)) { users } else { BTreeSet::new() }
    }

    /// Objects are gone, and with them the routes through them and their place in groups.
    fn lose_objects(&mut self, lost: &BTreeSet<u32>) {
        let mut groups = BTreeSet::new();
        for (id, content) in self.hops.actual() {
            if let NextHop::Group(members) = content
                && !members.is_disjoint(lost)
            {
                groups.insert(*id);
            }
        }
        let through = |route: &OwnRoute| match route.shape {
            Shape::Via { next_hop } => Some(next_hop),
            _ => None,
        };
        let mut gone = Vec::new();
        let mut doubtful = Vec::new();
        for (prefix, route) in self.table.actual() {
            match through(route) {
                Some(id) if lost.contains(&id) => gone.push(*prefix),
                Some(id) if groups.contains(&id) => doubtful.push(*prefix),
                _ => {}
            }
        }
        for prefix in gone {
            self.table.observe(prefix, None);
        }
        // A group without members takes its routes with it.
        for prefix in doubtful {
            self.table.distrust(prefix);
        }
        for id in groups {
            self.hops.distrust(id);
        }
    }

    /// Links went down or away (`down`), or lost their carrier: what the kernel took away with them.
    pub(crate) fn links_lost(&mut self, down: &BTreeSet<IfIndex>, carrier: &BTreeSet<IfIndex>) {
        self.stale = true;
        let on = |route: &OwnRoute| matches!(route.shape, Shape::Direct { link } if down.contains(&link));
        let gone: Vec<Prefix> = self.table.actual().iter().filter(|(_, route)| on(route)).map(|(p, _)| *p).collect();
        for prefix in gone {
            self.table.observe(prefix, None);
        }
        let by = |content: &NextHop| match content {
            NextHop::Single(egress) => down.contains(&egress.link) || carrier.contains(&egress.link),
            _ => false,
        };
        let lost: BTreeSet<u32> = self.hops.actual().iter().filter(|(_, c)| by(c)).map(|(id, _)| *id).collect();
        if !lost.is_empty() {
            for id in &lost {
                self.hops.observe(*id, None);
            }
            self.lose_objects(&lost);
        }
        let freed = self.foreign.remove_links(down);
        self.table.recheck(freed);
    }

    /// A link appeared or came up: what waited for it is looked at.
    pub(crate) fn link_usable(&mut self, name: &IfName) {
        self.table.recheck(self.waiting.remove(name).unwrap_or_default());
    }

    /// A link, an address or a rule came or went: the ways to next hops may be others.
    pub(crate) fn ways_changed(&mut self) {
        self.stale = true;
    }

    /// Whether a direct route of ours goes by this link.
    pub(crate) fn uses(&self, index: IfIndex) -> bool {
        self.table.actual().values().any(|route| matches!(route.shape, Shape::Direct { link } if link == index))
    }
}

/// The route of a prefix: instead of the one that is wanted through a link that is absent, the one to where else the workload
/// is. With the absent link.
fn in_force<'a>(
    wanted: &'a Route,
    desired: &'a Desired,
    links: &Links,
    prefix: Prefix,
) -> (&'a Route, Option<&'a IfName>) {
    match wanted {
        Route::Direct { link } if links.get(link).is_none() => {
            (desired.elsewhere.get(&prefix).unwrap_or(wanted), Some(link))
        }
        _ => (wanted, None),
    }
}

/// The direct route by a link, or why it cannot be.
fn direct(name: &IfName, links: &Links) -> Result<Shape, Pending> {
    let link = links.get(name).ok_or_else(|| Pending::LinkAbsent(name.clone()))?;
    match link.admin {
        Admin::Up => Ok(Shape::Direct { link: link.index }),
        Admin::Down => Err(Pending::LinkDown(name.clone())),
    }
}

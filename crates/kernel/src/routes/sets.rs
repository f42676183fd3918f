//! Which next hop objects there ought to be: one for each next hop address, one for each set of several.
//!
//! Routes with the same next hops share an object, so that a changed way to a next hop is one message. After a restart
//! the objects in place are taken over by what they hold, found through the routes that go through them.
//! Pure: what a lookup gave is passed in.

use super::nexthop::{Egress, IDS, NextHop};
use lasthop_net::{NextHops, Prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Stands for one set of next hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SetId(u32);

/// Why a set leads nowhere: one of its next hops, and what is the matter with it.
pub(super) type Unreachable = (IpAddr, String);

#[derive(Debug)]
struct Set {
    members: NextHops,
    users: BTreeSet<Prefix>,
    /// The group's object; sets of one use their member's.
    id: Option<u32>,
}

#[derive(Debug)]
struct Hop {
    id: Option<u32>,
    egress: Result<Egress, String>,
    sets: BTreeSet<SetId>,
}

#[derive(Clone, Copy, Debug)]
enum Owner {
    Hop(IpAddr),
    Set(SetId),
}

/// Objects that are there.
#[derive(Clone, Copy, Debug)]
pub(super) struct InPlace<'a> {
    /// Ours, with what they hold.
    pub(super) ours: &'a BTreeMap<u32, NextHop>,
    /// Numbers of our range that someone else uses.
    pub(super) taken: &'a BTreeSet<u32>,
}

/// Next hops, sets of them, and which route uses which.
#[derive(Debug, Default)]
pub(super) struct Sets {
    numbers: BTreeMap<NextHops, SetId>,
    sets: BTreeMap<SetId, Set>,
    hops: BTreeMap<IpAddr, Hop>,
    assigned: BTreeMap<Prefix, SetId>,
    owners: BTreeMap<u32, Owner>,
    next_set: u32,
    next_id: u32,
    /// Sets that came up since objects were last numbered.
    fresh: BTreeSet<SetId>,
    /// Objects to write because what they should hold may have changed.
    touched: BTreeSet<u32>,
}

impl Sets {
    /// Has the route to `prefix` use these next hops, or none. New next hops must be given a way by [`Self::set_egress`].
    pub(super) fn assign(&mut self, prefix: Prefix, next_hops: Option<&NextHops>) {
        let new = next_hops.filter(|hops| !hops.is_empty()).map(|hops| self.set_of(hops));
        let old = match new {
            Some(new) => self.assigned.insert(prefix, new),
            None => self.assigned.remove(&prefix),
        };
        if old == new {
            return;
        }
        if let Some(set) = new.and_then(|new| self.sets.get_mut(&new)) {
            set.users.insert(prefix);
        }
        if let Some(old) = old {
            self.release(old, prefix);
        }
    }

    fn set_of(&mut self, hops: &NextHops) -> SetId {
        if let Some(number) = self.numbers.get(hops) {
            return *number;
        }
        let number = SetId(self.next_set);
        self.next_set = self.next_set.wrapping_add(1);
        self.numbers.insert(hops.clone(), number);
        self.sets.insert(number, Set { members: hops.clone(), users: BTreeSet::new(), id: None });
        for hop in hops.iter() {
            let unknown = || Hop { id: None, egress: Err("not looked up yet".to_owned()), sets: BTreeSet::new() };
            self.hops.entry(*hop).or_insert_with(unknown).sets.insert(number);
        }
        self.fresh.insert(number);
        number
    }

    /// `prefix` no longer uses the set; a set and a next hop that nobody uses are forgotten.
    fn release(&mut self, number: SetId, prefix: Prefix) {
        let Some(set) = self.sets.get_mut(&number) else { return };
        set.users.remove(&prefix);
        if !set.users.is_empty() {
            return;
        }
        let Some(set) = self.sets.remove(&number) else { return };
        self.numbers.remove(&set.members);
        self.fresh.remove(&number);
        let mut ids: Vec<u32> = set.id.into_iter().collect();
        for member in set.members.iter() {
            let Some(hop) = self.hops.get_mut(member) else { continue };
            hop.sets.remove(&number);
            if hop.sets.is_empty() {
                ids.extend(hop.id);
                self.hops.remove(member);
            }
        }
        for id in ids {
            self.owners.remove(&id);
            self.touched.insert(id);
        }
    }

    /// Prefixes that use some next hops.
    pub(super) fn assigned(&self) -> impl Iterator<Item = Prefix> {
        self.assigned.keys().copied()
    }

    /// Next hops of sets that are new.
    pub(super) fn fresh_hops(&self) -> BTreeSet<IpAddr> {
        self.fresh.iter().filter_map(|number| self.sets.get(number)).flat_map(|set| set.members.to_vec()).collect()
    }

    /// All next hops.
    pub(super) fn hops(&self) -> BTreeSet<IpAddr> {
        self.hops.keys().copied().collect()
    }

    /// Whether any next hop lies in this prefix.
    pub(super) fn any_hop_in(&self, prefix: Prefix) -> bool {
        self.hops.keys().any(|hop| prefix.contains(*hop))
    }

    /// A next hop is reached this way, or why not. Gives the routes that must be looked at: those whose set begins or
    /// ceases to lead anywhere.
    pub(super) fn set_egress(&mut self, address: IpAddr, egress: Result<Egress, String>) -> BTreeSet<Prefix> {
        let Some(hop) = self.hops.get(&address) else { return BTreeSet::new() };
        if hop.egress == egress {
            return BTreeSet::new();
        }
        let sets = hop.sets.clone();
        self.touched.extend(hop.id);
        let before: Vec<bool> = sets.iter().map(|number| self.leads_somewhere(*number)).collect();
        if let Some(hop) = self.hops.get_mut(&address) {
            hop.egress = egress;
        }
        let mut routes = BTreeSet::new();
        for (number, before) in sets.into_iter().zip(before) {
            let Some(set) = self.sets.get(&number) else { continue };
            self.touched.extend(set.id);
            if before != self.leads_somewhere(number) || !before {
                routes.extend(set.users.iter().copied());
            }
        }
        routes
    }

    fn leads_somewhere(&self, number: SetId) -> bool {
        let reached = |hop: &IpAddr| self.hops.get(hop).is_some_and(|hop| hop.egress.is_ok());
        self.sets.get(&number).is_some_and(|set| set.members.iter().any(reached))
    }

    /// Gives every new set its objects: those in place that hold what is wanted, or new ones. `through` tells the object
    /// that a prefix's route goes through now.
    pub(super) fn number(&mut self, there: InPlace<'_>, through: impl Fn(&Prefix) -> Option<u32>) {
        for number in std::mem::take(&mut self.fresh) {
            let Some(set) = self.sets.get(&number) else { continue };
            let members: Vec<IpAddr> = set.members.iter().copied().collect();
            let mut hints: BTreeSet<u32> = set.users.iter().filter_map(&through).collect();
            let is_group = members.len() > 1;
            if is_group {
                let of_group = |id: &u32| match there.ours.get(id) {
                    Some(NextHop::Group(ids)) => ids.clone(),
                    _ => BTreeSet::new(),
                };
                hints = hints.iter().flat_map(of_group).chain(hints.iter().copied()).collect();
            }
            for member in members {
                self.number_hop(member, &hints, there);
            }
            if is_group {
                let want = self.group(number);
                let id = self.choose(&hints, want.as_ref(), there);
                self.owners.insert(id, Owner::Set(number));
                self.touched.insert(id);
                if let Some(set) = self.sets.get_mut(&number) {
                    set.id = Some(id);
                }
            }
        }
    }

    fn number_hop(&mut self, address: IpAddr, hints: &BTreeSet<u32>, there: InPlace<'_>) {
        let Some(hop) = self.hops.get(&address).filter(|hop| hop.id.is_none()) else { return };
        let want = hop.egress.as_ref().ok().map(|egress| NextHop::Single(*egress));
        let id = self.choose(hints, want.as_ref(), there);
        self.owners.insert(id, Owner::Hop(address));
        self.touched.insert(id);
        if let Some(hop) = self.hops.get_mut(&address) {
            hop.id = Some(id);
        }
    }

    /// An object among `hints` that nobody owns and that holds `want`, else an unused number.
    fn choose(&mut self, hints: &BTreeSet<u32>, want: Option<&NextHop>, there: InPlace<'_>) -> u32 {
        let fits = |id: &&u32| !self.owners.contains_key(id) && want.is_some() && there.ours.get(id) == want;
        if let Some(id) = hints.iter().find(fits) {
            return *id;
        }
        let span = IDS.end() - IDS.start();
        loop {
            let id = IDS.start() + self.next_id % span;
            self.next_id = self.next_id.wrapping_add(1);
            if !self.owners.contains_key(&id) && !there.ours.contains_key(&id) && !there.taken.contains(&id) {
                return id;
            }
        }
    }

    /// Objects whose content may have to change, or that nobody uses any more.
    pub(super) fn take_touched(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.touched)
    }

    /// Whether somebody uses this object.
    pub(super) fn is_owned(&self, id: u32) -> bool {
        self.owners.contains_key(&id)
    }

    /// What an object ought to hold; `None` if nothing.
    pub(super) fn content(&self, id: u32) -> Option<NextHop> {
        match self.owners.get(&id)? {
            Owner::Hop(address) => self.hops.get(address)?.egress.as_ref().ok().map(|e| NextHop::Single(*e)),
            Owner::Set(number) => self.group(*number),
        }
    }

    fn group(&self, number: SetId) -> Option<NextHop> {
        let reached = |address: &IpAddr| self.hops.get(address).filter(|hop| hop.egress.is_ok())?.id;
        let ids: BTreeSet<u32> = self.sets.get(&number)?.members.iter().filter_map(reached).collect();
        (!ids.is_empty()).then_some(NextHop::Group(ids))
    }

    /// The object that the route to `prefix` ought to go through, or why it leads nowhere. `None` if it has no next hops.
    pub(super) fn object(&self, prefix: Prefix) -> Option<Result<u32, Unreachable>> {
        let number = *self.assigned.get(&prefix)?;
        let set = self.sets.get(&number)?;
        let mut trouble = None;
        for member in set.members.iter() {
            let hop = self.hops.get(member)?;
            match &hop.egress {
                Ok(_) => return Some(Ok(set.id.or(hop.id)?)),
                Err(why) => {
                    trouble.get_or_insert_with(|| (*member, why.clone()));
                }
            }
        }
        trouble.map(Err)
    }

    /// The routes that go through an object.
    pub(super) fn users(&self, id: u32) -> BTreeSet<Prefix> {
        let of_set = |number: &SetId| self.sets.get(number).map(|set| set.users.clone()).unwrap_or_default();
        match self.owners.get(&id) {
            Some(Owner::Hop(address)) => {
                let sets = self.hops.get(address).map(|hop| hop.sets.clone()).unwrap_or_default();
                sets.iter().flat_map(of_set).collect()
            }
            Some(Owner::Set(number)) => of_set(number),
            None => BTreeSet::new(),
        }
    }
}

#[cfg(test)]
mod tests;

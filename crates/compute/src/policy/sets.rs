//! Sets in use and their members, counted: two endpoints may give a set the same member.

use lasthop_policy::ir::{Member, PolicyChanges, Set, SetId, SetKind};
use lasthop_policy::sets::SetDefinition;
use lasthop_policy::world::kind_of;
use std::collections::{BTreeMap, BTreeSet};

/// A set that programs refer to.
#[derive(Debug)]
pub(crate) struct InUse {
    pub(crate) definition: SetDefinition,
    /// How many programs refer to it.
    pub(crate) programs: usize,
    /// How often beyond the first a member was given.
    again: BTreeMap<Member, u32>,
    /// How many members are wider than an address.
    wide: usize,
}

/// All sets in use.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    in_use: BTreeMap<SetId, InUse>,
}

fn is_wide(member: &Member) -> bool {
    matches!(member, Member::Net(net) if !net.is_host())
}

impl Sets {
    pub(crate) fn get(&self, id: SetId) -> Option<&InUse> {
        self.in_use.get(&id)
    }

    /// One more program refers to the set. Says whether it is new.
    pub(crate) fn refer(&mut self, id: SetId, definition: &SetDefinition) -> bool {
        let new = !self.in_use.contains_key(&id);
        let fresh = || InUse { definition: definition.clone(), programs: 0, again: BTreeMap::new(), wide: 0 };
        self.in_use.entry(id).or_insert_with(fresh).programs += 1;
        new
    }

    /// One program less refers to the set. Says whether it was the last, and forgets the set then.
    pub(crate) fn release(&mut self, id: SetId) -> bool {
        let Some(set) = self.in_use.get_mut(&id) else { return false };
        set.programs = set.programs.saturating_sub(1);
        let last = set.programs == 0;
        if last {
            self.in_use.remove(&id);
        }
        last
    }

    /// Gives members to a set.
    pub(crate) fn give(&mut self, id: SetId, members: Vec<Member>, to: &mut Output<'_>) {
        let (Some(set), Some(kept)) = (self.in_use.get_mut(&id), to.sets.get_mut(&id)) else { return };
        for member in members {
            if kept.members.insert(member) {
                set.wide += usize::from(is_wide(&member));
                to.changes.members.insert((id, member));
            } else {
                *set.again.entry(member).or_default() += 1;
            }
        }
        set.settle(id, to);
    }

    /// Takes members from a set.
    pub(crate) fn take(&mut self, id: SetId, members: Vec<Member>, to: &mut Output<'_>) {
        let (Some(set), Some(kept)) = (self.in_use.get_mut(&id), to.sets.get_mut(&id)) else { return };
        for member in members {
            match set.again.get_mut(&member) {
                Some(1) => {
                    set.again.remove(&member);
                }
                Some(times) => *times -= 1,
                None if kept.members.remove(&member) => {
                    set.wide -= usize::from(is_wide(&member));
                    to.changes.members.insert((id, member));
                }
                None => {}
            }
        }
        set.settle(id, to);
    }

    /// Makes the members of a set what `members` says, once each: for sets that are always known whole.
    pub(crate) fn replace(&mut self, id: SetId, members: &BTreeSet<Member>, to: &mut Output<'_>) {
        let Some(kept) = to.sets.get(&id) else { return };
        let going: Vec<Member> = kept.members.difference(members).copied().collect();
        let coming: Vec<Member> = members.difference(&kept.members).copied().collect();
        self.take(id, going, to);
        self.give(id, coming, to);
    }
}

impl InUse {
    /// A set that got its first, or lost its last, member wider than an address is kept otherwise.
    fn settle(&self, id: SetId, to: &mut Output<'_>) {
        let Some(kept) = to.sets.get_mut(&id) else { return };
        let kind = match kind_of(&self.definition, []) {
            SetKind::Ports => SetKind::Ports,
            SetKind::Addresses | SetKind::Nets if self.wide > 0 => SetKind::Nets,
            SetKind::Addresses | SetKind::Nets => SetKind::Addresses,
        };
        if kept.kind != kind {
            kept.kind = kind;
            to.changes.sets.insert(id);
        }
    }
}

/// Where sets are written.
pub(crate) struct Output<'a> {
    pub(crate) sets: &'a mut BTreeMap<SetId, Set>,
    pub(crate) changes: &'a mut PolicyChanges,
}

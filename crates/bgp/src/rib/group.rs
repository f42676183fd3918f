//! Adj-RIB-Out of an update group: peers that are to be sent the same share one table and one encoding.
//!
//! The table holds every prefix the group is shown. A member is not shown what was learned from itself, which is the one
//! difference between members (split horizon). Changes are gathered until [`Group::flush`] and packed then; a member that
//! lags behind is served from the table later by [`Group::catch_up`].

use super::export::{View, export};
use super::table::Sources;
use crate::api::Bytes;
use crate::attributes::{Attributes, Interned};
use crate::peer::PeerId;
use crate::policy::{Applied, Blocked};
use crate::reason::NotAdvertised;
use crate::wire::nlri::Nlri;
use crate::wire::{AttributeBlock, Format, pack_reach, pack_withdraw};
use lasthop_net::{Family, Prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// A prefix as shown to the group.
#[derive(Clone, Debug)]
pub(crate) struct Advert {
    /// Interned in the group.
    pub(crate) block: Arc<AttributeBlock>,
    pub(crate) from: PeerId,
}

impl Advert {
    fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.block, &other.block) && self.from == other.from
    }
}

/// Who gets messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// All members but this one; [`PeerId::LOCAL`] is none of them.
    AllBut(PeerId),
    Only(PeerId),
}

#[derive(Debug)]
struct Memo {
    attributes: Arc<Attributes>,
    from: PeerId,
    family: Family,
    judged: Result<Applied, Blocked>,
    result: Result<Arc<AttributeBlock>, NotAdvertised>,
}

/// What is not shown for now (RFC 4724 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    Nothing,
    /// Learned routes, and End-of-RIB.
    Learned,
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) view: View,
    pub(crate) hold: Hold,
    pub(crate) members: BTreeSet<PeerId>,
    table: BTreeMap<Nlri, Advert>,
    /// Prefixes changed since the last flush, with what was shown then.
    changed: BTreeMap<Nlri, Option<Advert>>,
    blocks: Interned<AttributeBlock>,
    /// The last export; neighbouring prefixes mostly have the same attributes.
    memo: Option<Memo>,
    by_source: BTreeMap<PeerId, usize>,
}

/// Messages for some of the members.
pub(crate) type Packed = (To, Vec<Bytes>);

impl Group {
    pub(crate) fn new(view: View, hold: Hold) -> Self {
        Self {
            view,
            hold,
            members: BTreeSet::new(),
            table: BTreeMap::new(),
            changed: BTreeMap::new(),
            blocks: Interned::default(),
            memo: None,
            by_source: BTreeMap::new(),
        }
    }

    pub(crate) fn table(&self) -> &BTreeMap<Nlri, Advert> {
        &self.table
    }

    /// How many prefixes a member is shown.
    pub(crate) fn shown_to(&self, member: PeerId) -> usize {
        self.table.len() - self.by_source.get(&member).copied().unwrap_or(0)
    }

    /// Forgets what depends on the reflection settings of other peers.
    pub(crate) fn settings_changed(&mut self) {
        self.memo = None;
    }

    /// Whether what comes from this source is shown now.
    pub(crate) fn holds_back(&self, from: PeerId) -> bool {
        self.hold == Hold::Learned && from != PeerId::LOCAL
    }

    /// The encoded attributes for a path, or why it is not shown.
    pub(crate) fn block(
        &mut self,
        (attributes, from): &(Arc<Attributes>, PeerId),
        prefix: Prefix,
        (sources, cluster_id): (&Sources, Ipv4Addr),
    ) -> Result<Arc<AttributeBlock>, NotAdvertised> {
        let (source, family) = (sources.get(from), prefix.family());
        let judged = self.view.judge(prefix, attributes, source);
        if let Some(memo) = &self.memo
            && (memo.from, memo.family) == (*from, family)
            && Arc::ptr_eq(&memo.attributes, attributes)
            && memo.judged == judged
        {
            return memo.result.clone();
        }
        let exported = export((attributes, family), source, (&self.view, &judged), cluster_id);
        let result = exported.and_then(|exported| {
            let block =
                AttributeBlock::encode(&exported, family, Format { ids: self.view.ids(family), ..self.view.format });
            if block.fits() { Ok(self.blocks.get(block)) } else { Err(NotAdvertised::TooLong) }
        });
        let attributes = Arc::clone(attributes);
        self.memo = Some(Memo { attributes, from: *from, family, judged, result: result.clone() });
        result
    }

    /// Shows a prefix, or no longer.
    pub(crate) fn set(&mut self, prefix: Nlri, advert: Option<Advert>) {
        let new_from = advert.as_ref().map(|new| new.from);
        let old = match advert {
            Some(new) => {
                let old = self.table.get_mut(&prefix);
                match old {
                    Some(old) if old.same(&new) => return,
                    Some(old) => Some(std::mem::replace(old, new)),
                    None => self.table.insert(prefix, new),
                }
            }
            None => match self.table.remove(&prefix) {
                Some(old) => Some(old),
                None => return,
            },
        };
        if let Some(from) = new_from {
            *self.by_source.entry(from).or_default() += 1;
        }
        if let Some(count) = old.as_ref().and_then(|old| self.by_source.get_mut(&old.from)) {
            *count -= 1;
        }
        self.changed.entry(prefix).or_insert(old);
    }

    /// Shows a prefix as these, by identifier, and no longer as any other.
    pub(crate) fn set_all(&mut self, prefix: Prefix, adverts: BTreeMap<u32, Advert>) {
        let all = Nlri { prefix, id: 0 }..=Nlri { prefix, id: u32::MAX };
        let gone: Vec<Nlri> =
            self.table.range(all).map(|(nlri, _)| *nlri).filter(|nlri| !adverts.contains_key(&nlri.id)).collect();
        gone.into_iter().for_each(|nlri| self.set(nlri, None));
        for (id, advert) in adverts {
            self.set(Nlri { prefix, id }, Some(advert));
        }
    }

    pub(crate) fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    pub(crate) fn changed_prefixes(&self) -> impl Iterator<Item = Nlri> + '_ {
        self.changed.keys().copied()
    }

    /// The UPDATEs for all changes since the last call, withdrawals first.
    pub(crate) fn flush(&mut self) -> Vec<Packed> {
        let mut pack = Pack::new(&self.view);
        for (prefix, old) in std::mem::take(&mut self.changed) {
            match (self.table.get(&prefix), old) {
                (Some(new), Some(old)) if new.same(&old) => {}
                (Some(new), old) => {
                    pack.announce(To::AllBut(new.from), &new.block, prefix);
                    // It had the prefix from someone else, and now it is its own that won.
                    if old.is_some_and(|old| old.from != new.from) && self.members.contains(&new.from) {
                        pack.withdraw(To::Only(new.from), prefix);
                    }
                }
                (None, Some(old)) => pack.withdraw(To::AllBut(old.from), prefix),
                (None, None) => {}
            }
        }
        self.by_source.retain(|_, count| *count > 0);
        pack.finish()
    }

    /// The UPDATEs that tell one member how these prefixes stand.
    pub(crate) fn catch_up(&self, member: PeerId, prefixes: impl IntoIterator<Item = Nlri>) -> Vec<Bytes> {
        let mut pack = Pack::new(&self.view);
        for prefix in prefixes {
            match self.table.get(&prefix).filter(|advert| advert.from != member) {
                Some(advert) => pack.announce(To::Only(member), &advert.block, prefix),
                None => pack.withdraw(To::Only(member), prefix),
            }
        }
        pack.finish().into_iter().flat_map(|(_, messages)| messages).collect()
    }

    /// What a member is shown of a family.
    pub(crate) fn prefixes_for(&self, member: PeerId, family: Family) -> impl Iterator<Item = Nlri> + '_ {
        let shown =
            self.table.iter().filter(move |(prefix, advert)| prefix.family() == family && advert.from != member);
        shown.map(|(prefix, _)| *prefix)
    }
}

/// Prefixes by message: with the same attributes, to the same peers.
struct Pack<'a> {
    view: &'a View,
    places: BTreeMap<(PeerId, usize), usize>,
    announced: Vec<(To, Arc<AttributeBlock>, Vec<Nlri>)>,
    withdrawn: Vec<(To, Family, Vec<Nlri>)>,
}

impl<'a> Pack<'a> {
    fn new(view: &'a View) -> Self {
        Self { view, places: BTreeMap::new(), announced: Vec::new(), withdrawn: Vec::new() }
    }

    fn announce(&mut self, to: To, block: &Arc<AttributeBlock>, prefix: Nlri) {
        let (To::AllBut(peer) | To::Only(peer)) = to;
        // The place in memory tells interned blocks apart; the order of messages is that of first mention.
        let key = (peer, Arc::as_ptr(block).addr());
        let place = *self.places.entry(key).or_insert(self.announced.len());
        match self.announced.get_mut(place) {
            Some((_, _, prefixes)) => prefixes.push(prefix),
            None => self.announced.push((to, Arc::clone(block), vec![prefix])),
        }
    }

    fn withdraw(&mut self, to: To, prefix: Nlri) {
        // Few kinds of recipients: one for each source of routes and family.
        let family = prefix.family();
        match self.withdrawn.iter_mut().rev().find(|(other, f, _)| *other == to && *f == family) {
            Some((_, _, prefixes)) => prefixes.push(prefix),
            None => self.withdrawn.push((to, family, vec![prefix])),
        }
    }

    fn finish(self) -> Vec<Packed> {
        let shared = |messages: Vec<Vec<u8>>| messages.into_iter().map(Bytes::from).collect::<Vec<_>>();
        let withdrawn = self.withdrawn.iter().map(|(to, family, gone)| {
            let ids = self.view.ids(*family);
            (*to, shared(pack_withdraw((*family, ids), gone)))
        });
        let announced = self.announced.iter().map(|(to, block, new)| (*to, shared(pack_reach(block, new))));
        withdrawn.chain(announced).collect()
    }
}

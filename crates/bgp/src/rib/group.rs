//! Adj-RIB-Out of an update group: peers that are to be sent the same share one table and one encoding.
//!
//! The table holds every prefix the group is shown. A member is not shown what was learned from itself, which is the one
//! difference between members (split horizon). Changes are gathered until [`Group::flush`] and packed then. Members that
//! lag behind share a log of what changed since, and those that come walk the table; both are served from the table later,
//! a [`Chunk`] at a time, which is encoded once for all who are at the same place.

use super::export::{View, export};
use super::few::Few;
use super::table::Sources;
use crate::api::Bytes;
use crate::attributes::{Attributes, Interned};
use crate::peer::PeerId;
use crate::policy::{Applied, Blocked};
use crate::reason::NotAdvertised;
use crate::wire::nlri::Nlri;
use crate::wire::{AttributeBlock, Format, pack_reach, pack_withdraw};
use lasthop_net::{Family, Prefix, PrefixMap};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Prefixes in a [`Chunk`]: between two the driver can say that it is enough.
const CHUNK: usize = 4096;

/// Chunks that are kept for others who come to the same place.
const CHUNKS: usize = 32;

/// A log longer than this and twice the table names prefixes often.
const LONG_LOG: usize = 64 << 10;

/// How a prefix is shown to the group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Advert {
    pub(crate) from: PeerId,
    /// Our identifier of the path (RFC 7911); zero where the session has none.
    id: u32,
    pub(crate) block: AttributeBlock,
}

/// Who gets messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum To {
    /// All members but this one; [`PeerId::LOCAL`] is none of them.
    AllBut(PeerId),
    Only(PeerId),
}

impl To {
    pub(crate) fn concerns(self, id: PeerId) -> bool {
        match self {
            Self::AllBut(other) => id != other,
            Self::Only(only) => id == only,
        }
    }
}

#[derive(Debug)]
struct Memo {
    attributes: Arc<Attributes>,
    from: PeerId,
    family: Family,
    id: u32,
    judged: Result<Applied, Blocked>,
    result: Result<Arc<Advert>, NotAdvertised>,
}

/// What is not shown for now (RFC 4724 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    Nothing,
    /// Learned routes, and End-of-RIB.
    Learned,
}

/// Messages in a row for some of the members.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    pub(crate) to: To,
    pub(crate) bytes: Bytes,
    /// How many messages they are.
    pub(crate) count: u64,
}

/// Where a lagging member is: what it needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// The changes from this one on.
    Log(u64),
    /// What of a family comes after a prefix.
    Walk(Family, Option<Prefix>),
}

/// What a member at some place is sent, and what comes after it.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pub(crate) messages: Vec<Packed>,
    pub(crate) next: Option<Place>,
}

#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) view: View,
    pub(crate) hold: Hold,
    pub(crate) members: BTreeSet<PeerId>,
    table: PrefixMap<Few<Arc<Advert>>>,
    /// What changed since the last flush, in that order, with what was shown before each change.
    changed: Vec<(Nlri, Option<Arc<Advert>>)>,
    adverts: Interned<Advert>,
    /// The last export; neighbouring prefixes mostly have the same attributes.
    memo: Option<Memo>,
    /// How many are shown, and how many of each source.
    paths: usize,
    by_source: BTreeMap<PeerId, usize>,
    /// What changed since the member that lags most stopped.
    log: VecDeque<Nlri>,
    /// The number of its first change.
    log_start: u64,
    chunks: VecDeque<(Place, Arc<Chunk>)>,
}

impl Group {
    pub(crate) fn new(view: View, hold: Hold) -> Self {
        Self {
            view,
            hold,
            members: BTreeSet::new(),
            table: PrefixMap::default(),
            changed: Vec::new(),
            adverts: Interned::default(),
            memo: None,
            paths: 0,
            by_source: BTreeMap::new(),
            log: VecDeque::new(),
            log_start: 0,
            chunks: VecDeque::new(),
        }
    }

    /// Everything as it is shown.
    pub(crate) fn table(&self) -> impl Iterator<Item = (Nlri, &Arc<Advert>)> + '_ {
        let nlri = |prefix, advert: &Advert| Nlri { prefix, id: advert.id };
        self.table.iter().flat_map(move |(prefix, all)| all.iter().map(move |advert| (nlri(prefix, advert), advert)))
    }

    fn shown(&self, nlri: Nlri) -> Option<&Arc<Advert>> {
        self.table.get(nlri.prefix)?.iter().find(|advert| advert.id == nlri.id)
    }

    /// How a prefix is shown to a member.
    pub(crate) fn shown_as(&self, nlri: Nlri, member: PeerId) -> Option<&Arc<Advert>> {
        self.shown(nlri).filter(|advert| advert.from != member)
    }

    /// Whether a prefix is shown at all.
    pub(crate) fn shows(&self, prefix: Prefix) -> bool {
        self.table.get(prefix).is_some()
    }

    /// How many paths a member is shown.
    pub(crate) fn shown_to(&self, member: PeerId) -> usize {
        self.paths - self.by_source.get(&member).copied().unwrap_or(0)
    }

    /// Forgets what depends on the reflection settings of other peers.
    pub(crate) fn settings_changed(&mut self) {
        self.memo = None;
    }

    /// Whether what comes from this source is shown now.
    pub(crate) fn holds_back(&self, from: PeerId) -> bool {
        self.hold == Hold::Learned && from != PeerId::LOCAL
    }

    /// How a path is shown under an identifier, or why it is not.
    pub(crate) fn advert(
        &mut self,
        (attributes, from): &(Arc<Attributes>, PeerId),
        Nlri { prefix, id }: Nlri,
        (sources, cluster_id): (&Sources, Ipv4Addr),
    ) -> Result<Arc<Advert>, NotAdvertised> {
        let (source, family) = (sources.get(from), prefix.family());
        let judged = self.view.judge(prefix, attributes, source);
        if let Some(memo) = &self.memo
            && (memo.from, memo.family, memo.id) == (*from, family, id)
            && Arc::ptr_eq(&memo.attributes, attributes)
            && memo.judged == judged
        {
            return memo.result.clone();
        }
        let exported = export((attributes, family), source, (&self.view, &judged), cluster_id);
        let result = exported.and_then(|exported| {
            let block =
                AttributeBlock::encode(&exported, family, Format { ids: self.view.ids(family), ..self.view.format });
            let fits = block.fits();
            if fits { Ok(self.adverts.get(Advert { from: *from, id, block })) } else { Err(NotAdvertised::TooLong) }
        });
        let attributes = Arc::clone(attributes);
        self.memo = Some(Memo { attributes, from: *from, family, id, judged, result: result.clone() });
        result
    }

    /// Shows a prefix, or no longer.
    pub(crate) fn set(&mut self, nlri: Nlri, advert: Option<Arc<Advert>>) {
        let shown = match &advert {
            Some(_) => self.table.get_or_default(nlri.prefix),
            None => match self.table.get_mut(nlri.prefix) {
                Some(shown) => shown,
                None => return,
            },
        };
        let new_from = advert.as_ref().map(|new| new.from);
        let place = shown.iter().position(|old| old.id == nlri.id);
        let old = match (place.and_then(|place| shown.get_mut(place)), advert) {
            (Some(old), Some(new)) if Arc::ptr_eq(old, &new) => return,
            (Some(old), Some(new)) => Some(std::mem::replace(old, new)),
            (Some(_), None) => place.and_then(|place| shown.swap_remove(place)),
            (None, Some(new)) => {
                shown.push(new);
                None
            }
            (None, None) => return,
        };
        if shown.is_empty() {
            self.table.remove(nlri.prefix);
        }
        self.paths = self.paths + usize::from(new_from.is_some()) - usize::from(old.is_some());
        if let Some(from) = new_from {
            *self.by_source.entry(from).or_default() += 1;
        }
        if let Some(count) = old.as_ref().and_then(|old| self.by_source.get_mut(&old.from)) {
            *count -= 1;
        }
        self.changed.push((nlri, old));
        self.chunks.clear();
    }

    /// Shows a prefix as these, by identifier, and no longer as any other.
    pub(crate) fn set_all(&mut self, prefix: Prefix, adverts: BTreeMap<u32, Arc<Advert>>) {
        let shown = self.table.get(prefix).map(|shown| &shown[..]).unwrap_or_default();
        let gone: Vec<u32> = shown.iter().map(|advert| advert.id).filter(|id| !adverts.contains_key(id)).collect();
        gone.into_iter().for_each(|id| self.set(Nlri { prefix, id }, None));
        for (id, advert) in adverts {
            self.set(Nlri { prefix, id }, Some(advert));
        }
    }

    pub(crate) fn has_changes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The UPDATEs for all changes since the last call.
    pub(crate) fn flush(&mut self) -> Vec<Packed> {
        let mut changed = std::mem::take(&mut self.changed);
        // What was shown before the first of several changes counts.
        changed.sort_by_key(|(nlri, _)| *nlri);
        changed.dedup_by_key(|(nlri, _)| *nlri);
        let mut pack = Pack::new(&self.view);
        for (nlri, old) in changed {
            match (self.shown(nlri), old) {
                (Some(new), Some(old)) if Arc::ptr_eq(new, &old) => {}
                (Some(new), old) => {
                    pack.announce(new, nlri);
                    // It had the prefix from someone else, and now it is its own that won.
                    if old.is_some_and(|old| old.from != new.from) && self.members.contains(&new.from) {
                        pack.withdraw(To::Only(new.from), nlri);
                    }
                }
                (None, Some(old)) => pack.withdraw(To::AllBut(old.from), nlri),
                (None, None) => {}
            }
        }
        let packed = pack.finish();
        self.by_source.retain(|_, count| *count > 0);
        packed
    }

    /// The UPDATEs that tell one member how these prefixes stand.
    pub(crate) fn catch_up(&self, member: PeerId, prefixes: impl IntoIterator<Item = Nlri>) -> Vec<Packed> {
        let mut pack = Pack::new(&self.view);
        for nlri in prefixes {
            match self.shown_as(nlri, member) {
                Some(advert) => pack.announce(advert, nlri),
                None => pack.withdraw(To::Only(member), nlri),
            }
        }
        pack.finish()
    }

    /// What the changes of the next flush will be called. Who lags is owed them from there on.
    pub(crate) fn log_end(&self) -> u64 {
        self.log_start + self.log.len() as u64
    }

    /// Notes what is about to be flushed for those who lag, of whom the last is at `oldest`.
    pub(crate) fn note_changes(&mut self, oldest: u64) {
        while self.log_start < oldest && self.log.pop_front().is_some() {
            self.log_start += 1;
        }
        self.log.extend(self.changed.iter().map(|(nlri, _)| *nlri));
        if self.log.len() > LONG_LOG.max(2 * self.table.len()) {
            // Each once. It begins after every place that anybody is at, and who is before its beginning is given all of it.
            self.log_start = self.log_end() + 1;
            self.log = self.log.drain(..).collect::<BTreeSet<Nlri>>().into_iter().collect();
        }
    }

    /// Nobody lags.
    pub(crate) fn forget_log(&mut self) {
        self.log_start = self.log_end();
        self.log = VecDeque::new();
    }

    /// Nobody will come to the same place soon.
    pub(crate) fn forget_chunks(&mut self) {
        self.chunks = VecDeque::new();
    }

    /// The changes from a place in the log on.
    pub(crate) fn logged_from(&self, since: u64) -> impl Iterator<Item = Nlri> + '_ {
        let passed = usize::try_from(since.saturating_sub(self.log_start)).unwrap_or(usize::MAX);
        self.log.iter().skip(passed).copied()
    }

    /// What members at a place are sent.
    pub(crate) fn chunk(&mut self, place: Place) -> Arc<Chunk> {
        if let Some((_, chunk)) = self.chunks.iter().find(|(known, _)| *known == place) {
            return Arc::clone(chunk);
        }
        let mut pack = Pack::new(&self.view);
        let next = match place {
            Place::Log(since) => {
                let since = since.max(self.log_start);
                let (mut changes, mut end) = (BTreeSet::new(), since);
                for nlri in self.logged_from(since) {
                    if changes.len() == CHUNK {
                        break;
                    }
                    changes.insert(nlri);
                    end += 1;
                }
                for nlri in changes {
                    match self.shown(nlri) {
                        Some(advert) => {
                            pack.announce(advert, nlri);
                            if self.members.contains(&advert.from) {
                                pack.withdraw(To::Only(advert.from), nlri);
                            }
                        }
                        None => pack.withdraw(To::AllBut(PeerId::LOCAL), nlri),
                    }
                }
                (end < self.log_end()).then_some(Place::Log(end))
            }
            Place::Walk(family, last) => {
                let (mut after, mut count) = (None, 0);
                for (prefix, shown) in self.table.after(family, last).take(CHUNK) {
                    shown.iter().for_each(|advert| pack.announce(advert, Nlri { prefix, id: advert.id }));
                    (after, count) = (Some(prefix), count + 1);
                }
                (count == CHUNK).then_some(Place::Walk(family, after))
            }
        };
        let chunk = Arc::new(Chunk { messages: pack.finish(), next });
        if self.chunks.len() >= CHUNKS {
            self.chunks.pop_front();
        }
        self.chunks.push_back((place, Arc::clone(&chunk)));
        chunk
    }
}

/// Prefixes by message: with the same attributes, to the same peers.
struct Pack<'a> {
    view: &'a View,
    places: BTreeMap<usize, usize>,
    last: usize,
    announced: Vec<(Arc<Advert>, Vec<Nlri>)>,
    withdrawn: BTreeMap<(To, Family), Vec<Nlri>>,
}

impl<'a> Pack<'a> {
    fn new(view: &'a View) -> Self {
        Self { view, places: BTreeMap::new(), last: 0, announced: Vec::new(), withdrawn: BTreeMap::new() }
    }

    /// To all but where it comes from.
    fn announce(&mut self, advert: &Arc<Advert>, nlri: Nlri) {
        if let Some((last, prefixes)) = self.announced.get_mut(self.last)
            && Arc::ptr_eq(last, advert)
        {
            prefixes.push(nlri);
            return;
        }
        // The place in memory tells interned values apart; the order of messages is that of first mention.
        self.last = *self.places.entry(Arc::as_ptr(advert).addr()).or_insert(self.announced.len());
        match self.announced.get_mut(self.last) {
            Some((_, prefixes)) => prefixes.push(nlri),
            None => self.announced.push((Arc::clone(advert), vec![nlri])),
        }
    }

    fn withdraw(&mut self, to: To, nlri: Nlri) {
        self.withdrawn.entry((to, nlri.family())).or_default().push(nlri);
    }

    fn finish(self) -> Vec<Packed> {
        let mut by_recipient: BTreeMap<To, (Vec<u8>, u64)> = BTreeMap::new();
        for ((to, family), gone) in &self.withdrawn {
            let (bytes, count) = by_recipient.entry(*to).or_default();
            *count += pack_withdraw((*family, self.view.ids(*family)), gone, bytes);
        }
        for (advert, new) in &self.announced {
            let (bytes, count) = by_recipient.entry(To::AllBut(advert.from)).or_default();
            *count += pack_reach(&advert.block, new, bytes);
        }
        by_recipient.into_iter().map(|(to, (bytes, count))| Packed { to, bytes: bytes.into(), count }).collect()
    }
}

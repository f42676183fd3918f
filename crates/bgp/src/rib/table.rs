//! Loc-RIB and all Adj-RIBs-In in one: for each prefix its own route, if any, and every learned path.

use super::decision::choose;
use super::few::Few;
use crate::attributes::Attributes;
use crate::config::ReflectMode;
use crate::peer::PeerId;
use crate::reason::Refusal;
use crate::wire::update::PeerKind;
use lasthop_net::{NextHops, Prefix, PrefixMap};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Where learned paths come from: what decision and export want to know of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) address: IpAddr,
    pub(crate) router_id: Ipv4Addr,
    pub(crate) kind: PeerKind,
    pub(crate) reflect: ReflectMode,
}

/// Whether a path is from before the peer's restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    Fresh,
    Stale,
}

/// A learned path. Small: there may be hundreds of thousands.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub(crate) attributes: Arc<Attributes>,
    pub(crate) source: PeerId,
    /// The identifier its peer gave it (RFC 7911); zero where the session has none.
    pub(crate) id: u32,
    pub(crate) refusal: Option<Refusal>,
    pub(crate) freshness: Freshness,
}

/// All there is to one prefix.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) own: Option<Arc<Attributes>>,
    pub(crate) paths: Few<Path>,
}

impl Entry {
    pub(crate) fn is_empty(&self) -> bool {
        self.own.is_none() && self.paths.is_empty()
    }
}

/// The sources of paths, by peer.
pub(crate) type Sources = BTreeMap<PeerId, Source>;

#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) entries: PrefixMap<Entry>,
    pub(crate) sources: Sources,
}

/// The outcome for one prefix.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// What is advertised: the own route, else the best learned path.
    pub(crate) best: Option<(Arc<Attributes>, PeerId)>,
    /// Next hops of the best learned paths, ascending, each once.
    pub(crate) next_hops: NextHops,
}

impl Outcome {
    /// Whether the same is advertised. Attributes are interned: the same ones are at the same place.
    pub(crate) fn same_best(&self, other: &Self) -> bool {
        match (&self.best, &other.best) {
            (Some((a, from)), Some((b, other))) => Arc::ptr_eq(a, b) && from == other,
            (None, None) => true,
            _ => false,
        }
    }
}

impl Table {
    pub(crate) fn outcome(&self, prefix: Prefix) -> Outcome {
        self.entries.get(prefix).map(|entry| outcome(entry, &self.sources)).unwrap_or_default()
    }

    /// Changes one prefix; what was the outcome before and after.
    pub(crate) fn change(&mut self, prefix: Prefix, change: impl FnOnce(&mut Entry)) -> (Outcome, Outcome) {
        let entry = self.entries.get_or_default(prefix);
        let before = outcome(entry, &self.sources);
        change(entry);
        let after = outcome(entry, &self.sources);
        if entry.is_empty() {
            self.entries.remove(prefix);
        }
        (before, after)
    }
}

/// The own route and the usable learned paths, best first, as many as asked for.
pub(crate) fn ranked(entry: &Entry, sources: &Sources, most: usize) -> Vec<(Arc<Attributes>, PeerId, u32)> {
    let own = entry.own.iter().map(|own| (Arc::clone(own), PeerId::LOCAL, 0));
    let mut left = entry.paths.to_vec();
    let learned = std::iter::from_fn(|| {
        let place = choose(&left, |id| sources.get(&id), |_, _| {}).best?;
        let best = left.swap_remove(place);
        Some((best.attributes, best.source, best.id))
    });
    own.chain(learned).take(most).collect()
}

pub(crate) fn outcome(entry: &Entry, sources: &Sources) -> Outcome {
    let choice = choose(&entry.paths, |id| sources.get(&id), |_, _| {});
    let path = |place: usize| entry.paths.get(place);
    let best = choice.best.and_then(path);
    let next_hops = if choice.equal.is_empty() {
        best.map(|path| path.attributes.next_hop).into_iter().collect()
    } else {
        choice.equal.iter().filter_map(|place| path(*place)).map(|path| path.attributes.next_hop).collect()
    };
    let best = match &entry.own {
        Some(own) => Some((Arc::clone(own), PeerId::LOCAL)),
        None => best.map(|path| (Arc::clone(&path.attributes), path.source)),
    };
    Outcome { best, next_hops }
}

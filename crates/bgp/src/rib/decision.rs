//! The decision process (RFC 4271 section 9.1.2.2 with RFC 4456 section 9): the same steps choose, and say why the others lost.
//!
//! The interior cost of a next hop (step e) is not known here and counts as equal.

use super::table::{Path, Source};
use crate::attributes::{Attributes, DEFAULT_LOCAL_PREF};
use crate::peer::PeerId;
use crate::reason::Loss;
use crate::wire::update::PeerKind;
use std::net::Ipv4Addr;

/// What was chosen, as places in the slice of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) best: Option<usize>,
    /// Equal to the best up to the tie-breaks, the best included; empty stands for the best alone.
    pub(crate) equal: Vec<usize>,
}

/// A path with what the decision wants to know of where it came from.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    place: usize,
    attributes: &'a Attributes,
    source: &'a Source,
}

impl Candidate<'_> {
    fn identifier(self) -> Ipv4Addr {
        self.attributes.originator_id.unwrap_or(self.source.router_id)
    }

    fn local_pref(self) -> u32 {
        self.attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF)
    }

    fn med(self) -> u32 {
        self.attributes.med.unwrap_or(0)
    }
}

/// Chooses among learned paths; `lost` hears of each that was not refused and lost before the tie-breaks, and of those
/// that lost in them.
pub(crate) fn choose<'a>(
    paths: &'a [Path],
    source: impl Fn(PeerId) -> Option<&'a Source>,
    mut lost: impl FnMut(usize, Loss),
) -> Choice {
    let usable = |(_, path): &(usize, &'a Path)| path.refusal.is_none();
    // Nearly always there is one path.
    if let [path] = paths {
        return Choice { best: path.refusal.is_none().then_some(0), equal: Vec::new() };
    }
    let mut alive: Vec<Candidate<'a>> = paths
        .iter()
        .enumerate()
        .filter(usable)
        .filter_map(|(place, path)| {
            Some(Candidate { place, attributes: &path.attributes, source: source(path.source)? })
        })
        .collect();
    if alive.len() > 1 {
        prefer(
            &mut alive,
            |c| u32::MAX - c.local_pref(),
            |c, best| {
                lost(c.place, Loss::LocalPref { path: c.local_pref(), best: best.local_pref() });
            },
        );
        let length = |c: Candidate<'_>| c.attributes.as_path.length();
        prefer(&mut alive, length, |c, best| {
            lost(c.place, Loss::AsPathLength { path: length(c), best: length(best) });
        });
        prefer(&mut alive, |c| c.attributes.origin, |c, _| lost(c.place, Loss::Origin));
        drop_higher_med(&mut alive, &mut lost);
        let internal = |c: Candidate<'_>| c.source.kind == PeerKind::Internal;
        prefer(&mut alive, internal, |c, _| lost(c.place, Loss::Internal));
    }
    let equal = if alive.len() > 1 { alive.iter().map(|c| c.place).collect() } else { Vec::new() };
    if alive.len() > 1 {
        prefer(&mut alive, Candidate::identifier, |c, best| {
            lost(c.place, Loss::Identifier { path: c.identifier(), best: best.identifier() });
        });
        let clusters = |c: Candidate<'_>| c.attributes.cluster_list.len();
        prefer(&mut alive, clusters, |c, best| {
            lost(c.place, Loss::ClusterList { path: clusters(c), best: clusters(best) });
        });
        prefer(
            &mut alive,
            |c| c.source.address,
            |c, best| {
                lost(c.place, Loss::PeerAddress { path: c.source.address, best: best.source.address });
            },
        );
    }
    Choice { best: alive.first().map(|c| c.place), equal }
}

/// Keeps those with the lowest key.
fn prefer<'a, K: Ord>(
    alive: &mut Vec<Candidate<'a>>,
    key: impl Fn(Candidate<'a>) -> K,
    mut lost: impl FnMut(Candidate<'a>, Candidate<'a>),
) {
    let Some(best) = alive.iter().copied().min_by_key(|c| key(*c)) else { return };
    let lowest = key(best);
    alive.retain(|candidate| {
        let kept = key(*candidate) == lowest;
        if !kept {
            lost(*candidate, best);
        }
        kept
    });
}

/// Step c: MEDs of one neighbouring AS are compared, of different ones not.
fn drop_higher_med(alive: &mut Vec<Candidate<'_>>, lost: &mut impl FnMut(usize, Loss)) {
    if alive.iter().all(|c| c.med() == 0) {
        return;
    }
    let all = alive.clone();
    alive.retain(|candidate| {
        let neighbour = candidate.attributes.as_path.neighbour();
        let same = all.iter().filter(|other| other.attributes.as_path.neighbour() == neighbour);
        let best = same.map(|other| other.med()).min().unwrap_or(0);
        let kept = candidate.med() <= best;
        if !kept {
            lost(candidate.place, Loss::Med { path: candidate.med(), best });
        }
        kept
    });
}

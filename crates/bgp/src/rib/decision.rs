//! The decision process (RFC 4271 section 9.1.2.2 with RFC 4456 section 9): the same steps choose, and say why the others lost.
//!
//! The interior cost of a next hop (step e) is not known here and counts as equal.

use super::table::{Path, Source};
use crate::attributes::{Attributes, DEFAULT_LOCAL_PREF, LLGR_STALE};
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
    id: u32,
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
            Some(Candidate { place, id: path.id, attributes: &path.attributes, source: source(path.source)? })
        })
        .collect();
    if alive.len() > 1 {
        let stale = |c: Candidate<'_>| c.attributes.communities.contains(&LLGR_STALE);
        prefer(&mut alive, stale, |c, _| lost(c.place, Loss::LongLivedStale));
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
        prefer(&mut alive, |c| c.id, |c, best| lost(c.place, Loss::PathId { path: c.id, best: best.id }));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::{AsPath, OriginCode, Segment, SegmentKind};
    use crate::config::ReflectMode;
    use crate::rib::table::Freshness;
    use lasthop_net::Asn;
    use std::sync::Arc;

    fn source(last: u8, kind: PeerKind) -> Source {
        // The higher address has the lower identifier.
        let router_id = Ipv4Addr::new(1, 1, 1, 100 - last);
        Source { address: [10, 0, 0, last].into(), router_id, kind, reflect: ReflectMode::NonClient }
    }

    fn attributes(change: impl FnOnce(&mut Attributes)) -> Attributes {
        let mut attributes = Attributes::bare([10, 9, 9, 9].into());
        attributes.local_pref = Some(100);
        let asns = vec![Asn(7), Asn(8)];
        attributes.as_path = AsPath(vec![Segment { kind: SegmentKind::Sequence, asns }]);
        change(&mut attributes);
        attributes
    }

    /// The winner of two paths, the first from 10.0.0.1 and the second from 10.0.0.2, and why the other lost.
    fn duel(first: Attributes, second: Attributes, kinds: [PeerKind; 2]) -> (usize, Loss) {
        let sources = [source(1, kinds[0]), source(2, kinds[1])];
        let path = |attributes, id| Path {
            attributes: Arc::new(attributes),
            source: PeerId(id),
            id: 0,
            refusal: None,
            freshness: Freshness::Fresh,
        };
        let paths = [path(first, 0), path(second, 1)];
        let mut losses = Vec::new();
        let choice = choose(&paths, |id| sources.get(id.0 as usize), |place, loss| losses.push((place, loss)));
        let best = choice.best.unwrap();
        let [(loser, loss)] = losses[..] else { panic!("{losses:?}") };
        assert_eq!(loser, 1 - best);
        (best, loss)
    }

    #[test]
    fn each_step_decides_when_all_before_it_are_equal_and_says_so() {
        use PeerKind::{External, Internal};
        let same = || attributes(|_| {});
        let id = |last| Some(Ipv4Addr::new(1, 1, 1, last));
        let inside = [Internal; 2];
        for (worse, kinds, expect) in [
            (
                attributes(|a| (a.local_pref, a.communities) = (Some(200), vec![LLGR_STALE])),
                inside,
                "kept from before a long restart of where it comes from (llgr-stale)",
            ),
            (attributes(|a| a.local_pref = Some(99)), inside, "LOCAL_PREF 99 is lower than 100"),
            (attributes(|a| a.as_path.prepend(Asn(7))), inside, "AS_PATH length 3 is longer than 2"),
            (attributes(|a| a.origin = OriginCode::Egp), inside, "ORIGIN is worse (IGP before EGP before INCOMPLETE)"),
            (attributes(|a| a.med = Some(1)), inside, "MULTI_EXIT_DISC 1 is higher than 0 of the same neighbouring AS"),
            (same(), [External, Internal], "learned from an internal peer, and an external one has it"),
            (attributes(|a| a.originator_id = id(200)), inside, "identifier 1.1.1.200 is higher than 1.1.1.99"),
        ] {
            let (best, loss) = duel(same(), worse, kinds);
            assert_eq!((best, loss.to_string().as_str()), (0, expect));
        }
        assert_eq!(duel(same(), same(), inside).0, 1, "the lower identifier, not the lower address");
        let originated = || attributes(|a| a.originator_id = id(5));
        let longer = attributes(|a| (a.originator_id, a.cluster_list) = (id(5), vec![Ipv4Addr::LOCALHOST]));
        let (best, loss) = duel(longer, originated(), inside);
        assert_eq!((best, loss), (1, Loss::ClusterList { path: 1, best: 0 }), "before the lower address");
        let (best, loss) = duel(originated(), originated(), inside);
        assert_eq!((best, loss.to_string().as_str()), (0, "peer address 10.0.0.2 is higher than 10.0.0.1"));
    }

    #[test]
    fn med_is_not_compared_across_neighbouring_ases() {
        let other = attributes(|a| {
            a.med = Some(50);
            a.as_path.0[0].asns[0] = Asn(9);
        });
        let (best, loss) = duel(attributes(|_| {}), other, [PeerKind::External; 2]);
        assert_eq!(best, 1, "{loss}");
    }
}

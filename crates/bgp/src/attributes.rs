//! Path attributes as values (RFC 4271 section 5, 1997, 4360, 8092, 4456), shared between all paths that have the same.

use lasthop_net::Asn;
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// ORIGIN; the lower the better.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum OriginCode {
    #[default]
    Igp = 0,
    Egp = 1,
    Incomplete = 2,
}

/// Kind of an AS_PATH segment. Confederation segments are refused on the way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SegmentKind {
    Set = 1,
    Sequence = 2,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Segment {
    pub(crate) kind: SegmentKind,
    /// 1 to 255 of them.
    pub(crate) asns: Vec<Asn>,
}

/// AS_PATH, the nearest AS first.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AsPath(pub(crate) Vec<Segment>);

impl AsPath {
    /// Length for the decision: an AS_SET counts one (RFC 4271 section 9.1.2.2).
    pub(crate) fn length(&self) -> usize {
        let one = |s: &Segment| if s.kind == SegmentKind::Set { 1 } else { s.asns.len() };
        self.0.iter().map(one).sum()
    }

    pub(crate) fn asns(&self) -> impl Iterator<Item = Asn> + '_ {
        self.0.iter().flat_map(|segment| segment.asns.iter().copied())
    }

    /// The AS the route came from, if the path starts with a sequence.
    pub(crate) fn neighbour(&self) -> Option<Asn> {
        self.0.first().filter(|s| s.kind == SegmentKind::Sequence).and_then(|s| s.asns.first()).copied()
    }

    /// RFC 4271 section 5.1.2: our AS in front.
    pub(crate) fn prepend(&mut self, asn: Asn) {
        match self.0.first_mut() {
            Some(segment) if segment.kind == SegmentKind::Sequence && segment.asns.len() < 255 => {
                segment.asns.insert(0, asn);
            }
            _ => self.0.insert(0, Segment { kind: SegmentKind::Sequence, asns: vec![asn] }),
        }
    }

    /// RFC 6793 section 4.2.3: the AS_PATH of a 2-octet speaker made whole from its AS4_PATH, which holds the last part
    /// of the path. One that is longer than the AS_PATH is not to be believed.
    pub(crate) fn merged(self, four: Self) -> Self {
        let Some(mut lead) = self.length().checked_sub(four.length()) else { return self };
        let mut whole = Vec::new();
        for segment in self.0 {
            if lead == 0 {
                break;
            }
            match segment.kind {
                SegmentKind::Set => {
                    lead -= 1;
                    whole.push(segment);
                }
                SegmentKind::Sequence => {
                    let taken = lead.min(segment.asns.len());
                    lead -= taken;
                    whole.push(Segment { asns: segment.asns.into_iter().take(taken).collect(), ..segment });
                }
            }
        }
        for segment in four.0 {
            match whole.last_mut() {
                Some(last)
                    if last.kind == SegmentKind::Sequence
                        && segment.kind == SegmentKind::Sequence
                        && last.asns.len() + segment.asns.len() <= 255 =>
                {
                    last.asns.extend(segment.asns);
                }
                _ => whole.push(segment),
            }
        }
        Self(whole)
    }
}

impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.0.iter().enumerate() {
            let words = segment.asns.iter().map(ToString::to_string).collect::<Vec<_>>();
            let space = if index == 0 { "" } else { " " };
            match segment.kind {
                SegmentKind::Sequence => write!(f, "{space}{}", words.join(" "))?,
                SegmentKind::Set => write!(f, "{space}{{{}}}", words.join(","))?,
            }
        }
        Ok(())
    }
}

/// An attribute we do not know, optional transitive: passed on with Partial set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Unknown {
    pub(crate) kind: u8,
    pub(crate) value: Vec<u8>,
}

/// The attributes of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Attributes {
    pub(crate) next_hop: IpAddr,
    /// The link-local next hop beside a global one (RFC 2545 section 3).
    pub(crate) link_local: Option<Ipv6Addr>,
    pub(crate) origin: OriginCode,
    pub(crate) as_path: AsPath,
    pub(crate) med: Option<u32>,
    pub(crate) local_pref: Option<u32>,
    pub(crate) atomic_aggregate: bool,
    pub(crate) aggregator: Option<(Asn, Ipv4Addr)>,
    pub(crate) communities: Vec<u32>,
    pub(crate) extended: Vec<[u8; 8]>,
    pub(crate) large: Vec<[u32; 3]>,
    pub(crate) originator_id: Option<Ipv4Addr>,
    pub(crate) cluster_list: Vec<Ipv4Addr>,
    /// Only to Customer (RFC 9234): the AS after which it may go down only.
    pub(crate) otc: Option<Asn>,
    pub(crate) unknown: Vec<Unknown>,
}

/// RFC 8326.
pub(crate) const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;
/// RFC 7999.
pub(crate) const BLACKHOLE: u32 = 0xffff_029a;
/// RFC 9494.
pub(crate) const LLGR_STALE: u32 = 0xffff_0006;
pub(crate) const NO_LLGR: u32 = 0xffff_0007;
pub(crate) const NO_EXPORT: u32 = 0xffff_ff01;
pub(crate) const NO_ADVERTISE: u32 = 0xffff_ff02;
pub(crate) const NO_EXPORT_SUBCONFED: u32 = 0xffff_ff03;
/// LOCAL_PREF where none was given.
pub(crate) const DEFAULT_LOCAL_PREF: u32 = 100;

impl Attributes {
    /// Nothing but a next hop.
    pub(crate) fn bare(next_hop: IpAddr) -> Self {
        Self {
            next_hop,
            link_local: None,
            origin: OriginCode::Igp,
            as_path: AsPath::default(),
            med: None,
            local_pref: None,
            atomic_aggregate: false,
            aggregator: None,
            communities: Vec::new(),
            extended: Vec::new(),
            large: Vec::new(),
            originator_id: None,
            cluster_list: Vec::new(),
            otc: None,
            unknown: Vec::new(),
        }
    }

    /// In words, for people. The next hop is not among them.
    pub(crate) fn words(&self) -> Vec<(&'static str, String)> {
        let list = |words: Vec<String>| words.join(" ");
        let mut out = vec![("ORIGIN", format!("{:?}", self.origin).to_uppercase())];
        let mut put = |name, words: String| {
            if !words.is_empty() {
                out.push((name, words));
            }
        };
        put("AS_PATH", self.as_path.to_string());
        put("LOCAL_PREF", self.local_pref.map(|v| v.to_string()).unwrap_or_default());
        put("MULTI_EXIT_DISC", self.med.map(|v| v.to_string()).unwrap_or_default());
        put("ATOMIC_AGGREGATE", if self.atomic_aggregate { "yes".to_owned() } else { String::new() });
        put("AGGREGATOR", self.aggregator.map(|(asn, id)| format!("AS {asn}, {id}")).unwrap_or_default());
        put("COMMUNITIES", list(self.communities.iter().map(|c| community(*c)).collect()));
        put("LARGE_COMMUNITIES", list(self.large.iter().map(|[a, b, c]| format!("{a}:{b}:{c}")).collect()));
        let hex = |octets: &[u8]| octets.iter().map(|o| format!("{o:02x}")).collect::<String>();
        put("EXTENDED_COMMUNITIES", list(self.extended.iter().map(|c| format!("0x{}", hex(c))).collect()));
        put("ORIGINATOR_ID", self.originator_id.map(|v| v.to_string()).unwrap_or_default());
        put("CLUSTER_LIST", list(self.cluster_list.iter().map(ToString::to_string).collect()));
        put("OTC", self.otc.map(|v| v.to_string()).unwrap_or_default());
        put("unknown", list(self.unknown.iter().map(|u| format!("type {}: 0x{}", u.kind, hex(&u.value))).collect()));
        out
    }
}

fn community(value: u32) -> String {
    match value {
        GRACEFUL_SHUTDOWN => "graceful-shutdown".to_owned(),
        BLACKHOLE => "blackhole".to_owned(),
        LLGR_STALE => "llgr-stale".to_owned(),
        NO_LLGR => "no-llgr".to_owned(),
        NO_EXPORT => "no-export".to_owned(),
        NO_ADVERTISE => "no-advertise".to_owned(),
        NO_EXPORT_SUBCONFED => "no-export-subconfed".to_owned(),
        _ => format!("{}:{}", value >> 16, value & 0xffff),
    }
}

/// Equal values are held once; those that nobody uses any more are dropped now and then.
#[derive(Debug)]
pub(crate) struct Interned<T: Ord> {
    set: BTreeSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: Ord> Default for Interned<T> {
    fn default() -> Self {
        Self { set: BTreeSet::new(), sweep_at: Self::MIN_SWEEP }
    }
}

impl<T: Ord> Interned<T> {
    const MIN_SWEEP: usize = 256;

    pub(crate) fn get(&mut self, value: T) -> Arc<T> {
        if let Some(known) = self.set.get(&value) {
            return Arc::clone(known);
        }
        if self.set.len() >= self.sweep_at {
            // Each sweep is paid for by as many insertions as it looks at.
            self.set.retain(|value| Arc::strong_count(value) > 1);
            self.sweep_at = (self.set.len() * 2).max(Self::MIN_SWEEP);
        }
        let value = Arc::new(value);
        self.set.insert(Arc::clone(&value));
        value
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.set.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(segments: &[(SegmentKind, &[u32])]) -> AsPath {
        AsPath(
            segments
                .iter()
                .map(|(kind, asns)| Segment { kind: *kind, asns: asns.iter().map(|a| Asn(*a)).collect() })
                .collect(),
        )
    }

    #[test]
    fn as4_path_replaces_the_end_of_a_two_octet_path() {
        use SegmentKind::{Sequence, Set};
        for (two, four, expect) in [
            (path(&[(Sequence, &[10, 23456, 20])]), path(&[(Sequence, &[70000, 20])]), "10 70000 20"),
            (path(&[(Sequence, &[23456, 23456])]), path(&[(Sequence, &[70000, 70001])]), "70000 70001"),
            (path(&[(Sequence, &[23456])]), path(&[(Sequence, &[1, 2])]), "23456"),
            (path(&[(Sequence, &[10]), (Set, &[1, 2]), (Sequence, &[23456])]), path(&[(Sequence, &[9])]), "10 {1,2} 9"),
            (path(&[(Sequence, &[1, 2, 3])]), AsPath::default(), "1 2 3"),
        ] {
            assert_eq!(two.merged(four).to_string(), expect);
        }
    }

    #[test]
    fn a_full_segment_is_not_overfilled_by_prepending() {
        let mut full = path(&[(SegmentKind::Sequence, &[7; 255])]);
        full.prepend(Asn(1));
        assert_eq!((full.0.len(), full.length(), full.neighbour()), (2, 256, Some(Asn(1))));
        let mut set = path(&[(SegmentKind::Set, &[7, 8])]);
        assert_eq!((set.length(), set.neighbour()), (1, None));
        set.prepend(Asn(1));
        assert_eq!(set.to_string(), "1 {7,8}");
    }

    #[test]
    fn interned_values_are_shared_and_unused_ones_go() {
        let mut interned = Interned::default();
        let kept = interned.get(u32::MAX);
        assert!(Arc::ptr_eq(&kept, &interned.get(u32::MAX)));
        for value in 0..10_000u32 {
            interned.get(value);
        }
        assert!(interned.len() <= 2 * Interned::<u32>::MIN_SWEEP, "{}", interned.len());
        assert!(Arc::ptr_eq(&kept, &interned.get(u32::MAX)));
    }
}

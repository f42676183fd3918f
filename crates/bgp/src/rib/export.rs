//! What a path looks like to a peer, or why it is not shown (RFC 4271 sections 5 and 9.2.1, RFC 4456 sections 6 and 8, RFC 1997, RFC 4360).

use super::table::Source;
use crate::attributes::{
    Attributes, BLACKHOLE, DEFAULT_LOCAL_PREF, GRACEFUL_SHUTDOWN, LLGR_STALE, NO_ADVERTISE, NO_EXPORT,
    NO_EXPORT_SUBCONFED,
};
use crate::config::{Drain, NextHop, ReflectMode, Role};
use crate::policy::{Applied, Blocked, Policy};
use crate::reason::NotAdvertised;
use crate::wire::Format;
use crate::wire::nlri::PathIds;
use crate::wire::update::PeerKind;
use lasthop_net::{Asn, Family, Prefix};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Everything that export depends on beside the path: peers of which this is equal form an update group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct View {
    pub(crate) kind: Kind,
    pub(crate) next_hop: NextHopRule,
    pub(crate) our_v4: Option<Ipv4Addr>,
    pub(crate) our_v6: Option<Ipv6Addr>,
    pub(crate) families: BTreeSet<Family>,
    pub(crate) format: Format,
    /// Families in which it is sent several paths, and how many at most (RFC 7911).
    pub(crate) paths: (BTreeSet<Family>, u8),
    /// IPv4 prefixes may have IPv6 next hops (RFC 8950).
    pub(crate) extended_next_hop: bool,
    /// Our address on the link we share (RFC 2545 section 3).
    pub(crate) our_link_local: Option<Ipv6Addr>,
    pub(crate) policy: Policy,
    pub(crate) drain: Drain,
    /// Ours (RFC 9234).
    pub(crate) role: Option<Role>,
    /// Whether it knows of long-lived stale routes (RFC 9494).
    pub(crate) long_lived: bool,
}

/// What the peer is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Internal(Reflection),
    /// With the AS we put in front.
    External(Asn),
}

impl Kind {
    fn is_external(self) -> bool {
        matches!(self, Self::External(_))
    }
}

/// [`ReflectMode`], ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reflection {
    NonClient,
    Client,
}

impl From<ReflectMode> for Reflection {
    fn from(mode: ReflectMode) -> Self {
        match mode {
            ReflectMode::NonClient => Self::NonClient,
            ReflectMode::Client => Self::Client,
        }
    }
}

/// [`NextHop`], ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NextHopRule {
    Auto,
    OurSelf,
    Keep,
}

impl From<NextHop> for NextHopRule {
    fn from(mode: NextHop) -> Self {
        match mode {
            NextHop::Auto => Self::Auto,
            NextHop::OurSelf => Self::OurSelf,
            NextHop::Keep => Self::Keep,
        }
    }
}

impl View {
    /// How many paths of a prefix are shown; one without identifiers.
    pub(crate) fn most(&self, family: Family) -> Option<usize> {
        self.paths.0.contains(&family).then_some(usize::from(self.paths.1))
    }

    pub(crate) fn ids(&self, family: Family) -> PathIds {
        if self.paths.0.contains(&family) { PathIds::Present } else { PathIds::Absent }
    }

    pub(crate) fn peer_kind(&self) -> PeerKind {
        match self.kind {
            Kind::Internal(_) => PeerKind::Internal,
            Kind::External(_) => PeerKind::External,
        }
    }

    /// What the export policy makes of a path.
    pub(crate) fn judge(
        &self,
        prefix: Prefix,
        attributes: &Attributes,
        source: Option<&Source>,
    ) -> Result<Applied, Blocked> {
        self.policy.judge(self.peer_kind(), prefix, (attributes, source.map(|source| source.kind)))
    }

    fn blocked(&self, blocked: Blocked) -> NotAdvertised {
        match blocked {
            Blocked::Missing => NotAdvertised::NoPolicy,
            Blocked::Rule(rule) => NotAdvertised::Policy(self.policy.name(rule).to_owned()),
            Blocked::NoRule => NotAdvertised::Policy("no rule accepts it".to_owned()),
        }
    }

    fn our_address(&self, family: Family) -> Result<IpAddr, NotAdvertised> {
        let ours = match family {
            Family::V4 if self.our_v4.is_some() || !self.extended_next_hop => self.our_v4.map(IpAddr::from),
            _ => self.our_v6.or(self.our_link_local).map(IpAddr::from),
        };
        ours.ok_or(NotAdvertised::NoNextHop)
    }
}

/// The attributes to send for a path from `source` (`None`: an own route), or why nothing is sent.
/// `judged` is what [`View::judge`] said; `cluster_id` is ours as a reflector.
pub(crate) fn export(
    (attributes, family): (&Attributes, Family),
    source: Option<&Source>,
    (view, judged): (&View, &Result<Applied, Blocked>),
    cluster_id: Ipv4Addr,
) -> Result<Attributes, NotAdvertised> {
    if !view.families.contains(&family) {
        return Err(NotAdvertised::Family);
    }
    check_communities(&attributes.communities, view.kind, source.is_some())?;
    let from_internal = source.is_some_and(|source| source.kind == PeerKind::Internal);
    let reflected = match view.kind {
        Kind::Internal(to) if from_internal => {
            let from_client = source.is_some_and(|source| source.reflect == ReflectMode::Client);
            if to == Reflection::NonClient && !from_client {
                return Err(NotAdvertised::InternalToInternal);
            }
            true
        }
        _ => false,
    };
    // RFC 9234 section 5: towards who is no customer of ours.
    let up = matches!(view.role, Some(Role::Customer | Role::Peer | Role::RouteServerClient));
    if up && attributes.otc.is_some() {
        return Err(NotAdvertised::OnlyToCustomers);
    }
    if !view.long_lived && attributes.communities.contains(&LLGR_STALE) {
        return Err(NotAdvertised::LongLivedStale);
    }
    let applied = judged.as_ref().map_err(|blocked| view.blocked(*blocked))?;
    let next_hop = match (view.kind, view.next_hop) {
        _ if source.is_none() => view.our_address(family)?,
        // Nobody else is on that link.
        _ if is_link_local(attributes.next_hop) => view.our_address(family)?,
        _ if reflected => attributes.next_hop,
        (_, NextHopRule::Keep) | (Kind::Internal(_), NextHopRule::Auto) => attributes.next_hop,
        _ => view.our_address(family)?,
    };
    if family == Family::V4 && next_hop.is_ipv6() && !view.extended_next_hop {
        return Err(NotAdvertised::ExtendedNextHop);
    }
    // Beside a global address of ours the one on the link we share.
    let link_local = view
        .our_link_local
        .filter(|local| view.our_v6.map(IpAddr::from) == Some(next_hop) && IpAddr::from(*local) != next_hop);
    let mut out = Attributes { next_hop, link_local, ..attributes.clone() };
    if view.kind.is_external() {
        // RFC 4271 section 5.1.4: a received MED goes to no other AS.
        out.med = attributes.med.filter(|_| source.is_none());
    }
    view.policy.apply(applied, &mut out);
    if view.drain == Drain::Yes && !out.communities.contains(&GRACEFUL_SHUTDOWN) {
        out.communities.push(GRACEFUL_SHUTDOWN);
    }
    match view.kind {
        Kind::Internal(_) => {
            let local_pref = out.local_pref.unwrap_or(DEFAULT_LOCAL_PREF);
            out.local_pref = Some(if view.drain == Drain::Yes { 0 } else { local_pref });
            if let Some(source) = source.filter(|_| reflected) {
                out.originator_id = Some(attributes.originator_id.unwrap_or(source.router_id));
                out.cluster_list.insert(0, cluster_id);
            }
        }
        Kind::External(local_asn) => {
            out.local_pref = None;
            out.originator_id = None;
            out.cluster_list.clear();
            // RFC 4360 section 6: bit 0x40 of the type means "not across an AS boundary".
            out.extended.retain(|[kind, ..]| kind & 0x40 == 0);
            out.as_path.prepend(local_asn);
            if matches!(view.role, Some(Role::Provider | Role::Peer | Role::RouteServer)) {
                out.otc = out.otc.or(Some(local_asn));
            }
        }
    }
    Ok(out)
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// RFC 1997; we are in no confederation, so its border is the AS's.
fn check_communities(communities: &[u32], kind: Kind, learned: bool) -> Result<(), NotAdvertised> {
    let outside = matches!(kind, Kind::External(_));
    for community in communities {
        match *community {
            NO_ADVERTISE => return Err(NotAdvertised::Community("no-advertise")),
            NO_EXPORT if outside => return Err(NotAdvertised::Community("no-export")),
            NO_EXPORT_SUBCONFED if outside => return Err(NotAdvertised::Community("no-export-subconfed")),
            // RFC 7999 section 3.2: as if NO_EXPORT had been added.
            BLACKHOLE if outside && learned => return Err(NotAdvertised::Community("blackhole")),
            _ => {}
        }
    }
    Ok(())
}

//! What a path looks like to a peer, or why it is not shown (RFC 4271 sections 5 and 9.2.1, RFC 4456 sections 6 and 8, RFC 1997, RFC 4360).

use super::table::Source;
use crate::attributes::{Attributes, DEFAULT_LOCAL_PREF, NO_ADVERTISE, NO_EXPORT, NO_EXPORT_SUBCONFED};
use crate::config::{NextHop, ReflectMode};
use crate::reason::NotAdvertised;
use crate::wire::AsnWidth;
use crate::wire::update::PeerKind;
use lasthop_net::{Asn, Family};
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
    pub(crate) width: AsnWidth,
}

/// What the peer is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Internal(Reflection),
    /// With the AS we put in front.
    External(Asn),
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
    fn our_address(&self, family: Family) -> Result<IpAddr, NotAdvertised> {
        let ours = match family {
            Family::V4 => self.our_v4.map(IpAddr::from),
            Family::V6 => self.our_v6.map(IpAddr::from),
        };
        ours.ok_or(NotAdvertised::NoNextHop)
    }
}

/// The attributes to send for a path from `source` (`None`: an own route), or why nothing is sent.
/// `cluster_id` is ours as a reflector.
pub(crate) fn export(
    (attributes, family): (&Attributes, Family),
    source: Option<&Source>,
    view: &View,
    cluster_id: Ipv4Addr,
) -> Result<Attributes, NotAdvertised> {
    if !view.families.contains(&family) {
        return Err(NotAdvertised::Family);
    }
    check_communities(&attributes.communities, view.kind)?;
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
    let next_hop = match (view.kind, view.next_hop) {
        _ if source.is_none() => view.our_address(family)?,
        _ if reflected => attributes.next_hop,
        (_, NextHopRule::Keep) | (Kind::Internal(_), NextHopRule::Auto) => attributes.next_hop,
        _ => view.our_address(family)?,
    };
    let mut out = Attributes { next_hop, link_local: None, ..attributes.clone() };
    match view.kind {
        Kind::Internal(_) => {
            out.local_pref = Some(attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF));
            if let Some(source) = source.filter(|_| reflected) {
                out.originator_id = Some(attributes.originator_id.unwrap_or(source.router_id));
                out.cluster_list.insert(0, cluster_id);
            }
        }
        Kind::External(local_asn) => {
            out.local_pref = None;
            out.originator_id = None;
            out.cluster_list.clear();
            // RFC 4271 section 5.1.4: a received MED goes to no other AS.
            out.med = attributes.med.filter(|_| source.is_none());
            // RFC 4360 section 6: bit 0x40 of the type means "not across an AS boundary".
            out.extended.retain(|[kind, ..]| kind & 0x40 == 0);
            out.as_path.prepend(local_asn);
        }
    }
    Ok(out)
}

/// RFC 1997; we are in no confederation, so its border is the AS's.
fn check_communities(communities: &[u32], kind: Kind) -> Result<(), NotAdvertised> {
    let outside = matches!(kind, Kind::External(_));
    for community in communities {
        match *community {
            NO_ADVERTISE => return Err(NotAdvertised::Community("no-advertise")),
            NO_EXPORT if outside => return Err(NotAdvertised::Community("no-export")),
            NO_EXPORT_SUBCONFED if outside => return Err(NotAdvertised::Community("no-export-subconfed")),
            _ => {}
        }
    }
    Ok(())
}

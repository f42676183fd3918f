//! How the types of `lasthop_net` and `lasthop_bgp` look on the wire; they themselves know nothing of serde.

use super::plain;
use lasthop_bgp::config::{
    AddPath, Admin, Auth, Bfd, ConnectMode, Drain, NextHop, PeerConfig, Policy, PrefixLimit, ReflectMode, RestartMode,
    Role, RoleMode, SpeakerConfig, Switch, Ttl,
};
use lasthop_net::{Asn, Family, IfName, NextHops, Prefix};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

#[derive(Serialize, Deserialize)]
#[serde(remote = "Asn")]
struct AsnMirror(u32);

#[derive(Serialize, Deserialize)]
#[serde(remote = "SpeakerConfig")]
pub(in crate::speaker) struct Speaker {
    #[serde(with = "AsnMirror")]
    asn: Asn,
    router_id: Ipv4Addr,
    cluster_id: Option<Ipv4Addr>,
    port: u16,
    bind: BTreeSet<IpAddr>,
    restart_time: Duration,
    deferral: Duration,
    #[serde(with = "plain")]
    drain: Drain,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "PeerConfig")]
struct Peer {
    address: IpAddr,
    #[serde(with = "plain")]
    interface: Option<IfName>,
    port: u16,
    #[serde(with = "AsnMirror")]
    asn: Asn,
    #[serde(with = "option_asn")]
    local_asn: Option<Asn>,
    local_address: Option<IpAddr>,
    next_hop_v4: Option<Ipv4Addr>,
    next_hop_v6: Option<Ipv6Addr>,
    #[serde(with = "Connect")]
    connect: ConnectMode,
    #[serde(with = "Reflect")]
    reflect: ReflectMode,
    #[serde(with = "Hop")]
    next_hop: NextHop,
    #[serde(with = "families")]
    families: BTreeSet<Family>,
    hold_time: Duration,
    #[serde(with = "State")]
    admin: Admin,
    #[serde(with = "plain")]
    auth: Option<Auth>,
    #[serde(with = "Distance")]
    ttl: Ttl,
    allowed_own_as: u8,
    #[serde(with = "plain")]
    limits: BTreeMap<Family, PrefixLimit>,
    #[serde(with = "plain")]
    import: Policy,
    #[serde(with = "plain")]
    export: Policy,
    #[serde(with = "plain")]
    role: Option<Role>,
    #[serde(with = "plain")]
    role_mode: RoleMode,
    #[serde(with = "plain")]
    add_path: AddPath,
    #[serde(with = "plain")]
    extended_next_hop: Switch,
    #[serde(with = "plain")]
    restart: RestartMode,
    restart_time: Option<Duration>,
    long_lived: Option<Duration>,
    #[serde(with = "plain")]
    graceful_shutdown: Switch,
    #[serde(with = "plain")]
    bfd: Option<Bfd>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Admin")]
enum State {
    Up,
    Down(String),
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Ttl")]
enum Distance {
    Any,
    Hops(u8),
    Security(u8),
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "ConnectMode")]
enum Connect {
    Active,
    Passive,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "ReflectMode")]
enum Reflect {
    NonClient,
    Client,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "NextHop")]
enum Hop {
    Auto,
    OurSelf,
    Keep,
}

/// A wrapper so that a mirrored type can stand in a list.
#[derive(Serialize, Deserialize)]
struct PeerItem(#[serde(with = "Peer")] PeerConfig);

#[derive(Serialize)]
struct PeerRef<'a>(#[serde(with = "Peer")] &'a PeerConfig);

/// One prefix: its address and its length.
pub(super) mod prefix {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(prefix: &Prefix, out: S) -> Result<S::Ok, S::Error> {
        (prefix.address(), prefix.len()).serialize(out)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Prefix, D::Error> {
        let (address, len) = <(IpAddr, u8)>::deserialize(input)?;
        Prefix::new(address, len).ok_or_else(|| de::Error::custom("a prefix longer than its address"))
    }
}

/// A prefix in a list or an option.
#[derive(Serialize, Deserialize)]
struct PrefixItem(#[serde(with = "prefix")] Prefix);

pub(super) mod option_prefix {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(value: &Option<Prefix>, out: S) -> Result<S::Ok, S::Error> {
        value.map(PrefixItem).serialize(out)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Prefix>, D::Error> {
        Ok(Option::<PrefixItem>::deserialize(input)?.map(|item| item.0))
    }
}

pub(in crate::speaker) mod prefixes {
    use super::*;

    pub(in crate::speaker) fn serialize<'a, L, S>(list: &'a L, out: S) -> Result<S::Ok, S::Error>
    where
        &'a L: IntoIterator<Item = &'a Prefix, IntoIter: ExactSizeIterator>,
        S: Serializer,
    {
        out.collect_seq(list.into_iter().map(|prefix| PrefixItem(*prefix)))
    }

    pub(in crate::speaker) fn deserialize<'de, L, D>(input: D) -> Result<L, D::Error>
    where
        L: FromIterator<Prefix>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<PrefixItem>::deserialize(input)?.into_iter().map(|item| item.0).collect())
    }
}

/// Next hops, of which there is nearly always one: read without a list in between.
struct HopsItem(NextHops);

impl<'de> Deserialize<'de> for HopsItem {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_seq(HopsVisitor).map(Self)
    }
}

struct HopsVisitor;

impl<'de> de::Visitor<'de> for HopsVisitor {
    type Value = NextHops;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("next hops")
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut hops: A) -> Result<NextHops, A::Error> {
        std::iter::from_fn(|| hops.next_element::<IpAddr>().transpose()).collect()
    }
}

pub(super) mod routes {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(list: &[(Prefix, NextHops)], out: S) -> Result<S::Ok, S::Error> {
        out.collect_seq(list.iter().map(|(prefix, next_hops)| (PrefixItem(*prefix), &next_hops[..])))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        input: D,
    ) -> Result<Vec<(Prefix, NextHops)>, D::Error> {
        let list = Vec::<(PrefixItem, HopsItem)>::deserialize(input)?;
        Ok(list.into_iter().map(|(prefix, next_hops)| (prefix.0, next_hops.0)).collect())
    }
}

pub(in crate::speaker) mod peers {
    use super::*;

    pub(in crate::speaker) fn serialize<'a, L, S>(list: &'a L, out: S) -> Result<S::Ok, S::Error>
    where
        &'a L: IntoIterator<Item = &'a PeerConfig, IntoIter: ExactSizeIterator>,
        S: Serializer,
    {
        out.collect_seq(list.into_iter().map(PeerRef))
    }

    pub(in crate::speaker) fn deserialize<'de, L, D>(input: D) -> Result<L, D::Error>
    where
        L: FromIterator<PeerConfig>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<PeerItem>::deserialize(input)?.into_iter().map(|item| item.0).collect())
    }
}

mod option_asn {
    use super::*;

    pub(super) fn serialize<S: Serializer>(asn: &Option<Asn>, out: S) -> Result<S::Ok, S::Error> {
        asn.map(|asn| asn.0).serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Asn>, D::Error> {
        Ok(Option::<u32>::deserialize(input)?.map(Asn))
    }
}

mod families {
    use super::*;

    pub(super) fn serialize<S: Serializer>(families: &BTreeSet<Family>, out: S) -> Result<S::Ok, S::Error> {
        Family::ALL.map(|family| families.contains(&family)).serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> Result<BTreeSet<Family>, D::Error> {
        let offered = <[bool; 2]>::deserialize(input)?;
        Ok(Family::ALL.into_iter().zip(offered).filter(|(_, offered)| *offered).map(|(family, _)| family).collect())
    }
}

//! A peer's settings as plain values that postcard knows: each type says how it looks ([`Plain`]), and what cannot be read back is refused.

use lasthop_bgp::config::{
    AddPath, Auth, Bfd, BfdPath, Community, Drain, Lengths, LimitAction, Policy, PrefixLimit, PrefixMatch,
    PrefixOperator, RestartMode, Role, RoleMode, RouteChange, RouteSource, Rule, Secret, Switch, Verdict,
};
use lasthop_net::{Asn, Family, IfName, Prefix};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// How a type looks as plain values.
pub(super) trait Plain: Sized {
    type As: Serialize + de::DeserializeOwned;
    fn plain(&self) -> Self::As;
    /// `None` for what no value looks like.
    fn read(plain: Self::As) -> Option<Self>;
}

pub(super) fn serialize<T: Plain, S: Serializer>(value: &T, out: S) -> Result<S::Ok, S::Error> {
    value.plain().serialize(out)
}

pub(super) fn deserialize<'de, T: Plain, D: Deserializer<'de>>(input: D) -> Result<T, D::Error> {
    T::read(T::As::deserialize(input)?).ok_or_else(|| de::Error::custom("a value that this version does not know"))
}

impl<T: Plain> Plain for Option<T> {
    type As = Option<T::As>;

    fn plain(&self) -> Self::As {
        self.as_ref().map(Plain::plain)
    }

    fn read(plain: Self::As) -> Option<Self> {
        match plain {
            None => Some(None),
            Some(plain) => T::read(plain).map(Some),
        }
    }
}

impl<T: Plain> Plain for Vec<T> {
    type As = Vec<T::As>;

    fn plain(&self) -> Self::As {
        self.iter().map(Plain::plain).collect()
    }

    fn read(plain: Self::As) -> Option<Self> {
        plain.into_iter().map(T::read).collect()
    }
}

/// Types that look as they are.
macro_rules! as_is {
    ($($type:ty),*) => {
        $(impl Plain for $type {
            type As = Self;

            fn plain(&self) -> Self {
                self.clone()
            }

            fn read(plain: Self) -> Option<Self> {
                Some(plain)
            }
        })*
    };
}

as_is!(u8, u32, String, Duration);

/// Enums without values: the place in a list. A variant that is not in it does not compile.
macro_rules! numbered {
    ($($type:ty { $($variant:ident),* })*) => {
        $(impl Plain for $type {
            type As = u8;

            fn plain(&self) -> u8 {
                match self {
                    $(Self::$variant => Self::$variant as u8,)*
                }
            }

            fn read(plain: u8) -> Option<Self> {
                [$(Self::$variant),*].into_iter().find(|value| value.plain() == plain)
            }
        })*
    };
}

numbered! {
    BfdPath { SingleHop, MultiHop }
    Drain { No, Yes }
    Family { V4, V6 }
    PrefixOperator { Equal, NotEqual, In, NotIn }
    RestartMode { Off, Helper, Full }
    Role { Provider, RouteServer, RouteServerClient, Customer, Peer }
    RoleMode { Lenient, Strict }
    RouteSource { Own, Learned, Internal, External }
    Switch { Off, On }
    Verdict { Accept, Reject }
}

/// Types that look like a tuple of others.
macro_rules! tuples {
    ($($type:ty as ($($part:ty),*): $to:expr, $from:expr;)*) => {
        $(impl Plain for $type {
            type As = ($(<$part as Plain>::As,)*);

            fn plain(&self) -> Self::As {
                let to: fn(&Self) -> Self::As = $to;
                to(self)
            }

            fn read(plain: Self::As) -> Option<Self> {
                let from: fn(Self::As) -> Option<Self> = $from;
                from(plain)
            }
        })*
    };
}

tuples! {
    Asn as (u32): |asn| (asn.0,), |(asn,)| Some(Self(asn));
    IfName as (String): |name| (name.to_string(),), |(name,)| name.parse().ok();
    AddPath as (Switch, u8): |a| (a.receive.plain(), a.send),
        |(receive, send)| Some(Self { receive: Switch::read(receive)?, send });
    Auth as (String, Option<u8>): |auth| match auth {
            Self::Md5(key) => (key.reveal().to_owned(), None),
            Self::Ao { key, id } => (key.reveal().to_owned(), Some(*id)),
        },
        |(key, id)| Some(match id {
            None => Self::Md5(Secret::new(key)),
            Some(id) => Self::Ao { key: Secret::new(key), id },
        });
    Bfd as (BfdPath, Duration, Duration, u8): |b| (b.path.plain(), b.transmit, b.receive, b.multiplier),
        |(path, transmit, receive, multiplier)| Some(Self { path: BfdPath::read(path)?, transmit, receive, multiplier });
    PrefixLimit as (u32, u8, LimitAction): |l| (l.max, l.warn_percent, l.action.plain()),
        |(max, warn_percent, action)| Some(Self { max, warn_percent, action: LimitAction::read(action)? });
    Lengths as (u8, u8): |l| (l.min, l.max), |(min, max)| Some(Self { min, max });
    PrefixMatch as (Prefix, PrefixOperator, Option<Lengths>):
        |m| (m.prefix.plain(), m.operator.plain(), m.lengths.plain()),
        |(prefix, operator, lengths)| Some(Self {
            prefix: Prefix::read(prefix)?,
            operator: PrefixOperator::read(operator)?,
            lengths: Option::read(lengths)?,
        });
    Rule as (String, Option<PrefixMatch>, Vec<Prefix>, Option<RouteSource>, Vec<Community>, Vec<Asn>, Option<u32>, Vec<RouteChange>, Option<Verdict>):
        |r| (
            r.name.clone(),
            r.prefix.plain(),
            r.outside.plain(),
            r.source.plain(),
            r.communities.plain(),
            r.as_path.plain(),
            r.local_pref,
            r.changes.plain(),
            r.verdict.plain(),
        ),
        |(name, prefix, outside, source, communities, as_path, local_pref, changes, verdict)| Some(Self {
            name,
            prefix: Option::read(prefix)?,
            outside: Vec::read(outside)?,
            source: Option::read(source)?,
            communities: Vec::read(communities)?,
            as_path: Vec::read(as_path)?,
            local_pref,
            changes: Vec::read(changes)?,
            verdict: Option::read(verdict)?,
        });
}

impl Plain for LimitAction {
    type As = Option<Option<Duration>>;

    fn plain(&self) -> Self::As {
        match self {
            Self::Warn => None,
            Self::Close(idle) => Some(*idle),
        }
    }

    fn read(plain: Self::As) -> Option<Self> {
        Some(plain.map_or(Self::Warn, Self::Close))
    }
}

impl Plain for Prefix {
    type As = (IpAddr, u8);

    fn plain(&self) -> Self::As {
        (self.address(), self.len())
    }

    fn read((address, len): Self::As) -> Option<Self> {
        Self::new(address, len)
    }
}

impl Plain for Community {
    type As = (Option<u32>, Option<[u8; 8]>, [u32; 3]);

    fn plain(&self) -> Self::As {
        match self {
            Self::Standard(value) => (Some(*value), None, [0; 3]),
            Self::Extended(value) => (None, Some(*value), [0; 3]),
            Self::Large(value) => (None, None, *value),
        }
    }

    fn read((standard, extended, large): Self::As) -> Option<Self> {
        let small = standard.map(Self::Standard).or(extended.map(Self::Extended));
        Some(small.unwrap_or(Self::Large(large)))
    }
}

/// [`RouteChange`], its values plain.
#[derive(Serialize, Deserialize)]
pub(super) enum Change {
    AddCommunity(<Community as Plain>::As),
    RemoveCommunity(<Community as Plain>::As),
    Prepend(Vec<u32>),
    SetLocalPref(u32),
    SetMed(u32),
}

impl Plain for RouteChange {
    type As = Change;

    fn plain(&self) -> Change {
        match self {
            Self::AddCommunity(community) => Change::AddCommunity(community.plain()),
            Self::RemoveCommunity(community) => Change::RemoveCommunity(community.plain()),
            Self::Prepend(asns) => Change::Prepend(asns.iter().map(|asn| asn.0).collect()),
            Self::SetLocalPref(value) => Change::SetLocalPref(*value),
            Self::SetMed(value) => Change::SetMed(*value),
        }
    }

    fn read(plain: Change) -> Option<Self> {
        Some(match plain {
            Change::AddCommunity(community) => Self::AddCommunity(Community::read(community)?),
            Change::RemoveCommunity(community) => Self::RemoveCommunity(Community::read(community)?),
            Change::Prepend(asns) => Self::Prepend(asns.into_iter().map(Asn).collect()),
            Change::SetLocalPref(value) => Self::SetLocalPref(value),
            Change::SetMed(value) => Self::SetMed(value),
        })
    }
}

impl Plain for Policy {
    type As = Option<(Vec<<Rule as Plain>::As>, u8)>;

    fn plain(&self) -> Self::As {
        match self {
            Self::Missing => None,
            Self::Rules(rules, otherwise) => Some((rules.iter().map(Plain::plain).collect(), otherwise.plain())),
        }
    }

    fn read(plain: Self::As) -> Option<Self> {
        match plain {
            None => Some(Self::Missing),
            Some((rules, otherwise)) => Some(Self::new(Vec::read(rules)?, Verdict::read(otherwise)?)),
        }
    }
}

impl Plain for BTreeMap<Family, PrefixLimit> {
    type As = Vec<(u8, <PrefixLimit as Plain>::As)>;

    fn plain(&self) -> Self::As {
        self.iter().map(|(family, limit)| (family.plain(), limit.plain())).collect()
    }

    fn read(plain: Self::As) -> Option<Self> {
        plain.into_iter().map(|(family, limit)| Some((Family::read(family)?, PrefixLimit::read(limit)?))).collect()
    }
}

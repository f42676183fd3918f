//! The kinds of resources and their names.

use crate::suggest;
use std::fmt;
use std::str::FromStr;

/// The kinds of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `Node`.
    Node,
    /// `WorkloadEndpoint`.
    WorkloadEndpoint,
    /// `IPPool`.
    IpPool,
    /// `BGPConfiguration`.
    BgpConfiguration,
    /// `BGPPeer`.
    BgpPeer,
    /// `FelixConfiguration`.
    FelixConfiguration,
}

/// Where resources of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the cluster as a whole.
    Cluster,
}

/// Kinds of the v3 API that this version does not know.
const NOT_YET: &[&str] = &[
    "HostEndpoint",
    "NetworkPolicy",
    "GlobalNetworkPolicy",
    "StagedNetworkPolicy",
    "StagedGlobalNetworkPolicy",
    "StagedKubernetesNetworkPolicy",
    "Tier",
    "Profile",
    "NetworkSet",
    "GlobalNetworkSet",
    "IPReservation",
    "IPAMConfiguration",
    "BGPFilter",
    "KubeControllersConfiguration",
    "ClusterInformation",
    "CalicoNodeStatus",
];

/// Why a text names no kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseKindError {
    /// No such kind.
    #[error("'{text}' is not a kind of resource{hint}")]
    Unknown {
        /// The text.
        text: String,
        /// What may have been meant.
        hint: String,
    },
    /// A kind of the v3 API that this version does not know.
    #[error("'{0}' is a kind that this version of lasthop does not support")]
    Unsupported(&'static str),
}

impl Kind {
    /// Every kind, in the order in which they are best created.
    pub const ALL: [Self; 6] = [
        Self::FelixConfiguration,
        Self::BgpConfiguration,
        Self::Node,
        Self::IpPool,
        Self::BgpPeer,
        Self::WorkloadEndpoint,
    ];

    /// The name, as in `kind:`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::WorkloadEndpoint => "WorkloadEndpoint",
            Self::IpPool => "IPPool",
            Self::BgpConfiguration => "BGPConfiguration",
            Self::BgpPeer => "BGPPeer",
            Self::FelixConfiguration => "FelixConfiguration",
        }
    }

    /// The plural in lower case, as in paths and on the command line.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Node => "nodes",
            Self::WorkloadEndpoint => "workloadendpoints",
            Self::IpPool => "ippools",
            Self::BgpConfiguration => "bgpconfigurations",
            Self::BgpPeer => "bgppeers",
            Self::FelixConfiguration => "felixconfigurations",
        }
    }

    /// Further names for the command line.
    #[must_use]
    pub fn short_names(self) -> &'static [&'static str] {
        match self {
            Self::Node => &["no"],
            Self::WorkloadEndpoint => &["wep", "weps"],
            Self::IpPool => &["pool", "pools", "ipp", "ipps"],
            Self::BgpConfiguration => &["bgpconfig", "bgpconfigs"],
            Self::BgpPeer => &["peer", "peers", "bgpp", "bgpps"],
            Self::FelixConfiguration => &["felixconfig", "felixconfigs", "settings"],
        }
    }

    /// Whether resources of this kind live in a namespace.
    #[must_use]
    pub fn scope(self) -> Scope {
        match self {
            Self::WorkloadEndpoint => Scope::Namespaced,
            _ => Scope::Cluster,
        }
    }

    /// Whether resources of this kind live in a namespace.
    #[must_use]
    pub fn is_namespaced(self) -> bool {
        self.scope() == Scope::Namespaced
    }

    /// The kind of that exact name, as in `kind:` of a document.
    ///
    /// # Errors
    /// If there is none; the error suggests one.
    pub fn from_document(text: &str) -> Result<Self, ParseKindError> {
        match Self::ALL.into_iter().find(|kind| kind.name() == text) {
            Some(kind) => Ok(kind),
            None => Err(unknown(text, |kind| vec![kind.name()])),
        }
    }
}

fn unknown(text: &str, names: impl Fn(Kind) -> Vec<&'static str>) -> ParseKindError {
    let plain = text.to_ascii_lowercase();
    if let Some(kind) = NOT_YET.iter().find(|kind| {
        let name = kind.to_ascii_lowercase();
        let plural = name.strip_suffix('y').map_or_else(|| format!("{name}s"), |stem| format!("{stem}ies"));
        plain == name || plain == plural
    }) {
        return ParseKindError::Unsupported(kind);
    }
    let all: Vec<&str> = Kind::ALL.into_iter().flat_map(names).collect();
    ParseKindError::Unknown { text: text.to_owned(), hint: suggest::hint(text, &all) }
}

impl FromStr for Kind {
    type Err = ParseKindError;

    /// Name, plural or short name, in any case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let same = |name: &str| name.eq_ignore_ascii_case(text);
        Self::ALL
            .into_iter()
            .find(|kind| same(kind.name()) || same(kind.plural()) || kind.short_names().iter().copied().any(same))
            .ok_or_else(|| unknown(text, |kind| vec![kind.name(), kind.plural()]))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_every_kind_leads_back_to_it() {
        let mut seen = std::collections::BTreeSet::new();
        for kind in Kind::ALL {
            let names = [kind.name(), kind.plural()].into_iter().chain(kind.short_names().iter().copied());
            for name in names {
                assert_eq!(name.parse(), Ok(kind), "{name}");
                assert_eq!(name.to_uppercase().parse(), Ok(kind), "{name}");
                assert!(seen.insert(name.to_lowercase()), "{name} is used twice");
            }
            assert_eq!(Kind::from_document(kind.name()), Ok(kind));
        }
    }

    #[test]
    fn a_typo_is_answered_with_the_right_name() {
        for (text, message) in [
            ("ipool", "'ipool' is not a kind of resource; did you mean 'IPPool'?"),
            ("bgppeer5", "'bgppeer5' is not a kind of resource; did you mean 'BGPPeer'?"),
            ("networkpolicies", "'NetworkPolicy' is a kind that this version of lasthop does not support"),
            ("Tier", "'Tier' is a kind that this version of lasthop does not support"),
        ] {
            assert_eq!(text.parse::<Kind>().unwrap_err().to_string(), message);
        }
        assert_eq!(
            Kind::from_document("ippool").unwrap_err().to_string(),
            "'ippool' is not a kind of resource; did you mean 'IPPool'?"
        );
    }
}

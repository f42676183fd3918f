//! The kinds of resources and their names.

use crate::suggest;
use std::fmt;
use std::str::FromStr;

/// The kinds of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `Rollout` of ours: a change that somebody waits for, or that goes back by itself. The first in the order of kinds, so that
    /// where it is written in order it stands before what it changes.
    Rollout,
    /// `RolloutReport` of ours: what a host says of a rollout.
    RolloutReport,
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
    /// `BGPFilter`.
    BgpFilter,
    /// `FelixConfiguration`.
    FelixConfiguration,
    /// `Tier`.
    Tier,
    /// `NetworkPolicy` of projectcalico.org.
    NetworkPolicy,
    /// `GlobalNetworkPolicy`.
    GlobalNetworkPolicy,
    /// `StagedNetworkPolicy`.
    StagedNetworkPolicy,
    /// `StagedGlobalNetworkPolicy`.
    StagedGlobalNetworkPolicy,
    /// `StagedKubernetesNetworkPolicy`.
    StagedKubernetesNetworkPolicy,
    /// `NetworkPolicy` of networking.k8s.io.
    KubernetesNetworkPolicy,
    /// `ClusterNetworkPolicy` of policy.networking.k8s.io.
    ClusterNetworkPolicy,
    /// `Profile`.
    Profile,
    /// `NetworkSet`.
    NetworkSet,
    /// `GlobalNetworkSet`.
    GlobalNetworkSet,
    /// `HostEndpoint`.
    HostEndpoint,
    /// `Namespace` of Kubernetes: labels for its endpoints to inherit.
    Namespace,
    /// `ServiceAccount` of Kubernetes: labels for its endpoints to inherit.
    ServiceAccount,
    /// `EndpointSlice` of discovery.k8s.io: what stands behind a service.
    EndpointSlice,
}

/// Where resources of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the cluster as a whole.
    Cluster,
}

/// How a kind is called.
struct Names {
    /// The `apiVersion` of its documents.
    version: &'static str,
    /// `kind` of its documents.
    written: &'static str,
    /// The plural on the command line.
    plural: &'static str,
    /// Further names for the command line.
    short: &'static [&'static str],
    scope: Scope,
}

const V3: &str = "projectcalico.org/v3";
const NETWORKING: &str = "networking.k8s.io/v1";
const CLUSTER_POLICY: &str = "policy.networking.k8s.io/v1alpha2";
const DISCOVERY: &str = "discovery.k8s.io/v1";
const OURS: &str = "lasthop/v1";

/// Kinds of the v3 API, and of Kubernetes' about networks, that this version does not know.
const NOT_YET: &[&str] = &[
    "IPReservation",
    "IPAMConfiguration",
    "KubeControllersConfiguration",
    "ClusterInformation",
    "CalicoNodeStatus",
    "AdminNetworkPolicy",
    "BaselineAdminNetworkPolicy",
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
    pub const ALL: [Self; 24] = [
        Self::FelixConfiguration,
        Self::BgpConfiguration,
        Self::Node,
        Self::IpPool,
        Self::BgpFilter,
        Self::BgpPeer,
        Self::Namespace,
        Self::ServiceAccount,
        Self::Tier,
        Self::Profile,
        Self::GlobalNetworkSet,
        Self::NetworkSet,
        Self::EndpointSlice,
        Self::GlobalNetworkPolicy,
        Self::NetworkPolicy,
        Self::KubernetesNetworkPolicy,
        Self::ClusterNetworkPolicy,
        Self::StagedGlobalNetworkPolicy,
        Self::StagedNetworkPolicy,
        Self::StagedKubernetesNetworkPolicy,
        Self::HostEndpoint,
        Self::WorkloadEndpoint,
        Self::Rollout,
        Self::RolloutReport,
    ];

    fn names(self) -> Names {
        use Scope::{Cluster, Namespaced};
        let v3 = |written, plural, scope, short| Names { version: V3, written, plural, short, scope };
        let other = |version, written, plural, scope, short| Names { version, written, plural, short, scope };
        match self {
            Self::Node => v3("Node", "nodes", Cluster, &["no"]),
            Self::WorkloadEndpoint => v3("WorkloadEndpoint", "workloadendpoints", Namespaced, &["wep", "weps"]),
            Self::IpPool => v3("IPPool", "ippools", Cluster, &["pool", "pools", "ipp", "ipps"]),
            Self::BgpConfiguration => {
                v3("BGPConfiguration", "bgpconfigurations", Cluster, &["bgpconfig", "bgpconfigs"])
            }
            Self::BgpPeer => v3("BGPPeer", "bgppeers", Cluster, &["peer", "peers", "bgpp", "bgpps"]),
            Self::BgpFilter => v3("BGPFilter", "bgpfilters", Cluster, &["bgpf", "bgpfs"]),
            Self::FelixConfiguration => {
                v3("FelixConfiguration", "felixconfigurations", Cluster, &["felixconfig", "felixconfigs", "settings"])
            }
            Self::Tier => v3("Tier", "tiers", Cluster, &[]),
            Self::NetworkPolicy => v3("NetworkPolicy", "networkpolicies", Namespaced, &["np", "nps"]),
            Self::GlobalNetworkPolicy => v3("GlobalNetworkPolicy", "globalnetworkpolicies", Cluster, &["gnp", "gnps"]),
            Self::StagedNetworkPolicy => v3("StagedNetworkPolicy", "stagednetworkpolicies", Namespaced, &["snp"]),
            Self::StagedGlobalNetworkPolicy => {
                v3("StagedGlobalNetworkPolicy", "stagedglobalnetworkpolicies", Cluster, &["sgnp"])
            }
            Self::StagedKubernetesNetworkPolicy => {
                v3("StagedKubernetesNetworkPolicy", "stagedkubernetesnetworkpolicies", Namespaced, &["sknp"])
            }
            Self::KubernetesNetworkPolicy => {
                let plural = "networkpolicies.networking.k8s.io";
                other(NETWORKING, "NetworkPolicy", plural, Namespaced, &["knp", "knps"])
            }
            Self::ClusterNetworkPolicy => {
                other(CLUSTER_POLICY, "ClusterNetworkPolicy", "clusternetworkpolicies", Cluster, &["cnp", "cnps"])
            }
            Self::Profile => v3("Profile", "profiles", Cluster, &[]),
            Self::NetworkSet => v3("NetworkSet", "networksets", Namespaced, &["netset", "netsets"]),
            Self::GlobalNetworkSet => v3("GlobalNetworkSet", "globalnetworksets", Cluster, &["gnetset", "gns"]),
            Self::HostEndpoint => v3("HostEndpoint", "hostendpoints", Cluster, &["hep", "heps"]),
            Self::Namespace => other("v1", "Namespace", "namespaces", Cluster, &["ns"]),
            Self::ServiceAccount => other("v1", "ServiceAccount", "serviceaccounts", Namespaced, &["sa"]),
            Self::EndpointSlice => other(DISCOVERY, "EndpointSlice", "endpointslices", Namespaced, &["eps"]),
            Self::Rollout => other(OURS, "Rollout", "rollouts", Cluster, &[]),
            Self::RolloutReport => other(OURS, "RolloutReport", "rolloutreports", Cluster, &[]),
        }
    }

    /// The name: no other kind has it. It is `kind` of documents, except of the two kinds that share theirs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KubernetesNetworkPolicy => "KubernetesNetworkPolicy",
            other => other.names().written,
        }
    }

    /// `kind` of documents of this kind; with [`Self::api_version`] no other has it.
    #[must_use]
    pub fn written(self) -> &'static str {
        self.names().written
    }

    /// `apiVersion` of documents of this kind.
    #[must_use]
    pub fn api_version(self) -> &'static str {
        self.names().version
    }

    /// The plural in lower case, as in paths and on the command line.
    #[must_use]
    pub fn plural(self) -> &'static str {
        self.names().plural
    }

    /// Further names for the command line.
    #[must_use]
    pub fn short_names(self) -> &'static [&'static str] {
        self.names().short
    }

    /// Whether resources of this kind live in a namespace.
    #[must_use]
    pub fn scope(self) -> Scope {
        self.names().scope
    }

    /// Whether resources of this kind live in a namespace.
    #[must_use]
    pub fn is_namespaced(self) -> bool {
        self.scope() == Scope::Namespaced
    }

    /// The kinds whose documents say this `kind` exactly.
    pub fn all_written(text: &str) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |kind| kind.written() == text)
    }

    /// The kind whose documents say exactly this `kind` and this `apiVersion`.
    ///
    /// # Errors
    /// If there is none; the error suggests one.
    pub fn from_document(text: &str, version: &str) -> Result<Self, ParseKindError> {
        match Self::all_written(text).find(|kind| kind.api_version() == version) {
            Some(kind) => Ok(kind),
            None => Err(unknown(text, |kind| vec![kind.written()])),
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
    let near = suggest::closest(text, Kind::ALL.into_iter().flat_map(&names));
    let hint = near.map_or_else(
        || {
            // Each kind once, by the last of its names: the plural, where one is asked for on the command line.
            let mut all: Vec<&str> = Kind::ALL.into_iter().filter_map(|kind| names(kind).pop()).collect();
            all.dedup();
            format!("; there are: {}", all.join(", "))
        },
        |near| format!("; did you mean '{near}'?"),
    );
    ParseKindError::Unknown { text: text.to_owned(), hint }
}

impl FromStr for Kind {
    type Err = ParseKindError;

    /// Name, plural or short name, in any case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // kubectl's way of telling two kinds of one name apart.
        let group = V3.split('/').next().and_then(|group| text.strip_suffix(group)?.strip_suffix('.'));
        let plain = group.unwrap_or(text);
        let same = |name: &str| name.eq_ignore_ascii_case(plain);
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
            assert_eq!(Kind::from_document(kind.written(), kind.api_version()), Ok(kind));
        }
    }

    #[test]
    fn two_kinds_of_one_name_are_told_apart() {
        for (text, kind) in [
            ("NetworkPolicy", Kind::NetworkPolicy),
            ("networkpolicies", Kind::NetworkPolicy),
            ("networkpolicies.projectcalico.org", Kind::NetworkPolicy),
            ("networkpolicies.networking.k8s.io", Kind::KubernetesNetworkPolicy),
            ("knp", Kind::KubernetesNetworkPolicy),
        ] {
            assert_eq!(text.parse(), Ok(kind), "{text}");
        }
        assert_eq!(Kind::from_document("NetworkPolicy", V3), Ok(Kind::NetworkPolicy));
        assert_eq!(Kind::from_document("NetworkPolicy", NETWORKING), Ok(Kind::KubernetesNetworkPolicy));
        assert!(Kind::from_document("NetworkPolicy", "v1").is_err());
    }

    #[test]
    fn a_typo_is_answered_with_the_right_name() {
        for (text, message) in [
            ("ipool", "'ipool' is not a kind of resource; did you mean 'IPPool'?"),
            ("bgppeer5", "'bgppeer5' is not a kind of resource; did you mean 'BGPPeer'?"),
            ("ipreservations", "'IPReservation' is a kind that this version of lasthop does not support"),
            ("IPAMConfiguration", "'IPAMConfiguration' is a kind that this version of lasthop does not support"),
            ("networkpolicys", "'networkpolicys' is not a kind of resource; did you mean 'NetworkPolicy'?"),
        ] {
            assert_eq!(text.parse::<Kind>().unwrap_err().to_string(), message);
        }
        // Where nothing is near, every kind is named, and named once.
        let bogus = "bogus".parse::<Kind>().unwrap_err().to_string();
        let (_, list) = bogus.split_once("; there are: ").unwrap();
        let named: Vec<&str> = list.split(", ").collect();
        assert_eq!(named, Kind::ALL.map(Kind::plural), "{bogus}");
        assert_eq!(
            Kind::from_document("ippool", V3).unwrap_err().to_string(),
            "'ippool' is not a kind of resource; did you mean 'IPPool'?"
        );
    }
}

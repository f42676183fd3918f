//! Policy as users write it, made valid: one type for every kind of policy, its rules, tiers, profiles, and what
//! rules can speak of (network sets, namespaces, service accounts, services, host endpoints).
//!
//! Selectors are as written: confining them to a namespace and naming sets is `lasthop-policy`'s part.

use crate::selector::Selector;
use crate::{Key, Kind, Labels, NodeName};
use lasthop_net::{Family, IfName, Prefix};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

/// A policy of any kind: NetworkPolicy, GlobalNetworkPolicy, their staged forms, `networking.k8s.io` NetworkPolicy
/// and ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// What names it. A namespace confines the policy, and the selectors of its rules, to it.
    pub key: Key,
    /// The tier that it belongs to.
    pub tier: String,
    /// Its place in the tier: lower comes first, without one last; ties go by name.
    pub order: Option<f64>,
    /// Whether it is in force.
    pub staging: Staging,
    /// Which endpoints it applies to.
    pub subject: Subject,
    /// Where packets meet it.
    pub stage: Stage,
    /// Rules for packets to the endpoint; `None` if the policy says nothing of that direction (`types`).
    pub ingress: Option<Vec<Rule>>,
    /// Rules for packets from the endpoint; `None` if the policy says nothing of that direction (`types`).
    pub egress: Option<Vec<Rule>>,
}

impl Policy {
    /// What stands in for a policy whose document cannot be used: its endpoints fail closed. Whatever of the document says whom it
    /// is for is heeded; where even that cannot be read, it is for all that it might be for.
    ///
    /// `None` if a document of this key is no policy, or only proposes one.
    #[must_use]
    pub fn stand_in(key: &Key, document: &serde_json::Value) -> Option<Self> {
        let staged = [Kind::StagedNetworkPolicy, Kind::StagedGlobalNetworkPolicy, Kind::StagedKubernetesNetworkPolicy];
        let policies =
            [Kind::NetworkPolicy, Kind::GlobalNetworkPolicy, Kind::KubernetesNetworkPolicy, Kind::ClusterNetworkPolicy];
        if staged.contains(&key.kind) || !policies.contains(&key.kind) {
            return None;
        }
        let spec = &document["spec"];
        let read = |name: &str| spec[name].as_str().and_then(|text| text.parse::<Selector>().ok());
        let named = matches!(key.kind, Kind::NetworkPolicy | Kind::GlobalNetworkPolicy);
        let deny = Rule {
            action: Action::Deny,
            family: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: Peer::default(),
            destination: Peer::default(),
        };
        Some(Self {
            key: key.clone(),
            tier: spec["tier"].as_str().filter(|_| named).unwrap_or("default").to_owned(),
            order: spec["order"].as_f64().filter(|_| named),
            staging: Staging::Enforced,
            subject: Subject {
                selector: read("selector").filter(|_| named).unwrap_or_else(Selector::all),
                namespaces: read("namespaceSelector").filter(|_| named),
                service_accounts: read("serviceAccountSelector").filter(|_| named),
            },
            stage: Stage::Normal,
            ingress: Some(vec![deny.clone()]),
            egress: Some(vec![deny]),
        })
    }
}

/// Which endpoints a policy applies to: all three must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// By the endpoint's own and inherited labels.
    pub selector: Selector,
    /// By the labels of its namespace.
    pub namespaces: Option<Selector>,
    /// By the labels of its service account.
    pub service_accounts: Option<Selector>,
}

/// Whether a policy is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Staging {
    /// It is.
    Enforced,
    /// It is only counted.
    Staged(StagedAction),
}

/// What a staged policy proposes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StagedAction {
    /// That the policy be as given.
    #[default]
    Set,
    /// That the policy of this name be deleted.
    Delete,
    /// Nothing: it is being written by observation.
    Learn,
    /// Nothing: it is to be left alone.
    Ignore,
}

/// Where packets meet a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// At workloads, and at host endpoints for packets to and from the host itself.
    #[default]
    Normal,
    /// As `Normal`, and at host endpoints also for packets that the host forwards (`applyOnForward`).
    AlsoForward,
    /// At host endpoints, before the destination is translated (`preDNAT`).
    BeforeDnat,
    /// At host endpoints, before connection tracking (`doNotTrack`).
    Untracked,
}

/// One rule. Every field that is given must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What happens then.
    pub action: Action,
    /// `ipVersion`.
    pub family: Option<Family>,
    /// The protocol's number.
    pub protocol: Option<u8>,
    /// Any protocol but this.
    pub not_protocol: Option<u8>,
    /// ICMP (or ICMPv6) type and code.
    pub icmp: Option<Icmp>,
    /// Any type and code but this.
    pub not_icmp: Option<Icmp>,
    /// Where the packet comes from.
    pub source: Peer,
    /// Where it goes to.
    pub destination: Peer,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The packet passes.
    Allow,
    /// It does not.
    Deny,
    /// It is noted, and the next rule is looked at.
    Log,
    /// The rest of the tier is skipped.
    Pass,
}

/// An ICMP type, and a code if one is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code; `None` is any.
    pub code: Option<u8>,
}

/// One side of a packet, as a rule sees it (`source`, `destination`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Any of these; empty: any at all.
    pub nets: Vec<Prefix>,
    /// None of these.
    pub not_nets: Vec<Prefix>,
    /// Endpoints and network sets by label.
    pub selector: Option<Selector>,
    /// Not those.
    pub not_selector: Option<Selector>,
    /// Of namespaces by label; `global()`: of none.
    pub namespaces: Option<Selector>,
    /// Of service accounts by name.
    pub service_account_names: BTreeSet<String>,
    /// Of service accounts by label.
    pub service_accounts: Option<Selector>,
    /// The endpoints of a service.
    pub service: Option<ServiceName>,
    /// Any of these; empty: any at all.
    pub ports: Vec<Port>,
    /// None of these.
    pub not_ports: Vec<Port>,
}

/// A service. Without a namespace it is one of the policy's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// Namespace.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

/// A port of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// By number.
    Range(PortRange),
    /// By the name that the destination endpoint gives it.
    Named(String),
}

/// Ports by number, both ends included; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// From `first` to `last`; `None` if that is empty.
    #[must_use]
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// One port.
    #[must_use]
    pub fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// First and last.
    #[must_use]
    pub fn bounds(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

/// A port that an endpoint gives a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// Name.
    pub name: String,
    /// Protocol number.
    pub protocol: u8,
    /// Port.
    pub port: u16,
}

/// A tier.
#[derive(Clone, Debug, PartialEq)]
pub struct Tier {
    /// Name.
    pub name: String,
    /// Its place: lower comes first, without one last; ties go by name.
    pub order: Option<f64>,
    /// What becomes of a packet that policies of the tier were asked about and none answered.
    pub default_action: TierDefault,
}

impl Tier {
    /// The tiers that are always there, by name, order and default action.
    const BUILT_IN: [(&str, f64, TierDefault); 3] = [
        ("kube-admin", 1_000.0, TierDefault::Pass),
        ("default", 1_000_000.0, TierDefault::Deny),
        ("kube-baseline", 10_000_000.0, TierDefault::Pass),
    ];

    /// The built-in tier of that name. It is there with a resource or without, and cannot be changed.
    #[must_use]
    pub fn built_in(name: &str) -> Option<Self> {
        Self::all_built_in().find(|tier| tier.name == name)
    }

    /// The built-in tiers, in their order.
    pub fn all_built_in() -> impl Iterator<Item = Self> {
        Self::BUILT_IN.into_iter().map(|(name, order, default_action)| Self {
            name: name.to_owned(),
            order: Some(order),
            default_action,
        })
    }
}

/// `defaultAction` of a tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TierDefault {
    /// It is dropped.
    #[default]
    Deny,
    /// The next tier is asked.
    Pass,
}

/// A profile: the last to be asked, and labels for its endpoints to inherit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Name.
    pub name: String,
    /// Rules for packets to the endpoint.
    pub ingress: Vec<Rule>,
    /// Rules for packets from the endpoint.
    pub egress: Vec<Rule>,
    /// Inherited by its endpoints where they have no label of the name themselves.
    pub labels: Labels,
}

/// Addresses with labels (NetworkSet, GlobalNetworkSet): selectors of rules find it as they find endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSet {
    /// What names it.
    pub key: Key,
    /// Its prefixes.
    pub nets: BTreeSet<Prefix>,
    /// Labels.
    pub labels: Labels,
}

/// A namespace or service account, for its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// What names it.
    pub key: Key,
    /// Labels.
    pub labels: Labels,
}

/// What stands behind a service: ready addresses and ports, as an EndpointSlice says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// What names the slice itself.
    pub key: Key,
    /// The service's name, in the slice's namespace.
    pub service: String,
    /// Ready addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Protocol and port of each.
    pub ports: BTreeSet<(u8, u16)>,
}

/// One or all interfaces of a host, under policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEndpoint {
    /// Name.
    pub name: String,
    /// The host.
    pub node: NodeName,
    /// Which interfaces.
    pub interface: HostInterface,
    /// Addresses by which an interface without name is found, and which selectors stand for.
    pub addresses: BTreeSet<IpAddr>,
    /// Profiles, in order.
    pub profiles: Vec<String>,
    /// Named ports.
    pub ports: Vec<NamedPort>,
    /// Labels.
    pub labels: Labels,
}

/// Which interfaces a host endpoint stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostInterface {
    /// Every one that has no host endpoint of its own (`*`).
    All,
    /// The one of this name.
    Named(IfName),
    /// The one that has one of the endpoint's addresses.
    ByAddress,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_cannot_be_read_denies_those_that_it_is_for() {
        let stand_in = |kind, document: &str| {
            let key = Key { kind, namespace: None, name: "p".into() };
            Policy::stand_in(&key, &serde_json::from_str(document).unwrap())
        };
        let broken =
            r#"{"spec": {"selector": "app == 'a'", "tier": "t", "order": 5, "ingress": [{"action": "Alow"}]}}"#;
        let policy = stand_in(Kind::GlobalNetworkPolicy, broken).unwrap();
        assert_eq!(policy.subject.selector.to_string(), r#"app == "a""#);
        assert_eq!((policy.tier.as_str(), policy.order), ("t", Some(5.0)));
        assert!([&policy.ingress, &policy.egress].into_iter().flatten().flatten().all(|r| r.action == Action::Deny));
        let worse = stand_in(Kind::NetworkPolicy, r#"{"spec": {"selector": "app = 'a'"}}"#).unwrap();
        assert!(worse.subject.selector.is_all() && worse.tier == "default");
        assert!(stand_in(Kind::KubernetesNetworkPolicy, "7").unwrap().subject.selector.is_all());
        assert!(stand_in(Kind::StagedNetworkPolicy, "{}").is_none() && stand_in(Kind::Tier, "{}").is_none());
    }
}

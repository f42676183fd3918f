//! What rules speak of, resolved to sets: which addresses, or which ports of which addresses.

use crate::ir::{Digest, Member, SetId};
use lasthop_model::policy::NamedPort;
use lasthop_model::selector::Selector;
use lasthop_net::Prefix;
use std::collections::BTreeSet;

/// What a set stands for. Rules with equal definitions share one set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetDefinition {
    /// Addresses of the endpoints, and prefixes of the network sets, whose effective labels match.
    Selected(Selector),
    /// The ports that endpoints whose effective labels match give one of some names.
    Named {
        /// Which endpoints.
        endpoints: Selector,
        /// Protocol number; `None`: whichever the endpoint gives the port.
        protocol: Option<u8>,
        /// The names.
        ports: BTreeSet<String>,
    },
    /// The ready addresses of a service.
    ServiceAddresses {
        /// The service's namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The ready addresses of a service with their ports.
    ServicePorts {
        /// The service's namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl SetDefinition {
    /// Its name by content.
    #[must_use]
    pub fn id(&self) -> SetId {
        SetId(Digest::of(self))
    }

    /// Which endpoints and network sets may be in it; `None`: it speaks of a service.
    #[must_use]
    pub fn selector(&self) -> Option<&Selector> {
        match self {
            Self::Selected(selector) | Self::Named { endpoints: selector, .. } => Some(selector),
            Self::ServiceAddresses { .. } | Self::ServicePorts { .. } => None,
        }
    }

    /// What an endpoint or network set that matches [`Self::selector`] adds to the set.
    #[must_use]
    pub fn members_of(&self, nets: &[Prefix], ports: &[NamedPort]) -> Vec<Member> {
        match self {
            Self::Selected(_) => nets.iter().copied().map(Member::Net).collect(),
            Self::Named { protocol, ports: names, .. } => {
                let meant =
                    |p: &&NamedPort| names.contains(&p.name) && protocol.is_none_or(|protocol| protocol == p.protocol);
                // Two names may be of one port.
                let named: BTreeSet<(u8, u16)> = ports.iter().filter(meant).map(|p| (p.protocol, p.port)).collect();
                let hosts = nets.iter().filter(|net| net.is_host());
                hosts.flat_map(|net| named.iter().map(|(p, port)| Member::Port(net.address(), *p, *port))).collect()
            }
            Self::ServiceAddresses { .. } | Self::ServicePorts { .. } => Vec::new(),
        }
    }
}

impl std::fmt::Display for SetDefinition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Selected(selector) => write!(f, "{selector}"),
            Self::Named { endpoints, ports, .. } => {
                let names: Vec<&str> = ports.iter().map(String::as_str).collect();
                write!(f, "port '{}' of {endpoints}", names.join("' or '"))
            }
            Self::ServiceAddresses { namespace, name } => write!(f, "the endpoints of service {namespace}/{name}"),
            Self::ServicePorts { namespace, name } => write!(f, "the ports of service {namespace}/{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn a_set_of_named_ports_has_those_of_all_its_names_once() {
        let port = |name: &str, protocol, port| NamedPort { name: name.into(), protocol, port };
        let ports = [port("web", 6, 80), port("also-web", 6, 80), port("dns", 17, 53), port("other", 6, 81)];
        let names = ["web", "also-web", "dns", "absent"].map(str::to_owned);
        let nets: Vec<Prefix> = vec!["10.65.0.2/32".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
        let address: IpAddr = "10.65.0.2".parse().unwrap();
        for (protocol, expected) in [
            (None, vec![Member::Port(address, 6, 80), Member::Port(address, 17, 53)]),
            (Some(17), vec![Member::Port(address, 17, 53)]),
        ] {
            let endpoints = Selector::every(Vec::new());
            let definition = SetDefinition::Named { endpoints, protocol, ports: names.clone().into() };
            assert_eq!(definition.members_of(&nets, &ports), expected);
        }
    }
}

//! What rules speak of, resolved to sets: which addresses, or which ports of which addresses.

use crate::ir::{Digest, Member, SetId};
use lasthop_model::policy::NamedPort;
use lasthop_model::selector::Selector;
use lasthop_net::Prefix;

/// What a set stands for. Rules with equal definitions share one set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetDefinition {
    /// Addresses of the endpoints, and prefixes of the network sets, whose effective labels match.
    Selected(Selector),
    /// The ports that endpoints whose effective labels match give a name.
    Named {
        /// Which endpoints.
        endpoints: Selector,
        /// Protocol number; `None`: whichever the endpoint gives the port.
        protocol: Option<u8>,
        /// The port's name.
        port: String,
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
            Self::Named { protocol, port, .. } => {
                let meant = |p: &&NamedPort| p.name == *port && protocol.is_none_or(|protocol| protocol == p.protocol);
                let named: Vec<&NamedPort> = ports.iter().filter(meant).collect();
                let hosts = nets.iter().filter(|net| net.is_host());
                hosts.flat_map(|net| named.iter().map(|p| Member::Port(net.address(), p.protocol, p.port))).collect()
            }
            Self::ServiceAddresses { .. } | Self::ServicePorts { .. } => Vec::new(),
        }
    }
}

impl std::fmt::Display for SetDefinition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Selected(selector) => write!(f, "{selector}"),
            Self::Named { endpoints, port, .. } => write!(f, "port '{port}' of {endpoints}"),
            Self::ServiceAddresses { namespace, name } => write!(f, "the endpoints of service {namespace}/{name}"),
            Self::ServicePorts { namespace, name } => write!(f, "the ports of service {namespace}/{name}"),
        }
    }
}

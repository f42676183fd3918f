//! Resources as users write them (projectcalico.org/v3), made valid.
//!
//! [`v3`] holds the raw shapes, the only place where serde stands; the types of this module are what
//! the rest of the program works with, and `TryFrom` is the only way from one to the other.
#![forbid(unsafe_code)]

mod bgp;
mod endpoint;
mod name;
mod node;
mod pool;
mod resource;
pub mod selector;
mod settings;

pub use bgp::{BgpConfiguration, BgpPeer, NextHopMode, NodeMatch, PeerTarget};
pub use endpoint::WorkloadEndpoint;
pub use name::{EndpointKey, NodeName, ParseNameError};
pub use node::Node;
pub use pool::IpPool;
pub use resource::{Key, Kind, Resource, SettingsScope};
pub use settings::{EndpointToHost, HostMac, Overlay, ProgramRoutes, Settings, SourceSpoofing};

/// Labels of a resource: sorted, so that output never depends on hashing.
pub type Labels = std::collections::BTreeMap<String, String>;

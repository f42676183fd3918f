//! Resources as users write them (projectcalico.org/v3), made valid.
//!
//! ```text
//! text ── read_documents ──▶ Document (JSON) ── Resource::parse ──▶ Resource
//!                                                     └──────────▶ Invalid: every wrong field, in words
//! ```
//!
//! [`v3`] holds the field tables and is the only place that knows the API's spelling; the types of this module
//! are what the rest of the program works with, and [`Resource::parse`] is the only way from one to the other.
#![forbid(unsafe_code)]

mod bgp;
mod document;
mod duration;
mod endpoint;
mod filter;
mod kind;
mod name;
mod node;
pub mod policy;
mod pool;
mod problem;
mod resource;
mod rollout;
pub mod selector;
mod settings;
mod suggest;
pub mod v3;

pub use bgp::{
    BgpConfiguration, BgpPeer, BindMode, NextHopMode, NodeMatch, PeerTarget, PrefixAdvertisement, ReversePeering,
    SecretRef, SourceAddress,
};
pub use document::{Document, ReadError, read_documents, to_json, to_list, to_yaml};
pub use duration::{ParseDurationError, parse_duration};
pub use endpoint::WorkloadEndpoint;
pub use filter::{
    BgpFilter, FilterAction, FilterOperation, FilterRule, ParseCommunityError, PeerScope, RangeMatch, RangeOperator,
    RouteCommunity,
};
pub use kind::{Kind, ParseKindError, Scope};
pub use name::{EndpointKey, NodeName, ParseNameError};
pub use node::{Drain, Node};
pub use pool::IpPool;
pub use problem::{Invalid, Problem};
pub use resource::{Key, Resource, SettingsScope};
pub use rollout::{Change, Rollout, RolloutReport};
pub use settings::{
    Dataplane, DenyAction, EndpointToHost, FailsafePort, HostMac, IptablesBackend, Overlay, ProgramRoutes, Rate,
    Revoke, Settings, SourceSpoofing,
};
pub use suggest::closest;

/// Labels of a resource: sorted, so that output never depends on hashing.
pub type Labels = std::collections::BTreeMap<String, String>;

//! The nouns of networking as types: prefix, MAC, ASN, link name, next hops, route protocol, table.
//!
//! Everything here is a value: parsing, printing, comparing. Nothing reads the system.
#![forbid(unsafe_code)]

mod asn;
mod link;
mod next_hops;
mod prefix;
mod prefix_map;
mod route;
pub mod scoped;

pub use asn::{Asn, ParseAsnError};
pub use link::{IfIndex, IfName, Mac, ParseIfNameError, ParseMacError};
pub use next_hops::NextHops;
pub use prefix::{Family, ParsePrefixError, Prefix};
pub use prefix_map::PrefixMap;
pub use route::{Metric, RouteProtocol, TableId};

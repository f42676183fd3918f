//! What this host ought to hold: endpoints, routes, neighbours, sysctls, sets, and what BGP should say.
//!
//! ```text
//! Event ──▶ Engine ──▶ Desired + Changes          (fast, incremental)
//! Snapshot ──────────▶ desired()                  (plain, the oracle the engine is held against)
//! ```
//!
//! Pure: no clock, no I/O, no randomness; output depends on present state only. Bad input never stops
//! the rest: it becomes a [`Finding`] and its endpoint fails closed.
#![forbid(unsafe_code)]

mod desired;
mod engine;
mod link;
mod oracle;
mod peers;
mod policy;
mod sessions;
mod snapshot;
mod sysctl;

pub use desired::{BgpIntent, Changes, Desired, Finding, Guard, Link, Nat, PeerIntent, Route, Source};
pub use engine::Engine;
pub use lasthop_model::EndpointToHost;
pub use link::{FIXED_HOST_MAC, host_sysctls, link_sysctls};
pub use oracle::{desired, desired_policy};
pub use sessions::{SessionChange, SessionEffect, session_changes};
pub use snapshot::{Event, Snapshot};
pub use sysctl::{Knob, Sysctl, SysctlValue};

//! Read, watch and compare-and-swap resources.
//!
//! [`Store`] is what every other part of Lasthop sees. [`Embedded`] keeps everything in one file of the process
//! that owns it, [`server::serve`] lets others use it, [`Remote`] is such another. [`certs`] makes the certificates
//! that both show each other, [`identity`] reads them.
#![forbid(unsafe_code)]

pub mod certs;
mod document;
mod embedded;
mod error;
pub mod identity;
mod key;
pub mod local;
mod remote;
pub mod rollout;
pub mod server;
mod store;
pub mod tls;
mod watch;
mod wire;

#[cfg(test)]
mod site;
#[cfg(test)]
mod suite;

pub use document::{MAX_DOCUMENT, resource_version, unstamped};
pub use embedded::{Candidate, Embedded, Options, Validator};
pub use error::{Error, OpenError};
pub use remote::{Remote, Target};
pub use store::{Answer, Expect, Listing, Reach, Revision, Status, Store, StoreId, Stored, WatchEvent};
pub use watch::Watch;
pub use wire::Timing;

/// A random number from the operating system.
fn random() -> u128 {
    let mut bytes = [0; 16];
    // Cannot fail where getrandom(2) exists; a zero would still be a legal number.
    let _ = rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes);
    u128::from_be_bytes(bytes)
}

//! Read, watch and compare-and-swap resources.
//!
//! [`Store`] is what every other part of Lasthop sees. [`Embedded`] keeps everything in one file of the process
//! that owns it.
#![forbid(unsafe_code)]

mod document;
mod embedded;
mod error;
mod key;
mod store;
mod watch;

#[cfg(test)]
mod suite;

pub use document::{MAX_DOCUMENT, resource_version};
pub use embedded::{Candidate, Embedded, Options, Validator};
pub use error::{Error, OpenError};
pub use store::{Answer, Expect, Listing, Reach, Revision, Status, Store, StoreId, Stored, WatchEvent};
pub use watch::Watch;

//! A BGP speaker with no sockets and no clock.
//!
//! A driver owns the sockets and the time. It calls [`Speaker`] with what happened and when, then drains
//! [`Speaker::poll_output`], and calls again at [`Speaker::next_timeout`]. The same speaker runs in tests under virtual time.
#![forbid(unsafe_code)]

mod api;
mod attributes;
pub mod bfd;
mod bmp;
pub mod config;
mod ended;
mod mrt;
mod peer;
mod policy;
mod reason;
mod report;
mod rib;
mod session;
mod speaker;
mod wire;

pub use api::{Bytes, ConnId, Input, Origin, Output, Start, StopMode};
pub use bmp::{BmpTable, Clock, initiation, termination};
pub use ended::{EndedBy, Ending};
pub use mrt::MrtDump;
pub use reason::{Loss, NotAdvertised, Refusal};
pub use report::{
    AdvertisedReport, NegotiatedReport, PathReport, PathSource, PathVerdict, PeerCounters, PeerState, PeerStatus,
    RestartStatus, WhyReport,
};
pub use speaker::Speaker;

/// Decodes octets as a stream of messages from a peer, in each setting that changes how they are read; how many messages
/// were whole. It exists to be fed with anything at all.
#[must_use]
pub fn decode_any(bytes: &[u8]) -> usize {
    wire::decode_any(bytes)
}

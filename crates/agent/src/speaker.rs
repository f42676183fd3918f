//! The BGP speaker's process and the agent's line to it.
//!
//! `lasthop bgp` ([`serve`]) owns the sockets, the clock and one [`lasthop_bgp::Speaker`]; the agent tells it what to
//! advertise and hears what it learns through a [`Client`]. They are two processes so that neither's crash or upgrade
//! takes the other along: without its agent the speaker goes on as last told, and after a crash of its own it
//! starts from what it was last told ([`intent`]) and restarts gracefully (RFC 4724), so that no peer drops a route.

mod answer;
mod client;
mod connection;
mod driver;
mod dump;
mod intent;
mod lines;
mod link;
mod liveness;
pub mod protocol;
mod record;
mod serve;
mod socket;
mod station;
mod suspect;
mod watch;

pub use client::{Client, Event};
pub use protocol::{LearnedRoute, PeerState, Question, ToSpeaker};
pub use record::{Recording, ReplayError, Replayed, replay};
pub use serve::{OnStop, ServeError, run, serve};

//! The daemon: one loop, one ordered apply, the attach API, health and metrics; and the speaker's process.

pub mod api;
mod apply;
mod attach;
pub mod client;
pub mod config;
mod document;
mod feed;
mod http;
mod lock;
mod memory;
pub mod names;
mod readable;
mod records;
mod revoke;
mod rollouts;
mod run;
mod secrets;
mod snapshot;
mod socket;
pub mod speaker;
mod status;
pub mod stores;
mod voice;
mod withdraw;

pub use run::run;
pub use socket::{group_id, parse as parse_request};

//! The daemon: one loop, one ordered apply, the attach API, health and metrics; and the speaker's process.

pub mod api;
pub mod client;
pub mod config;
pub mod speaker;

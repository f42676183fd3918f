//! What a rule means.
//!
//! ```text
//! model::policy (as written) ── compile ──▶ Program, Stack, SetDefinition ── decide ──▶ verdict, and the path to it
//!                                                       └── HostPolicy ──▶ the dataplanes render it
//! ```
//!
//! [`ir`] is what every dataplane renders, and what the evaluator, which is the specification, reads.
#![forbid(unsafe_code)]

pub mod compile;
pub mod decide;
pub mod difference;
pub mod ir;
pub mod journey;
pub mod labels;
pub mod logging;
pub mod order;
pub mod sets;
pub mod stack;
pub mod world;

pub use decide::{Cause, Decision, Packet, Verdict, decide};
pub use world::World;

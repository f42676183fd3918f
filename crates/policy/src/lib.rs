//! What a rule means.
//!
//! ```text
//! model::policy (as written) ── compile ──▶ Program, Stack, SetDefinition ── decide ──▶ verdict, and the path to it
//!                                                       └── HostPolicy ──▶ the dataplanes render it
//! ```
//!
//! [`ir`] is what every dataplane renders, and what the evaluator, which is the specification, reads.
#![forbid(unsafe_code)]

pub mod ir;

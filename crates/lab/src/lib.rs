//! Whole networks on one machine: every host a network namespace with its own agent, speaker and kernel
//! tables, workloads behind veths and TAPs, a fabric, a gateway and what lies behind it.
//!
//! ```text
//! topology (YAML) ─▶ documents ─▶ store            namespaces, links ─▶ processes ─▶ attach ─▶ ready
//! ```
//!
//! * [`topology`], [`builtin`]: what a network consists of.
//! * [`documents`]: what that means in resources and configuration files.
//! * [`state`]: what a lab writes down, so that it can be taken down also after a crash.
//! * [`ping`], [`routes`]: looking at it.
#![deny(unsafe_code)]

pub mod builtin;
pub mod documents;
pub mod guest;
pub mod netns;
pub mod ping;
pub mod process;
pub mod progress;
pub mod routes;
pub mod state;
mod tap;
pub mod topology;

//! Whole networks on one machine: every host a network namespace with its own agent, speaker and kernel
//! tables, workloads behind veths and TAPs, a fabric, a gateway and what lies behind it.
//!
//! ```text
//! topology (YAML) ─▶ documents ─▶ store            namespaces, links ─▶ processes ─▶ attach ─▶ ready
//! ```
//!
//! * [`topology`], [`builtin`]: what a network consists of.
//! * [`documents`]: what that means in resources and configuration files.
//! * [`build`], [`links`], [`netns`]: namespaces and wires; [`guest`], [`vm`]: what is behind a TAP.
//! * [`state`], [`process`]: what a lab writes down, so that it can be taken down also after a crash.
//! * [`up`], [`ready`], [`control`], [`mod@down`]: its life.
//! * [`ping`], [`routes`], [`view`]: looking at it.
#![deny(unsafe_code)]

pub mod build;
pub mod builtin;
pub mod control;
pub mod documents;
pub mod down;
pub mod guest;
pub mod initramfs;
pub mod links;
pub mod netns;
pub mod ping;
pub mod process;
pub mod progress;
pub mod ready;
pub mod routes;
pub mod state;
pub mod topology;
pub mod up;
pub mod view;
pub mod vm;

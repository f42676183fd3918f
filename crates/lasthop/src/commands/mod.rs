//! One file a command: its flags, and what it does with them.

pub(crate) mod agent;
pub(crate) mod bgp;
mod bgp_plan;
pub(crate) mod certs;
pub(crate) mod change;
pub(crate) mod completions;
pub(crate) mod counters;
pub(crate) mod delete;
pub(crate) mod drops;
pub(crate) mod explain;
pub(crate) mod get;
pub(crate) mod node;
pub(crate) mod policy;
pub(crate) mod remove_all;
pub(crate) mod rollout;
pub(crate) mod routes;
pub(crate) mod server;
pub(crate) mod status;
pub(crate) mod validate;
pub(crate) mod workload;

//! Policy on a host with a thousand endpoints: what a packet costs, how soon a change is in the kernel, and what the
//! computation alone takes.
//!
//! Everything runs in this process, engine and kernel driver as the agent has them, in namespaces that the bench makes
//! and removes ([`ground`]). [`world`] says what there is: endpoints, policies, sets.

mod alone;
mod chains;
mod control;
mod datapath;
mod ground;
mod world;

use super::Plan;
use super::report::Row;
use anyhow::Result;

pub(super) fn run(plan: &Plan) -> Result<Vec<Row>> {
    let mut rows = datapath::rows(plan)?;
    rows.extend(control::rows(plan)?);
    rows.extend(alone::rows(plan)?);
    Ok(rows)
}

//! `lasthop agent`: the daemon of a host.

use crate::connect::Context;
use crate::exit::{Exit, Failure, Outcome};
use crate::log;

/// Run this host's agent: kernel state from the store and from BGP, and the attach API
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lasthop agent --config /etc/lasthop/lasthop.yaml
  systemctl enable --now lasthop-bgp lasthop-agent")]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _args: &Args) -> Outcome {
    let config = context.config()?;
    log::start(config.log)?;
    lasthop_agent::run(config).map_err(|error| Failure::new(Exit::Failed, format!("{error:#}")))?;
    Ok(Exit::Done)
}

//! `lasthop status`: this host on one screen.

use crate::connect::{AgentSocket, Context};
use crate::exit::{Exit, Outcome};
use crate::output::{self, Now, Output};
use lasthop_agent::api::{Request, Status, Workload};

/// This host on one screen: store, links, sessions, routes, drift, what is not in force and why
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lasthop status
  lasthop status -o json | jq .findings")]
pub(crate) struct Args {
    #[command(flatten)]
    socket: AgentSocket,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let mut agent = context.agent(&args.socket)?;
    let status: Status = agent.call(Request::Status)?;
    let workloads: Vec<Workload> = agent.call(Request::Workloads)?;
    args.output.show(&status, |_, paint| output::status(&status, &workloads, Now::read(), paint))?;
    Ok(Exit::Done)
}

//! `lasthop routes`: what this host wants in the kernel's main table, what is there, and why.

use crate::connect::{AgentSocket, Context};
use crate::exit::{Exit, Outcome};
use crate::output::{self, Output};
use lasthop_agent::api::{Request, RouteState};

/// The routes of this host: where to, because of what, and what keeps one out of the kernel
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lasthop routes
  lasthop routes -o wide                  also says which are advertised
  lasthop routes -o json")]
pub(crate) struct Args {
    #[command(flatten)]
    socket: AgentSocket,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let routes: Vec<RouteState> = context.agent(&args.socket)?.call(Request::Routes)?;
    args.output.show(&routes, |format, paint| output::routes(&routes, format, paint))?;
    Ok(Exit::Done)
}

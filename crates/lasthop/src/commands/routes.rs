//! `lasthop routes`: what this host wants in the kernel's main table, what is there, and why.

use crate::connect::{AgentSocket, Context};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{self, Output};
use lasthop_agent::api::{Request, RouteState};
use lasthop_kernel::routes::main_table;

/// The routes of this host: where to, because of what, and what keeps one out of the kernel
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lasthop routes
  lasthop routes -o wide                  also says which are advertised
  lasthop routes --host                   the whole main table, also what other programs put there
  lasthop routes -o json")]
pub(crate) struct Args {
    /// The whole main table of this host: who made each route, and what of ours is missing
    #[arg(long)]
    host: bool,
    #[command(flatten)]
    socket: AgentSocket,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    if args.host {
        return whole_table(context, args);
    }
    let routes: Vec<RouteState> = context.agent(&args.socket)?.call(Request::Routes)?;
    args.output.show(&routes, |format, paint| output::routes(&routes, format, paint))?;
    Ok(Exit::Done)
}

/// The kernel's table, read here; reasons come from the agent, and are left out if there is none.
fn whole_table(context: &Context, args: &Args) -> Outcome {
    let listed = main_table().map_err(|error| Failure::new(Exit::Failed, error))?;
    let asked = context.agent(&args.socket).and_then(|mut agent| Ok(agent.call(Request::Routes)?));
    let wanted: Vec<RouteState> = asked.unwrap_or_else(|failure: Failure| {
        eprintln!("note: reasons are left out: {}", failure.lines.join(" "));
        Vec::new()
    });
    let routes = output::merge(&listed, &wanted);
    args.output.show(&routes, |format, paint| output::host_routes(&routes, format, paint))?;
    Ok(Exit::Done)
}

//! `lasthop remove-all`: the host as it was before its agent.

use crate::connect::{AgentSocket, Context};
use crate::exit::{Exit, Outcome};
use crate::output::Output;
use lasthop_agent::api::Request;

/// Stop this host's agent and take away all that it made: routes, rules, links, settings
///
/// Withdraws this host's addresses, then takes away what is ours in the kernel and nothing else. Workloads stay
/// recorded: an agent that is started again connects those whose links are there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lasthop remove-all\n  lasthop remove-all && systemctl disable lasthop-agent")]
pub(crate) struct Args {
    #[command(flatten)]
    socket: AgentSocket,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    context.agent(&args.socket)?.call::<()>(Request::RemoveAll)?;
    args.output.show(&(), |_, _| "all that the agent made is taken away; the agent has stopped\n".to_owned())?;
    Ok(Exit::Done)
}

//! `lasthop policy counters`: what each rule in force on this host has counted, and which never matched.

use crate::connect::{AgentSocket, Context};
use crate::exit::{Exit, Outcome};
use crate::output::{self, Output};
use lasthop_agent::api::{Request, RuleState};

/// The rules in force on this host and the packets that each decided about
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The first packet of a connection counts; those of an established connection meet no rule.
A rule counts from zero again when its policy changes.

Examples:
  lasthop policy counters
  lasthop policy counters --unused        rules that no packet has matched yet
  lasthop policy counters -o json")]
pub(crate) struct Args {
    /// Only rules that no packet has matched
    #[arg(long)]
    unused: bool,
    #[command(flatten)]
    socket: AgentSocket,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let mut rules: Vec<RuleState> = context.agent(&args.socket)?.call(Request::PolicyRules)?;
    rules.retain(|rule| !args.unused || rule.packets == 0);
    args.output.show(&rules, |_, paint| output::rules(&rules, paint))?;
    Ok(Exit::Done)
}

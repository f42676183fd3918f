//! `lasthop bgp`: the speaker's process, and questions to it.

mod dump;
mod record;
mod watch;

use super::bgp_plan;
use crate::connect::{AgentSocket, Context};
use crate::exit::{Exit, Failure, Outcome};
use crate::log;
use crate::output::{Format, Output, Paint, bgp};
use lasthop_agent::api::Request;
use lasthop_agent::speaker::{self, OnStop};
use lasthop_net::Prefix;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Run the BGP speaker, or ask it: peers, paths, why a path
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without a command the speaker itself runs, in a process of its own, so that an agent that ends or is upgraded
drops no session.

Examples:
  lasthop bgp --config /etc/lasthop/lasthop.yaml
  lasthop bgp peers
  lasthop bgp why 10.65.0.21/32")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// When the speaker is stopped, tell the peers to drop our routes at once [default: they keep them for the
    /// restart time, so that a restart of the speaker is not noticed]
    #[arg(long)]
    withdraw: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// The peers: state, since when, last error in words, prefixes in and out
    #[command(after_help = "Examples:\n  lasthop bgp peers\n  lasthop bgp peers -o json")]
    Peers(Ask),
    Plan(bgp_plan::Args),
    /// Every path the speaker knows, best ones marked
    #[command(after_help = "Examples:\n  lasthop bgp paths\n  lasthop bgp paths 10.65.0.21/32")]
    Paths {
        /// Only of this prefix
        #[arg(value_parser = prefix)]
        prefix: Option<Prefix>,
        #[command(flatten)]
        ask: Ask,
    },
    /// Why a path won or lost, what became of it in the kernel, and why it is or is not advertised to each peer
    #[command(after_help = "Examples:\n  lasthop bgp why 10.65.0.21/32\n  lasthop bgp why 10.65.0.21")]
    Why {
        /// The prefix; an address stands for its /32 or /128
        #[arg(value_parser = prefix)]
        prefix: Prefix,
        #[command(flatten)]
        ask: Ask,
    },
    /// What happens, as it happens: sessions up and down, routes learned, lost, advertised and withdrawn
    #[command(
        after_help = "Begins with how the sessions stand, and goes on until it is interrupted. With -o json, one object a line.\n\n\
Examples:\n  lasthop bgp watch\n  lasthop bgp watch -o json"
    )]
    Watch(Ask),
    /// Write the tables to a file in MRT format (RFC 6396), which bgpdump and others read
    #[command(after_help = "Example:\n  lasthop bgp dump --mrt /tmp/rib.mrt && bgpdump -m /tmp/rib.mrt")]
    Dump(dump::Args),
    /// Record what goes into the speaker, with its time, so that it can be replayed elsewhere
    #[command(
        after_help = "The recording begins with how everything stands. It holds addresses, routes and policies, but no password.\n\n\
Examples:\n  lasthop bgp record --output /tmp/flap.rec --for 120\n  lasthop bgp record --stop\n  lasthop bgp replay /tmp/flap.rec"
    )]
    Record(record::Args),
    /// Put a recording into a fresh speaker, without sockets and under virtual time; print its peers and paths at the end
    #[command(
        after_help = "Needs neither root nor an agent.\n\nExamples:\n  lasthop bgp replay /tmp/flap.rec\n  lasthop bgp replay /tmp/flap.rec -o json"
    )]
    Replay(record::ReplayArgs),
}

#[derive(Debug, clap::Args)]
struct Ask {
    #[command(flatten)]
    socket: AgentSocket,
    #[command(flatten)]
    output: Output,
}

/// A prefix, or an address as that of a host.
fn prefix(text: &str) -> Result<Prefix, String> {
    match text.parse() {
        Ok(address) => Ok(Prefix::host(address)),
        Err(_) => text.parse().map_err(|error: lasthop_net::ParsePrefixError| error.to_string()),
    }
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let mut kernel_of = None;
    let (request, ask, draw): (_, _, Draw) = match args.command {
        Some(Command::Watch(ask)) => return watch::run(context, &ask),
        Some(Command::Record(args)) => return record::run(context, &args),
        Some(Command::Replay(args)) => return record::replay(&args),
        Some(Command::Dump(args)) => return dump::run(context, &args),
        None => return speak(context, if args.withdraw { OnStop::Withdraw } else { OnStop::KeepRoutes }),
        Some(Command::Plan(args)) => return bgp_plan::run(context, &args),
        Some(Command::Peers(ask)) => {
            (Request::BgpPeers, ask, |answer, format, paint| Ok(bgp::peers(&read::<Vec<_>>(answer)?, format, paint)))
        }
        Some(Command::Paths { prefix, ask }) => {
            let request = Request::BgpPaths { prefix: prefix.map(|prefix| prefix.to_string()) };
            (request, ask, |answer, format, paint| Ok(bgp::paths(&read::<Vec<_>>(answer)?, format, paint)))
        }
        Some(Command::Why { prefix, ask }) => {
            kernel_of = Some(prefix);
            let request = Request::BgpWhy { prefix: prefix.to_string() };
            (request, ask, |answer, _, paint| Ok(bgp::why(&read(answer)?, paint)))
        }
    };
    // What programs get is what the speaker said, also what a later one may add.
    let mut agent = context.agent(&ask.socket)?;
    let mut answer: Value = agent.call(request)?;
    if let Some(prefix) = kernel_of {
        answer["kernel"] = agent.call(Request::RouteOf { prefix: prefix.to_string() })?;
    }
    ask.output.try_show(&answer, |format, paint| draw(&answer, format, paint))?;
    Ok(Exit::Done)
}

/// Draws an answer of the speaker.
type Draw = fn(&Value, Format, Paint) -> Result<String, Failure>;

fn read<T: DeserializeOwned>(answer: &Value) -> Result<T, Failure> {
    T::deserialize(answer).map_err(|error| {
        let line =
            format!("the speaker's answer does not parse ({error}): are speaker and this program of one version?");
        Failure::new(Exit::Failed, line)
    })
}

fn speak(context: &Context, on_stop: OnStop) -> Outcome {
    let config = context.config()?;
    log::start(config.log)?;
    speaker::serve(&config, on_stop).map_err(|error| Failure::new(Exit::Failed, error))?;
    Ok(Exit::Done)
}

//! `lasthop bgp dump`: the speaker's tables in a file.

use crate::connect::{AgentSocket, Context};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::print;
use lasthop_agent::api::Request;
use std::path::PathBuf;

/// Where to.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file, written by the speaker on its host; one that is there is replaced once the dump is whole
    #[arg(long, value_name = "FILE")]
    mrt: PathBuf,
    #[command(flatten)]
    socket: AgentSocket,
}

pub(super) fn run(context: &Context, args: &Args) -> Outcome {
    let file = whole(&args.mrt)?;
    let octets: u64 = context.agent(&args.socket)?.call(Request::BgpDump { file: file.clone() })?;
    print(&format!("{file}: {octets} octets\n"))?;
    Ok(Exit::Done)
}

/// The whole path of a file that is to be made: the speaker runs in another directory.
pub(super) fn whole(file: &std::path::Path) -> Result<String, Failure> {
    let wrong = |reason: &str| Failure::usage(format!("{}: {reason}", file.display()));
    let path = std::path::absolute(file).map_err(|error| wrong(&error.to_string()))?;
    path.into_os_string().into_string().map_err(|_| wrong("the name is no UTF-8: give another one"))
}

//! `lasthop bgp record` and `replay`: what goes into the speaker, in a file, and once more.

use super::{dump, read};
use crate::connect::{AgentSocket, Context};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, bgp, print};
use lasthop_agent::api::Request;
use lasthop_agent::speaker::{self, Recording};
use std::path::PathBuf;

/// What to record.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file, written by the speaker on its host
    #[arg(long, value_name = "FILE", required_unless_present = "stop")]
    output: Option<PathBuf>,
    /// How long, in seconds
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
    /// How large the file may become, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    limit: u64,
    /// End the recording that is under way
    #[arg(long, conflicts_with = "output")]
    stop: bool,
    #[command(flatten)]
    socket: AgentSocket,
}

pub(super) fn run(context: &Context, args: &Args) -> Outcome {
    let mut agent = context.agent(&args.socket)?;
    let Some(output) = &args.output else {
        let was: bool = agent.call(Request::BgpStopRecording)?;
        print(if was { "the recording has ended\n" } else { "nothing was being recorded\n" })?;
        return Ok(Exit::Done);
    };
    let file = dump::whole(output)?;
    let octets = args.limit.saturating_mul(1 << 20);
    let _: bool = agent.call(Request::BgpRecord(Recording { file: file.clone(), seconds: args.seconds, octets }))?;
    print(&format!("recording to {file} for {} s, at most {} MiB\n", args.seconds, args.limit))?;
    Ok(Exit::Done)
}

/// What to replay.
#[derive(Debug, clap::Args)]
pub(super) struct ReplayArgs {
    /// The recording
    file: PathBuf,
    #[command(flatten)]
    output: Output,
}

pub(super) fn replay(args: &ReplayArgs) -> Outcome {
    let replayed = speaker::replay(&args.file).map_err(|error| Failure::new(Exit::Failed, error))?;
    args.output.try_show(&replayed, |format, paint| {
        let passed = match replayed.passed_over {
            0 => String::new(),
            count => format!(", {count} of them for sessions that were just coming up and are passed over"),
        };
        let head = format!("{} inputs in {:.1} s{passed}; {}\n", replayed.inputs, replayed.seconds, replayed.end);
        let peers = bgp::peers(&read::<Vec<_>>(&replayed.peers)?, format, paint);
        let paths = bgp::paths(&read::<Vec<_>>(&replayed.paths)?, format, paint);
        Ok(format!("{head}\n{peers}\n{paths}"))
    })?;
    Ok(Exit::Done)
}

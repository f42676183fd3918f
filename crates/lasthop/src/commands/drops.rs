//! `lasthop drops`: packets that policy denies on this host, and what denied each.

use crate::connect::{AgentSocket, Context};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{self, Format, Output};
use lasthop_agent::api::{Request, RuleState, Workload};
use lasthop_kernel::nft::{Decider, Denied, Drops};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Packets that policy denies on this host, as it denies them: who sent what to whom, and which rule it was
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What the kernel denies faster than it can be told is left out. Needs root; one such command at a time.

Examples:
  lasthop drops --follow
  lasthop drops --for 10s                 ends after ten seconds
  lasthop drops --for 10s -o json         a line for each packet")]
pub(crate) struct Args {
    /// Until interrupted
    #[arg(long, conflicts_with = "span")]
    follow: bool,
    /// For so long, e.g. 10s [default: 5s, unless --follow]
    #[arg(long = "for", value_name = "TIME", value_parser = lasthop_model::parse_duration)]
    span: Option<Duration>,
    #[command(flatten)]
    socket: AgentSocket,
    #[command(flatten)]
    output: Output,
}

/// How often the kernel is asked.
const PAUSE: Duration = Duration::from_millis(50);
const DEFAULT_SPAN: Duration = Duration::from_secs(5);

/// A denied packet, in words.
#[derive(Debug, Serialize)]
struct Drop {
    /// The packet.
    packet: String,
    /// The workload that sent it, or that it was for, if it is one of this host.
    endpoint: Option<String>,
    /// What denied it.
    by: String,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let mut drops = Drops::open().map_err(|error| Failure::new(Exit::Failed, error))?;
    let mut agent = context.agent(&args.socket)?;
    let end = (!args.follow).then(|| Instant::now() + args.span.unwrap_or(DEFAULT_SPAN));
    let mut rules = BTreeMap::new();
    while end.is_none_or(|end| Instant::now() < end) {
        let denied = match drops.receive() {
            Ok(denied) => denied,
            Err(lasthop_kernel::Error::Overrun { .. }) => {
                eprintln!("note: more was denied than could be told");
                continue;
            }
            Err(error) => return Err(Failure::new(Exit::Failed, error)),
        };
        if denied.is_empty() {
            std::thread::sleep(PAUSE);
            continue;
        }
        if denied.iter().any(|one| !rules.contains_key(&one.by.to_string())) {
            let known: Vec<RuleState> = agent.call(Request::PolicyRules)?;
            rules = known.into_iter().map(|rule| (rule.id.clone(), rule)).collect();
        }
        let workloads: Vec<Workload> = agent.call(Request::Workloads)?;
        for one in denied {
            let drop = in_words(&one, &rules, &workloads);
            let line = if args.output.format == Format::Json {
                output::json_line(&drop)?
            } else {
                let endpoint = drop.endpoint.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
                format!("{}{endpoint}: denied by {}\n", drop.packet, drop.by)
            };
            output::print(&line)?;
        }
    }
    Ok(Exit::Done)
}

fn in_words(denied: &Denied, rules: &BTreeMap<String, RuleState>, workloads: &[Workload]) -> Drop {
    let by = match (&denied.by, rules.get(&denied.by.to_string())) {
        (_, Some(rule)) => format!("{} rule {} of {}", rule.direction, rule.index, rule.owner),
        (Decider::Rule(..), None) => "a rule that is not in force any more".to_owned(),
        (Decider::Tier(name), None) => {
            format!("the default of tier {name}: policies apply, and no rule of theirs matches")
        }
        (Decider::Profiles, None) => "the default: no rule of the endpoint's profiles matches".to_owned(),
        (Decider::End, None) => "the default: no policy decides, and the endpoint has no profile".to_owned(),
    };
    let has = |address: std::net::IpAddr| {
        let of = |workload: &&Workload| workload.addresses.contains(&address);
        workloads.iter().find(of).map(|workload| workload.endpoint.clone())
    };
    let endpoint = denied.packet.and_then(|packet| has(packet.destination).or_else(|| has(packet.source)));
    let packet = denied.packet.map_or_else(|| "a packet".to_owned(), |packet| packet.to_string());
    Drop { packet, endpoint, by }
}

//! `lasthop node drain` and `undrain`: taking a node out of service without losing a packet.
//!
//! Draining has stages, kept as an annotation of the Node, so that it outlives this command and every restart: what the
//! node announces becomes everybody's last choice (RFC 8326), then nothing is announced any more.

use crate::connect::{AgentSocket, Context, StoreFlags};
use crate::exit::{Exit, Failure, Outcome};
use lasthop_agent::api::{Request, Status, Workload};
use lasthop_model::{Key, Kind, Node, NodeName};
use lasthop_store::{Error, Expect, Store};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Take nodes out of service and back, without losing a packet
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lasthop node drain compute-1\n  lasthop node undrain compute-1")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Drain(Drain),
    Undrain(Undrain),
}

/// Make a node's routes everybody's last choice, wait until no traffic comes by them, and withdraw them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Run it on the node itself: there it sees the traffic. What only this node has (a workload that lives nowhere else) has no
other way: its traffic goes on, and then nothing is withdrawn, unless --force says so.

Examples:
  lasthop node drain compute-1
  lasthop node drain compute-1 --timeout 5m
  lasthop node drain compute-1 --force          # also if traffic goes on, or from another machine")]
struct Drain {
    /// The node
    node: NodeName,
    /// How long to wait for traffic to move
    #[arg(long, value_name = "TIME", value_parser = lasthop_model::parse_duration, default_value = "60s")]
    timeout: Duration,
    /// Withdraw when the time is over, also if traffic goes on or cannot be seen from here
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    socket: AgentSocket,
    #[command(flatten)]
    store: StoreFlags,
}

/// Put a node back into service
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lasthop node undrain compute-1")]
struct Undrain {
    /// The node
    node: NodeName,
    #[command(flatten)]
    store: StoreFlags,
}

/// How long neighbours are given to choose other ways, before traffic is looked at.
const SETTLE: Duration = Duration::from_secs(2);
/// How long a link has to be quiet.
const QUIET: Duration = Duration::from_secs(2);
/// Packets to a workload in that time that are no traffic: its host looks whether it is still there.
const NOISE: u64 = 2;

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    match args.command {
        Command::Drain(args) => drain(context, &args),
        Command::Undrain(args) => {
            stage(context, (&args.node, None), &args.store)?;
            println!("Node {}: in service", args.node);
            Ok(Exit::Done)
        }
    }
}

fn drain(context: &Context, args: &Drain) -> Outcome {
    let node = &args.node;
    let here = is_here(context, args);
    if !here && !args.force {
        return Err(Failure::usage(format!(
            "the traffic of {node} cannot be seen from here: run this on {node}, where its agent runs, or add --force to \
             withdraw after {} s whatever comes",
            args.timeout.as_secs()
        )));
    }
    stage(context, (node, Some("last-choice")), &args.store)?;
    println!("Node {node}: its routes are everybody's last choice");
    let end = Instant::now() + args.timeout;
    std::thread::sleep(SETTLE.min(args.timeout));
    let busy = loop {
        let busy = if here { busy_links(context, args)? } else { BTreeMap::new() };
        if here && busy.is_empty() || Instant::now() >= end {
            break busy;
        }
        if !here {
            std::thread::sleep(end.saturating_duration_since(Instant::now()));
        }
    };
    if !busy.is_empty() && !args.force {
        let mut lines: Vec<String> = busy
            .iter()
            .map(|(workload, packets)| {
                format!("{workload}: {packets} packets in {} s still come by {node}", QUIET.as_secs())
            })
            .collect();
        lines.push(format!(
            "nothing was withdrawn, and {node} stays the last choice: move these workloads, or add --force; 'lasthop node \
             undrain {node}' goes back"
        ));
        return Err(Failure { exit: Exit::Failed, lines });
    }
    stage(context, (node, Some("withdrawn")), &args.store)?;
    println!("Node {node}: withdrawn");
    Ok(Exit::Done)
}

/// Whether the agent of this machine is the node's.
fn is_here(context: &Context, args: &Drain) -> bool {
    let status = context.agent(&args.socket).and_then(|mut agent| Ok(agent.call::<Status>(Request::Status)?));
    status.is_ok_and(|status| status.node == args.node.as_str())
}

/// The workloads of this host that traffic comes to, and how many packets.
fn busy_links(context: &Context, args: &Drain) -> Result<BTreeMap<String, u64>, Failure> {
    let workloads: Vec<Workload> = context.agent(&args.socket)?.call(Request::Workloads)?;
    let counted = || -> BTreeMap<String, u64> {
        let links = sent_by_link();
        let count = |one: &Workload| Some((one.endpoint.clone(), *links.get(&one.link)?));
        workloads.iter().filter_map(count).collect()
    };
    let before = counted();
    std::thread::sleep(QUIET);
    let more = |(endpoint, now): (String, u64)| {
        let packets = now.saturating_sub(before.get(&endpoint).copied().unwrap_or(0));
        (packets > NOISE).then_some((endpoint, packets))
    };
    Ok(counted().into_iter().filter_map(more).collect())
}

/// How many packets have gone out by each link of this network namespace (proc(5): the tenth number of a line).
fn sent_by_link() -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    let of = |line: &str| {
        let (link, numbers) = line.split_once(':')?;
        Some((link.trim().to_owned(), numbers.split_whitespace().nth(9)?.parse().ok()?))
    };
    text.lines().filter_map(of).collect()
}

/// Writes how far the node is, over whatever else is changed in it meanwhile.
fn stage(context: &Context, (node, stage): (&NodeName, Option<&str>), flags: &StoreFlags) -> Result<(), Failure> {
    let key = Key { kind: Kind::Node, namespace: None, name: node.to_string() };
    context.with_store(flags, async |store: &dyn Store| {
        loop {
            let stored = store.get(&key).await?;
            let mut document = stored.document.clone();
            put(&mut document, stage);
            if document == stored.document {
                return Ok(());
            }
            match store.update(key.clone(), document, Expect::Revision(stored.revision)).await {
                Err(Error::Conflict { .. }) => {}
                other => return Ok(other.map(drop)?),
            }
        }
    })
}

fn put(document: &mut Value, stage: Option<&str>) {
    let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
    if annotations.is_null() {
        *annotations = json!({});
    }
    let Some(annotations) = annotations.as_object_mut() else { return };
    match stage {
        Some(stage) => drop(annotations.insert(Node::DRAIN.to_owned(), stage.into())),
        None => drop(annotations.remove(Node::DRAIN)),
    }
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
}

//! `lasthop workload`: connecting and disconnecting workloads of this host, through the agent.

use crate::connect::{AgentSocket, Context};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{self, Output, Paint};
use lasthop_agent::api::{Attach, Attached, Detach, Detached, LinkRequest, NamedPort, Netns, Request, Workload};
use lasthop_net::{IfName, Mac, Prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Connect, disconnect and list workloads of this host
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lasthop workload add vm1 --ip 10.65.0.24 --tap tapa429fb36-04
  lasthop workload list")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Add(Box<Add>),
    /// Disconnect workloads; the addresses are withdrawn before the routes go
    #[command(after_help = "Examples:\n  lasthop workload delete vm1\n  lasthop workload delete -n blue vm1 vm2")]
    Delete {
        /// Names of the workloads
        #[arg(required = true, value_name = "NAME", value_parser = name)]
        names: Vec<String>,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        output: Output,
    },
    /// The workloads of this host
    #[command(visible_alias = "ls")]
    #[command(after_help = "Examples:\n  lasthop workload list\n  lasthop workload list -o wide")]
    List {
        #[command(flatten)]
        socket: AgentSocket,
        #[command(flatten)]
        output: Output,
    },
    /// One workload: what is in force, and what is not and why
    #[command(after_help = "Examples:\n  lasthop workload show vm1\n  lasthop workload show vm1 -o yaml")]
    Show {
        /// Name of the workload
        #[arg(value_parser = name)]
        name: String,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, clap::Args)]
struct Place {
    /// Namespace of the workload's resource
    #[arg(short = 'n', long, default_value = "default", value_parser = name)]
    namespace: String,
    #[command(flatten)]
    socket: AgentSocket,
}

/// Connect a workload; returns once the kernel has acknowledged everything
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Adding what is there already changes nothing. With --tap the link may come later: the workload is recorded and
connected when the link appears.

Examples:
  lasthop workload add vm1 --ip 10.65.0.24 --tap tapa429fb36-04 --mac fa:16:3e:00:00:01
  lasthop workload add c1 --ip 10.65.0.21 --ip fd65::21 --netns c1
  lasthop workload add c2 --ip 10.65.0.22 --netns /proc/4711/ns/net --ifname net0 --mtu 1450 --label role=web
  lasthop workload add web -n blue --ip 10.65.0.23 --netns web --profile web --service-account web --port http=80")]
#[command(group = clap::ArgGroup::new("link").required(true).args(["tap", "netns"]))]
struct Add {
    /// Name of the workload
    #[arg(value_parser = name)]
    name: String,
    /// An address of the workload, IPv4 or IPv6; repeat for several
    #[arg(long = "ip", required = true, value_name = "ADDRESS", value_parser = address)]
    addresses: Vec<IpAddr>,
    /// Adopt this link of the host: a TAP of a hypervisor, or the host's end of a veth
    #[arg(long, value_name = "LINK")]
    tap: Option<IfName>,
    /// Make a veth into this network namespace: its name, path, or the id of a process in it
    #[arg(long, value_name = "NETNS", value_parser = netns)]
    netns: Option<Netns>,
    /// Name of the link inside the namespace
    #[arg(long, value_name = "LINK", conflicts_with = "tap", default_value = "eth0")]
    ifname: IfName,
    /// Name of the link on the host [default: made from namespace and name]
    #[arg(long, value_name = "LINK", conflicts_with = "tap")]
    host_ifname: Option<IfName>,
    /// MAC address of the workload
    #[arg(long, value_parser = mac)]
    mac: Option<Mac>,
    /// MTU of the veth [default: the fabric's]
    #[arg(long, conflicts_with = "tap", value_parser = clap::value_parser!(u32).range(1280..=65535))]
    mtu: Option<u32>,
    /// A label; repeat for several
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// A prefix the workload may use as source beside its addresses; repeat for several
    #[arg(long = "allow-source", value_name = "PREFIX")]
    allowed_sources: Vec<Prefix>,
    /// A profile, in place of the one of the namespace; repeat for several
    #[arg(long = "profile", value_name = "PROFILE", value_parser = name)]
    profiles: Vec<String>,
    /// The service account that the workload runs as
    #[arg(long, value_name = "NAME", value_parser = name)]
    service_account: Option<String>,
    /// A port by which rules may call it by name, such as http=80 or dns=53/udp; repeat for several
    #[arg(long = "port", value_name = "NAME=PORT[/PROTOCOL]", value_parser = port)]
    ports: Vec<NamedPort>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    match args.command {
        Command::Add(args) => add(context, *args),
        Command::Delete { names, place, output } => delete(context, &names, &place, output),
        Command::List { socket, output } => {
            let workloads: Vec<Workload> = context.agent(&socket)?.call(Request::Workloads)?;
            output.show(&workloads, |format, paint| output::workloads(&workloads, format, paint))?;
            Ok(Exit::Done)
        }
        Command::Show { name, place, output } => show(context, &name, &place, output),
    }
}

fn add(context: &Context, args: Add) -> Outcome {
    let link = match (args.tap, args.netns) {
        (Some(tap), _) => LinkRequest::Adopt { ifname: tap.to_string() },
        (None, Some(netns)) => LinkRequest::Veth {
            netns,
            ifname: args.ifname.to_string(),
            host_ifname: args.host_ifname.map(|name| name.to_string()),
        },
        (None, None) => return Err(Failure::usage("no link: give --tap LINK or --netns NETNS")),
    };
    let labels: BTreeMap<_, _> = args.labels.iter().cloned().collect();
    if labels.len() < args.labels.len() {
        return Err(Failure::usage("--label: a key is given twice; give each key once"));
    }
    let attach = Attach {
        namespace: args.place.namespace,
        name: args.name,
        link,
        addresses: args.addresses.iter().copied().collect(),
        mac: args.mac.map(|mac| mac.to_string()),
        mtu: args.mtu,
        labels,
        allowed_sources: args.allowed_sources.iter().map(ToString::to_string).collect::<BTreeSet<_>>(),
        profiles: (!args.profiles.is_empty()).then_some(args.profiles),
        service_account: args.service_account,
        ports: args.ports,
    };
    let name = format!("{}/{}", attach.namespace, attach.name);
    let done: Attached = context.agent(&args.place.socket)?.attach(attach)?;
    args.output.show(&done, |_, paint| output::attached(&name, &done, paint))?;
    Ok(Exit::Done)
}

fn delete(context: &Context, names: &[String], place: &Place, output: Output) -> Outcome {
    let mut agent = context.agent(&place.socket)?;
    let mut done: BTreeMap<String, Detached> = BTreeMap::new();
    let mut missing = Vec::new();
    for name in names {
        let detach = Detach { namespace: place.namespace.clone(), name: name.clone() };
        let answer = agent.detach(detach)?;
        if !answer.existed {
            missing
                .push(format!("workload {}/{name}: there is none; 'lasthop workload list' shows all", place.namespace));
        }
        done.insert(format!("{}/{name}", place.namespace), answer);
    }
    output.show(&done, |_, _: Paint| {
        let gone = done.iter().filter(|(_, answer)| answer.existed);
        gone.map(|(name, _)| format!("workload {name}: deleted\n")).collect()
    })?;
    match missing.len() {
        0 => Ok(Exit::Done),
        all if all == names.len() => Err(Failure { exit: Exit::NotFound, lines: missing }),
        _ => Err(Failure { exit: Exit::Partial, lines: missing }),
    }
}

fn show(context: &Context, name: &str, place: &Place, output: Output) -> Outcome {
    let workloads: Vec<Workload> = context.agent(&place.socket)?.call(Request::Workloads)?;
    let endpoint = format!("{}/{name}", place.namespace);
    let Some(one) = workloads.iter().find(|one| one.endpoint == endpoint) else {
        let line = format!("workload {endpoint}: there is none; 'lasthop workload list' shows all");
        return Err(Failure::new(Exit::NotFound, line));
    };
    output.show(one, |_, paint| output::workload(one, paint))?;
    Ok(Exit::Done)
}

/// A resource's name.
fn name(text: &str) -> Result<String, String> {
    // Endpoints and namespaces are named by the same rule as nodes.
    text.parse::<lasthop_model::NodeName>().map(|name| name.to_string()).map_err(|error| error.to_string())
}

/// An address; one with a length gets a word about it.
fn address(text: &str) -> Result<IpAddr, String> {
    match (text.parse::<IpAddr>(), text.split_once('/')) {
        (Ok(address), _) if address.is_unspecified() || address.is_multicast() || address.is_loopback() => {
            Err("not an address that a workload can have".to_owned())
        }
        (Ok(address), _) => Ok(address),
        (Err(_), Some((address, _))) if address.parse::<IpAddr>().is_ok() => {
            Err(format!("a workload has single addresses: write {address} without a length"))
        }
        (Err(_), _) => Err("not an IPv4 or IPv6 address, such as 10.65.0.24 or fd65::24".to_owned()),
    }
}

/// A workload's MAC address.
fn mac(text: &str) -> Result<Mac, String> {
    let mac: Mac = text.parse().map_err(|error: lasthop_net::ParseMacError| error.to_string())?;
    if mac.is_unicast() {
        Ok(mac)
    } else {
        Err("a group address: the lowest bit of its first byte must be 0".to_owned())
    }
}

/// A network namespace: a path, the id of a process, or a name under `/run/netns`.
fn netns(text: &str) -> Result<Netns, String> {
    match text.parse::<u32>() {
        Ok(0) => Err("0 is no process".to_owned()),
        Ok(pid) => Ok(Netns::Pid(pid)),
        Err(_) if text.starts_with('/') => Ok(Netns::Path(text.to_owned())),
        Err(_) if text.is_empty() || text.contains('/') || text.starts_with('.') => {
            Err("give a name under /run/netns, a path that begins with '/', or the id of a process".to_owned())
        }
        Err(_) => Ok(Netns::Name(text.to_owned())),
    }
}

/// A port with a name.
fn port(text: &str) -> Result<NamedPort, String> {
    let wrong = || "write NAME=PORT, or NAME=PORT/udp or /sctp; PORT is 1 to 65535".to_owned();
    let (name, number) = text.split_once('=').ok_or_else(wrong)?;
    let (number, protocol) = number.split_once('/').unwrap_or((number, "tcp"));
    let protocol = protocol.to_ascii_uppercase();
    match number.parse() {
        Ok(port) if port > 0 && !name.is_empty() && ["TCP", "UDP", "SCTP"].contains(&protocol.as_str()) => {
            Ok(NamedPort { name: name.to_owned(), protocol, port })
        }
        _ => Err(wrong()),
    }
}

/// A label.
fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

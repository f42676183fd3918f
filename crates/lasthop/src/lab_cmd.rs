//! `lasthop lab`: whole networks in network namespaces on this machine.

use crate::output::{Format, Output};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use lasthop_lab::builtin::{BUILTINS, Size, builtin, generate};
use lasthop_lab::ping::Patience;
use lasthop_lab::progress::Progress;
use lasthop_lab::state::{LabDirectory, LabName, NotFound};
use lasthop_lab::topology::{Peering, Topology};
use lasthop_lab::{control, down, guest, netns, routes, up, view};
use nix::sys::signal::Signal;
use serde::Serialize;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// What the lab is asked.
#[derive(Debug, Args)]
pub(crate) struct LabArgs {
    /// Name of the lab: prefix of its namespaces, so that several can be up side by side
    #[arg(long, global = true, default_value = "lasthop", value_name = "LAB")]
    name: LabName,
    /// How the result is printed
    #[arg(short = 'o', long = "output", global = true, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Bring a network up and wait until everything reaches everything
    #[command(after_help = "Examples:\n  lasthop lab up\n  lasthop lab up --topology mesh --name other\n  \
        lasthop lab up --hosts 10 --workloads 100\n  lasthop lab up --topology my-network.yaml")]
    Up(UpArgs),
    /// Hosts, their processes, sessions and routes, and the workloads
    #[command(after_help = "Examples:\n  lasthop lab status\n  lasthop lab status -o json")]
    Status,
    /// Run a command inside a host or workload; its exit code is passed through
    #[command(
        after_help = "Examples:\n  lasthop lab exec compute-1 -- route -n\n  lasthop lab exec w21 -- ping -c 1 10.65.0.24\n  \
        lasthop lab exec compute-1 -- lasthop status"
    )]
    Exec {
        /// The host, the workload, `store` or `gateway`
        #[arg(value_name = "HOST|WORKLOAD")]
        part: String,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "COMMAND")]
        command: Vec<OsString>,
    },
    /// The kernel's routing table of a host or workload, as 'route -n' prints it
    #[command(after_help = "Examples:\n  lasthop lab routes compute-1")]
    Routes {
        /// The host, the workload, `store` or `gateway`
        #[arg(value_name = "HOST|WORKLOAD")]
        part: String,
    },
    /// Ping from every workload and host to every workload and the Internet: prints a matrix
    #[command(after_help = "Examples:\n  lasthop lab ping\n  lasthop lab ping --tries 1 -o json")]
    Ping {
        /// Requests sent to one that does not answer
        #[arg(long, default_value_t = 3)]
        tries: u32,
    },
    /// Move a veth workload to another host; it keeps its address
    #[command(after_help = "Examples:\n  lasthop lab move w21 compute-3")]
    Move {
        /// The workload
        workload: String,
        /// The host
        host: String,
    },
    /// End a process of a host: its agent, its speaker (bgp), or a workload's guest
    #[command(
        after_help = "Examples:\n  lasthop lab kill compute-1 agent\n  lasthop lab kill store server --signal TERM"
    )]
    Kill {
        /// The host or workload
        #[arg(value_name = "HOST|WORKLOAD")]
        owner: String,
        /// agent, bgp, server or guest
        role: String,
        /// The signal
        #[arg(long, default_value = "KILL", value_parser = signal)]
        signal: Signal,
    },
    /// Start a process of a host again
    #[command(after_help = "Examples:\n  lasthop lab start compute-1 agent")]
    Start {
        /// The host or workload
        #[arg(value_name = "HOST|WORKLOAD")]
        owner: String,
        /// agent, bgp, server or guest
        role: String,
    },
    /// Take everything away, also what a crash left
    #[command(after_help = "Examples:\n  lasthop lab down\n  lasthop lab down --name other")]
    Down,
    /// The networks that come with the program, or the text of one to write your own from
    #[command(after_help = "Examples:\n  lasthop lab topologies\n  lasthop lab topologies reference > my-network.yaml")]
    Topologies {
        /// Print this one
        #[arg(value_name = "NAME")]
        topology: Option<String>,
    },
    /// Plays a hypervisor: moves frames between a TAP of this namespace and the card of a guest's
    #[command(hide = true)]
    Guest {
        /// The TAP
        #[arg(long)]
        tap: String,
        /// The guest's namespace
        #[arg(long)]
        guest: String,
    },
}

#[derive(Debug, Args)]
struct UpArgs {
    /// A network that comes with the program ('lasthop lab topologies'), or a file
    #[arg(long, default_value = "reference", value_name = "NAME|FILE")]
    topology: String,
    /// Make a network of so many hosts instead (with --topology mesh: without a reflector; dual: both families)
    #[arg(long, value_name = "N")]
    hosts: Option<u16>,
    /// Workloads of the made network, spread over its hosts
    #[arg(long, value_name = "M", requires = "hosts")]
    workloads: Option<u16>,
    /// Seconds to wait for sessions and routes
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
}

fn signal(text: &str) -> Result<Signal, String> {
    let name = text.to_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    name.parse().map_err(|_| format!("'{text}' is no signal: write e.g. KILL, TERM or STOP"))
}

/// Runs a lab command; the exit code is that of the command inside, for `lab exec`.
pub(crate) fn run(args: LabArgs) -> Result<ExitCode> {
    let LabArgs { name, format, command } = args;
    let output = Output { format };
    let directory = LabDirectory::of(&name);
    match command {
        LabCommand::Up(args) => bring_up(name, &args, output)?,
        LabCommand::Status => show(output, &view::status(&directory)?, view::status_text)?,
        LabCommand::Exec { part, command } => return exec(&directory, &part, &command),
        LabCommand::Routes { part } => {
            let place = control::place(&directory, &directory.manifest()?, &part)?;
            show(output, &routes::read(&place)?, |table| routes::as_route_n(table))?;
        }
        LabCommand::Ping { tries } => return ping(&directory, tries, output),
        LabCommand::Move { workload, host } => {
            show(output, &control::relocate(&directory, &workload, &host)?, |moved| {
                let control::Moved { workload, from, to, milliseconds } = moved;
                format!("{workload} moved from {from} to {to}; every host has its new route after {milliseconds} ms\n")
            })?;
        }
        LabCommand::Kill { owner, role, signal } => {
            let record = control::kill(&directory, &owner, &role, signal)?;
            show(output, &record, |record| {
                format!("{signal} sent to the {role} of {owner} (process {})\n", record.pid)
            })?;
        }
        LabCommand::Start { owner, role } => {
            let record = control::start(&directory, &owner, &role)?;
            show(output, &record, |record| format!("the {role} of {owner} runs (process {})\n", record.pid))?;
        }
        LabCommand::Down => {
            show(output, &down::down(&directory)?, |removed| {
                let down::Removed { lab, processes, namespaces } = removed;
                format!("the lab '{lab}' is gone: {processes} processes ended, {namespaces} namespaces removed\n")
            })?;
        }
        LabCommand::Topologies { topology } => topologies(topology.as_deref(), output)?,
        LabCommand::Guest { tap, guest } => guest::run(&tap.parse()?, &guest, &"eth0".parse()?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show<T: Serialize>(output: Output, value: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
    output.show(value, |_, _| text(value)).map_err(|failure| anyhow::anyhow!(failure.lines.join("; ")))
}

fn bring_up(name: LabName, args: &UpArgs, output: Output) -> Result<()> {
    let topology = topology(args)?;
    let progress = match output.format {
        Format::Table | Format::Wide => Progress::on_stderr(up::steps(&topology)),
        Format::Json | Format::Yaml => Progress::silent(),
    };
    let program = std::env::current_exe().context("cannot find our own program")?;
    let options = up::UpOptions { name, topology, program, patience: Duration::from_secs(args.timeout) };
    let summary = up::up(&options, &progress)?;
    show(output, &summary, |summary| up_text(summary, &options))
}

fn up_text(summary: &up::Summary, options: &up::UpOptions) -> String {
    let up::Summary { lab, hosts, workloads, seconds } = summary;
    let flag = if lab == "lasthop" { String::new() } else { format!(" --name {lab}") };
    let host = options.topology.hosts.first().map_or("", |host| host.name.as_str());
    // As it was called: a fresh build is in no search path.
    let program = std::env::args().next().unwrap_or_else(|| "lasthop".to_owned());
    format!(
        "the lab '{lab}' is up after {seconds:.1} s: {hosts} hosts, {workloads} workloads, \
         all sessions established, all routes in place\n\
         try:  {program} lab exec{flag} {host} -- route -n\n      \
               {program} lab ping{flag}\n      \
               {program} lab exec{flag} {host} -- lasthop status\n\
         end:  {program} lab down{flag}\n"
    )
}

/// The network asked for: built in, made from numbers, or a file.
fn topology(args: &UpArgs) -> Result<Topology> {
    use lasthop_net::Family::{V4, V6};
    let chosen = args.topology.as_str();
    if let Some(hosts) = args.hosts {
        let (peering, families) = match chosen {
            "reference" => (Peering::Reflector, vec![V4]),
            "mesh" => (Peering::Mesh, vec![V4]),
            "dual" => (Peering::Reflector, vec![V4, V6]),
            other => bail!("--hosts makes a network like 'reference', 'mesh' or 'dual', not like '{other}'"),
        };
        let workloads = args.workloads.unwrap_or(hosts);
        return Ok(generate(&Size { hosts, workloads, peering, families })?);
    }
    if let Some(known) = builtin(chosen) {
        return Ok(known?);
    }
    let text = std::fs::read_to_string(chosen).with_context(|| {
        let names: Vec<&str> = BUILTINS.iter().map(|known| known.name).collect();
        let all = names.join(", ");
        let hint = lasthop_lab::topology::suggestion(chosen, names.into_iter());
        format!("'{chosen}' is neither a file nor a network that comes with the program ({all}){hint}")
    })?;
    Ok(Topology::parse(chosen, &text)?)
}

fn topologies(name: Option<&str>, output: Output) -> Result<()> {
    let Some(name) = name else {
        let all: Vec<(&str, &str)> = BUILTINS.iter().map(|known| (known.name, known.about)).collect();
        return show(output, &all, |all| all.iter().map(|(name, about)| format!("{name:<12} {about}\n")).collect());
    };
    let Some(known) = BUILTINS.iter().find(|known| known.name == name) else {
        bail!(NotFound(format!("there is no network '{name}': 'lasthop lab topologies' lists what there is")));
    };
    show(output, &known.text(), |text| (*text).to_owned())
}

fn ping(directory: &LabDirectory, tries: u32, output: Output) -> Result<ExitCode> {
    let outcomes = view::ping_all(directory, Patience { tries, ..Patience::default() })?;
    let lost = outcomes.iter().filter(|outcome| outcome.rtt_us.is_none()).count();
    show(output, &outcomes, |outcomes| {
        let all = outcomes.len();
        let verdict =
            if lost == 0 { format!("all {all} pairs answer") } else { format!("{lost} of {all} pairs do not answer") };
        format!("{}\n{verdict}\n", view::matrix(outcomes))
    })?;
    Ok(if lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Becomes the command, inside the namespace: signals, terminal and exit code are its own.
fn exec(directory: &LabDirectory, part: &str, command: &[OsString]) -> Result<ExitCode> {
    let namespace = control::place(directory, &directory.manifest()?, part)?;
    let Some((program, arguments)) = command.split_first() else { bail!("which command?") };
    let mut inside = Command::new(program);
    inside.args(arguments);
    let config = directory.config(part);
    if config.exists() {
        inside.env("LASTHOP_CONFIG", config);
    }
    if let Some(path) = path_with_ourselves() {
        inside.env("PATH", path);
    }
    netns::enter_with_sysfs(&namespace)?;
    let error = inside.exec();
    eprintln!("error: cannot run '{}' in '{part}': {error}", program.display());
    Ok(ExitCode::from(if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 }))
}

/// The search path, with the directory of this program last, so that `lasthop` is found inside.
fn path_with_ourselves() -> Option<OsString> {
    let ours = std::env::current_exe().ok()?.parent()?.to_path_buf();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all: Vec<PathBuf> = std::env::split_paths(&path).chain(std::iter::once(ours)).collect();
    std::env::join_paths(all).ok()
}

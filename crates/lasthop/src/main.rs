//! The one binary: daemons (`agent`, `bgp`, `server`), the operator's view (`status`, `routes`, `bgp peers`,
//! `workload`), resources (`get`, `apply`, …) and the lab. One file a command, under [`commands`]; this file only
//! says which there are.

mod cluster;
mod commands;
mod connect;
mod documents;
mod exit;
mod lab_cmd;
mod log;
mod output;
mod usage;

use clap::{Parser, Subcommand};
use commands::change::Verb;
use exit::{Exit, Outcome};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  lasthop agent --config /etc/lasthop/lasthop.yaml    run this host's agent
  lasthop workload add vm1 --ip 10.65.0.24 --tap tapa429fb36-04
  lasthop apply -f pools.yaml                         change resources in the store
  lasthop status                                      this host on one screen
  lasthop bgp why 10.65.0.21/32                       why this path, and who is told of it
  lasthop explain --from web --to db --port 5432      what becomes of a packet, and why
  lasthop policy plan -f manifests/                   who gains or loses what, before it bites
  lasthop lab up                                      three hosts and a route reflector, on this machine";

const EXIT_CODES: &str = "\
Exit codes:
  0  done (also: nothing was left to do)
  1  failed
  2  wrong usage: a flag, the configuration or a document is not valid; nothing was changed
  3  partly done: what was done and what was not is said line by line
  4  not found
  5  the agent or the store cannot be reached, or does not let us in

Colour is used on a terminal only, and not if NO_COLOR is set.";

/// Plain IP routing for workloads: every packet is routed by the workload's own host.
#[derive(Debug, Parser)]
#[command(name = "lasthop", version = env!("LASTHOP_VERSION"), max_term_width = 110)]
#[command(after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
struct Cli {
    /// The configuration file of this host [default: /etc/lasthop/lasthop.yaml if it is there]
    #[arg(long, global = true, env = "LASTHOP_CONFIG", value_name = "FILE", hide_env_values = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(commands::status::Args),
    Routes(commands::routes::Args),
    Workload(commands::workload::Args),
    Bgp(commands::bgp::Args),
    Node(commands::node::Args),
    Drops(commands::drops::Args),
    Get(commands::get::Args),
    Apply(commands::change::Apply),
    Create(commands::change::Create),
    Replace(commands::change::Replace),
    Confirm(commands::rollout::Args),
    Delete(commands::delete::Args),
    Validate(commands::validate::Args),
    Explain(commands::explain::Args),
    Policy(commands::policy::Args),
    Agent(commands::agent::Args),
    RemoveAll(commands::remove_all::Args),
    Server(commands::server::Args),
    Certs(commands::certs::Args),
    Completions(commands::completions::Args),
    /// Whole networks in network namespaces on this machine
    Lab(lab_cmd::LabArgs),
}

fn main() -> std::process::ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage::report(&error).into(),
    };
    let context = connect::Context::new(cli.config);
    match run(&context, cli.command) {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report().into(),
    }
}

fn run(context: &connect::Context, command: Command) -> Outcome {
    match command {
        Command::Status(args) => commands::status::run(context, &args),
        Command::Routes(args) => commands::routes::run(context, &args),
        Command::Workload(args) => commands::workload::run(context, args),
        Command::Bgp(args) => commands::bgp::run(context, args),
        Command::Node(args) => commands::node::run(context, args),
        Command::Drops(args) => commands::drops::run(context, &args),
        Command::Get(args) => commands::get::run(context, &args),
        Command::Apply(args) => commands::change::run(context, Verb::Apply, args),
        Command::Create(args) => commands::change::run(context, Verb::Create, args),
        Command::Replace(args) => commands::change::run(context, Verb::Replace, args),
        Command::Confirm(args) => commands::rollout::run(context, &args),
        Command::Delete(args) => commands::delete::run(context, args),
        Command::Validate(args) => commands::validate::run(&args),
        Command::Explain(args) => commands::explain::run(context, &args),
        Command::Policy(args) => commands::policy::run(context, args),
        Command::RemoveAll(args) => commands::remove_all::run(context, &args),
        Command::Agent(args) => commands::agent::run(context, &args),
        Command::Server(args) => commands::server::run(context, &args),
        Command::Certs(args) => commands::certs::run(args),
        Command::Completions(args) => commands::completions::run(&args),
        Command::Lab(args) => lab_cmd::run(args).map(Exit::Code).map_err(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory;

    fn leaves(command: &clap::Command, path: &str, see: &mut impl FnMut(&str, &clap::Command)) {
        for child in command.get_subcommands().filter(|child| child.get_name() != "help") {
            let path = format!("{path} {}", child.get_name());
            see(&path, child);
            leaves(child, &path, see);
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does_and_shows_an_example() {
        leaves(&Cli::command(), "lasthop", &mut |path, command| {
            assert!(command.get_about().is_some(), "{path} has no description");
            if path.starts_with("lasthop lab") || command.get_name() == "completions" {
                return;
            }
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(path), "{path} --help has no example that begins with '{path}'");
        });
    }
}

//! Development commands that need more than a test: `cargo xtask bench [NAME…]`, `cargo xtask interop`,
//! `cargo xtask resilience`, `cargo xtask conformance KIND FILE`.

mod bench;
mod interop;
mod resilience;

use lasthop_xtask::{conformance, simulate};

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Development commands of Lasthop.
#[derive(Parser)]
#[command(name = "xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measures the numbers that are promised, each beside its baseline; prints a table, writes bench/results/.
    Bench(bench::Options),
    /// Runs the scenarios with real BGP daemons; writes docs/interop.md.
    Interop(interop::Options),
    /// Counts what is lost when something dies or is cut off; writes docs/resilience.md.
    Resilience(resilience::Options),
    /// Runs a case file of the shared form, and says what failed and why.
    Conformance(conformance::Options),
    /// Thousands of hosts behind reflectors under virtual time: how long changes take, what they cost, that all is true.
    Simulate(simulate::Options),
    /// A million messages with mistakes over a thousand sessions: no crash, no hang, memory flat.
    Spoil(simulate::spoil::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Bench(options) => bench::run(&options),
        Command::Interop(options) => interop::run(&options),
        Command::Resilience(options) => resilience::run(&options),
        Command::Conformance(options) => conformance::run(&options),
        Command::Simulate(options) => simulate::run(&options),
        Command::Spoil(options) => simulate::spoil::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

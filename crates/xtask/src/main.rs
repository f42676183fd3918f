//! Development commands that need more than a test: `cargo xtask bench [NAME…]`.

mod bench;

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
}

fn main() -> ExitCode {
    let Command::Bench(options) = Cli::parse().command;
    match bench::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

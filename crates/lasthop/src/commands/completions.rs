//! `lasthop completions`: what a shell needs to complete our command line.

use crate::exit::{Exit, Outcome};
use crate::output;
use clap::CommandFactory;
use clap_complete::Shell;

/// Print the completions of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lasthop completions bash > /etc/bash_completion.d/lasthop
  lasthop completions zsh > /usr/local/share/zsh/site-functions/_lasthop
  lasthop completions fish > ~/.config/fish/completions/lasthop.fish")]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::Cli::command(), "lasthop", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

//! `lasthop certs`: the certificates by which hosts and the store's server know each other.

use crate::exit::{Exit, Failure, Outcome};
use crate::output;
use lasthop_store::certs::{self, CertError, Role};
use std::path::PathBuf;

/// Make the certificates by which hosts and the store's server know each other
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A host may write its own Node and workload endpoints only; an admin may write everything. Keep ca-key.pem where no
host is, and nothing is ever overwritten.

Examples:
  lasthop certs init pki
  lasthop certs issue pki server store-1
  lasthop certs issue pki node compute-1
  lasthop certs issue pki admin alice")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make an authority: ca.pem and ca-key.pem
    #[command(after_help = "Examples:\n  lasthop certs init /etc/lasthop/pki")]
    Init {
        /// Where; made if it is not there
        directory: PathBuf,
    },
    /// Issue a certificate by the authority of a directory, into that directory
    #[command(after_help = "\
Examples:
  lasthop certs issue /etc/lasthop/pki server store-1
  lasthop certs issue /etc/lasthop/pki node compute-1")]
    Issue {
        /// Where the authority is
        directory: PathBuf,
        /// For whom: server, node or admin
        #[arg(value_parser = role)]
        role: Role,
        /// The name: of the node as its Node resource has it
        name: String,
    },
}

fn role(text: &str) -> Result<Role, String> {
    text.parse().map_err(|error: CertError| error.to_string())
}

pub(crate) fn run(args: Args) -> Outcome {
    let made = match args.command {
        Command::Init { directory } => {
            certs::init(&directory).map_err(failure)?;
            vec![directory.join("ca.pem"), directory.join("ca-key.pem")]
        }
        Command::Issue { directory, role, name } => {
            let files = certs::issue(&directory, role, &name).map_err(failure)?;
            vec![files.certificate, files.key]
        }
    };
    output::print(&made.iter().map(|path| format!("{}\n", path.display())).collect::<String>())?;
    Ok(Exit::Done)
}

fn failure(error: CertError) -> Failure {
    let exit = match &error {
        CertError::Name(_) | CertError::Role(_) => Exit::Usage,
        CertError::NoAuthority(_) => Exit::NotFound,
        _ => Exit::Failed,
    };
    Failure::new(exit, error)
}

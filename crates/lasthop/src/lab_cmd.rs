//! `lasthop lab`: whole networks in network namespaces on this machine.

use std::process::ExitCode;

/// What the lab is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct LabArgs {}

/// Runs a lab command; the exit code is that of the command inside, for `lab exec`.
pub(crate) fn run(_args: LabArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("the lab is not there yet")
}

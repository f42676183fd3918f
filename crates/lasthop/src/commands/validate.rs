//! `lasthop validate`: checks documents without a store.

use crate::documents::Sources;
use crate::exit::{Exit, Outcome};
use crate::output;

/// Check documents without a store: exit code 2 and a line for each mistake if one is wrong
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lasthop validate -f manifests/ -R\n  cat pool.yaml | lasthop validate -f -")]
pub(crate) struct Args {
    #[command(flatten)]
    sources: Sources,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let count = args.sources.count_valid()?;
    let what = if count == 1 { "document is" } else { "documents are" };
    output::print(&format!("{count} {what} valid\n"))?;
    Ok(Exit::Done)
}

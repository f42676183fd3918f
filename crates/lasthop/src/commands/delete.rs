//! `lasthop delete`: resources out of the store, by name or by document.

use super::change::finish;
use crate::connect::{Context, StoreFlags, each};
use crate::documents::Sources;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Deed, Done, Output};
use lasthop_model::policy::Tier;
use lasthop_model::{Key, Kind, Resource};
use lasthop_store::{Error, Expect, Store};
use std::path::PathBuf;

/// Delete resources by kind and name, or those of documents; none is deleted if one of them is not there
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lasthop delete ippool old-pool
  lasthop delete workloadendpoint -n blue vm1 vm2
  lasthop delete -f pools.yaml --if-exists")]
#[command(group = clap::ArgGroup::new("what").required(true).args(["kind", "files"]))]
pub(crate) struct Args {
    /// The kind
    #[arg(requires = "names")]
    kind: Option<Kind>,
    /// Names
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// A file, a directory (its .yaml, .yml and .json files), or - for stdin; repeat for several
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-", conflicts_with = "kind")]
    files: Vec<PathBuf>,
    /// Also the directories inside a directory
    #[arg(short = 'R', long, requires = "files")]
    recursive: bool,
    /// Namespace of resources that have one [default: default]
    #[arg(short = 'n', long)]
    namespace: Option<String>,
    /// What is not there is no mistake
    #[arg(long)]
    if_exists: bool,
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    let keys = match args.kind {
        Some(kind) => {
            let namespace = kind.is_namespaced().then(|| args.namespace.clone().unwrap_or_else(|| "default".into()));
            if !kind.is_namespaced() && args.namespace.is_some() {
                return Err(Failure::usage(format!("--namespace: {kind} has no namespace; drop the flag")));
            }
            args.names.iter().map(|name| Key { kind, namespace: namespace.clone(), name: name.clone() }).collect()
        }
        None => {
            let sources = Sources { files: args.files, recursive: args.recursive, namespace: args.namespace };
            sources.read()?.into_iter().map(|document| document.key).collect::<Vec<_>>()
        }
    };
    if let Some(key) = keys.iter().find(|key| key.kind == Kind::Tier && Tier::built_in(&key.name).is_some()) {
        return Err(Failure::usage(format!(
            "{key} is built in and always there: it cannot be deleted; nothing was deleted"
        )));
    }
    let (done, failed) = context.with_store(&args.store, async |store| {
        let keys = present(store, keys, args.if_exists).await?;
        check_tiers(store, &keys).await?;
        Ok(delete(store, &keys).await)
    })?;
    finish(args.output, done, failed)
}

/// Those of the keys that are there; all must be, unless `lenient`.
async fn present(store: &dyn Store, keys: Vec<Key>, lenient: bool) -> Result<Vec<Key>, Failure> {
    let mut there = Vec::new();
    let mut missing = Vec::new();
    let stored = each(&keys, |key| store.get(key)).await;
    for (key, stored) in keys.iter().cloned().zip(stored) {
        match stored {
            Ok(_) => there.push(key),
            Err(Error::NotFound(_)) if lenient => {}
            Err(Error::NotFound(_)) => {
                missing.push(format!(
                    "{key} does not exist: nothing was deleted (--if-exists leaves out what is not there)"
                ));
            }
            Err(error) => return Err(error.into()),
        }
    }
    if missing.is_empty() { Ok(there) } else { Err(Failure { exit: Exit::NotFound, lines: missing }) }
}

/// Refuses to take a tier away from under its policies: they would go on in force, after all other tiers.
async fn check_tiers(store: &dyn Store, going: &[Key]) -> Result<(), Failure> {
    let tiers: Vec<&str> = going.iter().filter(|key| key.kind == Kind::Tier).map(|key| key.name.as_str()).collect();
    if tiers.is_empty() {
        return Ok(());
    }
    let mut lines = Vec::new();
    for stored in store.list(None).await?.items {
        if let Ok(Resource::Policy(policy)) = Resource::parse(&stored.document)
            && tiers.contains(&policy.tier.as_str())
            && !going.contains(&policy.key)
        {
            let tier = &policy.tier;
            lines.push(format!(
                "Tier/{tier} is in use by {}: delete that first, or with it; nothing was deleted",
                policy.key
            ));
        }
    }
    if lines.is_empty() { Ok(()) } else { Err(Failure { exit: Exit::Failed, lines }) }
}

async fn delete(store: &dyn Store, keys: &[Key]) -> (Vec<Done>, Vec<Failure>) {
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    // What is of one kind goes together; one kind after the other, as they were named.
    for alike in keys.chunk_by(|one, next| one.kind == next.kind) {
        let results = each(alike, |key| store.delete(key, Expect::Any)).await;
        for (key, result) in alike.iter().zip(results) {
            match result {
                Ok(stored) => done.push(Done::new(key, Deed::Deleted, Some(stored.revision.0))),
                // Somebody else was faster: it is gone.
                Err(Error::NotFound(_)) => {}
                Err(error) => failed.push(error.into()),
            }
        }
    }
    (done, failed)
}

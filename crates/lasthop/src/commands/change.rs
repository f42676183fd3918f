//! `lasthop apply`, `create` and `replace`: documents into the store. Everything is checked before the first write.

use super::{bgp_plan, rollout};
use crate::connect::{Context, StoreFlags, each};
use crate::documents::{Document, Sources};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Deed, Done, Format, Output, deeds};
use lasthop_model::{Change as Changed, Resource};
use lasthop_store::{Error, Expect, Revision, Store, Stored, resource_version, unstamped};

/// How documents come into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Whether there is one already or not.
    Apply,
    /// Only if there is none.
    Create,
    /// Only if there is one.
    Replace,
}

/// Where documents come from, and where they go.
#[derive(Debug, clap::Args)]
pub(crate) struct Change {
    #[command(flatten)]
    sources: Sources,
    /// Only say what would be done
    #[arg(long, conflicts_with_all = ["wait", "confirm"])]
    dry_run: bool,
    /// Also if a BGP session cannot go on under the change: it is reset ('lasthop bgp plan' says which)
    #[arg(long)]
    allow_reset: bool,
    #[command(flatten)]
    rollout: rollout::Flags,
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    output: Output,
}

/// Create or change resources, whichever it takes; what is right already is not touched
#[derive(Debug, clap::Args)]
#[command(after_help = "\
All documents are checked first: if one is wrong, nothing is changed. A document with a resourceVersion replaces
only what was read.

Examples:
  lasthop apply -f pools.yaml
  lasthop apply -f manifests/ -R --dry-run
  lasthop apply -f policy.yaml --wait
  lasthop apply -f policy.yaml --confirm 60s
  lasthop get ippools -o yaml | sed s/natOutgoing:.*/natOutgoing:\\ true/ | lasthop apply -f -")]
pub(crate) struct Apply {
    #[command(flatten)]
    change: Change,
}

/// Create resources; none is created if one of them is there already
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lasthop create -f node.yaml")]
pub(crate) struct Create {
    #[command(flatten)]
    change: Change,
}

/// Replace resources; none is replaced if one of them is not there
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  lasthop replace -f node.yaml")]
pub(crate) struct Replace {
    #[command(flatten)]
    change: Change,
}

impl From<Apply> for Change {
    fn from(args: Apply) -> Self {
        args.change
    }
}

impl From<Create> for Change {
    fn from(args: Create) -> Self {
        args.change
    }
}

impl From<Replace> for Change {
    fn from(args: Replace) -> Self {
        args.change
    }
}

pub(crate) fn run(context: &Context, verb: Verb, args: impl Into<Change>) -> Outcome {
    let args: Change = args.into();
    let documents = args.sources.read()?;
    let (done, failed) = context.with_store(&args.store, async |store| {
        let steps = plan(store, verb, documents).await?;
        if args.dry_run {
            return Ok((steps.iter().map(|step| step.foretold(verb)).collect(), Vec::new()));
        }
        if !args.allow_reset {
            refuse_resets(store, &steps).await?;
        }
        if !args.rollout.is_set() {
            return Ok(carry_out(store, verb, steps).await);
        }
        let changes = steps.iter().filter(|step| !step.is_done()).map(Step::change).collect();
        let begun = args.rollout.begin(store, changes).await?;
        let (done, mut failed) = carry_out(store, verb, steps).await;
        let revision = done.iter().filter_map(Done::revision).max();
        failed.extend(begun.finish(store, revision.map(Revision)).await?);
        Ok((done, failed))
    })?;
    finish(args.output, done, failed)
}

/// Prints what was done, and makes a failure of what was not.
pub(crate) fn finish(output: Output, done: Vec<Done>, failed: Vec<Failure>) -> Outcome {
    if !done.is_empty() || matches!(output.format, Format::Json | Format::Yaml) {
        output.show(&done, |_, paint| deeds(&done, paint))?;
    }
    match (failed.first(), done.is_empty()) {
        (None, _) => Ok(Exit::Done),
        (Some(first), true) => {
            Err(Failure { exit: first.exit, lines: failed.into_iter().flat_map(|failure| failure.lines).collect() })
        }
        (Some(_), false) => {
            let lines = failed.into_iter().flat_map(|failure| failure.lines).collect();
            Err(Failure { exit: Exit::Partial, lines })
        }
    }
}

/// A document and what is stored under its key.
struct Step {
    document: Document,
    stored: Option<Stored>,
}

impl Step {
    /// Whether what is stored is what is wanted.
    fn is_done(&self) -> bool {
        self.stored.as_ref().is_some_and(|stored| unstamped(&stored.document) == unstamped(&self.document.value))
    }

    fn change(&self) -> Changed {
        Changed {
            key: self.document.key.clone(),
            before: self.stored.as_ref().map(|stored| stored.document.clone()),
            after: self.document.value.clone(),
        }
    }

    fn deed(&self, verb: Verb) -> Deed {
        match (&self.stored, verb) {
            _ if self.is_done() => Deed::Unchanged,
            (None, _) => Deed::Created,
            (Some(_), Verb::Replace) => Deed::Replaced,
            (Some(_), _) => Deed::Configured,
        }
    }

    fn foretold(&self, verb: Verb) -> Done {
        let deed = match self.deed(verb) {
            Deed::Unchanged => Deed::Unchanged,
            Deed::Created => Deed::WouldCreate,
            _ => Deed::WouldChange,
        };
        Done::new(&self.document.key, deed, self.stored.as_ref().map(|stored| stored.revision.0))
    }
}

/// Looks at what is there, and refuses as a whole what cannot be done.
async fn plan(store: &dyn Store, verb: Verb, documents: Vec<Document>) -> Result<Vec<Step>, Failure> {
    let mut steps = Vec::new();
    let mut wrong = Vec::new();
    let stored = each(&documents, |document| store.get(&document.key)).await;
    for (document, stored) in documents.into_iter().zip(stored) {
        let stored = match stored {
            Ok(stored) => Some(stored),
            Err(Error::NotFound(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let Document { origin, key, value } = &document;
        match (verb, &stored, resource_version(value)) {
            (Verb::Create, Some(_), _) => {
                wrong.push(format!("{origin}: {key} exists already: use 'apply' or 'replace'; nothing was changed"));
            }
            (Verb::Replace, None, _) => {
                wrong.push(format!("{origin}: {key} does not exist: use 'apply' or 'create'; nothing was changed"));
            }
            (Verb::Apply | Verb::Replace, Some(stored), Some(expected)) if stored.revision != expected => {
                wrong.push(format!(
                    "{origin}: {key} was changed since it was read (resourceVersion {expected}, now {}): read it again, \
                     or drop metadata.resourceVersion; nothing was changed",
                    stored.revision
                ));
            }
            (_, Some(stored), _) => {
                if let Err(invalid) = Resource::check_update(&stored.document, value) {
                    wrong.push(format!("{origin}: {invalid}; nothing was changed"));
                }
            }
            _ => {}
        }
        steps.push(Step { document, stored });
    }
    match (wrong.is_empty(), verb) {
        (true, _) => Ok(steps),
        (false, Verb::Replace) => Err(Failure { exit: Exit::NotFound, lines: wrong }),
        (false, _) => Err(Failure { exit: Exit::Failed, lines: wrong }),
    }
}

/// Refuses what would reset a BGP session.
async fn refuse_resets(store: &dyn Store, steps: &[Step]) -> Result<(), Failure> {
    let changed = steps.iter().filter(|step| !step.is_done());
    let mut lines = bgp_plan::resets(store, changed.map(|step| (&step.document.key, &step.document.value))).await?;
    if lines.is_empty() {
        return Ok(());
    }
    lines.push("nothing was changed; --allow-reset does it all the same".to_owned());
    Err(Failure { exit: Exit::Failed, lines })
}

/// Writes. What one document meets stops no other, unless the store is gone.
async fn carry_out(store: &dyn Store, verb: Verb, steps: Vec<Step>) -> (Vec<Done>, Vec<Failure>) {
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for step in steps {
        let deed = step.deed(verb);
        let Step { document: Document { origin, key, value }, stored } = step;
        let written = match (stored, deed) {
            (Some(stored), Deed::Unchanged) => Ok(stored),
            (Some(stored), _) => store.update(key.clone(), value, Expect::Revision(stored.revision)).await,
            (None, _) => store.create(key.clone(), value).await,
        };
        match written {
            Ok(stored) => done.push(Done::new(&key, deed, Some(stored.revision.0))),
            Err(error) => {
                let gone = matches!(error, Error::Unavailable { .. });
                let failure = Failure::from(error);
                failed.push(Failure { lines: vec![format!("{origin}: {}", failure.lines.join(" "))], ..failure });
                if gone {
                    break;
                }
            }
        }
    }
    (done, failed)
}

//! `--wait`, `--confirm` and `lasthop confirm`: changes that one waits for, and changes that go back by themselves.

use crate::connect::{Context, StoreFlags};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, Paint};
use lasthop_lab::progress::Progress;
use lasthop_model::{Change, Key, Kind, NodeName, Resource, Rollout, RolloutReport};
use lasthop_store::rollout::{self, Reverted};
use lasthop_store::{Error, Expect, Revision, Store};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long a host that nobody waits for any more may find what it is to report.
const LATE: Duration = Duration::from_secs(60);
/// From when on it is shown that and for whom one waits.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often reports are looked at: soon at first.
const LOOKS: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(250)];

/// Whether a command ends before its change is in force, and what becomes of a change that nobody confirms.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Flags {
    /// Return when every host has the change in force and has read it back from its kernel, or name those that have not
    #[arg(long)]
    wait: bool,
    /// With --wait: how long to wait
    #[arg(long, value_name = "TIME", value_parser = lasthop_model::parse_duration, default_value = "60s", requires = "wait")]
    timeout: Duration,
    /// Every host takes the change back by itself after this time, unless 'lasthop confirm' comes first
    #[arg(long, value_name = "TIME", value_parser = lasthop_model::parse_duration)]
    confirm: Option<Duration>,
}

/// A change that is being made.
pub(crate) struct Begun {
    rollout: Rollout,
    /// Resources that are written.
    written: BTreeSet<String>,
    flags: Flags,
}

impl Flags {
    /// Whether anything is asked for.
    pub(crate) fn is_set(&self) -> bool {
        self.wait || self.confirm.is_some()
    }

    /// Stands in the store before the first change does.
    pub(crate) async fn begin(self, store: &dyn Store, changes: Vec<Change>) -> Result<Begun, Failure> {
        let written = changes.iter().map(|change| change.key.to_string()).collect();
        let changes = if self.confirm.is_some() { changes } else { Vec::new() };
        self.check(store, &changes).await?;
        let time = self.confirm.unwrap_or(self.timeout + LATE);
        let until = rollout::now() + time.as_secs() + u64::from(time.subsec_nanos() > 0);
        let name = format!("r{:x}", std::process::id() as u64 ^ (now_nanos() << 16) & 0xffff_ffff_ffff);
        let rollout = Rollout { name, until, revision: None, reverting: false, changes };
        if !rollout.changes.is_empty() {
            store.create(rollout::key_of(&rollout.name), rollout.to_document()).await?;
        }
        Ok(Begun { rollout, written, flags: self })
    }

    async fn check(self, store: &dyn Store, changes: &[Change]) -> Result<(), Failure> {
        if self.confirm.is_some_and(|time| time < Duration::from_secs(1)) {
            return Err(Failure::usage(
                "--confirm: less than a second is no time to confirm in: write e.g. --confirm 60s",
            ));
        }
        for Change { key, .. } in changes {
            if matches!(key.kind, Kind::Node | Kind::WorkloadEndpoint) || key.kind == Kind::Rollout {
                return Err(Failure::usage(format!(
                    "{key}: hosts write this kind themselves, so it cannot be taken back: leave --confirm out, or the document"
                )));
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        for stored in store.list(Some(Kind::Rollout)).await?.items {
            let Ok(Resource::Rollout(other)) = Resource::parse(&stored.document) else { continue };
            let keys: BTreeSet<&Key> = other.changes.iter().map(|change| &change.key).collect();
            if let Some(change) = changes.iter().find(|change| keys.contains(&change.key)) {
                return Err(Failure::new(
                    Exit::Failed,
                    format!(
                        "{} waits to be confirmed already: first 'lasthop confirm {name}', or 'lasthop confirm --revert {name}'; \
                         nothing was changed",
                        change.key,
                        name = other.name
                    ),
                ));
            }
        }
        Ok(())
    }
}

fn now_nanos() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos().into())
}

impl Begun {
    /// All is written: waits, and says how to go on. What is late.
    pub(crate) async fn finish(self, store: &dyn Store, revision: Option<Revision>) -> Result<Vec<Failure>, Failure> {
        let Self { mut rollout, written, flags } = self;
        let mut late = Vec::new();
        if let (true, Some(revision)) = (flags.wait, revision) {
            rollout.revision = Some(revision.0);
            let (key, document) = (rollout::key_of(&rollout.name), rollout.to_document());
            match rollout.changes.is_empty() {
                true => drop(store.create(key, document).await?),
                false => drop(store.update(key, document, Expect::Any).await?),
            }
            late = wait(store, (&rollout.name, &written), flags.timeout).await?;
            if rollout.changes.is_empty() {
                rollout::finish(store, &rollout.name).await?;
            }
        }
        if let Some(time) = flags.confirm {
            let name = &rollout.name;
            if rollout.changes.is_empty() {
                eprintln!("nothing was changed, so nothing is to be confirmed");
            } else {
                eprintln!(
                    "goes back by itself in {} s unless confirmed: lasthop confirm {name}   (at once: lasthop confirm --revert {name})",
                    time.as_secs_f64()
                );
            }
        }
        Ok(late)
    }
}

/// Waits until all hosts have reported that all is in force; a line for each that has not.
async fn wait(
    store: &dyn Store,
    (name, written): (&str, &BTreeSet<String>),
    limit: Duration,
) -> Result<Vec<Failure>, Failure> {
    let begun = Instant::now();
    let mut nap = LOOKS[0];
    let mut progress = None;
    loop {
        let nodes = store.list(Some(Kind::Node)).await?.items.into_iter();
        let nodes: BTreeSet<NodeName> = nodes.filter_map(|node| node.key.name.parse().ok()).collect();
        let mut reports: BTreeMap<NodeName, RolloutReport> = BTreeMap::new();
        for stored in store.list(Some(Kind::RolloutReport)).await?.items {
            if let Ok(Resource::RolloutReport(report)) = Resource::parse(&stored.document)
                && report.rollout == name
            {
                reports.insert(report.node.clone(), report);
            }
        }
        let late = laggards(&nodes, &reports, written);
        if begun.elapsed() > PATIENCE {
            let progress = progress.get_or_insert_with(|| Progress::on_stderr(nodes.len() as u64));
            progress.waiting(&format!("waiting for {} of {} hosts", late.len(), nodes.len()));
        }
        if late.is_empty() || begun.elapsed() >= limit {
            if let Some(progress) = progress {
                progress.finish();
            }
            return Ok(late.into_iter().map(|line| Failure::new(Exit::Partial, line)).collect());
        }
        tokio::time::sleep(nap.min(limit.saturating_sub(begun.elapsed()))).await;
        nap = (nap * 2).min(LOOKS[1]);
    }
}

/// A line for each host where not all is in force. Resources that are of no use there and were not written are left out.
fn laggards(
    nodes: &BTreeSet<NodeName>,
    reports: &BTreeMap<NodeName, RolloutReport>,
    written: &BTreeSet<String>,
) -> Vec<String> {
    let concerns = |object: &&String| {
        let resource = object.split_once(' ').map_or(object.as_str(), |(resource, _)| resource);
        !resource.contains('/') || written.contains(resource)
    };
    let line = |node: &NodeName| match reports.get(node) {
        None => Some(format!(
            "{node}: has not reported: is its agent running, and does it reach the store? ('lasthop status' there tells)"
        )),
        Some(report) => {
            let refused: Vec<&String> = report.refused.keys().filter(concerns).collect();
            let object = *refused.first()?;
            let (why, more) = (&report.refused[object], refused.len() - 1);
            let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
            Some(format!("{node}: {object} is not in force: {why}{more}"))
        }
    };
    nodes.iter().filter_map(line).collect()
}

/// Keep a change that was applied with --confirm, or take it back at once
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lasthop apply -f policy.yaml --confirm 60s
  lasthop confirm r1a2b3c
  lasthop confirm --revert r1a2b3c
  lasthop get rollouts")]
pub(crate) struct Args {
    /// What 'lasthop apply --confirm' said
    name: String,
    /// Take it back instead
    #[arg(long)]
    revert: bool,
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    output: Output,
}

/// What became of a resource, or of the whole.
#[derive(Debug, Serialize)]
struct Became {
    object: String,
    result: &'static str,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let became = context.with_store(&args.store, async |store| {
        if args.revert { revert(store, &args.name).await } else { confirm(store, &args.name).await }
    })?;
    args.output.show(&became, |_, _: Paint| {
        became.iter().map(|became| format!("{} {}\n", became.object, became.result)).collect()
    })?;
    Ok(Exit::Done)
}

fn unknown(name: &str) -> Failure {
    Failure::new(
        Exit::NotFound,
        format!(
            "there is no change '{name}' to be confirmed: it was confirmed, or taken back; 'lasthop get rollouts' lists what there is"
        ),
    )
}

async fn confirm(store: &dyn Store, name: &str) -> Result<Vec<Became>, Failure> {
    let key = rollout::key_of(name);
    let stored = match store.get(&key).await {
        Err(Error::NotFound(_)) => return Err(unknown(name)),
        other => other?,
    };
    let Ok(Resource::Rollout(rollout)) = Resource::parse(&stored.document) else { return Err(unknown(name)) };
    let too_late =
        || Failure::new(Exit::Failed, format!("{name}: its time is over, and it is being taken back: apply it again"));
    if rollout.reverting || rollout.until <= rollout::now() {
        return Err(too_late());
    }
    match store.delete(&key, Expect::Revision(stored.revision)).await {
        Ok(_) => Ok(vec![Became { object: stored.key.to_string(), result: "confirmed" }]),
        Err(Error::Conflict { .. } | Error::NotFound(_)) => Err(too_late()),
        Err(error) => Err(error.into()),
    }
}

async fn revert(store: &dyn Store, name: &str) -> Result<Vec<Became>, Failure> {
    let stored = match store.get(&rollout::key_of(name)).await {
        Err(Error::NotFound(_)) => return Err(unknown(name)),
        other => other?,
    };
    let word = |what| match what {
        Reverted::Back => "taken back",
        Reverted::Already => "is as it was already",
        Reverted::ChangedSince => "was changed by somebody since: stays as it is",
    };
    let done = rollout::revert(store, &stored).await?;
    Ok(done.into_iter().map(|(key, what)| Became { object: key.to_string(), result: word(what) }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_have_not_reported_or_were_refused_are_named() {
        let nodes: BTreeSet<NodeName> = ["h1", "h2", "h3"].map(|name| name.parse().unwrap()).into();
        let report = |node: &str, refused: &[(&str, &str)]| {
            let node: NodeName = node.parse().unwrap();
            let refused = refused.iter().map(|(object, why)| ((*object).into(), (*why).into())).collect();
            (node.clone(), RolloutReport { rollout: "r".into(), node, refused })
        };
        let nodes = nodes.into_iter().chain(["h4".parse().unwrap()]).collect();
        let reports = BTreeMap::from([
            report("h1", &[("BGPPeer/old", "not of this change")]),
            report("h3", &[("policy lhw1", "too long"), ("x", "y")]),
            report("h4", &[("BGPPeer/new", "no address"), ("BGPPeer/old", "not of this change")]),
        ]);
        assert_eq!(
            laggards(&nodes, &reports, &BTreeSet::from(["BGPPeer/new".to_owned()])),
            [
                "h2: has not reported: is its agent running, and does it reach the store? ('lasthop status' there tells)",
                "h3: policy lhw1 is not in force: too long (and 1 more)",
                "h4: BGPPeer/new is not in force: no address",
            ]
        );
    }
}

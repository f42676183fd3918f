//! `lasthop bgp plan`: which sessions a change of resources would reset, end or begin; and the same asked by `apply`.

use crate::connect::{Context, StoreFlags};
use crate::documents::Sources;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Cell, Output, Paint, Sheet, Tone};
use lasthop_compute::{SessionChange, SessionEffect, session_changes};
use lasthop_model::{Key, Kind, Resource};
use lasthop_store::Store;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Say which BGP sessions would be reset, end or begin if these resources were applied or deleted; nothing is changed
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every setting is declared hot (it counts at once), for the next session, or as one that a session cannot go on under.

Exit codes: 0 if no session would notice, 2 if one would (also for wrong usage, which says 'error:').

Examples:
  lasthop bgp plan -f peers.yaml
  lasthop bgp plan --delete bgppeer/tor-1
  lasthop bgp plan --before main/ -f branch/ -o json        # two directories, no store")]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["files", "delete"]))]
pub(crate) struct Args {
    /// What would be applied: a file, a directory, or - for stdin; repeat for several
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,
    /// What would be deleted: KIND/NAME; repeat for several
    #[arg(long, value_name = "RESOURCE", value_parser = super::policy::key)]
    delete: Vec<Key>,
    /// What there is now: a file or a directory, in place of the store; repeat for several
    #[arg(long, value_name = "FILE|DIR")]
    before: Vec<PathBuf>,
    /// Also the directories inside a directory
    #[arg(short = 'R', long)]
    recursive: bool,
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    output: Output,
}

/// A session that a change touches, as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    node: String,
    peer: String,
    because: String,
    effect: &'static str,
    settings: Vec<&'static str>,
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    let read = |files: &[PathBuf], into: &mut BTreeMap<Key, Resource>| -> Result<(), Failure> {
        let sources = Sources { files: files.to_vec(), recursive: args.recursive, namespace: None };
        for document in sources.read()? {
            put(into, &document.value);
        }
        Ok(())
    };
    let mut before = BTreeMap::new();
    if args.before.is_empty() {
        before = context.with_store(&args.store, async |store: &dyn Store| stored(store).await)?;
    } else {
        read(&args.before, &mut before)?;
    }
    let mut after = before.clone();
    if !args.files.is_empty() {
        read(&args.files, &mut after)?;
    }
    for key in &args.delete {
        if after.remove(key).is_none() {
            return Err(Failure::new(Exit::NotFound, format!("--delete: {key} does not exist")));
        }
    }
    let changes = session_changes(&before, &after);
    let rows: Vec<Row> = changes.iter().map(row).collect();
    args.output.show(&rows, |_, paint| draw(&rows, paint))?;
    let notices = |change: &SessionChange| !matches!(change.effect, SessionEffect::GoesOn(_) | SessionEffect::Later(_));
    let same = !changes.iter().any(notices);
    Ok(if same { Exit::Done } else { Exit::Code(std::process::ExitCode::from(2)) })
}

/// All that the store has; what is not valid counts as absent, as it does for hosts.
async fn stored(store: &dyn Store) -> Result<BTreeMap<Key, Resource>, Failure> {
    let mut all = BTreeMap::new();
    for stored in store.list(None).await?.items {
        put(&mut all, &stored.document);
    }
    Ok(all)
}

fn put(into: &mut BTreeMap<Key, Resource>, document: &Value) {
    if let Ok(resource) = Resource::parse(document) {
        into.insert(resource.key(), resource);
    }
}

/// The sessions that a change would reset, a line each. The store is asked only if a kind that sessions depend on changes.
pub(crate) async fn resets<'a>(
    store: &dyn Store,
    documents: impl Iterator<Item = (&'a Key, &'a Value)>,
) -> Result<Vec<String>, Failure> {
    let concerns = |kind: Kind| {
        matches!(kind, Kind::Node | Kind::BgpConfiguration | Kind::BgpPeer | Kind::BgpFilter | Kind::IpPool)
    };
    let documents: Vec<&Value> = documents.filter(|(key, _)| concerns(key.kind)).map(|(_, value)| value).collect();
    if documents.is_empty() {
        return Ok(Vec::new());
    }
    let before = stored(store).await?;
    let mut after = before.clone();
    documents.into_iter().for_each(|document| put(&mut after, document));
    let reset = |change: &SessionChange| match &change.effect {
        SessionEffect::Resets(settings) => Some(format!(
            "the session of {} with {} ({}) would be reset: {} would change",
            change.node,
            change.peer,
            change.because,
            settings.join(", ")
        )),
        _ => None,
    };
    Ok(session_changes(&before, &after).iter().filter_map(reset).collect())
}

fn row(change: &SessionChange) -> Row {
    let (effect, settings) = match &change.effect {
        SessionEffect::Resets(settings) => ("reset", settings.clone()),
        SessionEffect::Stops => ("stop", Vec::new()),
        SessionEffect::Starts => ("start", Vec::new()),
        SessionEffect::Later(settings) => ("next session", settings.clone()),
        SessionEffect::GoesOn(settings) => ("hot", settings.clone()),
    };
    let (node, peer) = (change.node.to_string(), change.peer.to_string());
    Row { node, peer, because: change.because.clone(), effect, settings }
}

fn draw(rows: &[Row], paint: Paint) -> String {
    if rows.is_empty() {
        return "no session changes\n".to_owned();
    }
    let mut sheet = Sheet::new(&["NODE", "PEER", "EFFECT", "BECAUSE", "SETTINGS"]);
    for row in rows {
        let tone = match row.effect {
            "reset" | "stop" => Tone::Bad,
            "start" => Tone::Good,
            _ => Tone::Plain,
        };
        sheet.row(vec![
            row.node.as_str().into(),
            row.peer.as_str().into(),
            Cell::new(tone, row.effect),
            row.because.as_str().into(),
            row.settings.join(",").into(),
        ]);
    }
    sheet.draw(paint, 0)
}

//! `lasthop get`: resources of the store.

use crate::connect::{Context, StoreFlags};
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{self, Format, Now, Output, Paint};
use lasthop_model::policy::{Tier, TierDefault};
use lasthop_model::{Key, Kind, to_json, to_list, to_yaml};
use lasthop_store::{Revision, Store, Stored, WatchEvent};

/// Show resources of the store
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Kinds: nodes, workloadendpoints (wep), ippools (pool), bgpconfigurations, bgppeers (peer), felixconfigurations, tiers, all.

Examples:
  lasthop get nodes
  lasthop get ippool default -o yaml
  lasthop get wep -A -o wide
  lasthop get wep -A -w                   stays, and shows each change")]
pub(crate) struct Args {
    /// The kind, its plural or a short name; or all
    #[arg(value_parser = which)]
    kind: Which,
    /// Only the resource of this name
    name: Option<String>,
    /// Namespace of resources that have one [default: default]
    #[arg(short = 'n', long, conflicts_with = "all_namespaces")]
    namespace: Option<String>,
    /// Of all namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Stay, and show each change
    #[arg(short = 'w', long)]
    watch: bool,
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    output: Output,
}

/// Which kinds are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Which(Option<Kind>);

fn which(text: &str) -> Result<Which, String> {
    if text == "all" {
        return Ok(Which(None));
    }
    text.parse().map(|kind| Which(Some(kind))).map_err(|error: lasthop_model::ParseKindError| error.to_string())
}

impl Args {
    fn wants(&self, key: &Key) -> bool {
        let place = self.namespace.as_deref().unwrap_or("default");
        self.kind.0.is_none_or(|kind| kind == key.kind)
            && self.name.as_ref().is_none_or(|name| *name == key.name)
            && (self.all_namespaces || key.namespace.as_deref().is_none_or(|namespace| namespace == place))
    }

    fn check(&self) -> Result<(), Failure> {
        match (self.kind.0, &self.namespace, &self.name) {
            (Some(kind), Some(_), _) if !kind.is_namespaced() => {
                Err(Failure::usage(format!("--namespace: {kind} has no namespace; drop the flag")))
            }
            (None, _, Some(name)) => {
                Err(Failure::usage(format!("'{name}': 'all' takes no name; name the kind, such as 'get node {name}'")))
            }
            _ => Ok(()),
        }
    }
}

pub(crate) fn run(context: &Context, args: &Args) -> Outcome {
    args.check()?;
    context.with_store(&args.store, async |store| {
        let listing = store.list(args.kind.0).await?;
        let mut items = listing.items;
        if args.kind == Which(Some(Kind::Tier)) {
            add_built_in(&mut items);
        }
        items.retain(|stored| args.wants(&stored.key));
        if let (Some(name), true, false) = (&args.name, items.is_empty(), args.watch) {
            let kind = args.kind.0.map(Kind::name).unwrap_or_default();
            return Err(Failure::new(Exit::NotFound, format!("{kind} '{name}' does not exist{}", elsewhere(args))));
        }
        show(args, &items)?;
        if args.watch {
            follow(store, args, listing.revision).await?;
        }
        Ok(())
    })?;
    Ok(Exit::Done)
}

/// Adds the tiers that are there without a resource, in the order of names.
fn add_built_in(items: &mut Vec<Stored>) {
    for tier in Tier::all_built_in() {
        if items.iter().any(|stored| stored.key.name == tier.name) {
            continue;
        }
        let default_action = match tier.default_action {
            TierDefault::Deny => "Deny",
            TierDefault::Pass => "Pass",
        };
        // As users write it: a whole number without a fraction.
        let order = tier.order.and_then(|order| order.to_string().parse::<serde_json::Number>().ok());
        let document = serde_json::json!({
            "apiVersion": Kind::Tier.api_version(),
            "kind": Kind::Tier.written(),
            "metadata": {"name": tier.name},
            "spec": {"order": order, "defaultAction": default_action},
        });
        let key = Key { kind: Kind::Tier, namespace: None, name: tier.name };
        items.push(Stored { key, document, revision: Revision(0), created_revision: Revision(0) });
    }
    items.sort_by(|a, b| a.key.name.cmp(&b.key.name));
}

/// Where else it may be.
fn elsewhere(args: &Args) -> String {
    match args.kind.0 {
        Some(kind) if kind.is_namespaced() && !args.all_namespaces => {
            let namespace = args.namespace.as_deref().unwrap_or("default");
            format!(" in namespace '{namespace}'; -A looks into all")
        }
        Some(kind) => format!("; 'lasthop get {}' shows all", kind.plural()),
        None => String::new(),
    }
}

fn show(args: &Args, items: &[Stored]) -> Result<(), Failure> {
    let one = args.name.is_some() && !args.watch;
    let documents = || items.iter().map(|stored| stored.document.clone()).collect::<Vec<_>>();
    output::print(&match args.output.format {
        Format::Json if one => items.iter().map(|stored| to_json(&stored.document)).collect(),
        Format::Json if args.watch => documents().iter().map(output::json_line).collect::<Result<String, _>>()?,
        Format::Json => to_json(&to_list(documents())),
        Format::Yaml => output::yaml_documents(items),
        format => output::resources(args.kind.0, items, (format, Now::read(), Paint::stdout())),
    })
}

/// Shows each change until the store or the user ends it.
async fn follow(store: &dyn Store, args: &Args, from: Revision) -> Result<(), Failure> {
    let mut watch = store.watch(Some(from)).await?;
    loop {
        let (key, word, document) = match watch.next().await? {
            WatchEvent::Put(stored) => (stored.key, "changed", stored.document),
            WatchEvent::Deleted { key, revision } => {
                let document = serde_json::json!({"deleted": key.to_string(), "revision": revision.0});
                (key, "deleted", document)
            }
            WatchEvent::InSync(_) => continue,
        };
        if !args.wants(&key) {
            continue;
        }
        output::print(&match args.output.format {
            Format::Json => output::json_line(&document)?,
            Format::Yaml => format!("---\n{}", to_yaml(&document)),
            Format::Table | Format::Wide => output::change(&key, word, &document),
        })?;
    }
}

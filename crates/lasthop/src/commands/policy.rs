//! `lasthop policy`: tests of policy for people's CI, and what a change of it would change.

use super::counters;
use super::explain::{Carried, explain};
use crate::cluster::{Cluster, Known};
use crate::connect::{Context, StoreFlags};
use crate::documents::Sources;
use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, TestResult, changes, results};
use lasthop_model::{Key, Kind};
use lasthop_net::Family;
use lasthop_policy::difference::difference;
use lasthop_policy::{Verdict, journey::Network};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Test policy without a host, and see who gains or loses what by a change before it bites
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  lasthop policy test tests.yaml
  lasthop policy plan -f manifests/")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Test(Test),
    Plan(Plan),
    Counters(counters::Args),
}

/// Check assertions, what must be allowed and what denied, over resources in files; needs neither root nor store
#[derive(Debug, clap::Args)]
#[command(after_help = "\
FILE is YAML. Ends are named as for 'lasthop explain'; without ipVersion, both versions that the ends share are tried:

  resources: manifests/           # a file or directory beside FILE, or a list of them; or use -f
  tests:
  - { from: shop/web, to: shop/db, port: 5432, must: allow }
  - { from: 203.0.113.7, to: shop/db, port: 5432, must: deny, name: the database is ours alone }
  - { from: shop/web, to: host/compute-1, protocol: icmp, must: deny }

Exit codes: 0 if all hold, 1 if one does not, 2 if FILE or a resource is not valid.

Examples:
  lasthop policy test tests.yaml
  lasthop policy test tests.yaml -f manifests/ -R -o json")]
struct Test {
    /// The assertions
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Resources, beside those that FILE names; repeat for several
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR")]
    files: Vec<PathBuf>,
    /// Also the directories inside a directory
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Namespace of workloads and resources that do not say which [default: default]
    #[arg(short = 'n', long)]
    namespace: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// Say exactly who would gain or lose what if these resources were applied or deleted; nothing is changed
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Compared is what becomes of every packet between any two workloads, hosts and parts of the rest of the world.

Exit codes: 0 if nothing would change, 2 if something would (also for wrong usage, which says 'error:').

Examples:
  lasthop policy plan -f manifests/
  lasthop policy plan --delete networkpolicy/shop/db
  lasthop policy plan --before main/ -f branch/ -o json        # two directories, no store")]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["files", "delete"]))]
struct Plan {
    /// What would be applied: a file, a directory, or - for stdin; repeat for several
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,
    /// What would be deleted: KIND/NAME or KIND/NAMESPACE/NAME; repeat for several
    #[arg(long, value_name = "RESOURCE", value_parser = key)]
    delete: Vec<Key>,
    /// What there is now: a file or a directory, in place of the store; repeat for several
    #[arg(long, value_name = "FILE|DIR")]
    before: Vec<PathBuf>,
    /// Also the directories inside a directory
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Namespace of resources that have one and do not say which [default: default]
    #[arg(short = 'n', long)]
    namespace: Option<String>,
    #[command(flatten)]
    store: StoreFlags,
    #[command(flatten)]
    output: Output,
}

/// The name of a resource: KIND/NAME or KIND/NAMESPACE/NAME.
pub(super) fn key(text: &str) -> Result<Key, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let (kind, namespace, name) = match parts[..] {
        [kind, name] => (kind, None, name),
        [kind, namespace, name] => (kind, Some(namespace), name),
        _ => return Err("write KIND/NAME or KIND/NAMESPACE/NAME, such as networkpolicy/shop/db".to_owned()),
    };
    let kind: Kind = kind.parse().map_err(|error: lasthop_model::ParseKindError| error.to_string())?;
    match (kind.is_namespaced(), namespace) {
        (false, Some(namespace)) => Err(format!("{kind} has no namespace; leave out '{namespace}'")),
        (true, None) => Ok(Key { kind, namespace: Some("default".to_owned()), name: name.to_owned() }),
        (_, namespace) => Ok(Key { kind, namespace: namespace.map(str::to_owned), name: name.to_owned() }),
    }
}

pub(crate) fn run(context: &Context, args: Args) -> Outcome {
    match args.command {
        Command::Test(args) => test(&args),
        Command::Plan(args) => plan(context, args),
        Command::Counters(args) => counters::run(context, &args),
    }
}

/// A file of assertions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TestFile {
    #[serde(default)]
    resources: Resources,
    tests: Vec<Assertion>,
}

/// One path, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Resources {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

impl Default for Resources {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Assertion {
    name: Option<String>,
    from: String,
    to: String,
    protocol: Option<serde_json::Value>,
    port: Option<u16>,
    source_port: Option<u16>,
    icmp_type: Option<u8>,
    icmp_code: Option<u8>,
    ip_version: Option<u8>,
    must: Must,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Must {
    Allow,
    Deny,
}

impl Assertion {
    fn carried(&self) -> Result<Carried, String> {
        let named = |given: &serde_json::Value| {
            let text = given.as_str().map_or_else(|| given.to_string(), str::to_owned);
            super::explain::protocol(&text).map_err(|fix| format!("protocol: '{text}' is no protocol: {fix}"))
        };
        Ok(Carried {
            proto: self.protocol.as_ref().map_or(Ok(6), named)?,
            port: self.port,
            source_port: self.source_port,
            icmp_type: self.icmp_type,
            icmp_code: self.icmp_code,
            ip_version: match self.ip_version {
                None => None,
                Some(4) => Some(Family::V4),
                Some(6) => Some(Family::V6),
                Some(other) => return Err(format!("ipVersion: is {other}; write 4 or 6, or leave it out")),
            },
        })
    }

    /// What became of it.
    fn check(&self, cluster: &Cluster, network: &Network<'_>, namespace: &str) -> Result<TestResult, Failure> {
        let [from, to] = [cluster.end(&self.from, namespace)?, cluster.end(&self.to, namespace)?];
        let questions = self.carried().map_err(Failure::usage)?.questions(&from, &to)?;
        let mut result = TestResult::new(self.name.clone(), if self.must == Must::Allow { "allow" } else { "deny" });
        for question in questions {
            let passes = network.journey(&question).verdict != Verdict::Deny;
            let explanation = explain(cluster, network, (&from, &to), &question);
            result.tried(passes == (self.must == Must::Allow), explanation);
        }
        Ok(result)
    }
}

fn test(args: &Test) -> Outcome {
    let origin = args.file.display();
    let wrong = |reason: String| Failure::usage(format!("{origin}: {reason}"));
    let text = std::fs::read_to_string(&args.file).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let file: TestFile = serde_saphyr::from_str(&text).map_err(|error| {
        wrong(format!("is no file of tests: {}", error.to_string().lines().next().unwrap_or_default()))
    })?;
    let beside = args.file.parent().unwrap_or(Path::new("."));
    let named = match &file.resources {
        Resources::One(path) => std::slice::from_ref(path),
        Resources::Many(paths) => paths,
    };
    let files: Vec<PathBuf> = named.iter().map(|path| beside.join(path)).chain(args.files.iter().cloned()).collect();
    if files.is_empty() {
        return Err(wrong("names no resources: add 'resources: DIR' to it, or use -f".to_owned()));
    }
    let (recursive, namespace, store) = (args.recursive, args.namespace.clone(), StoreFlags::default());
    let known = Known { files, recursive, namespace, store };
    let cluster = known.documents()?;
    let network = cluster.network();
    let mut tried = Vec::new();
    let mut mistakes = Vec::new();
    for (number, assertion) in file.tests.iter().enumerate() {
        match assertion.check(&cluster, &network, known.namespace()) {
            Ok(result) => tried.push(result),
            Err(failure) => {
                let lines = failure.lines.into_iter();
                mistakes.extend(lines.map(|line| format!("{origin}: tests[{number}]: {line}")));
            }
        }
    }
    if !mistakes.is_empty() {
        return Err(Failure { exit: Exit::Usage, lines: mistakes });
    }
    args.output.show(&tried, |_, paint| results(&tried, paint))?;
    Ok(if tried.iter().all(TestResult::holds) { Exit::Done } else { Exit::Failed })
}

fn plan(context: &Context, args: Plan) -> Outcome {
    let sources = |files: &[PathBuf]| Sources {
        files: files.to_vec(),
        recursive: args.recursive,
        namespace: args.namespace.clone(),
    };
    let before = if args.before.is_empty() {
        Cluster::stored(context, &args.store)?
    } else {
        let mut before = Cluster::default();
        before.add_files(sources(&args.before))?;
        before
    };
    let mut after = before.clone();
    if !args.files.is_empty() {
        after.add_files(sources(&args.files))?;
    }
    for key in &args.delete {
        if !after.remove(key) {
            return Err(Failure::new(Exit::NotFound, format!("--delete: {key} does not exist")));
        }
    }
    let found = difference(&before.network(), &after.network());
    let (rows, same) = (changes(&found), found.is_empty());
    args.output.show(&rows, |_, paint| rows.draw(paint))?;
    Ok(if same { Exit::Done } else { Exit::Code(std::process::ExitCode::from(2)) })
}

//! The numbers that are promised, each measured beside its baseline in the same run.
//!
//! Every bench brings up its own lab (namespaces with the release binary inside), measures in interleaved rounds and
//! takes it down. Only ratios within one run, and bars with ample room, mean something on a machine that others use:
//! the load is noted with every result. `bench/README.md` says how to read them.

mod attach;
mod bgp;
mod bird;
mod delete;
pub(crate) mod echo;
mod footprint;
mod forward;
mod kill;
mod monitor;
mod parked;
mod policy;
mod report;
mod routes;
mod site;
mod stats;
mod window;

use anyhow::{Context, Result, bail};
use report::Row;
use std::path::{Path, PathBuf};

/// What to measure, and how thoroughly.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Only these: attach, routes, kill, delete, footprint, forward, policy, bgp [default: all but bgp, which takes longest]
    names: Vec<String>,
    /// Few rounds: shows that the benches work, in about a minute
    #[arg(long)]
    quick: bool,
    /// The program under test
    #[arg(long, default_value = "target/release/lasthop")]
    program: PathBuf,
    /// Where results are written
    #[arg(long, default_value = "bench/results")]
    results: PathBuf,
}

/// How thoroughly to measure, and what.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    quick: bool,
    program: PathBuf,
}

impl Plan {
    /// So many in full, so many when it has to be quick.
    fn count(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }
}

type Bench = fn(&Plan) -> Result<Vec<Row>>;

const BENCHES: [(&str, Bench); 8] = [
    ("forward", forward::run),
    ("policy", policy::run),
    ("attach", attach::run),
    ("routes", routes::run),
    ("delete", delete::run),
    ("footprint", footprint::run),
    ("kill", kill::run),
    ("bgp", bgp::run),
];

/// Only when named: its table goes into a file of its own.
const APART: &str = "bgp";

/// Measures, prints, writes.
pub(crate) fn run(options: &Options) -> Result<()> {
    let known: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
    if let Some(wrong) = options.names.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no bench '{wrong}': choose among {}", known.join(", "));
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("the benches make network namespaces, which needs root: run them with sudo");
    }
    let program = options.program.canonicalize().with_context(|| {
        format!("the program {} is not there: build it with 'cargo build --release'", options.program.display())
    })?;
    let plan = Plan { quick: options.quick, program };
    let mut rows = Vec::new();
    for (name, bench) in BENCHES {
        let named = options.names.iter().any(|wanted| wanted == name);
        if !named && (!options.names.is_empty() || name == APART) {
            continue;
        }
        eprintln!("measuring {name} …");
        match measure(name, bench, &plan, &options.results) {
            Ok(measured) => rows.extend(measured),
            Err(error) => {
                eprintln!("error: {name}: {error:#}");
                rows.push(Row::broken(name, &format!("{error:#}")));
            }
        }
    }
    let table = report::table(&rows);
    println!("{table}");
    let apart = options.names.iter().all(|name| name == APART) && !options.names.is_empty();
    let file = if apart { "bgp.md" } else { "latest.md" };
    report::write_table(&options.results, file, &rows)?;
    if rows.iter().any(Row::is_broken) { bail!("not every bench could be run") } else { Ok(()) }
}

fn measure(name: &str, bench: Bench, plan: &Plan, results: &Path) -> Result<Vec<Row>> {
    let before = stats::Load::now();
    let mut rows = bench(plan)?;
    let load = before.since();
    for row in &mut rows {
        row.bench = name.to_owned();
        row.load = load;
    }
    report::write_json(results, name, &rows)?;
    eprint!("{}", report::table(&rows));
    Ok(rows)
}

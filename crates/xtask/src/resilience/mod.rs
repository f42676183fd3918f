//! `cargo xtask resilience`: what is lost when something dies, comes back, or is cut off. Every event of a list, with our own
//! speaker, BIRD and FRR as the peer of two of our hosts, under a probe of 1,000 packets a second between workloads on
//! different hosts and another one from outside. `docs/resilience.md` is what came out.

mod events;
mod network;
mod peers;
mod probe;
mod report;

use anyhow::{Context, Result, bail, ensure};
use events::{EVENTS, Event};
use network::{Edges, Network};
use peers::Kind;
use report::Cell;
use std::path::{Path, PathBuf};

/// What to run, and where the table goes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Only events whose names contain one of these; the table is not written then
    names: Vec<String>,
    /// Only with this peer: ourselves, bird, frr; the table is not written then
    #[arg(long)]
    peer: Option<String>,
    /// The program under test
    #[arg(long, default_value = "target/release/lasthop")]
    program: PathBuf,
    /// Where the table is written
    #[arg(long, default_value = "docs/resilience.md")]
    to: PathBuf,
}

/// Runs, prints, writes.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "the networks are made of namespaces, which needs root: use sudo");
    let program = options.program.canonicalize().with_context(|| {
        format!("the program {} is not there: build it with 'cargo build --release'", options.program.display())
    })?;
    let wanted = |name: &str| options.names.is_empty() || options.names.iter().any(|part| name.contains(part.as_str()));
    let kinds: Vec<Kind> =
        Kind::ALL.into_iter().filter(|kind| options.peer.as_deref().is_none_or(|name| name == kind.key())).collect();
    ensure!(!kinds.is_empty(), "there is no such peer: choose ourselves, bird or frr");
    // Networks know nothing of each other, and mostly wait.
    let each: Vec<Result<Vec<Cell>>> = std::thread::scope(|scope| {
        let (program, wanted) = (&program, &wanted);
        let threads: Vec<_> = kinds.iter().map(|kind| scope.spawn(move || all_of(program, *kind, wanted))).collect();
        let joined = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a thread panicked")))
        };
        threads.into_iter().map(joined).collect()
    });
    let mut cells = Vec::new();
    for of_kind in each {
        cells.extend(of_kind?);
    }
    println!("{}", report::table(&cells));
    if options.names.is_empty() && options.peer.is_none() {
        report::write(&options.to, &cells)?;
    }
    let over: Vec<String> = cells.iter().filter(|cell| !cell.is_met()).map(Cell::line).collect();
    if over.is_empty() { Ok(()) } else { bail!("more was lost than may be:\n{}", over.join("\n")) }
}

/// All events with one kind of peer.
fn all_of(program: &Path, kind: Kind, wanted: &(dyn Fn(&str) -> bool + Sync)) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for edges in [Edges::One, Edges::Two] {
        let events: Vec<&Event> = EVENTS.iter().filter(|event| event.edges == edges && wanted(event.name)).collect();
        let mut network: Option<Network> = None;
        for event in events {
            let up = match network.take() {
                Some(network) => network,
                None => {
                    Network::up(program, kind, edges).with_context(|| format!("the network with {}", kind.name()))?
                }
            };
            let cell = measured(&up, event);
            eprintln!("{}", cell.line());
            network = Some(up).filter(|_| !event.leaves_it_broken && cell.lost.is_ok());
            cells.push(cell);
        }
    }
    Ok(cells)
}

fn measured(network: &Network, event: &Event) -> Cell {
    let measure = || {
        network.settled()?;
        probe::during(network, || (event.happens)(network))
    };
    let lost = measure().map_err(|error| format!("{error:#}"));
    Cell { event: event.name, kind: network.kind, bound: (event.bound)(network.kind), lost }
}

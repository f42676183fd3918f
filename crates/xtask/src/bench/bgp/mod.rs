//! The speaker as a route reflector, beside BIRD, FRR, OpenBGPD and GoBGP: load, dump to clients that come late, one change,
//! sessions that come up. Each daemon alone in the namespace, in turn within every cell; clients are raw (`swarm`).
//!
//! A daemon that does not make a cell in time is not asked for a larger one; the note says so.

mod daemon;
mod swarm;

use super::Plan;
use super::report::{Bar, Row};
use super::stats::{Figure, Samples};
use anyhow::{Context, Result};
use daemon::{Daemon, Kind};
use lasthop_lab::netns;
use lasthop_net::Family;
use nix::sched::{CpuSet, sched_setaffinity};
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};
use swarm::{LOCAL, Load, Swarm, peer_address};

/// After so long no further cell is begun.
const WHOLE: Duration = Duration::from_secs(11 * 60);

/// The most receivers there are.
const MOST: usize = 500;

/// What is asked of every daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    load: Load,
    receivers: usize,
}

impl Cell {
    /// Whether it is at least as much work in every respect.
    fn is_no_less_than(self, other: Self) -> bool {
        let of_one_kind = self.load.family == other.load.family;
        of_one_kind && self.load.count >= other.load.count && self.receivers >= other.receivers
    }

    fn words(self) -> String {
        let Load { family, count } = self.load;
        let clients = if self.receivers == 1 { "client" } else { "clients" };
        format!("{}k {family} prefixes, {} {clients}", count / 1000, self.receivers)
    }
}

/// What is measured in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Up,
    Load,
    LoadCpu,
    Peak,
    Dump,
    DumpCpu,
    Comes,
    Goes,
}

impl What {
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Up => ("started until all sessions are up", "s"),
            Self::Load => ("until all clients have all", "s"),
            Self::LoadCpu => ("CPU of that", "s"),
            Self::Peak => ("peak memory", "MB"),
            Self::Dump => ("all clients come again: until all have all", "s"),
            Self::DumpCpu => ("CPU of that", "s"),
            Self::Comes => ("one prefix comes: until the last client has it", "ms"),
            Self::Goes => ("one prefix goes: until the last client knows", "ms"),
        }
    }
}

/// How a cell is run.
#[derive(Clone, Copy, Debug)]
struct Manner {
    rounds: usize,
    limit: Duration,
    dump: bool,
    changes: u32,
}

#[derive(Default)]
struct Results {
    samples: BTreeMap<(Cell, What), BTreeMap<Kind, Samples>>,
    failures: BTreeMap<(Cell, Kind), String>,
    given_up: Vec<(Kind, Cell)>,
}

pub(super) fn run(plan: &Plan) -> Result<Vec<Row>> {
    let name = format!("lhb{}-bgp", std::process::id());
    netns::create(&name)?;
    let measured = netns::within(&name, || measure(plan));
    netns::delete(&name)?;
    Ok(rows(&measured??))
}

fn measure(plan: &Plan) -> Result<Results> {
    ground()?;
    let mut results = Results::default();
    let begun = Instant::now();
    for (cell, manner) in cells(plan) {
        for _ in 0..manner.rounds {
            for kind in Kind::ALL {
                if begun.elapsed() > WHOLE {
                    results.failures.insert((cell, kind), "no time was left".to_owned());
                    continue;
                }
                let smaller =
                    results.given_up.iter().find(|(other, small)| *other == kind && cell.is_no_less_than(*small));
                if let Some((_, small)) = smaller {
                    results.failures.entry((cell, kind)).or_insert(format!("not asked after {}", small.words()));
                    continue;
                }
                if let Err(error) = one(plan, (kind, cell, manner), &mut results.samples) {
                    eprintln!("  {}, {}: {error:#}", cell.words(), kind.name());
                    results.failures.insert((cell, kind), format!("{error:#}"));
                    results.given_up.push((kind, cell));
                }
            }
        }
    }
    Ok(results)
}

/// Addresses for all, and this thread on a CPU of its own.
fn ground() -> Result<()> {
    let mut text = format!(
        "link set lo up\nlink add bg0 type veth peer name bg1\nlink set bg0 up\nlink set bg1 up\naddr add {LOCAL}/16 dev bg0\n"
    );
    for place in 0..=MOST {
        text.push_str(&format!("addr add {}/32 dev lo\n", peer_address(place)));
    }
    let file = std::env::temp_dir().join(format!("lasthop-bench-bgp-{}.ip", std::process::id()));
    std::fs::write(&file, text)?;
    let status = Command::new("ip").arg("-batch").arg(&file).status().context("cannot run ip")?;
    std::fs::remove_file(&file)?;
    anyhow::ensure!(status.success(), "ip could not set the namespace up");
    Ok(())
}

fn cells(plan: &Plan) -> Vec<(Cell, Manner)> {
    let cell = |family, count: u32, receivers| Cell { load: Load { family, count: count * 1000 }, receivers };
    let manner = Manner { rounds: 1, limit: Duration::from_secs(15), dump: false, changes: 0 };
    if plan.quick {
        let quick = Manner { limit: Duration::from_secs(5), ..manner };
        return vec![
            (cell(Family::V4, 100, 1), quick),
            (cell(Family::V4, 100, 10), Manner { changes: 50, ..quick }),
            (cell(Family::V4, 100, 50), Manner { dump: true, ..quick }),
        ];
    }
    let mut all = Vec::new();
    for (family, count) in [(Family::V4, 100), (Family::V4, 400), (Family::V4, 1000), (Family::V6, 200)] {
        for receivers in [1, 10, 50, MOST] {
            let small = (family, count) == (Family::V4, 100) && receivers < MOST;
            let manner = Manner {
                rounds: if small { 3 } else { 1 },
                dump: small && receivers > 1,
                changes: if small && receivers == 10 { 100 } else { 0 },
                ..manner
            };
            all.push((cell(family, count, receivers), manner));
        }
    }
    all
}

/// One daemon in one cell.
fn one(
    plan: &Plan,
    (kind, cell, manner): (Kind, Cell, Manner),
    samples: &mut BTreeMap<(Cell, What), BTreeMap<Kind, Samples>>,
) -> Result<()> {
    let mut add = |what, value| samples.entry((cell, what)).or_default().entry(kind).or_default().add(value);
    let mut daemon = Daemon::start(kind, &plan.program, (cell.receivers + 1, cell.load.family))?;
    let mut set = CpuSet::new();
    set.set(0)?;
    let here = nix::unistd::Pid::from_raw(0);
    let before = nix::sched::sched_getaffinity(here)?;
    sched_setaffinity(here, &set)?;
    let result = (|| {
        let mut swarm = Swarm::new(cell.receivers, cell.load);
        let up = swarm.come_up(&mut daemon, Duration::from_secs(30))?;
        daemon.is_up();
        add(What::Up, up.duration_since(daemon.started).as_secs_f64());
        swarm.rest(Duration::from_millis(300))?;
        let cpu = daemon.cpu();
        let load = swarm.inject(&mut daemon, manner.limit)?;
        add(What::Load, load.as_secs_f64());
        add(What::LoadCpu, daemon.cpu() - cpu);
        add(What::Peak, daemon.peak());
        swarm.rest(Duration::from_millis(200))?;
        for number in 0..manner.changes {
            for (what, comes) in [(What::Comes, true), (What::Goes, false)] {
                add(what, swarm.change(&mut daemon, number, comes)?.as_secs_f64() * 1e3);
                swarm.rest(Duration::from_millis(2))?;
            }
        }
        if manner.dump {
            let cpu = daemon.cpu();
            let dump = swarm.again(&mut daemon, Duration::from_secs(20)).context("clients that come again")?;
            add(What::Dump, dump.as_secs_f64());
            add(What::DumpCpu, daemon.cpu() - cpu);
        }
        daemon.check()
    })();
    sched_setaffinity(here, &before)?;
    result
}

fn rows(results: &Results) -> Vec<Row> {
    let mut rows = Vec::new();
    for ((cell, what), by_kind) in &results.samples {
        // How long sessions take to come up says little where there are few.
        if *what == What::Up && (cell.receivers < MOST || cell.load.count > 100_000 || cell.load.family == Family::V6) {
            continue;
        }
        let shares: &[(f64, &str)] = match what {
            What::Comes | What::Goes => &[(0.5, ", p50"), (0.99, ", p99")],
            _ => &[(0.5, "")],
        };
        for (share, suffix) in shares {
            rows.push(row(results, (*cell, *what), by_kind, (*share, suffix)));
        }
    }
    rows
}

fn row(
    results: &Results,
    (cell, what): (Cell, What),
    by_kind: &BTreeMap<Kind, Samples>,
    (share, suffix): (f64, &str),
) -> Row {
    let figure = |kind: Kind| {
        let samples = by_kind.get(&kind)?;
        Some(if share > 0.5 { samples.p99() } else { samples.middle() })
    };
    let (words, unit) = what.words();
    let name = format!("{}: {words}{suffix}", cell.words());
    let Some(ours) = figure(Kind::Ours) else {
        let why = results.failures.get(&(cell, Kind::Ours)).map_or("", String::as_str);
        return Row::broken(&name, why);
    };
    let mut row = Row::new(name, unit, ours);
    let others = || Kind::ALL.into_iter().filter(|kind| *kind != Kind::Ours);
    let known: Vec<(Kind, Figure)> = others().filter_map(|kind| Some((kind, figure(kind)?))).collect();
    if let Some((kind, best)) = known.iter().min_by(|(_, a), (_, b)| a.value.total_cmp(&b.value)) {
        row = row.beside(kind.name(), *best).bar(Bar::Ratio(1.0));
    }
    match what {
        What::Up => row = row.bar(Bar::AtMost(2.0)),
        What::Comes | What::Goes if share <= 0.5 => row = row.bar(Bar::AtMost(0.2)),
        _ => {}
    }
    let note = |kind: Kind| match (figure(kind), results.failures.get(&(cell, kind))) {
        (Some(figure), _) => format!("{} {:.3}", kind.name(), figure.value),
        (None, Some(why)) => format!("{}: {why}", kind.name()),
        (None, None) => format!("{} –", kind.name()),
    };
    row.note(others().map(note).collect::<Vec<_>>().join(", "))
}

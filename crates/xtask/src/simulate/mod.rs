//! The speaker at the scale of a data centre, in one thread under virtual time: how long changes take to reach every host,
//! what they cost, and that nothing untrue is ever told.

pub mod net;
pub mod spoil;
pub mod wire;

use anyhow::{Context, Result};
use lasthop_net::Prefix;
use net::{Size, Traffic, World};
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Instant;

/// How large, and where the report goes.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Pods, each with a pair of reflectors
    #[arg(long, default_value_t = 100)]
    pods: usize,
    /// Hosts in a pod
    #[arg(long, default_value_t = 50)]
    hosts: usize,
    /// Pairs of reflectors between those of the pods and the top
    #[arg(long, default_value_t = 5)]
    middles: usize,
    /// Host routes that move
    #[arg(long, default_value_t = 100)]
    moving: u32,
    /// The report
    #[arg(long, default_value = "bench/results/bgp-scale.md")]
    report: PathBuf,
}

/// What became of one change of the network.
#[derive(Clone, Debug)]
pub struct Step {
    what: String,
    /// Virtual milliseconds until the last host knew.
    pub milliseconds: u128,
    sends: u64,
    octets: u64,
    heard: u64,
    /// Of this machine.
    seconds: f64,
    resident: f64,
}

/// Runs everything, prints and writes the report.
///
/// # Errors
/// If an invariant does not hold, or the report cannot be written.
pub fn run(options: &Options) -> Result<()> {
    let size = Size { pods: options.pods, hosts: options.hosts, middles: options.middles };
    let mut world = World::new(size);
    let steps = steps(&mut world, options.moving, |step| eprintln!("{}: {} ms", step.what, step.milliseconds))?;
    let text = report(&world, &steps)?;
    println!("{text}");
    std::fs::write(&options.report, text).with_context(|| format!("cannot write {}", options.report.display()))
}

/// Cold start, moves, the death of a reflector of each level, and of every hundredth host; all checked.
///
/// # Errors
/// If an invariant does not hold.
pub fn steps(world: &mut World, moving: u32, mut done: impl FnMut(&Step)) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let hosts = world.size.all_hosts();
    let moved = |number: u32| Prefix::host(Ipv4Addr::from_bits(Ipv4Addr::new(10, 100, 0, 0).to_bits() + number).into());
    let mut step = |world: &mut World, what: &str, act: &mut dyn FnMut(&mut World) -> Result<()>| -> Result<()> {
        let (begun, before) = (Instant::now(), world.traffic);
        act(world)?;
        let took = world.settle().and_then(|took| world.check().map(|()| took)).with_context(|| what.to_owned())?;
        let Traffic { sends, octets, heard } = world.traffic;
        let step = Step {
            what: what.to_owned(),
            milliseconds: took.as_millis(),
            sends: sends - before.sends,
            octets: octets - before.octets,
            heard: heard - before.heard,
            seconds: begun.elapsed().as_secs_f64(),
            resident: resident(),
        };
        done(&step);
        steps.push(step);
        Ok(())
    };
    step(world, "cold start", &mut World::start)?;
    let assign = |shift: usize| {
        move |world: &mut World| {
            for number in 0..moving {
                let to = world.host((number as usize * 37 + shift) % hosts);
                world.assign(moved(number), to);
            }
            Ok(())
        }
    };
    step(world, &format!("{moving} host routes come"), &mut assign(1))?;
    step(world, &format!("{moving} host routes move to other hosts"), &mut assign(hosts / 2 + 1))?;
    for (level, place) in world.reflectors() {
        step(world, &format!("a reflector dies: {level}"), &mut |world| {
            world.kill(place);
            Ok(())
        })?;
    }
    step(world, "one host of a hundred vanishes", &mut |world| {
        // Each at another place of its pod.
        (0..hosts.div_ceil(100)).for_each(|number| world.kill(world.host((number * 101) % hosts)));
        Ok(())
    })?;
    Ok(steps)
}

/// Resident memory of this process, in MB.
#[must_use]
pub fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
}

fn report(world: &World, steps: &[Step]) -> Result<String> {
    let Size { pods, hosts, middles } = world.size;
    let mut text = String::from("# Scale, simulated\n\n");
    writeln!(
        text,
        "{} hosts with two blocks each, {} prefixes at the end. {pods} pods of {hosts} hosts; each pod has two reflectors, which are \
         clients of one of {middles} pairs, which are clients of the two at the top. All reflectors and one host of each pod \
         are whole speakers ({} alive at the end); the others announce and listen by raw messages. 1 ms on each hop, no \
         time for computing: what is left is how often something has to be said before all know.\n",
        world.size.all_hosts(),
        world.prefixes(),
        world.whole(),
    )?;
    text.push_str("| step | virtual time until the last host knows | sends | MB | UPDATEs heard by hosts | took here | resident |\n");
    text.push_str("|---|---|---|---|---|---|---|\n");
    for step in steps {
        writeln!(
            text,
            "| {} | {} ms | {} | {:.1} | {} | {:.1} s | {:.0} MB |",
            step.what,
            step.milliseconds,
            step.sends,
            step.octets as f64 / 1e6,
            step.heard,
            step.seconds,
            step.resident,
        )?;
    }
    text.push_str(
        "\nChecked with every UPDATE: no cluster twice, at most six reflectors, a next hop that owns the prefix. Checked after \
         every step: each host has each prefix of the others from each of its reflectors, via its owner, and nothing else.\n",
    );
    Ok(text)
}

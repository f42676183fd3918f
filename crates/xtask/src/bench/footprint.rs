//! Memory of agent and speaker with many workloads and learned routes, and what they do when there is nothing to do.

use super::Plan;
use super::parked::{self, Links};
use super::report::{Bar, Row};
use super::routes::{Fed, Receiver};
use super::stats::Figure;
use anyhow::{Context, Result};
use std::time::{Duration, Instant};

/// Clock ticks in a second (`USER_HZ`, the same on every Linux machine).
const TICKS: f64 = 100.0;

pub(super) fn run(plan: &Plan) -> Result<Vec<Row>> {
    let count = plan.count(1000, 100);
    let fed = Fed::up(plan)?;
    parked::make_links(&fed.site, "one", count)?;
    parked::attach(&fed.site, "one", 0..count, Links::Adopted)?;
    fed.feed(Receiver::Ours)?;
    // Snapshots are written a second after the last change.
    std::thread::sleep(Duration::from_secs(3));
    let pids = ["agent", "bgp"].map(|role| fed.site.process("one", role).map(|record| record.pid));
    let [agent, speaker] = pids;
    let (agent, speaker) = (agent?, speaker?);
    let begun = Instant::now();
    let before = cpu(agent)? + cpu(speaker)?;
    std::thread::sleep(Duration::from_secs(plan.count(30, 5) as u64));
    let share = (cpu(agent)? + cpu(speaker)? - before) / begun.elapsed().as_secs_f64() * 100.0;
    let (agent_mb, speaker_mb) = (resident(agent)?, resident(speaker)?);
    let peaks = format!("peak {:.1} MB", peak(agent)? + peak(speaker)?);
    let what = format!("resident, agent and speaker, {count} workloads and {} learned routes", super::routes::ALL);
    Ok(vec![
        Row::new(what, "MB", Figure::single(agent_mb + speaker_mb))
            .bar(Bar::AtMost(40.0))
            .note(format!("agent {agent_mb:.1}, speaker {speaker_mb:.1}; {peaks}")),
        Row::new("CPU of both when idle", "%", Figure::single(share)).bar(Bar::AtMost(0.1)),
    ])
}

fn resident(pid: i32) -> Result<f64> {
    memory(pid, "VmRSS:")
}

fn peak(pid: i32) -> Result<f64> {
    memory(pid, "VmHWM:")
}

/// A line of `/proc/<pid>/status`, in MB.
fn memory(pid: i32, line: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let found = text.lines().find_map(|l| l.strip_prefix(line)).context("no memory in /proc")?;
    Ok(found.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

/// CPU seconds of a process so far, to the nanosecond where the kernel tells.
pub(super) fn cpu(pid: i32) -> Result<f64> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))?;
    let nanoseconds = threads.flatten().filter_map(|thread| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<f64>().ok()
    });
    let precise: f64 = nanoseconds.sum();
    if precise > 0.0 {
        return Ok(precise / 1e9);
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(')').context("no stat in /proc")?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((ticks(11) + ticks(12)) / TICKS)
}

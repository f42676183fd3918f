//! `kill -9` of the agent, the speaker and both, under traffic; and what a restarted agent writes.

use super::Plan;
use super::echo;
use super::monitor::Monitor;
use super::report::{Bar, Row};
use super::site::{Site, until};
use super::stats::{Figure, Samples};
use anyhow::{Context, Result, anyhow};
use lasthop_lab::{control, netns};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const HOSTS: &str = "
peering: mesh
hosts:
- { name: one, addresses: [172.18.203.11] }
- { name: two, addresses: [172.18.203.12] }
workloads:
- { name: w1, host: one, addresses: [10.65.0.21] }
- { name: w2, host: two, addresses: [10.65.0.22] }
";
const W1: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 21);
const W2: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 22);
/// How long the host goes without the killed process.
const DOWN: Duration = Duration::from_millis(300);
/// How long traffic goes on when all is well again: stale routes would go by then.
const AFTER: Duration = Duration::from_millis(1500);

pub(super) fn run(plan: &Plan) -> Result<Vec<Row>> {
    let site = Site::up(plan, HOSTS)?;
    let mut rows = Vec::new();
    let mut writes = (0, 0, BTreeSet::new());
    for (what, roles) in [
        ("the agent", ["agent"].as_slice()),
        ("the speaker", ["bgp"].as_slice()),
        ("both", ["bgp", "agent"].as_slice()),
    ] {
        let mut lost = Lost::default();
        for round in 0..plan.count(5, 1) {
            let host = if round % 2 == 0 { "one" } else { "two" };
            let monitor = Monitor::of_everything(&site.namespace(host))?;
            lost.add(&under_traffic(&site, || again(&site, host, roles))?);
            let seen = monitor.writes()?;
            if roles.contains(&"agent") {
                writes.0 += seen.len();
                writes.1 += usize::try_from(site.status(host)?.writes).unwrap_or(usize::MAX);
                writes.2.extend(seen);
            }
        }
        rows.push(
            Row::new(format!("kill -9 of {what}: pings lost"), "pings", Figure::single(lost.pings as f64))
                .bar(Bar::AtMost(0.0))
                .note(format!(
                    "of {} asked; TCP: {} bytes lost, {} segments sent again, longest gap {:.0} ms",
                    lost.asked,
                    lost.bytes,
                    lost.resent,
                    lost.gap.max()
                )),
        );
    }
    let (heard, counted, kinds) = writes;
    let note = if kinds.is_empty() { String::new() } else { format!("message types {kinds:?}") };
    let row = |what: &str, count: usize| Row::new(what, "writes", Figure::single(count as f64)).bar(Bar::AtMost(0.0));
    rows.push(row("kernel changes after a restart with nothing changed, heard by a monitor", heard).note(note));
    rows.push(row("  the same, counted by the agent", counted));
    Ok(rows)
}

/// Kills, starts again, and waits until all is well.
fn again(site: &Site, host: &str, roles: &[&str]) -> Result<()> {
    for role in roles {
        control::kill(&site.directory, host, role, Signal::SIGKILL)?;
    }
    std::thread::sleep(DOWN);
    for role in roles {
        control::start(&site.directory, host, role)?;
    }
    until("sessions to be up again", Duration::from_secs(60), || {
        let ready = |host: &str| {
            let Ok(status) = site.status(host) else { return false };
            let sessions = status.speaker.sessions;
            sessions.ready == sessions.total && sessions.total > 0 && status.speaker.in_sync
        };
        Ok(ready("one") && ready("two"))
    })?;
    std::thread::sleep(AFTER);
    Ok(())
}

/// What did not arrive.
#[derive(Default)]
struct Lost {
    asked: usize,
    pings: usize,
    bytes: u64,
    resent: u64,
    gap: Samples,
}

impl Lost {
    fn add(&mut self, more: &Self) {
        self.asked += more.asked;
        self.pings += more.pings;
        self.bytes += more.bytes;
        self.resent += more.resent;
        self.gap.add(more.gap.max());
    }
}

/// Does something under pings both ways and a TCP stream; what was lost.
fn under_traffic(site: &Site, work: impl FnOnce() -> Result<()>) -> Result<Lost> {
    let stop = AtomicBool::new(false);
    let (w1, w2) = (site.namespace("w1"), site.namespace("w2"));
    let listener = netns::within(&w2, || TcpListener::bind((W2, 5000)))??;
    let resent = resent(&w1)?;
    let mut lost = Lost::default();
    std::thread::scope(|scope| -> Result<()> {
        let (stop, lost) = (&stop, &mut lost);
        let ping = |namespace: String, to: Ipv4Addr, id: u16| {
            scope.spawn(move || netns::within(&namespace, || echo::ask_until(to, id, stop)))
        };
        let pings = [ping(w1.clone(), W2, 0x6c31), ping(w2.clone(), W1, 0x6c32)];
        let receiving = scope.spawn(|| receive(&listener));
        let client = netns::within(&w1, || TcpStream::connect((W2, 5000)))?.context("connect across the hosts")?;
        let sending = scope.spawn(move || send(client, stop));
        std::thread::sleep(Duration::from_millis(200));
        let done = work();
        stop.store(true, Ordering::Relaxed);
        let panicked = |_| anyhow!("a traffic thread panicked");
        for thread in pings {
            let asked = thread.join().map_err(panicked)???;
            lost.asked += asked.asked;
            lost.pings += asked.lost;
        }
        let sent = sending.join().map_err(panicked)??;
        let (received, gap) = receiving.join().map_err(panicked)??;
        lost.bytes = sent - received;
        lost.gap.add_ms(gap);
        done
    })?;
    lost.resent = self::resent(&w1)? - resent;
    Ok(lost)
}

/// Sends 16 kB each millisecond; how many bytes in all.
fn send(mut stream: TcpStream, stop: &AtomicBool) -> Result<u64> {
    let piece = [0x6c; 16 << 10];
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&piece).context("the TCP stream broke")?;
        sent += piece.len() as u64;
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(sent)
}

/// Reads to the end; how many bytes, and the longest time without any.
fn receive(listener: &TcpListener) -> Result<(u64, Duration)> {
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![0; 64 << 10];
    let (mut received, mut gap, mut last) = (0, Duration::ZERO, Instant::now());
    loop {
        let length = stream.read(&mut buffer)?;
        gap = gap.max(last.elapsed());
        last = Instant::now();
        if length == 0 {
            return Ok((received, gap));
        }
        received += length as u64;
    }
}

/// TCP segments that a namespace has sent again.
fn resent(namespace: &str) -> Result<u64> {
    let text = netns::within(namespace, || std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = lines.next().zip(lines.next()).context("no TCP counters")?;
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let value = pairs.find(|(name, _)| *name == "RetransSegs").context("no RetransSegs")?.1;
    Ok(value.parse()?)
}

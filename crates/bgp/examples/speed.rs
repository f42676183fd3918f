//! What routes cost: `cargo run --release -p lasthop-bgp --example speed`.
#![allow(clippy::unwrap_used, reason = "a measurement stops where something is not as it must be")]

#[path = "../tests/common/mod.rs"]
mod common;

use lasthop_bgp::config::{ConnectMode, PeerConfig, ReflectMode};
use lasthop_bgp::{ConnId, Input, Origin, Output, Speaker, Start};
use lasthop_net::Prefix;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

fn speaker(id: [u8; 4], peers: &[[u8; 4]], reflect: ReflectMode) -> Speaker {
    let now = Instant::now();
    let mut speaker = Speaker::new(common::config(id.into()), Start::Cold, now);
    for &address in peers {
        let peer = PeerConfig { connect: ConnectMode::Passive, reflect, ..common::peer(address.into()) };
        speaker.set_peer(now, peer);
    }
    speaker.own_routes_complete(now);
    speaker
}

fn outputs(speaker: &mut Speaker) -> Vec<Output> {
    std::iter::from_fn(|| speaker.poll_output()).collect()
}

fn sent(outputs: &[Output]) -> Vec<u8> {
    let bytes = |output: &Output| match output {
        Output::Send { bytes, .. } => bytes.to_vec(),
        _ => Vec::new(),
    };
    outputs.iter().flat_map(bytes).collect()
}

/// Both ends of a session, until neither has anything to say.
fn join(a: (&mut Speaker, ConnId, [u8; 4]), b: (&mut Speaker, ConnId, [u8; 4])) {
    let now = Instant::now();
    a.0.handle(now, Input::Accepted { conn: a.1, peer: b.2.into(), local: a.2.into() });
    b.0.handle(now, Input::Accepted { conn: b.1, peer: a.2.into(), local: b.2.into() });
    loop {
        let (to_b, to_a) = (sent(&outputs(a.0)), sent(&outputs(b.0)));
        if to_a.is_empty() && to_b.is_empty() {
            return;
        }
        a.0.receive(now, a.1, &to_a);
        b.0.receive(now, b.1, &to_b);
    }
}

fn prefixes(count: u32) -> Vec<Prefix> {
    (0..count).map(|n| Prefix::host(Ipv4Addr::from_bits(0x0a41_0000 + n).into())).collect()
}

fn rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Time on a processor: other programs do not count.
fn on_cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

fn timed<T>(what: &str, act: impl FnOnce() -> T) -> T {
    let (wall, cpu) = (Instant::now(), on_cpu());
    let result = act();
    let [cpu, wall] = [on_cpu() - cpu, wall.elapsed()].map(|time| time.as_secs_f64() * 1e3);
    println!("{what:<50} {cpu:>10.3} ms of processor, {wall:>10.3} ms of clock");
    result
}

fn main() {
    let (host, reflector) = ([172, 18, 203, 10], [172, 18, 203, 2]);
    let conn = ConnId(1);
    let now = Instant::now();
    for count in [10_000, 10_000, 10_000, 100_000] {
        println!("{count} routes");
        let before = rss_kib();
        let mut far = speaker(reflector, &[host], ReflectMode::Client);
        for prefix in prefixes(count) {
            far.advertise(now, prefix, Origin::default());
        }
        let mut near = speaker(host, &[reflector], ReflectMode::NonClient);
        near.handle(now, Input::Accepted { conn, peer: reflector.into(), local: host.into() });
        far.handle(now, Input::Accepted { conn, peer: host.into(), local: reflector.into() });
        let (open_far, open_near) = (sent(&outputs(&mut far)), sent(&outputs(&mut near)));
        far.receive(now, conn, &open_near);
        near.receive(now, conn, &open_far);
        let (alive_far, alive_near) = (sent(&outputs(&mut far)), sent(&outputs(&mut near)));
        near.receive(now, conn, &alive_far);
        outputs(&mut near);
        let stream = timed("  session up → UPDATEs encoded", || {
            far.receive(now, conn, &alive_near);
            sent(&outputs(&mut far))
        });
        println!("  {} octets on the wire", stream.len());
        let rss = rss_kib();
        let learned = timed("  octets received → Learned", || {
            for part in stream.chunks(65536) {
                near.receive(now, conn, part);
            }
            outputs(&mut near).len()
        });
        assert!(learned >= count as usize);
        println!(
            "  resident memory of the learning side: +{} KiB (both: +{} KiB)",
            rss_kib() - rss,
            rss_kib() - before
        );
        timed("  the same again (no change)", || {
            for part in stream.chunks(65536) {
                near.receive(now, conn, part);
            }
            assert!(outputs(&mut near).is_empty());
        });
        timed("  one own prefix more", || {
            near.advertise(now, "192.0.2.1/32".parse().unwrap(), Origin::default());
            assert_eq!(outputs(&mut near).len(), 1);
        });
        timed("  1,000 routes withdrawn and packed", || {
            for prefix in prefixes(1000) {
                far.withdraw(now, prefix);
            }
            outputs(&mut far).len()
        });
        timed("  session lost, all routes gone or stale", || {
            near.handle(now, Input::Closed { conn, reason: String::new() });
            outputs(&mut near).len()
        });
    }

    println!("10,000 routes through a reflector to 100 clients");
    let clients: Vec<[u8; 4]> = (0..100).map(|n| [172, 18, 204, n]).collect();
    let mut middle = speaker(reflector, &clients, ReflectMode::Client);
    let mut ends: Vec<Speaker> = clients.iter().map(|c| speaker(*c, &[reflector], ReflectMode::NonClient)).collect();
    for (n, (end, address)) in ends.iter_mut().zip(&clients).enumerate() {
        let id = ConnId(2 * n as u64 + 1);
        join((&mut middle, id, reflector), (end, id, *address));
    }
    for prefix in prefixes(10_000) {
        ends[0].advertise(now, prefix, Origin::default());
    }
    let stream = sent(&outputs(&mut ends[0]));
    let out = timed("  received, reflected, encoded", || {
        middle.receive(now, conn, &stream);
        outputs(&mut middle)
    });
    let messages = out.iter().filter(|output| matches!(output, Output::Send { .. })).count();
    println!("  {messages} messages out");
}

//! What tables of ten thousand routes cost. Times are printed; the bounds are wide, for a build without optimisation on a
//! machine with other work.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use common::host::{Host, Wanted};
use lasthop_compute::Route;
use lasthop_kernel::reconcile::Scope;
use lasthop_kernel::{Kernel, KernelEvent};
use lasthop_net::Prefix;
use nix::time::{ClockId, clock_gettime};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

const ROUTES: u32 = 10_000;

fn prefix(family: Family, n: u32) -> Prefix {
    match family {
        Family::V4 => Prefix::host(IpAddr::from([10, 66, (n >> 8) as u8, n as u8])),
        Family::V6 => Prefix::host(format!("fd00:66::{n:x}").parse().unwrap()),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

fn hop(family: Family, n: u32) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([172, 31, 0, 2 + n as u8]),
        Family::V6 => format!("fd00:31::{:x}", 2 + n).parse().unwrap(),
    }
}

fn learned(wanted: &mut Wanted, family: Family, range: std::ops::Range<u32>, via: u32) -> BTreeSet<Prefix> {
    let keys: BTreeSet<Prefix> = range.map(|n| prefix(family, n)).collect();
    for key in &keys {
        wanted.0.routes.insert(*key, Route::Remote { next_hops: hop(family, via).into() });
    }
    keys
}

/// What this thread has used so far, in the kernel and out of it.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// Runs a pass over `keys` and says what it took.
fn timed(what: &str, kernel: &mut Kernel, wanted: &Wanted, keys: &BTreeSet<Prefix>) -> Duration {
    let (start, before) = (Instant::now(), processor_time());
    let outcome = kernel.sync_routes(&wanted.0, Scope::Keys(keys));
    let (took, busy) = (start.elapsed(), processor_time() - before);
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!("{what}: {:.1} ms, {:.1} ms of processor time, {} keys written", ms(took), ms(busy), outcome.writes);
    assert!(outcome.failed.is_empty() && outcome.pending.is_empty(), "{:?} {:?}", outcome.failed, outcome.pending);
    took
}

#[test]
fn ten_thousand_routes() {
    let host = Host::new();
    host.sh("sysctl -w net.ipv4.nexthop_compat_mode=0");
    for family in [Family::V4, Family::V6] {
        let name = if family == Family::V4 { "IPv4" } else { "IPv6" };
        host.scratch.run(|| {
            let mut kernel = host.kernel();
            let mut wanted = Wanted::default();
            let keys = learned(&mut wanted, family, 0..ROUTES, 0);
            let added = timed(&format!("{name}: {ROUTES} routes added"), &mut kernel, &wanted, &keys);
            let start = Instant::now();
            let drift: Vec<KernelEvent> = kernel.drain_events().into_iter().filter(|e| e.drift().is_some()).collect();
            println!("{name}: own announcements taken in: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
            assert!(drift.is_empty(), "{drift:?}");
            let start = Instant::now();
            kernel.read_back().unwrap();
            println!("{name}: read back: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
            timed(&format!("{name}: pass over {ROUTES} right ones"), &mut kernel, &wanted, &keys);

            let moved = learned(&mut wanted, family, 0..1000, 1);
            let moving = timed(&format!("{name}: 1000 routes to another next hop"), &mut kernel, &wanted, &moved);
            let moved = learned(&mut wanted, family, 0..1000, 0);
            timed(&format!("{name}: and back to one in use"), &mut kernel, &wanted, &moved);
            let one = learned(&mut wanted, family, 5..6, 1);
            timed(&format!("{name}: one route of {ROUTES}"), &mut kernel, &wanted, &one);

            let none = Wanted::default();
            let removed = timed(&format!("{name}: {ROUTES} routes removed"), &mut kernel, &none, &keys);
            // How fast is for the benches to say; here it only must not hang.
            let hangs = Duration::from_secs(30);
            assert!(added < hangs && moving < hangs && removed < hangs);
            assert_eq!(host.sh("ip nexthop"), "");
        });
    }
}

#[test]
fn a_next_hop_under_ten_thousand_routes_moves_in_one_message() {
    let host = Host::new();
    host.sh("sysctl -w net.ipv4.nexthop_compat_mode=0; ip route add 198.51.100.0/24 via 172.31.0.9");
    host.scratch.run(|| {
        let mut kernel = host.kernel();
        let mut wanted = Wanted::default();
        for n in 0..ROUTES {
            let next_hops = "198.51.100.7".parse::<IpAddr>().unwrap().into();
            wanted.0.routes.insert(prefix(Family::V4, n), Route::Remote { next_hops });
        }
        kernel.sync_routes(&wanted.0, Scope::All);
        host.sh("ip route replace 198.51.100.0/24 via 172.31.0.10");
        let none = BTreeSet::new();
        let start = Instant::now();
        let outcome = kernel.sync_routes(&wanted.0, Scope::Keys(&none));
        println!("next hop under {ROUTES} routes moved: {:.2} ms", start.elapsed().as_secs_f64() * 1e3);
        assert_eq!(outcome.writes, 0, "no route is written");
        assert!(host.sh("ip route get 10.66.0.7").contains("via 172.31.0.10"));
        kernel.sync_routes(&Wanted::default().0, Scope::All);
    });
}

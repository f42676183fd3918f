//! A thousand packets a second and what becomes of each: between the workloads, and from outside to one of them.

use super::network::{Network, WORKLOADS};
use crate::bench::echo::{self, Stream};
use anyhow::{Result, anyhow};
use lasthop_lab::netns;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Traffic before anything happens, and how long it goes on when all is well again: stale routes would go by then.
const BEFORE: Duration = Duration::from_millis(300);
const AFTER: Duration = Duration::from_secs(6);

/// What became of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// From workload to workload.
    pub(super) between: Stream,
    /// From the edge to a workload.
    pub(super) outside: Stream,
}

/// Does something under traffic.
pub(super) fn during(network: &Network, work: impl FnOnce() -> Result<()>) -> Result<Lost> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let stop = &stop;
        let stream = |part: &str, to: Ipv4Addr, id: u16| {
            let namespace = network.namespace(part);
            scope.spawn(move || netns::within(&namespace, || echo::ask_until(to, id, stop)))
        };
        // Where there are two at the edge, the first is what something happens to.
        let outside = network.edges.last().map_or("edge", |edge| edge.name);
        let streams = [stream(WORKLOADS[0].0, WORKLOADS[1].1, 0x7231), stream(outside, WORKLOADS[0].1, 0x7232)];
        std::thread::sleep(BEFORE);
        let done = work();
        std::thread::sleep(AFTER);
        stop.store(true, Ordering::Relaxed);
        let mut became = [Stream::default(); 2];
        for (thread, became) in streams.into_iter().zip(&mut became) {
            *became = thread.join().map_err(|_| anyhow!("a probing thread panicked"))???;
        }
        done?;
        Ok(Lost { between: became[0], outside: became[1] })
    })
}

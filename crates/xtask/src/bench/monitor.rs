//! Hears what happens in a namespace's kernel tables, as `ip monitor` and `nft monitor` do.

use anyhow::{Context, Result};
use lasthop_kernel::netlink::{Protocol, Socket};
use lasthop_lab::netns;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// include/uapi/linux/rtnetlink.h: link, neighbour, tc, addresses, routes, rules, next hop.
const EVERYTHING: [u32; 9] = [1, 3, 4, 5, 7, 8, 9, 11, 19];
/// `RTNLGRP_NEXTHOP`.
const NEXT_HOP: u32 = 32;
/// `RTNLGRP_IPV4_ROUTE`.
const ROUTES: u32 = 7;
/// `NFNLGRP_NFTABLES`.
const NFTABLES: u32 = 7;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;

/// One announcement of a table's change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    pub(super) at: Instant,
    /// `RTM_*`, or the number of an nftables message.
    pub(super) kind: u16,
    /// Port of the socket whose request it was; 0 for the kernel's own doing.
    port: u32,
    /// The fourth octet and above of the destination, for IPv4 host routes.
    pub(super) destination: Option<[u8; 4]>,
}

/// Listens on a thread of its own.
pub(super) struct Monitor {
    heard: Arc<Mutex<Vec<Heard>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Monitor {
    /// Listens to IPv4 routes.
    pub(super) fn of_routes(namespace: &str) -> Result<Self> {
        let mut monitor = Self::new();
        monitor.listen(namespace, Protocol::Route, &[ROUTES])?;
        Ok(monitor)
    }

    /// Listens to everything that the agent writes.
    pub(super) fn of_everything(namespace: &str) -> Result<Self> {
        let mut monitor = Self::new();
        let groups: Vec<u32> = EVERYTHING.into_iter().chain([NEXT_HOP]).collect();
        monitor.listen(namespace, Protocol::Route, &groups)?;
        monitor.listen(namespace, Protocol::Netfilter, &[NFTABLES])?;
        Ok(monitor)
    }

    fn new() -> Self {
        Self { heard: Arc::default(), stop: Arc::default(), threads: Vec::new() }
    }

    fn listen(&mut self, namespace: &str, protocol: Protocol, groups: &[u32]) -> Result<()> {
        let mut socket = netns::within(namespace, || Socket::open(protocol))??;
        for group in groups {
            socket.join(*group)?;
        }
        let (heard, stop) = (self.heard.clone(), self.stop.clone());
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::from(20u8))?;
                let replies = socket.receive().context("the monitor lost announcements")?;
                let at = Instant::now();
                let Ok(mut heard) = heard.lock() else { return Ok(()) };
                heard.extend(replies.iter().map(|message| {
                    let destination = (message.kind == libc::RTM_NEWROUTE || message.kind == libc::RTM_DELROUTE)
                        .then(|| message.attributes(12).get(libc::RTA_DST)?.payload.try_into().ok());
                    Heard { at, kind: message.kind, port: message.port, destination: destination.flatten() }
                }));
            }
            Ok(())
        }));
        Ok(())
    }

    /// Forgets what was heard so far.
    pub(super) fn clear(&self) {
        if let Ok(mut heard) = self.heard.lock() {
            heard.clear();
        }
    }

    /// Waits until so many announcements of `kind` about distinct host routes within 10.66.0.0/16 were heard; when
    /// the first and the last came.
    pub(super) fn routes(&self, kind: u16, count: usize, limit: Duration) -> Result<(Instant, Instant)> {
        let end = Instant::now() + limit;
        loop {
            {
                let heard = self.heard.lock().map_err(|_| anyhow::anyhow!("the monitor panicked"))?;
                let mut distinct = std::collections::HashSet::new();
                let mut first = None;
                for one in heard.iter().filter(|h| h.kind == kind) {
                    let Some(destination) = one.destination.filter(|d| d[..2] == [10, 66]) else { continue };
                    first.get_or_insert(one.at);
                    distinct.insert(destination);
                    if let Some(first) = first.filter(|_| distinct.len() == count) {
                        return Ok((first, one.at));
                    }
                }
                anyhow::ensure!(
                    Instant::now() < end,
                    "only {} of {count} routes were announced within {} s",
                    distinct.len(),
                    limit.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends, and gives what programs did. The kernel's own ageing of neighbours is no program's doing.
    pub(super) fn writes(mut self) -> Result<Vec<u16>> {
        std::thread::sleep(Duration::from_millis(50));
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| anyhow::anyhow!("the monitor panicked"))??;
        }
        let heard = self.heard.lock().map_err(|_| anyhow::anyhow!("the monitor panicked"))?;
        let ageing = |h: &Heard| h.port == 0 && [RTM_NEWNEIGH, RTM_DELNEIGH].contains(&h.kind);
        Ok(heard.iter().filter(|h| !ageing(h)).map(|h| h.kind).collect())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

//! Sending packets as fast as one CPU can, and how long the CPU took for each.
//!
//! The sender is pinned to one CPU. A veth hands a packet on within the same system call (the backlog of that CPU is
//! worked off before it returns), so forwarding by all namespaces on the way is inline: time on CPU divided by
//! packets is what one packet costs. Time that other processes had the CPU meanwhile is taken off.

use anyhow::{Context, Result, ensure};
use lasthop_lab::netns;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg, sockopt};
use nix::unistd::Pid;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Packets in one system call.
const BURST: usize = 32;
/// 64 bytes on the wire: what is left behind Ethernet, IPv4 and UDP headers.
const PAYLOAD: usize = 64 - 14 - 20 - 8;
const PORT: u16 = 4000;

/// An established flow from one namespace to another.
pub(super) struct Flow {
    sender: UdpSocket,
    /// Unread on purpose: what arrives is dropped at its full buffer, at the same cost for every path.
    receiver: UdpSocket,
    from: String,
    to: String,
}

impl Flow {
    /// Sends a packet each way, so that connection tracking takes the flow as established.
    pub(super) fn open(from: (&str, Ipv4Addr), to: (&str, Ipv4Addr)) -> Result<Self> {
        let bind = |(namespace, address): (&str, Ipv4Addr)| -> Result<UdpSocket> {
            let socket = netns::within(namespace, || UdpSocket::bind(SocketAddrV4::new(address, PORT)))?;
            socket.with_context(|| format!("bind {address}"))
        };
        let (sender, receiver) = (bind(from)?, bind(to)?);
        nix::sys::socket::setsockopt(&receiver, sockopt::RcvBuf, &4096)?;
        sender.connect(SocketAddrV4::new(to.1, PORT))?;
        receiver.connect(SocketAddrV4::new(from.1, PORT))?;
        let limit = Some(Duration::from_secs(2));
        for (one, other) in [(&sender, &receiver), (&receiver, &sender), (&sender, &receiver)] {
            other.set_read_timeout(limit)?;
            one.send(&[0; PAYLOAD])?;
            other.recv(&mut [0; PAYLOAD]).with_context(|| format!("no packet came from {} to {}", from.0, to.0))?;
        }
        Ok(Self { sender, receiver, from: from.0.to_owned(), to: to.0.to_owned() })
    }

    /// Sends for a while on CPU `cpu`; nanoseconds of CPU for one packet.
    pub(super) fn cost(&self, cpu: usize, window: Duration) -> Result<f64> {
        let before = received(&self.to)?;
        let sending = || -> Result<(u64, f64)> {
            let mut set = CpuSet::new();
            set.set(cpu)?;
            sched_setaffinity(Pid::from_raw(0), &set)?;
            let payload = [0u8; PAYLOAD];
            let slices = [[IoSlice::new(&payload)]; BURST];
            let addresses: [Option<SockaddrIn>; BURST] = [None; BURST];
            let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BURST, None);
            let (begun, waited) = (Instant::now(), waiting()?);
            let mut sent = 0;
            while begun.elapsed() < window {
                for _ in 0..16 {
                    let fd = self.sender.as_raw_fd();
                    sent += sendmmsg(fd, &mut headers, &slices, addresses, [], MsgFlags::empty())?.count() as u64;
                }
            }
            let elapsed = begun.elapsed().as_nanos() as f64;
            Ok((sent, elapsed - (waiting()? - waited)))
        };
        let (sent, nanoseconds) = std::thread::scope(|scope| {
            scope.spawn(sending).join().map_err(|_| anyhow::anyhow!("the sending thread panicked"))?
        })?;
        let arrived = received(&self.to)? - before;
        ensure!(arrived * 100 >= sent * 99, "of {sent} packets from {} only {arrived} came to {}", self.from, self.to);
        let _ = &self.receiver;
        Ok(nanoseconds / sent as f64)
    }
}

/// The first packets of new flows from one namespace to another: each goes to another port.
pub(super) struct Newcomers {
    sender: UdpSocket,
    to: (String, Ipv4Addr),
}

/// New flows in one window, a multiple of [`BURST`].
const FLOWS: u16 = 4096;
/// Port of the first.
const FIRST: u16 = 20_000;

impl Newcomers {
    pub(super) fn open(from: (&str, Ipv4Addr), to: (&str, Ipv4Addr)) -> Result<Self> {
        let sender = netns::within(from.0, || UdpSocket::bind(SocketAddrV4::new(from.1, PORT + 1)))??;
        Ok(Self { sender, to: (to.0.to_owned(), to.1) })
    }

    /// Sends one packet of each flow on CPU `cpu`; nanoseconds of CPU for one. The flows are to be forgotten before the
    /// next window.
    pub(super) fn cost(&self, cpu: usize) -> Result<f64> {
        let before = received(&self.to.0)?;
        let sending = || -> Result<f64> {
            let mut set = CpuSet::new();
            set.set(cpu)?;
            sched_setaffinity(Pid::from_raw(0), &set)?;
            let payload = [0u8; PAYLOAD];
            let slices = [[IoSlice::new(&payload)]; BURST];
            let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BURST, None);
            let mut ports = (FIRST..FIRST + FLOWS).map(|port| SockaddrIn::from(SocketAddrV4::new(self.to.1, port)));
            let mut sent = 0;
            let (begun, waited) = (Instant::now(), waiting()?);
            while sent < usize::from(FLOWS) {
                let addresses: [Option<SockaddrIn>; BURST] = std::array::from_fn(|_| ports.next());
                let fd = self.sender.as_raw_fd();
                sent += sendmmsg(fd, &mut headers, &slices, addresses, [], MsgFlags::empty())?.count();
            }
            Ok(begun.elapsed().as_nanos() as f64 - (waiting()? - waited))
        };
        let nanoseconds = std::thread::scope(|scope| {
            scope.spawn(sending).join().map_err(|_| anyhow::anyhow!("the sending thread panicked"))?
        })?;
        let arrived = received(&self.to.0)? - before;
        let flows = u64::from(FLOWS);
        ensure!(arrived * 100 >= flows * 99, "of {flows} new flows only {arrived} came to {}", self.to.0);
        Ok(nanoseconds / f64::from(FLOWS))
    }
}

/// How long some work takes, without the time for which the calling thread waits for a CPU.
pub(super) fn on_cpu(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let (begun, waited) = (Instant::now(), waiting()?);
    work()?;
    let elapsed = begun.elapsed();
    Ok(elapsed.saturating_sub(Duration::from_nanos((waiting()? - waited) as u64)))
}

/// Nanoseconds that the calling thread has waited for a CPU.
fn waiting() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let waited = text.split_whitespace().nth(1).context("no schedstat")?;
    Ok(waited.parse()?)
}

/// Packets that came to a namespace's `eth0`.
fn received(namespace: &str) -> Result<u64> {
    let text = netns::within(namespace, || std::fs::read_to_string("/proc/thread-self/net/dev"))??;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).context("no eth0")?;
    line.split_whitespace().nth(1).context("no packet count")?.parse().context("packet count")
}

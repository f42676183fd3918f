//! BFD (RFC 5880) for peers: one thread with its own sockets and clock, so that a burst of routes never delays a packet.
//!
//! RFC 5881: one hop, port 3784, TTL 255 both ways (what has travelled is dropped by a filter on the socket).
//! RFC 5883: several hops, port 4784. The state machines are [`lasthop_bgp::bfd`]'s.

use super::driver::Event;
use lasthop_bgp::bfd::{self, Session};
use lasthop_bgp::config::{Admin, Bfd, BfdPath, PeerConfig};
use lasthop_net::{Family, IfName};
use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Packets of one socket that are taken in a row.
const BATCH: usize = 64;

/// How often sockets that could not be opened are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What a peer's session is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Terms {
    config: Bfd,
    local: Option<IpAddr>,
    interface: Option<IfName>,
}

type Wanted = BTreeMap<IpAddr, Terms>;

/// The thread, once a peer wants it. It ends with this value, and tells the neighbours that it is on purpose.
pub(super) struct Liveness {
    events: mpsc::UnboundedSender<Event>,
    thread: Option<(mpsc::UnboundedSender<Wanted>, std::thread::JoinHandle<()>)>,
}

impl Liveness {
    pub(super) fn new(events: mpsc::UnboundedSender<Event>) -> Self {
        Self { events, thread: None }
    }

    /// Watches over the peers that ask for it, and no others.
    pub(super) fn follow<'a>(&mut self, peers: impl Iterator<Item = &'a PeerConfig>) {
        let wanted = peers.filter(|peer| peer.admin == Admin::Up).filter_map(|peer| {
            let terms = Terms { config: peer.bfd?, local: peer.local_address, interface: peer.interface.clone() };
            Some((peer.address, terms))
        });
        let wanted: Wanted = wanted.collect();
        if self.thread.is_none() && !wanted.is_empty() {
            let (commands, receiver) = mpsc::unbounded_channel();
            let events = self.events.clone();
            let spawned = std::thread::Builder::new().name("bfd".to_owned()).spawn(move || run(receiver, events));
            match spawned {
                Ok(thread) => self.thread = Some((commands, thread)),
                Err(error) => {
                    tracing::error!(%error, "no thread for BFD: dead peers are noticed by the hold timer only")
                }
            }
        }
        if let Some((commands, _)) = &self.thread {
            // It ends only with us.
            let _ = commands.send(wanted);
        }
    }
}

impl Drop for Liveness {
    fn drop(&mut self) {
        if let Some((commands, thread)) = self.thread.take() {
            drop(commands);
            if thread.join().is_err() {
                tracing::error!("the thread for BFD had failed");
            }
        }
    }
}

fn run(mut commands: mpsc::UnboundedReceiver<Wanted>, events: mpsc::UnboundedSender<Event>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "BFD cannot be set up"),
    };
    runtime.block_on(async {
        let mut watch = Watch { sessions: BTreeMap::new(), ears: BTreeMap::new(), retry_at: None, events };
        loop {
            let due = watch.next_timeout();
            tokio::select! {
                wanted = commands.recv() => match wanted {
                    Some(wanted) => watch.follow(wanted),
                    None => break,
                },
                (kind, ready) = heard(&watch.ears) => watch.take(kind, ready),
                () = tokio::time::sleep_until(due.into()) => {}
            }
            watch.act(Instant::now());
        }
        watch.sessions.values_mut().for_each(Live::leave);
    });
}

/// Which socket: the family and whether packets come over one hop.
type Kind = (Family, BfdPath);

/// Waits until something has arrived.
async fn heard(ears: &BTreeMap<Kind, tokio::net::UdpSocket>) -> (Kind, io::Result<()>) {
    if ears.is_empty() {
        return std::future::pending().await;
    }
    let mut waiting: Vec<_> = ears.iter().map(|(kind, ear)| (*kind, Box::pin(ear.readable()))).collect();
    std::future::poll_fn(|context| {
        for (kind, readable) in &mut waiting {
            if let std::task::Poll::Ready(result) = readable.as_mut().poll(context) {
                return std::task::Poll::Ready((*kind, result));
            }
        }
        std::task::Poll::Pending
    })
    .await
}

struct Watch {
    sessions: BTreeMap<IpAddr, Live>,
    ears: BTreeMap<Kind, tokio::net::UdpSocket>,
    retry_at: Option<Instant>,
    events: mpsc::UnboundedSender<Event>,
}

/// A session with its socket.
struct Live {
    terms: Terms,
    session: Session,
    mouth: UdpSocket,
    to: SocketAddr,
}

impl Watch {
    fn next_timeout(&self) -> Instant {
        let sessions = self.sessions.values().filter_map(|live| live.session.next_timeout());
        sessions.chain(self.retry_at).min().unwrap_or_else(|| Instant::now() + Duration::from_secs(3600))
    }

    fn follow(&mut self, wanted: Wanted) {
        for (_, mut live) in self.sessions.extract_if(.., |peer, live| {
            wanted.get(peer).is_none_or(|terms| {
                let fixed = |terms: &Terms| (terms.config.path, terms.local, terms.interface.clone());
                fixed(terms) != fixed(&live.terms)
            })
        }) {
            live.leave();
        }
        for (peer, terms) in wanted {
            if let Some(live) = self.sessions.get_mut(&peer) {
                live.session.configure(terms.config);
                live.terms = terms;
                continue;
            }
            match Live::new(peer, terms) {
                Ok(live) => drop(self.sessions.insert(peer, live)),
                Err(error) => {
                    tracing::error!(%peer, %error, "BFD cannot be sent: is the source an address of this host?")
                }
            }
        }
        self.listen();
    }

    /// Opens the sockets that sessions need.
    fn listen(&mut self) {
        self.retry_at = None;
        let kinds: Vec<Kind> =
            self.sessions.iter().map(|(peer, live)| (Family::of(*peer), live.terms.config.path)).collect();
        for kind in kinds {
            if self.ears.contains_key(&kind) {
                continue;
            }
            match ear(kind) {
                Ok(ear) => drop(self.ears.insert(kind, ear)),
                Err(error) => {
                    let port = port(kind.1);
                    tracing::error!(port, %error, "BFD cannot be heard: does another BFD daemon run on this host?");
                    self.retry_at = Some(Instant::now() + RETRY);
                }
            }
        }
    }

    fn take(&mut self, (family, path): Kind, ready: io::Result<()>) {
        let Some(ear) = self.ears.get(&(family, path)).filter(|_| ready.is_ok()) else { return };
        let mut bytes = [0; 64];
        for _ in 0..BATCH {
            let Ok((length, from)) = ear.try_recv_from(&mut bytes) else { return };
            let packet = bytes.get(..length).unwrap_or_default();
            let mut sessions = self.sessions.iter_mut().filter(|(_, live)| live.terms.config.path == path);
            let found = match bfd::session_of(packet) {
                None => None,
                Some(0) => sessions.find(|(peer, live)| **peer == from.ip() && live.is_from(from)),
                Some(yours) => sessions.find(|(_, live)| live.session.discriminator() == yours),
            };
            let Some((peer, live)) = found else {
                tracing::debug!(%from, "a BFD packet for no session of ours");
                continue;
            };
            match live.session.receive(Instant::now(), packet) {
                Ok(None) => {}
                Ok(Some(_)) => say(&self.events, *peer, &live.session),
                Err(reason) => tracing::debug!(%from, %reason, "a BFD packet does not count"),
            }
        }
    }

    /// Does what is due, and sends what is to be sent.
    fn act(&mut self, now: Instant) {
        if self.retry_at.is_some_and(|at| at <= now) {
            self.listen();
        }
        for (peer, live) in &mut self.sessions {
            let before = live.session.state();
            live.session.timeout(now);
            if live.session.state() != before {
                say(&self.events, *peer, &live.session);
            }
            live.send(now);
        }
    }
}

fn say(events: &mpsc::UnboundedSender<Event>, peer: IpAddr, session: &Session) {
    let (state, diagnostic) = (session.state(), session.diagnostic());
    tracing::info!(%peer, %state, %diagnostic, "BFD");
    // The driver goes only with the process.
    let _ = events.send(Event::Liveness { peer, state, diagnostic });
}

fn port(path: BfdPath) -> u16 {
    match path {
        BfdPath::SingleHop => 3784,
        BfdPath::MultiHop => 4784,
    }
}

fn any(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn udp(family: Family) -> io::Result<Socket> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))?;
    if family == Family::V6 {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// A socket that hears all neighbours of a kind.
fn ear((family, path): Kind) -> io::Result<tokio::net::UdpSocket> {
    let socket = udp(family)?;
    if path == BfdPath::SingleHop {
        socket.attach_filter(&ttl_filter(family))?;
    }
    socket.bind(&SocketAddr::new(any(family), port(path)).into())?;
    tokio::net::UdpSocket::from_std(socket.into())
}

/// Classic BPF: everything whose TTL is not 255 is dropped (RFC 5881 section 5).
fn ttl_filter(family: Family) -> [SockFilter; 4] {
    // Relative to the network header; TTL is octet 8 of IPv4, the hop limit octet 7 of IPv6.
    let network = libc::SKF_NET_OFF.cast_unsigned();
    let place = network
        + match family {
            Family::V4 => 8,
            Family::V6 => 7,
        };
    let step = |code: u32, jt, jf, k| SockFilter::new(u16::try_from(code).unwrap_or(0), jt, jf, k);
    [
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, place),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, 255),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

/// A number that nobody can guess.
fn random() -> u32 {
    let bits = RandomState::new().build_hasher().finish();
    u32::try_from(bits >> 32).unwrap_or(1).max(1)
}

impl Live {
    fn new(peer: IpAddr, terms: Terms) -> io::Result<Self> {
        let family = Family::of(peer);
        let socket = udp(family)?;
        match family {
            Family::V4 => socket.set_ttl_v4(255).and(socket.set_tos_v4(0xc0))?,
            Family::V6 => socket.set_unicast_hops_v6(255).and(socket.set_tclass_v6(0xc0))?,
        }
        let scope = match &terms.interface {
            Some(name) => nix::net::if_::if_nametoindex(name.as_str())?,
            None => 0,
        };
        let at = |address: IpAddr, port: u16| match address {
            IpAddr::V6(address) if address.is_unicast_link_local() => {
                SocketAddr::from(SocketAddrV6::new(address, port, 0, scope))
            }
            address => SocketAddr::new(address, port),
        };
        let source = terms.local.unwrap_or_else(|| any(family));
        // RFC 5881 section 4: from 49152 up, another one for each session.
        let mut bound = Err(io::ErrorKind::AddrInUse.into());
        for _ in 0..16 {
            let port = 49_152 + u16::try_from(random() % 16_384).unwrap_or(0);
            bound = socket.bind(&at(source, port).into());
            if !bound.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse) {
                break;
            }
        }
        bound?;
        let to = at(peer, port(terms.config.path));
        let session = Session::new(Instant::now(), random(), terms.config);
        Ok(Self { terms, session, mouth: socket.into(), to })
    }

    fn is_from(&self, from: SocketAddr) -> bool {
        match (self.to, from) {
            (SocketAddr::V6(to), SocketAddr::V6(from)) => to.scope_id() == from.scope_id(),
            _ => true,
        }
    }

    fn send(&mut self, now: Instant) {
        while let Some(packet) = self.session.poll_transmit(now) {
            if let Err(error) = SockRef::from(&self.mouth).send_to(&packet, &self.to.into()) {
                tracing::debug!(to = %self.to, %error, "a BFD packet is not sent");
            }
        }
    }

    /// The last packet of a session: we go, the way is alive.
    fn leave(&mut self) {
        self.session.shut_down();
        self.send(Instant::now());
    }
}

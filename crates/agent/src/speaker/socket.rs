//! TCP sockets as BGP wants them: listening for both families apart, connecting from a given address.

mod half;
mod options;

use super::suspect::{self, Dropped};
use lasthop_bgp::config::{Auth, PeerConfig, Ttl};
use lasthop_net::{Family, IfIndex, IfName, scoped};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that may wait to be accepted: every peer of a large reflector may come at once after its restart.
const BACKLOG: i32 = 4096;

/// How long a connection may take to come up; the kernel alone would try for two minutes. Shorter than the speaker waits,
/// because only here it shows what it may have failed for.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Internetwork control (DSCP CS6), as routing protocols use it.
const CONTROL: u32 = 0xc0;

fn socket(family: Family) -> io::Result<Socket> {
    let domain = match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if family == Family::V6 {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

pub(super) use half::Half;

/// What a peer's connections are to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) peer: IpAddr,
    local: Option<IpAddr>,
    pub(super) port: u16,
    interface: Option<IfName>,
    pub(super) auth: Option<Auth>,
    pub(super) ttl: Ttl,
}

impl Terms {
    pub(super) fn of(config: &PeerConfig) -> Self {
        Self {
            peer: config.address,
            local: config.local_address,
            port: config.port,
            interface: config.interface.clone(),
            auth: config.auth.clone(),
            ttl: config.ttl,
        }
    }

    /// Makes a socket as it is to be: one that connects, was accepted, or is up already under `former` terms.
    pub(super) fn apply(&self, socket: &impl AsFd, former: Option<&Self>) -> io::Result<()> {
        let old = former.and_then(|former| former.auth.as_ref());
        if old != self.auth.as_ref() {
            match (&self.auth, old) {
                (Some(auth), _) => options::set_key(socket, self.peer, auth)?,
                (None, Some(old)) => options::remove_key(socket, self.peer, old)?,
                (None, None) => {}
            }
        }
        if former.map_or(Ttl::Any, |former| former.ttl) != self.ttl {
            options::set_ttl(socket, self.peer, distance(self.ttl))?;
        }
        Ok(())
    }

    /// The link's index, if the peer's address means something on one link only.
    fn scope(&self) -> io::Result<u32> {
        match (&self.interface, self.peer) {
            (Some(name), IpAddr::V6(address)) if address.is_unicast_link_local() => {
                nix::net::if_::if_nametoindex(name.as_str()).map_err(|error| {
                    io::Error::new(io::ErrorKind::NotFound, format!("no link {name} to reach {address} by: {error}"))
                })
            }
            _ => Ok(0),
        }
    }

    fn at(&self, address: IpAddr, port: u16) -> io::Result<SocketAddr> {
        Ok(match address {
            IpAddr::V6(address) if address.is_unicast_link_local() => {
                SocketAddrV6::new(address, port, 0, self.scope()?).into()
            }
            address => SocketAddr::new(address, port),
        })
    }

    /// Whether a connection from there is this peer's: a link-local address on another link is somebody else's.
    pub(super) fn is_from(&self, peer: SocketAddr) -> bool {
        match peer {
            SocketAddr::V6(peer) if peer.ip().is_unicast_link_local() => {
                self.scope().is_ok_and(|scope| scope == peer.scope_id())
            }
            _ => true,
        }
    }
}

/// The TTL to send with and the least one to take (RFC 5082 section 3: 255 less the hops between).
fn distance(ttl: Ttl) -> (Option<u8>, u8) {
    match ttl {
        Ttl::Any => (None, 0),
        Ttl::Hops(hops) => (Some(hops.max(1)), 0),
        Ttl::Security(hops) => (Some(255), 255 - (hops.max(1) - 1)),
    }
}

/// What a listening socket has to know of all peers: before one is accepted, who it is is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ListenTerms {
    keys: BTreeMap<IpAddr, Auth>,
    distances: BTreeMap<Family, (Option<u8>, u8)>,
}

impl ListenTerms {
    pub(super) fn of<'a>(peers: impl Iterator<Item = &'a PeerConfig>) -> Self {
        let mut terms = Self::default();
        for peer in peers {
            terms.keys.extend(peer.auth.clone().map(|auth| (peer.address, auth)));
            let (send, least) = distance(peer.ttl);
            let far = terms.distances.entry(Family::of(peer.address)).or_insert((None, 255));
            // What all peers can live with: our answer travels as far as the furthest, and nobody's SYN is dropped.
            *far = (far.0.max(send), far.1.min(least));
        }
        terms
    }

    /// Makes a listening socket as it is to be. A key that cannot be set is told by each connection of its peer.
    pub(super) fn apply(&self, socket: &impl AsFd, family: Family, former: &Self) {
        let of_family = |(peer, _): &(&IpAddr, &Auth)| Family::of(**peer) == family;
        let mut result = Ok(());
        for (peer, auth) in former.keys.iter().filter(of_family) {
            if !self.keys.contains_key(peer) {
                result = result.and(options::remove_key(socket, *peer, auth));
            }
        }
        for (peer, auth) in self.keys.iter().filter(of_family) {
            if former.keys.get(peer) != Some(auth) {
                result = result.and(options::set_key(socket, *peer, auth));
            }
        }
        let distance = |terms: &Self| terms.distances.get(&family).copied().unwrap_or((None, 0));
        if distance(self) != distance(former) {
            let any = match family {
                Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
                Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
            };
            result = result.and(options::set_ttl(socket, any, distance(self)));
        }
        if let Err(error) = result {
            tracing::error!(%error, "the listening socket is not as the peers need it");
        }
    }
}

/// Listens at an address, or on all of a family.
pub(super) fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(Family::of(at.ip()))?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Connects to a peer.
pub(super) async fn connect(terms: &Terms) -> io::Result<TcpStream> {
    let socket = socket(Family::of(terms.peer))?;
    terms.apply(&socket, None)?;
    if let Some(local) = terms.local {
        socket.bind(&terms.at(local, 0)?.into()).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot connect from {local}: {error}; is it an address of this host?"),
            )
        })?;
    }
    let before = Dropped::read();
    let connecting = TcpSocket::from_std_stream(socket.into()).connect(terms.at(terms.peer, terms.port)?);
    match tokio::time::timeout(CONNECT_LIMIT, connecting).await {
        Ok(Ok(stream)) => {
            prepare(&stream);
            Ok(stream)
        }
        Ok(Err(error)) => Err(io::Error::new(error.kind(), suspect::refusal(terms, &error))),
        Err(_) => {
            let words = suspect::silence(terms, CONNECT_LIMIT, (before, Dropped::read()));
            Err(io::Error::new(io::ErrorKind::TimedOut, words))
        }
    }
}

/// Our address on a connection; a link-local one with its link.
pub(super) fn local(stream: &TcpStream) -> io::Result<IpAddr> {
    Ok(match stream.local_addr()? {
        SocketAddr::V6(local) => {
            let scoped = scoped::on_link(*local.ip(), IfIndex(local.scope_id()));
            scoped.unwrap_or(*local.ip()).into()
        }
        local => local.ip(),
    })
}

/// Small messages go at once, and before other traffic. Neither is worth losing a session for.
pub(super) fn prepare(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let is_v4 = stream.peer_addr().is_ok_and(|address| address.is_ipv4());
    let class = if is_v4 { socket.set_tos_v4(CONTROL) } else { socket.set_tclass_v6(CONTROL) };
    if let Err(error) = stream.set_nodelay(true).and(class) {
        tracing::debug!(%error, "a socket option is not set");
    }
}

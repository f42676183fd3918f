//! TCP sockets as BGP wants them: listening for both families apart, connecting from a given address.

use lasthop_net::Family;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that may wait to be accepted: every peer of a large reflector may come at once after its restart.
const BACKLOG: i32 = 4096;

/// How long a connection may take to come up; the kernel alone would try for two minutes.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

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

/// Listens on a port, on all addresses of a family.
pub(super) fn listen(family: Family, port: u16) -> io::Result<TcpListener> {
    let any: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = socket(family)?;
    socket.bind(&SocketAddr::new(any, port).into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Connects, from an address if one is given.
pub(super) async fn connect(peer: SocketAddr, local: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = socket(Family::of(peer.ip()))?;
    if let Some(local) = local {
        socket.bind(&SocketAddr::new(local, 0).into()).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot connect from {local}: {error}; is it an address of this host?"),
            )
        })?;
    }
    let connecting = TcpSocket::from_std_stream(socket.into()).connect(peer);
    match tokio::time::timeout(CONNECT_LIMIT, connecting).await {
        Ok(Ok(stream)) => {
            prepare(&stream);
            Ok(stream)
        }
        Ok(Err(error)) => Err(error),
        Err(_) => {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", CONNECT_LIMIT.as_secs())))
        }
    }
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

//! `lasthop server`: the network face of a store. Hosts come over TCP with certificates of both sides, programs of
//! the same host over a unix socket by who they are; both speak the protocol of [`crate::wire`].

mod authorise;
mod connection;

#[cfg(test)]
mod tests;

use crate::identity::Identity;
use crate::store::Store;
use crate::wire::{Io, Timing};
use authorise::Guarded;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Most connections at once; further ones are closed at once.
const CONNECTIONS: usize = 4096;

/// Where a server listens.
#[derive(Clone)]
pub enum Listen {
    /// On a TCP address, for those with a certificate.
    Tcp {
        /// Where.
        address: SocketAddr,
        /// See [`crate::tls::server_config`].
        tls: Arc<rustls::ServerConfig>,
    },
    /// On a unix socket, for root and the process's own user (as admins) and a group (as readers).
    Unix {
        /// Where. A socket that a dead server left there is replaced.
        path: PathBuf,
        /// The group's id, if there is one.
        group: Option<u32>,
    },
}

/// Why a server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be used.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// Address or path.
        address: String,
        /// Why.
        reason: io::Error,
    },
    /// Another server listens on the socket.
    #[error("cannot listen on {0}: another server does; stop it first")]
    InUse(PathBuf),
    /// There is something else at the socket's path.
    #[error("cannot listen on {0}: it is there and no socket; move it away")]
    NoSocket(PathBuf),
}

/// One client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Who.
    pub identity: Identity,
    /// From where.
    pub address: String,
    /// Since when.
    pub since: SystemTime,
}

/// Who is connected, under a number each.
#[derive(Debug, Default)]
struct Clients {
    next: AtomicU64,
    connected: Mutex<BTreeMap<u64, Client>>,
}

impl Clients {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Client>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, client: Client) -> Entry {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, client);
        Entry { clients: Arc::clone(self), number }
    }
}

/// A client's place in the list, left when its connection's task ends, however it ends.
struct Entry {
    clients: Arc<Clients>,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.clients.lock().remove(&self.number);
    }
}

/// A server that runs until it is dropped: then it stops listening and hangs up.
#[derive(Debug)]
pub struct Server {
    tasks: JoinSet<()>,
    addresses: Vec<SocketAddr>,
    sockets: Vec<PathBuf>,
    clients: Arc<Clients>,
}

impl Server {
    /// Where it listens by TCP: with the port that was chosen, if none was asked for.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Who is connected.
    #[must_use]
    pub fn clients(&self) -> Vec<Client> {
        self.clients.lock().values().cloned().collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.abort_all();
        for path in &self.sockets {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Serves a store until the result is dropped.
///
/// # Errors
/// If an address or a path cannot be listened on; nothing runs then.
pub async fn serve(store: Arc<dyn Store>, listens: Vec<Listen>, timing: Timing) -> Result<Server, ServeError> {
    let clients = Arc::new(Clients::default());
    let mut server =
        Server { tasks: JoinSet::new(), addresses: Vec::new(), sockets: Vec::new(), clients: Arc::clone(&clients) };
    server.tasks.spawn(crate::rollout::keep(Arc::clone(&store)));
    let desk = Desk { store, clients, timing };
    for listen in listens {
        match listen {
            Listen::Tcp { address, tls } => {
                let failed = |reason| ServeError::Listen { address: address.to_string(), reason };
                let listener = TcpListener::bind(address).await.map_err(failed)?;
                server.addresses.push(listener.local_addr().map_err(failed)?);
                server.tasks.spawn(accept_tcp(listener, tls.into(), desk.clone()));
            }
            Listen::Unix { path, group } => {
                let listener = bind_unix(&path, group)?;
                let owner = std::fs::metadata(&path).map(|socket| socket.uid());
                let owner = owner.map_err(|e| ServeError::Listen { address: path.display().to_string(), reason: e })?;
                server.sockets.push(path);
                server.tasks.spawn(accept_unix(listener, Locals { owner, group }, desk.clone()));
            }
        }
    }
    Ok(server)
}

/// What every connection is given.
#[derive(Clone)]
struct Desk {
    store: Arc<dyn Store>,
    clients: Arc<Clients>,
    timing: Timing,
}

impl Desk {
    /// Serves one stream of a known client until it ends.
    async fn attend(self, stream: impl Io, identity: Identity, address: String) {
        let client = Client { identity: identity.clone(), address: address.clone(), since: SystemTime::now() };
        let entry = self.clients.enter(client);
        let who = identity.to_string();
        tracing::info!(%identity, %address, "store client connected");
        let store = Arc::new(Guarded { store: self.store, identity });
        let reason = connection::serve(stream, store, &who, self.timing).await;
        tracing::info!(identity = who, %address, %reason, "store client gone");
        drop(entry);
    }
}

/// Waits until there is room, and through errors of accepting, as when files run out.
async fn room<T>(connections: &mut JoinSet<()>, accepted: io::Result<T>) -> Option<T> {
    while connections.try_join_next().is_some() {}
    match accepted {
        Ok(_) if connections.len() >= CONNECTIONS => {
            tracing::warn!(limit = CONNECTIONS, "store client turned away: too many connections");
            None
        }
        Ok(stream) => Some(stream),
        Err(error) => {
            tracing::warn!(%error, "store client could not be accepted");
            tokio::time::sleep(Duration::from_millis(200)).await;
            None
        }
    }
}

async fn accept_tcp(listener: TcpListener, acceptor: TlsAcceptor, desk: Desk) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        if let Some((stream, address)) = room(&mut connections, accepted).await {
            connections.spawn(greet(stream, address, acceptor.clone(), desk.clone()));
        }
    }
}

async fn greet(stream: TcpStream, address: SocketAddr, acceptor: TlsAcceptor, desk: Desk) {
    let _ = stream.set_nodelay(true);
    let refused = |reason: String| tracing::warn!(%address, reason, "store client refused");
    let stream = match tokio::time::timeout(desk.timing.connect, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return refused(format!("TLS handshake: {error}")),
        Err(_) => return refused("TLS handshake: it took too long".to_owned()),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    match certificate.map(|der| Identity::of_certificate(der)) {
        Some(Ok(identity)) => desk.attend(stream, identity, address.to_string()).await,
        Some(Err(error)) => refused(error.to_string()),
        None => refused("no certificate".to_owned()),
    }
}

/// Who may use a unix socket.
#[derive(Clone, Copy)]
struct Locals {
    owner: u32,
    group: Option<u32>,
}

impl Locals {
    fn identify(self, stream: &UnixStream) -> Result<Identity, String> {
        let peer = stream.peer_cred().map_err(|e| e.to_string())?;
        let of_group = |group| peer.gid() == group || peer.pid().is_some_and(|pid| has_group(pid, group));
        match peer.uid() {
            0 => Ok(Identity::Admin("root".to_owned())),
            uid if uid == self.owner => Ok(Identity::Admin(format!("uid-{uid}"))),
            uid if self.group.is_some_and(of_group) => Ok(Identity::Reader(format!("uid-{uid}"))),
            uid => Err(format!("user {uid} is neither root nor in the socket's group")),
        }
    }
}

/// Whether a process has a supplementary group, as proc(5) tells it.
fn has_group(pid: i32, group: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    groups.is_some_and(|groups| groups.split_whitespace().any(|g| g == group.to_string()))
}

async fn accept_unix(listener: UnixListener, locals: Locals, desk: Desk) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = listener.accept().await;
        let Some((stream, _)) = room(&mut connections, accepted).await else { continue };
        match locals.identify(&stream) {
            Ok(identity) => {
                connections.spawn(desk.clone().attend(stream, identity, "unix socket".to_owned()));
            }
            Err(reason) => tracing::warn!(reason, "store client refused"),
        }
    }
}

fn bind_unix(path: &Path, group: Option<u32>) -> Result<UnixListener, ServeError> {
    let failed = |reason| ServeError::Listen { address: path.display().to_string(), reason };
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(ServeError::NoSocket(path.to_owned())),
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => Err(ServeError::InUse(path.to_owned())),
        _ => crate::local::listen(path, group).map_err(failed),
    }
}

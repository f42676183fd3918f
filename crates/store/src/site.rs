//! For tests: a store with its server, certificates, and a proxy that can be cut or go deaf.

use crate::certs::{self, Files, Role};
use crate::server::{Listen, Server, serve};
use crate::{Embedded, Options, Remote, Store, Target, Timing, tls};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Times that let a test see a connection die.
pub(crate) const QUICK: Timing = Timing {
    beat: Duration::from_millis(200),
    silence: Duration::from_millis(1000),
    connect: Duration::from_secs(5),
    answer: Duration::from_secs(5),
    pauses: (Duration::from_millis(20), Duration::from_millis(200)),
};

/// A directory with certificates and a store, and the server over it.
pub(crate) struct Site {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) store: Option<Arc<Embedded>>,
    pub(crate) server: Option<Server>,
    pub(crate) address: SocketAddr,
    pub(crate) options: Options,
}

impl Site {
    pub(crate) async fn new(options: Options) -> Self {
        let directory = tempfile::tempdir().unwrap();
        certs::init(directory.path()).unwrap();
        certs::issue(directory.path(), Role::Server, "a").unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        let mut site = Self { directory, store: None, server: None, address, options };
        site.start().await;
        site.address = site.server.as_ref().unwrap().addresses()[0];
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn files(&self, role: Role, name: &str) -> Files {
        let certificate = self.path(&format!("{role}-{name}.pem"));
        if !certificate.exists() {
            certs::issue(self.directory.path(), role, name).unwrap();
        }
        Files { ca: self.path("ca.pem"), certificate, key: self.path(&format!("{role}-{name}-key.pem")) }
    }

    /// Opens the store's file and serves it, where it was served before.
    pub(crate) async fn start(&mut self) {
        let store = Arc::new(Embedded::open(&self.path("store.redb"), self.options.clone()).unwrap());
        let tls = tls::server_config(&self.files(Role::Server, "a")).unwrap();
        let listen = Listen::Tcp { address: self.address, tls };
        let unix = Listen::Unix { path: self.path("store.sock"), group: None };
        self.server = Some(serve(Arc::clone(&store) as _, vec![listen, unix], QUICK).await.unwrap());
        self.store = Some(store);
    }

    /// As when the server's process ends.
    pub(crate) async fn stop(&mut self) {
        self.server = None;
        let mut store = self.store.take();
        while let Some(shared) = store.take() {
            // Connections that are being torn down still hold it.
            match Arc::try_unwrap(shared) {
                Ok(last) => drop(last),
                Err(shared) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    store = Some(shared);
                }
            }
        }
    }

    pub(crate) fn target(&self, role: Role, name: &str) -> Target {
        let tls = tls::client_config(&self.files(role, name)).unwrap();
        Target::Tcp { server: self.address.to_string(), tls }
    }

    pub(crate) fn remote(&self, role: Role, name: &str) -> Remote {
        Remote::new(self.target(role, name), QUICK)
    }

    pub(crate) fn admin(&self) -> Arc<dyn Store> {
        Arc::new(self.remote(Role::Admin, "root"))
    }

    /// The same by way of a proxy.
    pub(crate) fn admin_through(&self, proxy: &Proxy) -> Arc<Remote> {
        let Target::Tcp { tls, .. } = self.target(Role::Admin, "root") else { unreachable!() };
        Arc::new(Remote::new(Target::Tcp { server: proxy.address.to_string(), tls }, QUICK))
    }
}

/// What a proxy does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Forward,
    /// Takes them and lets them vanish, without a word to either side.
    Deaf,
    /// Hangs up, and turns everybody away.
    Cut,
}

/// A TCP proxy in front of a server.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) mode: watch::Sender<Mode>,
    pub(crate) accepted: watch::Receiver<usize>,
}

impl Proxy {
    pub(crate) async fn new(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (mode, modes) = watch::channel(Mode::Forward);
        let (count, accepted) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.send_modify(|count| *count += 1);
                if *modes.borrow() != Mode::Cut {
                    let Ok(server) = TcpStream::connect(to).await else { continue };
                    let (client, server) = (client.into_split(), server.into_split());
                    tokio::spawn(pump(client.0, server.1, modes.clone()));
                    tokio::spawn(pump(server.0, client.1, modes.clone()));
                }
            }
        });
        Self { address, mode, accepted }
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut mode: watch::Receiver<Mode>,
) {
    let mut bytes = vec![0; 16 * 1024];
    let mut deaf = false;
    let now = mode.clone();
    loop {
        tokio::select! {
            read = from.read(&mut bytes) => match read {
                Ok(n) if n > 0 => {
                    // Once bytes were lost, this connection stays lost.
                    let is_deaf = *now.borrow() == Mode::Deaf;
                    deaf |= is_deaf;
                    if !deaf && to.write_all(&bytes[..n]).await.is_err() {
                        return;
                    }
                }
                // Deaf means deaf to the end as well.
                _ if deaf => return std::future::pending().await,
                _ => return,
            },
            () = async { drop(mode.wait_for(|mode| *mode == Mode::Cut).await) } => return,
        }
    }
}

//! Which store an agent has: a server elsewhere, its own file, or the process of this host that owns the file.

use crate::config::{Config, StoreConfig};
use crate::socket::group_id;
use anyhow::Context;
use lasthop_store::certs::Files;
use lasthop_store::server::{self, Listen, Server};
use lasthop_store::{Embedded, OpenError, Options, Remote, Store, Target, Timing, tls};
use std::sync::Arc;

/// A store, and the server that gives others of this host access to it while it is ours.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Serves `store.sock` until dropped.
    pub server: Option<Server>,
}

/// Opens the store that the configuration names.
///
/// # Errors
/// If a certificate, or this host's own file, cannot be read.
pub async fn open(config: &Config) -> anyhow::Result<Opened> {
    let remote = |target| Opened { store: Arc::new(Remote::new(target, Timing::default())), server: None };
    match &config.store {
        StoreConfig::Server { address, tls: files } => {
            let files = Files { ca: files.ca.clone(), certificate: files.certificate.clone(), key: files.key.clone() };
            Ok(remote(Target::Tcp { server: address.clone(), tls: tls::client_config(&files)? }))
        }
        StoreConfig::Embedded => match Embedded::open(&config.store_file(), Options::v3()) {
            Ok(store) => {
                let store: Arc<dyn Store> = Arc::new(store);
                let path = config.store_socket();
                let group = config.group.as_deref().map(group_id).transpose()?;
                let listen = Listen::Unix { path: path.clone(), group };
                let server = server::serve(store.clone(), vec![listen], Timing::default())
                    .await
                    .with_context(|| format!("cannot serve the store at {}", path.display()))?;
                Ok(Opened { store, server: Some(server) })
            }
            Err(OpenError::InUse(_)) => Ok(remote(Target::Unix(config.store_socket()))),
            Err(error) => Err(error.into()),
        },
    }
}

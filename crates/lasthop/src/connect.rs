//! From flags and configuration to what a command talks to.

use crate::exit::{Exit, Failure};
use lasthop_agent::client::Client;
use lasthop_agent::config::{Config, DEFAULT_PATH, StoreConfig, TlsFiles, host_and_port};
use lasthop_store::certs::Files;
use lasthop_store::{Remote, Store, Target, Timing, tls};
use std::path::{Path, PathBuf};

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    config: Option<PathBuf>,
}

/// Which agent a command talks to.
#[derive(Debug, clap::Args)]
pub(crate) struct AgentSocket {
    /// The agent's socket [default: agent.sock in the configuration's runDirectory]
    #[arg(long, value_name = "FILE")]
    pub(crate) socket: Option<PathBuf>,
}

/// Which store a command talks to.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct StoreFlags {
    /// A store's server [default: that of the configuration, else this host's own store]
    #[arg(long, value_name = "HOST:PORT", env = "LASTHOP_SERVER", hide_env_values = true, help_heading = "Store")]
    server: Option<String>,
    /// The authority that signed the server's certificate [default: that of the configuration]
    #[arg(long, value_name = "FILE", help_heading = "Store")]
    ca: Option<PathBuf>,
    /// Our certificate [default: that of the configuration]
    #[arg(long, value_name = "FILE", help_heading = "Store")]
    cert: Option<PathBuf>,
    /// Our private key [default: that of the configuration]
    #[arg(long, value_name = "FILE", help_heading = "Store")]
    key: Option<PathBuf>,
}

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A server elsewhere.
    Server { address: String, tls: TlsFiles },
    /// The process of this host that owns the store's file.
    Socket(PathBuf),
}

impl StoreFlags {
    /// Flags go over the configuration, one by one.
    fn place(&self, config: &Config) -> Result<Place, Failure> {
        let (server, tls) = match &config.store {
            StoreConfig::Server { address, tls } => (Some(address), Some(tls)),
            StoreConfig::Embedded => (None, None),
        };
        let flags = [("--ca", &self.ca), ("--cert", &self.cert), ("--key", &self.key)];
        let Some(address) = self.server.as_ref().or(server) else {
            return match flags.into_iter().find(|(_, file)| file.is_some()) {
                Some((flag, _)) => Err(Failure::usage(format!("{flag} is for a server: add --server HOST:PORT"))),
                None => Ok(Place::Socket(config.store_socket())),
            };
        };
        host_and_port(address).map_err(|reason| Failure::usage(format!("--server: {reason}")))?;
        let file = |(flag, given): (&str, &Option<PathBuf>), configured: Option<&PathBuf>| {
            given.as_ref().or(configured).cloned().ok_or_else(|| {
                Failure::usage(format!("{flag} is missing: {address} wants to know who we are; give {flag} FILE"))
            })
        };
        let [ca, cert, key] = flags;
        let tls = TlsFiles {
            ca: file(ca, tls.map(|tls| &tls.ca))?,
            certificate: file(cert, tls.map(|tls| &tls.certificate))?,
            key: file(key, tls.map(|tls| &tls.key))?,
        };
        Ok(Place::Server { address: address.clone(), tls })
    }
}

/// How many requests are on their way at once: enough for the store to write many together.
const IN_FLIGHT: usize = 64;

/// Does something with each item, many at a time; the results in order.
pub(crate) async fn each<T, F: Future>(items: impl IntoIterator<Item = T>, work: impl Fn(T) -> F) -> Vec<F::Output> {
    use futures_util::stream::{StreamExt, iter};
    iter(items).map(work).buffered(IN_FLIGHT).collect().await
}

impl Context {
    /// With the configuration file that was named, if one was.
    pub(crate) fn new(config: Option<PathBuf>) -> Self {
        Self { config }
    }

    /// The configuration: of the file that was named, else of the one in its usual place, else all defaults.
    pub(crate) fn config(&self) -> Result<Config, Failure> {
        let usual = Path::new(DEFAULT_PATH);
        match &self.config {
            Some(path) => Ok(Config::load(path)?),
            None if usual.exists() => Ok(Config::load(usual)?),
            None => Ok(Config::parse("", usual)?),
        }
    }

    /// A connection to this host's agent.
    pub(crate) fn agent(&self, socket: &AgentSocket) -> Result<Client, Failure> {
        let path = match &socket.socket {
            Some(path) => path.clone(),
            None => self.config()?.agent_socket(),
        };
        Ok(Client::connect(&path)?)
    }

    /// Does something with the store, in a runtime of its own.
    pub(crate) fn with_store<T>(
        &self,
        flags: &StoreFlags,
        work: impl AsyncFnOnce(&dyn Store) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let place = flags.place(&self.config()?)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Failure::new(Exit::Failed, format!("cannot start: {error}")))?;
        runtime.block_on(async {
            let store = open(&place)?;
            work(&store).await
        })
    }
}

/// The store at that place. Whether it is there shows with the first request.
fn open(place: &Place) -> Result<Remote, Failure> {
    let target = match place {
        Place::Socket(path) => Target::Unix(path.clone()),
        Place::Server { address, tls } => {
            let tls = tls::client_config(&tls_files(tls)).map_err(Failure::usage)?;
            Target::Tcp { server: address.clone(), tls }
        }
    };
    Ok(Remote::new(target, Timing::default()))
}

/// The files as the store names them.
pub(crate) fn tls_files(files: &TlsFiles) -> Files {
    Files { ca: files.ca.clone(), certificate: files.certificate.clone(), key: files.key.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(config: &str, flags: &StoreFlags) -> Result<Place, String> {
        let config = Config::parse(config, Path::new("/e/x.yaml")).unwrap();
        flags.place(&config).map_err(|failure| failure.lines.join("|"))
    }

    #[test]
    fn flags_go_over_the_configuration() {
        let embedded = "node: n";
        let remote = "store: { server: 's:1', ca: a, certificate: b, key: k }";
        let server = |address: &str, ca: &str| Place::Server {
            address: address.into(),
            tls: TlsFiles { ca: ca.into(), certificate: "/e/b".into(), key: "/e/k".into() },
        };
        let none = StoreFlags::default();
        assert_eq!(place(embedded, &none), Ok(Place::Socket("/run/lasthop/store.sock".into())));
        assert_eq!(place(remote, &none), Ok(server("s:1", "/e/a")));
        let other = StoreFlags { server: Some("t:2".into()), ca: Some("z".into()), ..none.clone() };
        assert_eq!(place(remote, &other), Ok(server("t:2", "z")));
        let error = place(embedded, &other).unwrap_err();
        assert_eq!(error, "--cert is missing: t:2 wants to know who we are; give --cert FILE");
        let lone = StoreFlags { key: Some("k".into()), ..none.clone() };
        assert_eq!(place(embedded, &lone).unwrap_err(), "--key is for a server: add --server HOST:PORT");
        let wrong = StoreFlags { server: Some("t".into()), ..none };
        assert!(place(embedded, &wrong).unwrap_err().starts_with("--server: 't' is not HOST:PORT"));
    }
}

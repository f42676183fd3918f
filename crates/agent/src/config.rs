//! The configuration file of a host: one small YAML file, every key optional.
//!
//! The text is read into a tree first and then taken apart key by key ([`section`]), so that every mistake is one
//! line that names the file, the key and the fix; a key that is not known is a mistake. Relative paths are relative
//! to the file's directory. Nothing here opens what the paths name.

mod section;

use lasthop_model::NodeName;
use section::Section;
pub use section::{Fault, host_and_port};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Where the file is if nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/lasthop/lasthop.yaml";

/// The configuration of one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// This host's Node resource; default is the host's name.
    pub node: NodeName,
    /// Sockets of the running processes.
    pub run_directory: PathBuf,
    /// What outlives a reboot: snapshot, attachments, the embedded store.
    pub state_directory: PathBuf,
    /// The secrets of BGP sessions, a directory each, a file for each key.
    pub secret_directory: PathBuf,
    /// Where resources come from.
    pub store: StoreConfig,
    /// What `lasthop server` serves; without it the server is for this host alone.
    pub server: Option<ServerConfig>,
    /// Who distributes this host's routes.
    pub speaker: SpeakerChoice,
    /// Where the speaker reports sessions and routes to (BMP, RFC 7854), if anywhere.
    pub bmp: Option<BmpConfig>,
    /// Where `/metrics`, `/health` and `/ready` are served; nowhere by default.
    pub metrics: Option<SocketAddr>,
    /// The group that may use the agent's socket; root alone by default.
    pub group: Option<String>,
    /// What is logged, and how.
    pub log: LogConfig,
}

/// A station that the speaker reports to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BmpConfig {
    /// Its address and port.
    pub station: SocketAddr,
    /// How many octets may wait for it before it is cut off, and told everything anew.
    pub waiting: usize,
}

impl BmpConfig {
    /// One that may be 16 MiB behind.
    #[must_use]
    pub fn new(station: SocketAddr) -> Self {
        Self { station, waiting: 16 << 20 }
    }
}

/// Where resources come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StoreConfig {
    /// One file on this host, owned by the agent or by `lasthop server`.
    #[default]
    Embedded,
    /// A `lasthop server` elsewhere.
    Server {
        /// `host:port`.
        address: String,
        /// What proves who is who.
        tls: TlsFiles,
    },
}

/// The files of one end of a mutually authenticated connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authority that both ends trust.
    pub ca: PathBuf,
    /// This end's certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What `lasthop server` serves to other hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// Address and port.
    pub listen: SocketAddr,
    /// What proves who is who.
    pub tls: TlsFiles,
}

/// Who distributes this host's routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpeakerChoice {
    /// `lasthop bgp`.
    #[default]
    Lasthop,
    /// BIRD or another one on this host: it notices our direct routes, and installs remote ones itself.
    External,
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogConfig {
    /// For people or for programs.
    pub format: LogFormat,
    /// From which level on.
    pub level: LogLevel,
}

/// For whom a log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// From which level on events are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// And what looks wrong.
    Warn,
    /// And what happened.
    #[default]
    Info,
    /// And how.
    Debug,
    /// And every step.
    Trace,
}

impl LogLevel {
    /// The level's name, as in the file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Why a configuration file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {error}{}", path.display(), hint(error))]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's word.
        error: std::io::Error,
    },
    /// The file is not YAML.
    #[error("{}: not valid YAML: {reason}", path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// A key or value is wrong.
    #[error("{}: {fault}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// Which, and why.
        fault: Fault,
    },
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::NotFound => "; name another file with --config, or write one (every key is optional)",
        std::io::ErrorKind::PermissionDenied => "; run as root, or as a user who may read it",
        _ => "",
    }
}

/// A unix socket's path must fit into `sockaddr_un` (108 bytes with its terminating zero).
const SOCKET_PATH_LIMIT: usize = 107;

const KEYS: &[&str] = &[
    "node",
    "runDirectory",
    "stateDirectory",
    "secretDirectory",
    "store",
    "server",
    "speaker",
    "bmp",
    "listen",
    "group",
    "log",
];

impl Config {
    /// The configuration of an empty file for a node.
    #[must_use]
    pub fn new(node: NodeName) -> Self {
        Self {
            node,
            run_directory: "/run/lasthop".into(),
            state_directory: "/var/lib/lasthop".into(),
            secret_directory: "/etc/lasthop/secrets".into(),
            store: StoreConfig::default(),
            server: None,
            speaker: SpeakerChoice::default(),
            bmp: None,
            metrics: None,
            group: None,
            log: LogConfig::default(),
        }
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// If it cannot be read, or anything in it is not understood.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        Self::parse(&text, path)
    }

    /// Reads `text` as the content of the file at `path`.
    ///
    /// # Errors
    /// If anything in it is not understood.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        // YAML 1.2: a node may be called 'n', 'no' or 'on'.
        let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
        let tree: Value = serde_saphyr::from_str_with_options(text, options)
            .map_err(|error| ConfigError::Yaml { path: path.to_owned(), reason: one_line(&error) })?;
        Self::from_tree(&tree, path.parent().unwrap_or(Path::new("")))
            .map_err(|fault| ConfigError::Field { path: path.to_owned(), fault })
    }

    fn from_tree(tree: &Value, directory: &Path) -> Result<Self, Fault> {
        let empty = Value::Object(serde_json::Map::new());
        let top = Section::open("", if tree.is_null() { &empty } else { tree }, KEYS, directory)?;
        let node = match top.text("node")? {
            Some(name) => name.parse().map_err(|error| top.fault("node", error))?,
            None => host_name().map_err(|reason| top.fault("node", reason))?,
        };
        let mut config = Self::new(node);
        if let Some(path) = top.path("runDirectory")? {
            config.run_directory = path;
        }
        if config.agent_socket().as_os_str().len() > SOCKET_PATH_LIMIT {
            return Err(top.fault("runDirectory", "too long for a unix socket: use a path of at most 90 bytes"));
        }
        if let Some(path) = top.path("stateDirectory")? {
            config.state_directory = path;
        }
        if let Some(path) = top.path("secretDirectory")? {
            config.secret_directory = path;
        }
        if let Some(section) = top.section("store", &["embedded", "server", "ca", "certificate", "key"])? {
            config.store = store(&section)?;
        }
        if let Some(section) = top.section("server", &["listen", "ca", "certificate", "key"])? {
            config.server = Some(ServerConfig { listen: section.required_socket("listen")?, tls: tls(&section)? });
        }
        let speakers = &[("lasthop", SpeakerChoice::Lasthop), ("external", SpeakerChoice::External)];
        config.speaker = top.choice("speaker", speakers)?.unwrap_or_default();
        if let Some(section) = top.section("bmp", &["station"])? {
            config.bmp = Some(BmpConfig::new(section.required_socket("station")?));
        }
        if let Some(section) = top.section("listen", &["metrics"])? {
            config.metrics = section.socket("metrics")?;
        }
        config.group = top.text("group")?.map(str::to_owned);
        if let Some(section) = top.section("log", &["format", "level"])? {
            config.log = log(&section)?;
        }
        Ok(config)
    }

    /// The agent's socket.
    #[must_use]
    pub fn agent_socket(&self) -> PathBuf {
        self.run_directory.join("agent.sock")
    }

    /// The speaker's socket.
    #[must_use]
    pub fn speaker_socket(&self) -> PathBuf {
        self.run_directory.join("bgp.sock")
    }

    /// The embedded store's socket, served by the process that owns the file.
    #[must_use]
    pub fn store_socket(&self) -> PathBuf {
        self.run_directory.join("store.sock")
    }

    /// The embedded store's file.
    #[must_use]
    pub fn store_file(&self) -> PathBuf {
        self.state_directory.join("store.redb")
    }
}

fn store(section: &Section<'_>) -> Result<StoreConfig, Fault> {
    let embedded = section.truth("embedded")?;
    match (section.text("server")?, embedded) {
        (Some(_), Some(true)) => Err(section.fault("server", "excludes 'embedded: true': keep one of the two")),
        (Some(address), _) => {
            host_and_port(address).map_err(|reason| section.fault("server", reason))?;
            Ok(StoreConfig::Server { address: address.to_owned(), tls: tls(section)? })
        }
        (None, Some(false)) => Err(section.fault("embedded", "is false, so 'server' must say where the store is")),
        (None, _) => match ["ca", "certificate", "key"].into_iter().find(|key| section.has(key)) {
            Some(key) => Err(section.fault(key, "is for a store elsewhere: add 'server: HOST:PORT'")),
            None => Ok(StoreConfig::Embedded),
        },
    }
}

fn tls(section: &Section<'_>) -> Result<TlsFiles, Fault> {
    Ok(TlsFiles {
        ca: section.required_path("ca")?,
        certificate: section.required_path("certificate")?,
        key: section.required_path("key")?,
    })
}

fn log(section: &Section<'_>) -> Result<LogConfig, Fault> {
    let formats = &[("human", LogFormat::Human), ("json", LogFormat::Json)];
    let levels = [LogLevel::Error, LogLevel::Warn, LogLevel::Info, LogLevel::Debug, LogLevel::Trace];
    let levels = levels.map(|level| (level.as_str(), level));
    Ok(LogConfig {
        format: section.choice("format", formats)?.unwrap_or_default(),
        level: section.choice("level", &levels)?.unwrap_or_default(),
    })
}

/// The host's name as a node's name: in lower case, as it is everywhere else.
fn host_name() -> Result<NodeName, String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_err(|error| format!("is not set and the host's name cannot be read: {error}"))?;
    name.trim()
        .to_lowercase()
        .parse()
        .map_err(|error| format!("is not set and the host's name does not serve: {error}"))
}

/// The first line of a YAML error, without the excerpt under it.
fn one_line(error: &serde_saphyr::Error) -> String {
    error.without_snippet().to_string().lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;

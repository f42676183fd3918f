//! From flags and configuration to what a command talks to.

use crate::exit::Failure;
use lasthop_agent::client::Client;
use lasthop_agent::config::{Config, DEFAULT_PATH};
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
}

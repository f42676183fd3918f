//! `lasthop server`: the embedded store, served to other hosts by TLS and to this one by a unix socket.

use crate::connect::{Context, tls_files};
use crate::exit::{Exit, Failure, Outcome};
use crate::log;
use anyhow::Context as _;
use lasthop_agent::config::Config;
use lasthop_agent::group_id;
use lasthop_store::server::{self, Listen};
use lasthop_store::{Embedded, Options, Timing, tls};
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// Serve this host's store: to other hosts with certificates, and to this host on a unix socket
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Other hosts are served if the configuration has 'server: { listen, ca, certificate, key }'.

Examples:
  lasthop server --config /etc/lasthop/lasthop.yaml
  systemctl enable --now lasthop-server")]
pub(crate) struct Args {}

pub(crate) fn run(context: &Context, _args: &Args) -> Outcome {
    let config = context.config()?;
    log::start(config.log)?;
    let listens = listens(&config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot start: {error}")))?;
    runtime.block_on(serve(&config, listens))?;
    Ok(Exit::Done)
}

fn listens(config: &Config) -> Result<Vec<Listen>, Failure> {
    let group = config.group.as_deref().map(group_id).transpose().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Failure::usage(error),
        _ => Failure::new(Exit::Failed, error),
    })?;
    let mut listens = vec![Listen::Unix { path: config.store_socket(), group }];
    if let Some(server) = &config.server {
        let tls = tls::server_config(&tls_files(&server.tls)).map_err(Failure::usage)?;
        listens.push(Listen::Tcp { address: server.listen, tls });
    }
    Ok(listens)
}

async fn serve(config: &Config, listens: Vec<Listen>) -> anyhow::Result<()> {
    for (what, directory, mode) in [("state", &config.state_directory, 0o700), ("run", &config.run_directory, 0o755)] {
        let mut builder = std::fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(mode)
            .create(directory)
            .with_context(|| format!("cannot make the {what} directory {}", directory.display()))?;
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let store = Arc::new(Embedded::open(&config.store_file(), Options::v3())?);
    let server = server::serve(store.clone(), listens, Timing::default()).await?;
    for address in server.addresses() {
        tracing::info!(%address, "serving the store to other hosts");
    }
    tracing::info!(socket = %config.store_socket().display(), file = %config.store_file().display(), "serving the store");
    // Without systemd there is nobody to notify.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let signal = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal, "stopping");
    drop(server);
    Ok(())
}

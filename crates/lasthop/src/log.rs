//! What a daemon says on stderr: for people or as JSON, colour on a terminal only.

use crate::exit::Failure;
use crate::output::Paint;
use lasthop_agent::config::{LogConfig, LogFormat};
use tracing_subscriber::EnvFilter;

/// Starts logging as the configuration says.
pub(crate) fn start(config: LogConfig) -> Result<(), Failure> {
    let level = config.level.as_str();
    let filter = EnvFilter::try_new(level).map_err(|error| Failure::usage(format!("log.level '{level}': {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
        LogFormat::Human => builder.with_ansi(Paint::stderr().is_on()).with_target(false).try_init(),
    };
    started.map_err(|error| Failure::new(crate::exit::Exit::Failed, format!("cannot start logging: {error}")))
}

//! How a command ends: the exit code, and what is said on stderr if it did not end well.

use lasthop_agent::api::Code;
use lasthop_agent::client::ClientError;
use lasthop_agent::config::ConfigError;
use lasthop_lab::state::NotFound;
use lasthop_lab::topology::TopologyError;
use std::process::ExitCode;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Exit {
    /// Done, or nothing was left to do.
    Done,
    /// Failed.
    Failed,
    /// A flag, the configuration or a document is not valid; nothing was changed.
    Usage,
    /// Partly done.
    Partial,
    /// Not found.
    NotFound,
    /// The agent or the store cannot be reached, or does not let us in.
    Unreachable,
    /// The exit code of another program, passed through.
    Code(ExitCode),
}

/// What every command returns.
pub(crate) type Outcome = Result<Exit, Failure>;

/// Why a command did not end well: the exit code, and one line for every thing that is wrong.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) lines: Vec<String>,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => Self::SUCCESS,
            Exit::Failed => Self::FAILURE,
            Exit::Usage => Self::from(2),
            Exit::Partial => Self::from(3),
            Exit::NotFound => Self::from(4),
            Exit::Unreachable => Self::from(5),
            Exit::Code(code) => code,
        }
    }
}

impl Failure {
    /// A failure of one line.
    pub(crate) fn new(exit: Exit, line: impl ToString) -> Self {
        Self { exit, lines: vec![line.to_string()] }
    }

    /// A wrong flag, configuration or document.
    pub(crate) fn usage(line: impl ToString) -> Self {
        Self::new(Exit::Usage, line)
    }

    /// Says it on stderr. What came from elsewhere may hold line breaks: each mistake stays one line.
    pub(crate) fn report(&self) -> Exit {
        for line in &self.lines {
            let words: Vec<_> = line.lines().map(str::trim).filter(|part| !part.is_empty()).collect();
            eprintln!("error: {}", words.join(" "));
        }
        self.exit
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let exit = match () {
            () if error.is::<TopologyError>() => Exit::Usage,
            () if error.is::<NotFound>() => Exit::NotFound,
            () => Exit::Failed,
        };
        Self::new(exit, format!("{error:#}"))
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::usage(error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Connect { .. } | ClientError::Broken { .. } => Exit::Unreachable,
            ClientError::Answer(_) => Exit::Failed,
            ClientError::Refused(refusal) => match refusal.code {
                Code::Invalid => Exit::Usage,
                Code::NotFound => Exit::NotFound,
                Code::Unavailable => Exit::Unreachable,
                Code::Conflict | Code::Kernel | Code::Version => Exit::Failed,
            },
        };
        Self::new(exit, error)
    }
}

impl From<lasthop_store::Error> for Failure {
    fn from(error: lasthop_store::Error) -> Self {
        use lasthop_store::Error;
        if let Error::Unavailable { reason, .. } = &error {
            let line = format!(
                "cannot reach the store: {reason}; is 'lasthop agent' or 'lasthop server' running there? (--server names \
                 another one)"
            );
            return Self::new(Exit::Unreachable, line);
        }
        let exit = match &error {
            Error::NotFound(_) => Exit::NotFound,
            Error::Invalid { .. } => Exit::Usage,
            Error::Unavailable { .. } | Error::Denied(_) => Exit::Unreachable,
            Error::Exists { .. } | Error::Conflict { .. } | Error::TooOld { .. } | Error::Uncertain { .. } => {
                Exit::Failed
            }
        };
        Self::new(exit, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lasthop_agent::api::Refusal;

    #[test]
    fn a_refusal_decides_the_exit_code() {
        let cases = [
            (Code::Invalid, Exit::Usage),
            (Code::Conflict, Exit::Failed),
            (Code::NotFound, Exit::NotFound),
            (Code::Kernel, Exit::Failed),
            (Code::Unavailable, Exit::Unreachable),
            (Code::Version, Exit::Failed),
        ];
        for (code, exit) in cases {
            let failure = Failure::from(ClientError::Refused(Refusal { code, message: "no".into() }));
            assert_eq!((failure.exit, failure.lines), (exit, vec!["no".to_owned()]));
        }
    }
}

//! Times as people say them.

use std::time::{Duration, SystemTime};

/// The wall clock, read once a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now(pub(crate) u64);

impl Now {
    /// Seconds since 1970.
    pub(crate) fn read() -> Self {
        Self(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs())
    }
}

/// A span in its two largest units: `3m12s`, `2h5m`, `4d3h`.
pub(crate) fn span(span: Duration) -> String {
    let s = span.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{}s", s / 60, s % 60),
        3600..86400 => format!("{}h{}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{}h", s / 86400, s % 86400 / 3600),
    }
}

/// How long ago a time in seconds since 1970 is.
pub(crate) fn ago(now: Now, at: u64) -> String {
    format!("{} ago", span(Duration::from_secs(now.0.saturating_sub(at))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_its_two_largest_units() {
        let cases =
            [(0, "0s"), (59, "59s"), (60, "1m0s"), (192, "3m12s"), (7500, "2h5m"), (86400, "1d0h"), (356_000, "4d2h")];
        for (seconds, text) in cases {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_clock_that_went_back_is_just_now() {
        assert_eq!(ago(Now(10), 20), "0s ago");
    }
}

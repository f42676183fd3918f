//! Durations as the v3 API writes them: `90s`, `1m30s`, `1.5h` (Go's `time.ParseDuration`).

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a duration: write a number and a unit (ms, s, m, h), e.g. 90s or 1m30s")]
pub struct ParseDurationError(pub String);

/// Reads a duration of Go's form; negative ones are errors.
///
/// # Errors
/// If the text has another form, or is longer than 2^63 ns (292 years).
pub fn parse_duration(text: &str) -> Result<Duration, ParseDurationError> {
    let wrong = || ParseDurationError(text.to_owned());
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total: u128 = 0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, after) = tail.split_at(unit_end);
        let nanos: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(wrong()),
        };
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && part.is_empty()) || part.contains('.') || whole.len() > 19 || part.len() > 18 {
            return Err(wrong());
        }
        let digits = |t: &str| if t.is_empty() { Ok(0) } else { t.parse::<u128>().map_err(|_| wrong()) };
        let scale = 10_u128.pow(u32::try_from(part.len()).map_err(|_| wrong())?);
        total += digits(whole)? * nanos + digits(part)? * nanos / scale;
        rest = after;
    }
    let total = u64::try_from(total).ok().filter(|t| i64::try_from(*t).is_ok()).ok_or_else(wrong)?;
    Ok(Duration::from_nanos(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_the_go_form() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("90s", 90_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("+1ms", 1_000_000),
            ("10ns", 10),
            ("1h0m0s", 3_600_000_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for bad in ["", "90", "s", "-1s", "1x", "1.2.3s", ".s", "1s 2s", "99999999999999999999h", "9999999h", "1sé"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}

//! Autonomous system numbers (RFC 6793), in plain or dotted form (RFC 5396).

use std::fmt;
use std::str::FromStr;

/// A 4-octet autonomous system number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asn(pub u32);

/// Why a text is not an AS number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an AS number: write 1 to 4294967295, or a dotted pair such as 1.10")]
pub struct ParseAsnError(pub String);

impl Asn {
    /// The number that stands for a 4-octet AS towards a 2-octet speaker (RFC 6793 section 9).
    pub const TRANS: Self = Self(23456);
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Asn {
    type Err = ParseAsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseAsnError(text.to_owned());
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        let number = match text.split_once('.') {
            Some((high, low)) if digits(high) && digits(low) => {
                let high: u16 = high.parse().map_err(|_| wrong())?;
                let low: u16 = low.parse().map_err(|_| wrong())?;
                u32::from(high) << 16 | u32::from(low)
            }
            None if digits(text) => text.parse().map_err(|_| wrong())?,
            _ => return Err(wrong()),
        };
        Ok(Self(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_notations() {
        assert_eq!("64512".parse(), Ok(Asn(64512)));
        assert_eq!("1.10".parse(), Ok(Asn(65546)));
        assert_eq!("4294967295".parse(), Ok(Asn(u32::MAX)));
        for bad in ["", "+1", "1.", ".1", "1.65536", "4294967296", "a"] {
            assert!(bad.parse::<Asn>().is_err(), "{bad}");
        }
    }
}

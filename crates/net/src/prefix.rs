//! A prefix: an address and a length, with the host bits zero. One type for both families.

use std::cmp::Ordering;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An IP family. Loop over [`Family::ALL`] rather than writing a rule twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Bits in an address: 32 or 128.
    #[must_use]
    pub fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// An IP prefix: host bits are zero and IPv4-mapped IPv6 addresses are IPv4 (both by construction).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// IPv4 before IPv6, then by address, then the shorter one first. Tables of routes are looked up by it all the time, so IPv4
/// is one comparison of integers.
impl Ord for Prefix {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.address, other.address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let key = |address: Ipv4Addr, len: u8| u64::from(address.to_bits()) << 8 | u64::from(len);
                key(a, self.len).cmp(&key(b, other.len))
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits().cmp(&b.to_bits()).then(self.len.cmp(&other.len)),
            (IpAddr::V4(_), IpAddr::V6(_)) => Ordering::Less,
            (IpAddr::V6(_), IpAddr::V4(_)) => Ordering::Greater,
        }
    }
}

impl PartialOrd for Prefix {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Why a text is not a prefix. The message names the text and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParsePrefixError {
    /// The address part does not parse.
    #[error("'{0}' is not an IP address or prefix: write e.g. 10.65.0.0/16 or fd00:65::/64")]
    Address(String),
    /// The length part is no number, or longer than the address.
    #[error("'{text}' has no valid prefix length: it must be 0 to {max}")]
    Length {
        /// What was given.
        text: String,
        /// The longest length of this family.
        max: u8,
    },
}

impl Prefix {
    /// The prefix of `len` bits that holds `address`; bits past `len` are cleared.
    ///
    /// `None` if `len` is longer than the address.
    #[must_use]
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        let family = Family::of(address);
        if len > family.bits() {
            return None;
        }
        match (address, address.to_canonical()) {
            (IpAddr::V6(_), v4 @ IpAddr::V4(_)) if len >= 96 => Some(Self::masked(v4, len - 96)),
            _ => Some(Self::masked(address, len)),
        }
    }

    /// The /32 or /128 of one address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, len: Family::of(address).bits() }
    }

    /// 0.0.0.0/0 or ::/0.
    #[must_use]
    pub fn default_route(family: Family) -> Self {
        let address = match family {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        Self { address, len: 0 }
    }

    pub(crate) fn masked(address: IpAddr, len: u8) -> Self {
        let address = match address {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & mask))
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & mask))
            }
        };
        Self { address, len }
    }

    /// The network address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The length in bits.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a prefix length, not a count of elements")]
    pub fn len(self) -> u8 {
        self.len
    }

    /// The family.
    #[must_use]
    pub fn family(self) -> Family {
        Family::of(self.address)
    }

    /// Whether this is a single address.
    #[must_use]
    pub fn is_host(self) -> bool {
        self.len == self.family().bits()
    }

    /// Whether `address` lies in this prefix (never across families).
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        Family::of(address) == self.family() && Self::masked(address, self.len).address == self.address
    }

    /// Whether `other` lies wholly in this prefix; a prefix covers itself.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.len <= other.len && self.contains(other.address)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Prefix {
    type Err = ParsePrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ParsePrefixError::Address(text.to_owned()))?;
        let max = Family::of(address).bits();
        let wrong = || ParsePrefixError::Length { text: text.to_owned(), max };
        let len = match len {
            None => max,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| wrong())?
            }
            Some(_) => return Err(wrong()),
        };
        Self::new(address, len).ok_or_else(wrong)
    }
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Self {
        Self::host(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_becomes_the_canonical_prefix() {
        for (text, expect) in [
            ("10.65.0.24", "10.65.0.24/32"),
            ("10.65.0.24/16", "10.65.0.0/16"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd00:65::1/64", "fd00:65::/64"),
            ("fd00::1", "fd00::1/128"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("::ffff:10.0.0.1/104", "10.0.0.0/8"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), expect, "{text}");
        }
    }

    #[test]
    fn wrong_text_is_named() {
        for text in ["10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "::/129", "10.0.0/8", "", "x/8", "10.0.0.0/256"] {
            let error = text.parse::<Prefix>().unwrap_err().to_string();
            assert!(error.contains(&format!("'{text}'")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn printing_and_parsing_agree(bits: u128, v6: bool, len in 0u8..=128) {
            let address = if v6 { IpAddr::V6(bits.into()) } else { IpAddr::V4((bits as u32).into()) };
            if let Some(prefix) = Prefix::new(address, len) {
                prop_assert_eq!(prefix.to_string().parse::<Prefix>().unwrap(), prefix);
                prop_assert!(prefix.contains(address));
                prop_assert!(prefix.covers(Prefix::host(address)));
            }
        }
    }
}

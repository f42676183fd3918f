//! Links: index, name, MAC address.

use std::fmt;
use std::str::FromStr;

/// A kernel interface index. Never zero for a link that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfIndex(pub u32);

impl fmt::Display for IfIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A link name as the kernel accepts it (`dev_valid_name` in net/core/dev.c): 1 to 15 bytes,
/// not `.` or `..`, no `/`, `:` or white space. We also ask for printable ASCII.
///
/// Held in place: a host holds the names of its links many times.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfName {
    /// Padded with zeros, so that the order is that of the text.
    text: [u8; Self::LONGEST],
    len: u8,
}

/// Why a text is not a link name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an interface name: use 1 to 15 printable characters without '/', ':' or spaces")]
pub struct ParseIfNameError(pub String);

impl IfName {
    /// The longest name (`IFNAMSIZ` without the closing NUL).
    const LONGEST: usize = 15;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Always ASCII, by construction.
        std::str::from_utf8(&self.text[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl FromStr for IfName {
    type Err = ParseIfNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseIfNameError(text.to_owned());
        let fits = (1..=Self::LONGEST).contains(&text.len()) && text != "." && text != "..";
        if !fits || !text.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':') {
            return Err(wrong());
        }
        let mut name = Self { text: [0; Self::LONGEST], len: u8::try_from(text.len()).map_err(|_| wrong())? };
        name.text[..text.len()].copy_from_slice(text.as_bytes());
        Ok(name)
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A MAC address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

/// Why a text is not a MAC address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a MAC address: write six hexadecimal bytes, e.g. 02:00:0a:41:00:18")]
pub struct ParseMacError(pub String);

impl Mac {
    /// Whether the address can belong to one station: not multicast, not all zero.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        self.0[0] & 1 == 0 && self.0 != [0; 6]
    }
}

impl FromStr for Mac {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseMacError(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
            if !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self(bytes)) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_follow_the_kernel() {
        for good in ["eth0", "tapa429fb36-04", "a", "lh0123456789abc"] {
            assert_eq!(good.parse::<IfName>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "a/b", "a:b", "a b", "lh01234567890123", "é", "a\n"] {
            assert!(bad.parse::<IfName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn macs_round_trip() {
        assert_eq!("02:00:0A:41:00:18".parse::<Mac>().unwrap().to_string(), "02:00:0a:41:00:18");
        for bad in ["", "02:00", "02:00:0a:41:00:18:19", "2:0:a:41:0:18", "+2:00:0a:41:00:18", "zz:00:0a:41:00:18"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}

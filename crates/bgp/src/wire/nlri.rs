//! Prefixes on the wire (RFC 4271 section 4.3, RFC 4760 section 5): a length in bits and as many octets as it takes.

use super::cursor::Cursor;
use lasthop_net::{Family, Prefix};
use std::net::IpAddr;

/// A prefix that cannot be read; the position of all that follow is lost with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadPrefix {
    pub(crate) offset: usize,
    pub(crate) reason: String,
}

/// A prefix with the identifier of its path (RFC 7911): zero where the session has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Nlri {
    pub(crate) prefix: Prefix,
    pub(crate) id: u32,
}

impl From<Prefix> for Nlri {
    fn from(prefix: Prefix) -> Self {
        Self { prefix, id: 0 }
    }
}

impl Nlri {
    pub(crate) fn family(self) -> Family {
        self.prefix.family()
    }
}

/// Whether prefixes of a family have path identifiers before them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PathIds {
    #[default]
    Absent,
    Present,
}

/// Reads prefixes to the end. Bits past the length are irrelevant and cleared.
pub(crate) fn parse(mut cursor: Cursor<'_>, family: Family, ids: PathIds) -> Result<Vec<Nlri>, BadPrefix> {
    // At least one octet each; /24 and longer are usual.
    let mut prefixes = Vec::with_capacity(cursor.len() / 4 + 1);
    while !cursor.is_empty() {
        let offset = cursor.offset();
        let bad = |reason: String| BadPrefix { offset, reason };
        let short = |_| bad("a path identifier without a prefix".to_owned());
        let id = if ids == PathIds::Present { cursor.u32().map_err(short)? } else { 0 };
        let bits = cursor.u8().map_err(short)?;
        if bits > family.bits() {
            return Err(bad(format!("prefix length {bits} is more than {}", family.bits())));
        }
        let octets = usize::from(bits).div_ceil(8);
        let given = cursor.take(octets).map_err(|_| bad(format!("prefix of {bits} bits is cut short")))?;
        let address = match family {
            Family::V4 => IpAddr::from(padded::<4>(given)),
            Family::V6 => IpAddr::from(padded::<16>(given)),
        };
        // A prefix inside ::ffff:0:0/96 is IPv4 in disguise: not a route of this family, so it is passed over.
        let prefix = Prefix::new(address, bits).filter(|prefix| prefix.family() == family);
        prefixes.extend(prefix.map(|prefix| Nlri { prefix, id }));
    }
    Ok(prefixes)
}

fn padded<const N: usize>(given: &[u8]) -> [u8; N] {
    let mut octets = [0; N];
    for (to, from) in octets.iter_mut().zip(given) {
        *to = *from;
    }
    octets
}

/// How many octets a prefix takes.
pub(crate) fn encoded_len(nlri: Nlri, ids: PathIds) -> usize {
    let id = if ids == PathIds::Present { 4 } else { 0 };
    id + 1 + usize::from(nlri.prefix.len()).div_ceil(8)
}

/// Appends a prefix.
pub(crate) fn encode(Nlri { prefix, id }: Nlri, ids: PathIds, out: &mut Vec<u8>) {
    if ids == PathIds::Present {
        out.extend(id.to_be_bytes());
    }
    let octets = usize::from(prefix.len()).div_ceil(8);
    out.push(prefix.len());
    match prefix.address() {
        IpAddr::V4(a) => out.extend(a.octets().iter().take(octets)),
        IpAddr::V6(a) => out.extend(a.octets().iter().take(octets)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bad_prefixes_say_where_they_are() {
        for (bytes, family, offset, words) in [
            (&[24, 10, 0, 1, 33, 1][..], Family::V4, 27, "prefix length 33 is more than 32"),
            (&[24, 203, 0][..], Family::V4, 23, "cut short"),
            (&[129][..], Family::V6, 23, "more than 128"),
        ] {
            let error = parse(Cursor::new(bytes, 23), family, PathIds::Absent).unwrap_err();
            assert_eq!(error.offset, offset);
            assert!(error.reason.contains(words), "{error:?}");
        }
    }

    #[test]
    fn host_bits_are_cleared_and_the_default_route_takes_one_octet() {
        let parsed = parse(Cursor::new(&[20, 203, 0, 127, 0], 0), Family::V4, PathIds::Absent).unwrap();
        assert_eq!(parsed, ["203.0.112.0/20", "0.0.0.0/0"].map(|text| text.parse::<Prefix>().unwrap().into()));
        let mapped = [104, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10];
        assert_eq!(parse(Cursor::new(&mapped, 0), Family::V6, PathIds::Absent), Ok(vec![]));
        let short = parse(Cursor::new(&[0, 0, 0, 7, 8, 10, 0, 0, 0], 40), Family::V4, PathIds::Present).unwrap_err();
        assert_eq!((short.offset, short.reason.as_str()), (46, "a path identifier without a prefix"));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bits: Vec<(u128, u8, u32)>, v6: bool, with_ids: bool) {
            let ids = if with_ids { PathIds::Present } else { PathIds::Absent };
            let family = if v6 { Family::V6 } else { Family::V4 };
            let prefixes: Vec<Nlri> = bits.into_iter().filter_map(|(bits, len, id)| {
                let address = if v6 { IpAddr::V6(bits.into()) } else { IpAddr::V4((bits as u32).into()) };
                let prefix = Prefix::new(address, len % (family.bits() + 1)).filter(|p| p.family() == family)?;
                Some(Nlri { prefix, id: if with_ids { id } else { 0 } })
            }).collect();
            let mut bytes = Vec::new();
            prefixes.iter().for_each(|p| encode(*p, ids, &mut bytes));
            prop_assert_eq!(bytes.len(), prefixes.iter().map(|p| encoded_len(*p, ids)).sum::<usize>());
            prop_assert_eq!(parse(Cursor::new(&bytes, 0), family, ids), Ok(prefixes));
        }
    }
}

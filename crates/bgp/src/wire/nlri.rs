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

/// Reads prefixes to the end. Bits past the length are irrelevant and cleared.
pub(crate) fn parse(mut cursor: Cursor<'_>, family: Family) -> Result<Vec<Prefix>, BadPrefix> {
    // At least one octet each; /24 and longer are usual.
    let mut prefixes = Vec::with_capacity(cursor.len() / 4 + 1);
    while let Ok(bits) = cursor.u8() {
        let offset = cursor.offset() - 1;
        let bad = |reason: String| BadPrefix { offset, reason };
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
        prefixes.extend(Prefix::new(address, bits).filter(|prefix| prefix.family() == family));
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
pub(crate) fn encoded_len(prefix: Prefix) -> usize {
    1 + usize::from(prefix.len()).div_ceil(8)
}

/// Appends a prefix.
pub(crate) fn encode(prefix: Prefix, out: &mut Vec<u8>) {
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
            let error = parse(Cursor::new(bytes, 23), family).unwrap_err();
            assert_eq!(error.offset, offset);
            assert!(error.reason.contains(words), "{error:?}");
        }
    }

    #[test]
    fn host_bits_are_cleared_and_the_default_route_takes_one_octet() {
        let parsed = parse(Cursor::new(&[20, 203, 0, 127, 0], 0), Family::V4).unwrap();
        assert_eq!(parsed, ["203.0.112.0/20".parse().unwrap(), "0.0.0.0/0".parse().unwrap()]);
        let mapped = [104, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10];
        assert_eq!(parse(Cursor::new(&mapped, 0), Family::V6), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bits: Vec<(u128, u8)>, v6: bool) {
            let family = if v6 { Family::V6 } else { Family::V4 };
            let prefixes: Vec<Prefix> = bits.into_iter().filter_map(|(bits, len)| {
                let address = if v6 { IpAddr::V6(bits.into()) } else { IpAddr::V4((bits as u32).into()) };
                Prefix::new(address, len % (family.bits() + 1)).filter(|p| p.family() == family)
            }).collect();
            let mut bytes = Vec::new();
            prefixes.iter().for_each(|p| encode(*p, &mut bytes));
            prop_assert_eq!(bytes.len(), prefixes.iter().map(|p| encoded_len(*p)).sum::<usize>());
            prop_assert_eq!(parse(Cursor::new(&bytes, 0), family), Ok(prefixes));
        }
    }
}

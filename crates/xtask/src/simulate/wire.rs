//! As much of BGP as a simulated host needs that only announces a few routes and keeps what it hears.

use lasthop_net::{Family, Prefix};
use std::net::Ipv4Addr;

/// The AS of everybody here.
pub const AS: u16 = 64512;

/// Appends a message.
pub fn message(kind: u8, body: &[u8], out: &mut Vec<u8>) {
    out.extend([0xff; 16]);
    out.extend(u16::try_from(19 + body.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.push(kind);
    out.extend(body);
}

/// The OPEN of a host, IPv4 only, without graceful restart; and its KEEPALIVE.
#[must_use]
pub fn greeting(address: Ipv4Addr) -> Vec<u8> {
    let [high, low] = AS.to_be_bytes();
    let mut body = vec![4, high, low, 0, 0];
    body.extend(address.octets());
    body.extend([16, 2, 14, 1, 4, 0, 1, 0, 1, 65, 4, 0, 0, high, low, 2, 0]);
    let mut out = Vec::new();
    message(1, &body, &mut out);
    message(4, &[], &mut out);
    out
}

fn nlri(prefix: Prefix, out: &mut Vec<u8>) {
    out.push(prefix.len());
    if let std::net::IpAddr::V4(address) = prefix.address() {
        out.extend(address.octets().iter().take(usize::from(prefix.len()).div_ceil(8)));
    }
}

/// An UPDATE of own routes.
#[must_use]
pub fn announce(next_hop: Ipv4Addr, prefixes: &[Prefix]) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 21, 0x40, 1, 1, 0, 0x40, 2, 0, 0x40, 3, 4];
    body.extend(next_hop.octets());
    body.extend([0x40, 5, 4, 0, 0, 0, 100]);
    prefixes.iter().for_each(|prefix| nlri(*prefix, &mut body));
    let mut out = Vec::new();
    message(2, &body, &mut out);
    out
}

/// An UPDATE that takes an own route back.
#[must_use]
pub fn withdraw(prefix: Prefix) -> Vec<u8> {
    let mut gone = Vec::new();
    nlri(prefix, &mut gone);
    let mut body = u16::try_from(gone.len()).unwrap_or(0).to_be_bytes().to_vec();
    body.extend(gone);
    body.extend([0, 0]);
    let mut out = Vec::new();
    message(2, &body, &mut out);
    out
}

/// What a host hears of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// It is there, behind this next hop, and went through so many reflectors.
    Path(Ipv4Addr, &'a [u8]),
    /// It is gone.
    Gone,
}

/// Takes one message off the octets: its type, its body, the rest.
#[must_use]
pub fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let length = usize::from(u16::from_be_bytes([*bytes.get(16)?, *bytes.get(17)?]));
    Some((*bytes.get(18)?, bytes.get(19..length)?, bytes.get(length..)?))
}

/// Hands on all that an UPDATE says of IPv4; nothing if it is malformed.
pub fn update(body: &[u8], mut hear: impl FnMut(Prefix, Heard<'_>)) -> Option<()> {
    let part = |at: usize| {
        let length = usize::from(u16::from_be_bytes([*body.get(at)?, *body.get(at + 1)?]));
        body.get(at + 2..at + 2 + length)
    };
    let gone = part(0)?;
    let mut attributes = part(2 + gone.len())?;
    let routes = body.get(4 + gone.len() + attributes.len()..)?;
    prefixes(gone, |prefix| hear(prefix, Heard::Gone))?;
    let (mut hop, mut clusters) = (Ipv4Addr::UNSPECIFIED, &[][..]);
    while let [flags, kind, rest @ ..] = attributes {
        let (length, rest) = match rest {
            [high, low, rest @ ..] if flags & 0x10 != 0 => (usize::from(u16::from_be_bytes([*high, *low])), rest),
            [length, rest @ ..] => (usize::from(*length), rest),
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        match kind {
            3 => hop = Ipv4Addr::from(*value.first_chunk::<4>()?),
            10 => clusters = value,
            _ => {}
        }
        attributes = rest;
    }
    prefixes(routes, |prefix| hear(prefix, Heard::Path(hop, clusters)))
}

fn prefixes(mut octets: &[u8], mut take: impl FnMut(Prefix)) -> Option<()> {
    while let [bits, rest @ ..] = octets {
        let (address, rest) = rest.split_at_checked(usize::from(*bits).div_ceil(8))?;
        let mut whole = [0; 4];
        whole.get_mut(..address.len())?.copy_from_slice(address);
        take(Prefix::new(whole.into(), *bits).filter(|prefix| prefix.family() == Family::V4)?);
        octets = rest;
    }
    Some(())
}

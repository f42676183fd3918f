//! Link-local addresses that say by which link: the link's index stands in the second group of the address, which is zero
//! in every real one (RFC 4291 section 2.5.6). So a next hop is an address and nothing more. Such an address never leaves
//! the host.

use crate::IfIndex;
use std::net::Ipv6Addr;

/// A link-local address with its link. `None` if it is none, or the index does not fit.
#[must_use]
pub fn on_link(address: Ipv6Addr, link: IfIndex) -> Option<Ipv6Addr> {
    let [head, _, rest @ ..] = address.segments();
    let index = u16::try_from(link.0).ok().filter(|index| *index > 0 && address.is_unicast_link_local())?;
    let [c, d, e, f, g, h] = rest;
    Some(Ipv6Addr::new(head, index, c, d, e, f, g, h))
}

/// The address as others know it, and its link if it is link-local and says one.
#[must_use]
pub fn link_of(address: Ipv6Addr) -> (Ipv6Addr, Option<IfIndex>) {
    let [head, index, c, d, e, f, g, h] = address.segments();
    if !address.is_unicast_link_local() || index == 0 {
        return (address, None);
    }
    (Ipv6Addr::new(head, 0, c, d, e, f, g, h), Some(IfIndex(index.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_with_its_link() {
        for (text, link, scoped) in [
            ("fe80::1", 5, Some("fe80:5::1")),
            ("fe80::a:b:c:d", 65_535, Some("fe80:ffff::a:b:c:d")),
            ("fe80::1", 65_536, None),
            ("fe80::1", 0, None),
            ("fd00::1", 5, None),
        ] {
            let address: Ipv6Addr = text.parse().unwrap();
            let made = on_link(address, IfIndex(link));
            assert_eq!(made, scoped.map(|text| text.parse().unwrap()), "{text} {link}");
            assert_eq!(made.map(link_of), made.map(|_| (address, Some(IfIndex(link)))));
            assert_eq!(link_of(address), (address, None));
        }
    }
}

//! What a host and a workload link are set to (Documentation/networking/ip-sysctl.rst).

use crate::Sysctl;
use lasthop_net::{IfName, Mac, Prefix};
use std::collections::BTreeSet;

/// The MAC address of every host side that we make: the same everywhere, so that a workload that moves
/// keeps its next hop.
pub const FIXED_HOST_MAC: Mac = Mac([0xee; 6]);

/// Settings of the whole host, in the order they must be written: forwarding only makes sense once the
/// guard is there, which `apply` sees to.
#[must_use]
pub fn host_sysctls() -> Vec<(Sysctl, String)> {
    // Without compat mode off, replacing a next hop walks all its routes (80 ms at 100,000 instead of 4 µs).
    [("net/ipv4/nexthop_compat_mode", "0"), ("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")]
        .map(|(path, value)| (Sysctl(path.to_owned()), value.to_owned()))
        .to_vec()
}

const LINK_V4: [(&str, &str); 7] = [
    ("proxy_arp", "1"), // answers as next hop where the responder program is not there
    ("forwarding", "1"),
    ("accept_source_route", "0"),
    ("accept_redirects", "0"),
    ("send_redirects", "0"),
    ("arp_accept", "0"), // a workload's gratuitous ARP never makes a neighbour entry
    ("route_localnet", "0"),
];

const LINK_V6: [(&str, &str); 7] = [
    ("disable_ipv6", "0"),
    ("accept_ra", "0"),  // a workload never configures its host
    ("accept_dad", "0"), // the link-local next hop answers at once
    ("forwarding", "1"),
    ("proxy_ndp", "1"),
    ("accept_redirects", "0"),
    ("accept_source_route", "0"),
];

/// Settings of a workload link whose endpoint may use `allowed` as source beside its addresses.
#[must_use]
pub fn link_sysctls(link: &IfName, allowed: &BTreeSet<Prefix>) -> Vec<(Sysctl, String)> {
    let entry = |path: String, value: &str| (Sysctl(path), value.to_owned());
    let v4 = LINK_V4.iter().map(|(name, value)| entry(format!("net/ipv4/conf/{link}/{name}"), value));
    let v6 = LINK_V6.iter().map(|(name, value)| entry(format!("net/ipv6/conf/{link}/{name}"), value));
    // nft checks the source exactly; the routing table may only confirm it where each source has a route here.
    let rp_filter = if allowed.is_empty() { "1" } else { "0" };
    v4.chain(v6)
        .chain([
            entry(format!("net/ipv4/conf/{link}/rp_filter"), rp_filter),
            entry(format!("net/ipv4/neigh/{link}/proxy_delay"), "0"),
            entry(format!("net/ipv6/neigh/{link}/proxy_delay"), "0"),
        ])
        .collect()
}

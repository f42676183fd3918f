//! What a host and a workload link are set to (Documentation/networking/ip-sysctl.rst).

use crate::sysctl::{Knob, Sysctl, SysctlValue};
use lasthop_net::{IfName, Mac};

/// The MAC address of every host side that we make: the same everywhere, so that a workload that moves
/// keeps its next hop.
pub const FIXED_HOST_MAC: Mac = Mac([0xee; 6]);

/// Settings of the whole host, in the order they must be written: forwarding only makes sense once the
/// guard is there, which `apply` sees to.
#[must_use]
pub fn host_sysctls() -> Vec<(Sysctl, SysctlValue)> {
    // Without compat mode off, replacing a next hop walks all its routes (80 ms at 100,000 instead of 4 µs).
    [("net/ipv4/nexthop_compat_mode", 0), ("net/ipv4/ip_forward", 1), ("net/ipv6/conf/all/forwarding", 1)]
        .map(|(path, value)| (Sysctl::at(path), SysctlValue::Number(value)))
        .to_vec()
}

const LINK: [(&str, &str, i32); 17] = [
    ("net/ipv4/conf", "proxy_arp", 1), // answers as next hop where the responder program is not there
    ("net/ipv4/conf", "forwarding", 1),
    ("net/ipv4/conf", "accept_source_route", 0),
    ("net/ipv4/conf", "accept_redirects", 0),
    ("net/ipv4/conf", "send_redirects", 0),
    ("net/ipv4/conf", "arp_accept", 0), // a workload's gratuitous ARP never makes a neighbour entry
    ("net/ipv4/conf", "route_localnet", 0),
    // The table of sources is exact, and asked before; the routing table knows less (sources that are allowed beside the
    // addresses, an address on its way to another host), and asking it costs each packet a look-up (96 ns of 1,660).
    ("net/ipv4/conf", "rp_filter", 0),
    ("net/ipv4/neigh", "proxy_delay", 0),
    ("net/ipv6/conf", "disable_ipv6", 0),
    ("net/ipv6/conf", "accept_ra", 0),  // a workload never configures its host
    ("net/ipv6/conf", "accept_dad", 0), // the link-local next hop answers at once
    ("net/ipv6/conf", "forwarding", 1),
    ("net/ipv6/conf", "proxy_ndp", 1),
    ("net/ipv6/conf", "accept_redirects", 0),
    ("net/ipv6/conf", "accept_source_route", 0),
    ("net/ipv6/neigh", "proxy_delay", 0),
];

/// Settings of a workload link.
#[must_use]
pub fn link_sysctls(link: &IfName) -> Vec<(Sysctl, SysctlValue)> {
    let of_link = |&(folder, name, value): &(&str, &str, i32)| {
        let setting = Sysctl::OfLink { link: link.clone(), knob: Knob::named(folder, name)? };
        Some((setting, SysctlValue::Number(value)))
    };
    LINK.iter().filter_map(of_link).collect()
}

//! The kernel's main tables as text: read from `/proc/net/route` and `/proc/net/ipv6_route`, printed as
//! `route -n` does (net-tools).

use anyhow::{Context, Result};
use lasthop_net::{Family, Prefix};
use serde::Serialize;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `RTF_UP`, `RTF_GATEWAY`, `RTF_HOST`, `RTF_REJECT` (include/uapi/linux/route.h).
const UP: u32 = 1;
const GATEWAY: u32 = 2;
const HOST: u32 = 4;
const REJECT: u32 = 0x200;
/// `RTF_LOCAL`, `RTF_ANYCAST` (include/uapi/linux/ipv6_route.h).
const NOT_MAIN: u32 = 0x8000_0000 | 0x0010_0000;

/// A route as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShownRoute {
    /// Where to.
    #[serde(serialize_with = "shown")]
    pub prefix: Prefix,
    /// Through whom; none if the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The link.
    pub link: String,
    /// `RTF_` flags.
    pub flags: u32,
    /// Metric.
    pub metric: u32,
}

fn shown<S: serde::Serializer>(prefix: &Prefix, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(prefix)
}

/// The main tables of a namespace, both families, in the kernel's order.
///
/// # Errors
/// If the namespace cannot be entered or the tables not be read.
pub fn read(namespace: &str) -> Result<Vec<ShownRoute>> {
    crate::netns::within(namespace, || {
        let v4 = std::fs::read_to_string("/proc/thread-self/net/route").context("reading the IPv4 routes")?;
        let v6 = std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default();
        let v4 = v4.lines().skip(1).filter_map(parse_v4);
        Ok(v4.chain(v6.lines().filter_map(parse_v6)).collect())
    })?
}

fn parse_v4(line: &str) -> Option<ShownRoute> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [link, destination, gateway, flags, _, _, metric, mask, ..] = fields.as_slice() else { return None };
    // The kernel prints the address as the integer that its four bytes are in memory.
    let address = |text: &str| Some(Ipv4Addr::from(u32::from_str_radix(text, 16).ok()?.to_ne_bytes()));
    let len = u8::try_from(address(mask)?.to_bits().leading_ones()).ok()?;
    let flags = u32::from_str_radix(flags, 16).ok()?;
    Some(ShownRoute {
        prefix: Prefix::new(address(destination)?.into(), len)?,
        gateway: (flags & GATEWAY != 0).then_some(address(gateway)?.into()),
        link: (*link).to_owned(),
        flags,
        metric: metric.parse().ok()?,
    })
}

fn parse_v6(line: &str) -> Option<ShownRoute> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [destination, len, _, _, gateway, metric, _, _, flags, link] = fields.as_slice() else { return None };
    let address = |text: &str| Some(Ipv6Addr::from(u128::from_str_radix(text, 16).ok()?));
    let flags = u32::from_str_radix(flags, 16).ok()?;
    let prefix = Prefix::new(address(destination)?.into(), u8::from_str_radix(len, 16).ok()?)?;
    // The kernel's own null entry has the last metric; unreachable routes of others hang on lo too.
    let null = *metric == "ffffffff" || *link == "lo" && flags & REJECT == 0;
    let internal = null || flags & NOT_MAIN != 0 || prefix.address().to_string().starts_with("ff");
    let link_local = prefix.address().to_string().starts_with("fe80");
    (!internal && !link_local).then_some(ShownRoute {
        prefix,
        gateway: (flags & GATEWAY != 0).then_some(address(gateway)?.into()),
        link: (*link).to_owned(),
        flags,
        metric: u32::from_str_radix(metric, 16).ok()?,
    })
}

/// The IPv4 routes as `route -n` prints them, heading included; the IPv6 ones below, if there are any.
#[must_use]
pub fn as_route_n(routes: &[ShownRoute]) -> String {
    let mut text = String::from("Destination     Gateway         Genmask         Flags Metric Ref    Use Iface\n");
    for route in routes.iter().filter(|route| route.prefix.family() == Family::V4) {
        let mask = Ipv4Addr::from_bits(u32::MAX.checked_shl(32 - u32::from(route.prefix.len())).unwrap_or(0));
        let gateway = match route.gateway {
            _ if route.flags & REJECT != 0 => "-".to_owned(),
            Some(gateway) => gateway.to_string(),
            None => "0.0.0.0".to_owned(),
        };
        let (references, link) = if route.flags & REJECT != 0 { ("-", "-") } else { ("0", route.link.as_str()) };
        let (destination, flags) = (route.prefix.address().to_string(), flag_letters(route.flags));
        let metric = route.metric.to_string();
        let mask = mask.to_string();
        let line = format!(
            "{destination:<15} {gateway:<15} {mask:<15} {flags:<5} {metric:<6} {references:<2} {:>7} {link}",
            0
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let six: Vec<_> = routes.iter().filter(|route| route.prefix.family() == Family::V6).collect();
    if !six.is_empty() {
        let _ = writeln!(text, "\n{:<43} {:<27} {:<5} Iface", "Destination (IPv6)", "Gateway", "Flags");
    }
    for route in six {
        let gateway = route.gateway.map_or_else(|| "::".to_owned(), |gateway| gateway.to_string());
        let flags = flag_letters(route.flags);
        let _ = writeln!(text, "{:<43} {gateway:<27} {flags:<5} {}", route.prefix.to_string(), route.link);
    }
    text
}

fn flag_letters(flags: u32) -> String {
    let first = if flags & REJECT != 0 { '!' } else { 'U' };
    let rest = [(GATEWAY, 'G'), (HOST, 'H')].into_iter().filter(|(bit, _)| flags & bit != 0);
    let up = flags & (UP | REJECT) != 0;
    up.then_some(first).into_iter().chain(rest.map(|(_, letter)| letter)).collect()
}

/// The route that a packet to `address` takes: the longest prefix, then the lowest metric.
#[must_use]
pub fn lookup(routes: &[ShownRoute], address: IpAddr) -> Option<&ShownRoute> {
    let fits = routes.iter().filter(|route| route.prefix.contains(address));
    fits.min_by_key(|route| (u8::MAX - route.prefix.len(), route.metric))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "\
eth0	00000000	01CB12AC	0003	0	0	0	00000000	0	0	0
ns-db03ab89-b4	0000410A	00000000	0001	0	0	0	0000FFFF	0	0	0
eth0	1500410A	7ECB12AC	0007	0	0	0	FFFFFFFF	0	0	0
*	0000420A	00000000	0200	0	0	0	0000FFFF	0	0	0
tapa429fb36-04	1800410A	00000000	0005	0	0	0	FFFFFFFF	0	0	0
";

    fn table() -> Vec<ShownRoute> {
        V4.lines().filter_map(parse_v4).collect()
    }

    #[test]
    fn tables_print_as_net_tools_do() {
        let expect = "\
Destination     Gateway         Genmask         Flags Metric Ref    Use Iface
0.0.0.0         172.18.203.1    0.0.0.0         UG    0      0        0 eth0
10.65.0.0       0.0.0.0         255.255.0.0     U     0      0        0 ns-db03ab89-b4
10.65.0.21      172.18.203.126  255.255.255.255 UGH   0      0        0 eth0
10.66.0.0       -               255.255.0.0     !     0      -        0 -
10.65.0.24      0.0.0.0         255.255.255.255 UH    0      0        0 tapa429fb36-04
";
        assert_eq!(as_route_n(&table()), expect);
    }

    #[test]
    fn the_longest_prefix_wins() {
        let table = table();
        for (address, expect) in
            [("10.65.0.21", "10.65.0.21/32"), ("10.65.0.99", "10.65.0.0/16"), ("8.8.8.8", "0.0.0.0/0")]
        {
            assert_eq!(lookup(&table, address.parse().unwrap()).unwrap().prefix.to_string(), expect);
        }
        assert!(lookup(&table, "fd00::1".parse().unwrap()).is_none());
    }

    #[test]
    fn ipv6_tables_read() {
        let line = "fd006500000000000000000000000021 80 00000000000000000000000000000000 00 fd001802030000000000000000000126 00000400 00000001 00000000 00000003     eth0";
        let route = parse_v6(line).unwrap();
        assert_eq!(route.prefix.to_string(), "fd00:6500::21/128");
        assert_eq!(route.metric, 1024);
        assert!(route.gateway.is_some());
        assert!(
            parse_v6("ff000000000000000000000000000000 08 0 00 0 00000100 00000001 00000000 00000001 eth0").is_none()
        );
    }
}

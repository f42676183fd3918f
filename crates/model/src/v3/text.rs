//! Checks of texts: each says what is wrong and what to write.

use super::shape::shorten;
use crate::Rate;
use crate::name::is_subdomain;
use crate::selector::Selector;
use lasthop_net::{Family, IfName, Mac, Prefix};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

type Checked = Result<(), String>;

/// Whatever the user likes.
#[expect(clippy::unnecessary_wraps, reason = "one signature for all checks")]
pub(crate) fn anything(_text: &str) -> Checked {
    Ok(())
}

/// DNS-1123 subdomain.
pub(crate) fn name(text: &str) -> Checked {
    if is_subdomain(text) {
        return Ok(());
    }
    Err(if text.len() > 253 {
        format!("'{}' is {} characters long; a name has at most 253", shorten(text), text.len())
    } else {
        crate::ParseNameError(shorten(text).into_owned()).to_string()
    })
}

/// DNS-1123 label.
pub(crate) fn dns_label(text: &str) -> Checked {
    if is_subdomain(text) && !text.contains('.') && text.len() <= 63 {
        return Ok(());
    }
    let text = shorten(text);
    Err(format!(
        "'{text}' is not valid; use at most 63 lower-case letters, digits and '-', starting and ending with a letter or digit"
    ))
}

/// An OpenStack region: its endpoints are in the namespace `openstack-region-<region>`, which is a label.
pub(crate) fn region(text: &str) -> Checked {
    const LIMIT: usize = 63 - "openstack-region-".len();
    dns_label(text)?;
    if text.len() > LIMIT {
        return Err(format!("'{text}' is {} characters long; a region has at most {LIMIT}", text.len()));
    }
    Ok(())
}

/// What stands before the lines of logged packets.
pub(crate) fn log_prefix(text: &str) -> Checked {
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"%: /_-".contains(&b)) {
        return Ok(());
    }
    Err(format!("'{}' is not a log prefix; use letters, digits, spaces, '%', ':', '/', '_', '-'", shorten(text)))
}

/// A rate such as `10/second`.
pub(crate) fn rate_of(text: &str) -> Option<Rate> {
    let (number, unit) = text.split_once('/')?;
    let digits = number.bytes().all(|b| b.is_ascii_digit());
    let packets = number.parse().ok().filter(|packets| digits && (1..=9999).contains(packets))?;
    let seconds = match unit {
        "second" => 1,
        "minute" => 60,
        "hour" => 3_600,
        "day" => 86_400,
        _ => return None,
    };
    Some(Rate { packets, per: Duration::from_secs(seconds) })
}

/// A rate such as `10/second`.
pub(crate) fn rate(text: &str) -> Checked {
    if rate_of(text).is_some() {
        return Ok(());
    }
    Err(format!("'{}' is not a rate; write 1 to 9999 and second, minute, hour or day, e.g. 10/second", shorten(text)))
}

/// A host name or address.
pub(crate) fn host(text: &str) -> Checked {
    if text.parse::<IpAddr>().is_ok() || is_subdomain(&text.to_ascii_lowercase()) {
        return Ok(());
    }
    Err(format!("'{}' is neither a host name nor an IP address", shorten(text)))
}

/// The name part of a label key or a label value: letters, digits, `-_.`, edges alphanumeric.
fn is_label_word(text: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    text.len() <= 63
        && edge(text.bytes().next())
        && edge(text.bytes().last())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Key of a label or annotation: `[subdomain/]word`.
pub(crate) fn label_key(text: &str) -> Checked {
    let fits = match text.split_once('/') {
        Some((prefix, word)) => is_subdomain(prefix) && is_label_word(word),
        None => is_label_word(text),
    };
    if fits {
        return Ok(());
    }
    let text = shorten(text);
    Err(format!(
        "'{text}' is not a key; write e.g. role or example.com/role: at most 63 letters, digits, '-', '_', '.', starting and ending with a letter or digit"
    ))
}

/// Key of an annotation: as of a label, case aside.
pub(crate) fn annotation_key(text: &str) -> Checked {
    label_key(&text.to_ascii_lowercase()).map_err(|_| label_key(text).err().unwrap_or_default())
}

/// Value of a label.
pub(crate) fn label_value(text: &str) -> Checked {
    if text.is_empty() || is_label_word(text) {
        return Ok(());
    }
    let text = shorten(text);
    Err(format!(
        "'{text}' is not a label value; use at most 63 letters, digits, '-', '_', '.', starting and ending with a letter or digit"
    ))
}

/// An address of either family.
pub(crate) fn ip(text: &str) -> Checked {
    match text.parse::<IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("'{}' is not an IP address; write e.g. 10.65.0.24 or fd00:65::24", shorten(text))),
    }
}

/// An IPv4 address.
pub(crate) fn ipv4(text: &str) -> Checked {
    match text.parse::<Ipv4Addr>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("'{}' is not an IPv4 address; write e.g. 172.18.203.10", shorten(text))),
    }
}

/// An IPv6 address.
pub(crate) fn ipv6(text: &str) -> Checked {
    match text.parse::<Ipv6Addr>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("'{}' is not an IPv6 address; write e.g. fd00:203::10", shorten(text))),
    }
}

/// A prefix, or an address that stands for its /32 or /128. Bits past the length do not matter.
pub(crate) fn prefix(text: &str) -> Checked {
    shorten(text).parse::<Prefix>().map(drop).map_err(|error| error.to_string())
}

fn prefix_of(text: &str, family: Family) -> Checked {
    let prefix: Prefix = shorten(text).parse::<Prefix>().map_err(|error| error.to_string())?;
    if prefix.family() == family { Ok(()) } else { Err(format!("'{text}' is not an {family} prefix")) }
}

/// An IPv4 prefix or address.
pub(crate) fn prefix_v4(text: &str) -> Checked {
    prefix_of(text, Family::V4)
}

/// An IPv6 prefix or address.
pub(crate) fn prefix_v6(text: &str) -> Checked {
    prefix_of(text, Family::V6)
}

/// A prefix with its length written out and no bits past it.
pub(crate) fn exact_prefix(text: &str) -> Checked {
    let prefix: Prefix = shorten(text).parse::<Prefix>().map_err(|error| error.to_string())?;
    let Some((address, _)) = text.split_once('/') else {
        return Err(format!("'{text}' has no prefix length; write e.g. {prefix}"));
    };
    if address.parse() == Ok(prefix.address()) {
        Ok(())
    } else {
        Err(format!("'{text}' has bits set past its length; write {prefix}"))
    }
}

/// A single address that a workload can have, perhaps with /32 or /128.
pub(crate) fn host_prefix(text: &str) -> Checked {
    let prefix: Prefix = shorten(text).parse::<Prefix>().map_err(|error| error.to_string())?;
    if !prefix.is_host() {
        let bits = prefix.family().bits();
        return Err(format!(
            "'{text}' is more than one address; write single addresses, with /{bits} or without length"
        ));
    }
    station(text, prefix.address())
}

/// Whether a station can have that address.
fn station(text: &str, address: IpAddr) -> Checked {
    let what = if address.is_unspecified() {
        "the unspecified address"
    } else if address.is_loopback() {
        "a loopback address"
    } else if address.is_multicast() {
        "a multicast address"
    } else if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
        "the broadcast address"
    } else {
        return Ok(());
    };
    Err(format!("'{text}' is {what}; write an address that one station can have"))
}

fn interface_address(text: &str, family: Family) -> Checked {
    let example = match family {
        Family::V4 => "172.18.203.10/24",
        Family::V6 => "fd00:203::10/64",
    };
    let prefix: Prefix = shorten(text).parse::<Prefix>().map_err(|error| error.to_string())?;
    let address = text.split('/').next().unwrap_or_default();
    match address.parse::<IpAddr>() {
        Ok(address) if prefix.family() == family && Family::of(address) == family => station(text, address),
        _ => Err(format!("'{text}' is not an {family} address with length; write e.g. {example}")),
    }
}

/// An IPv4 address with its length.
pub(crate) fn interface_v4(text: &str) -> Checked {
    interface_address(text, Family::V4)
}

/// An IPv6 address with its length.
pub(crate) fn interface_v6(text: &str) -> Checked {
    interface_address(text, Family::V6)
}

/// A MAC address of one station.
pub(crate) fn mac(text: &str) -> Checked {
    let mac: Mac = shorten(text).parse().map_err(|error: lasthop_net::ParseMacError| error.to_string())?;
    if mac.is_unicast() {
        Ok(())
    } else {
        Err(format!(
            "'{text}' is not the MAC address of one station; its first byte must be even, and not all may be zero"
        ))
    }
}

fn is_link_word(text: &str) -> bool {
    (1..=15).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// A link name: letters, digits, `_.-`, at most 15 bytes.
pub(crate) fn link(text: &str) -> Checked {
    if is_link_word(text) && text.parse::<IfName>().is_ok() {
        return Ok(());
    }
    let text = shorten(text);
    Err(format!("'{text}' is not an interface name; use 1 to 15 letters, digits, '_', '.', '-'"))
}

/// Link name prefixes, separated by commas.
pub(crate) fn link_prefixes(text: &str) -> Checked {
    match text.split(',').map(str::trim).find(|word| !is_link_word(word)) {
        None => Ok(()),
        Some(word) => {
            let word = shorten(word);
            Err(format!(
                "'{word}' is not the beginning of an interface name; write e.g. \"lh,tap\" (1 to 15 letters, digits, '_', '.', '-' each)"
            ))
        }
    }
}

/// A link name, or `*` for all.
pub(crate) fn link_or_all(text: &str) -> Checked {
    if text == "*" { Ok(()) } else { link(text) }
}

/// A link name with wildcards, but not every link.
pub(crate) fn link_wildcard(text: &str) -> Checked {
    if text == "*" {
        return Err("'*' is every interface; write a narrower pattern, e.g. docker*".to_owned());
    }
    link_pattern(text)
}

/// A link name with wildcards.
pub(crate) fn link_pattern(text: &str) -> Checked {
    if is_link_word(&text.replace('*', "x")) {
        return Ok(());
    }
    let text = shorten(text);
    Err(format!("'{text}' is not an interface pattern; use 1 to 15 letters, digits, '_', '.', '-', '*'"))
}

/// Identifier of a container: letters, digits and inner dashes.
pub(crate) fn container_id(text: &str) -> Checked {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let fits = edge(text.bytes().next())
        && edge(text.bytes().last())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if fits {
        return Ok(());
    }
    let text = shorten(text);
    Err(format!(
        "'{text}' is not a container ID; use letters, digits and '-', starting and ending with a letter or digit"
    ))
}

/// Name of a port.
pub(crate) fn port_name(text: &str) -> Checked {
    let fits = (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if fits {
        return Ok(());
    }
    let text = shorten(text);
    Err(format!("'{text}' is not a port name; use 1 to 128 letters, digits, '_', '.', '-'"))
}

/// A port or a range of ports.
pub(crate) fn ports(text: &str) -> Checked {
    let port = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
    let fits = match text.split_once(':') {
        Some((from, to)) => port(from).zip(port(to)).is_some_and(|(from, to)| from <= to),
        None => port(text).is_some(),
    };
    if fits {
        return Ok(());
    }
    Err(format!("'{}' is not a port or range of ports; write e.g. 8080 or 20000:29999", shorten(text)))
}

/// A peer's address, with a port or without: `10.0.0.1`, `10.0.0.1:1790`, `[fd00::1]:1790`.
pub(crate) fn peer_address(text: &str) -> Checked {
    match split_peer_address(text) {
        // A speaker of another program on the same host is fine.
        Some((address, _)) if address.is_loopback() => Ok(()),
        Some((address, _)) => station(text, address),
        None => {
            let text = shorten(text);
            Err(format!(
                "'{text}' is not the address of a peer; write e.g. 10.0.0.1, 10.0.0.1:1790, fd00::1 or [fd00::1]:1790 (port 1 to 65535)"
            ))
        }
    }
}

/// The parts of a peer's address.
pub(crate) fn split_peer_address(text: &str) -> Option<(IpAddr, Option<u16>)> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some((address, None));
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return (socket.port() > 0).then(|| (socket.ip(), Some(socket.port())));
    }
    let (host, port) = text.strip_prefix('[')?.split_once("]:")?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0)?;
    Some((IpAddr::V4(host.parse().ok()?), Some(port)))
}

/// A duration.
pub(crate) fn duration(text: &str) -> Checked {
    crate::parse_duration(&shorten(text)).map(drop).map_err(|error| error.to_string())
}

/// A selector over labels.
pub(crate) fn selector(text: &str) -> Checked {
    let selector: Selector = text.parse().map_err(|error: crate::selector::ParseSelectorError| error.to_string())?;
    if selector.is_global() {
        return Err(format!("selector '{}': 'global()' has no meaning here; write 'all()'", shorten(text)));
    }
    Ok(())
}

/// A BGP community: `65000:100` (RFC 1997) or `65000:1:2` (RFC 8092).
pub(crate) fn community(text: &str) -> Checked {
    text.parse::<crate::RouteCommunity>().map(drop).map_err(|error| format!("'{}' {error}", shorten(text)))
}

/// A regular expression, as far as it can be told without compiling it: something to repeat before
/// every repetition, brackets in pairs.
pub(crate) fn regex(text: &str) -> Checked {
    let wrong = |why: &str| Err(format!("'{}' is not a regular expression: {why}", shorten(text)));
    let mut depth = 0_usize;
    let mut repeatable = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.next().is_none() => return wrong("it ends in a lone '\\'"),
            '\\' => repeatable = true,
            '[' => {
                let negated = chars.next_if_eq(&'^').is_some();
                let _ = negated;
                let _ = chars.next_if_eq(&']');
                loop {
                    match chars.next() {
                        Some('\\') => drop(chars.next()),
                        Some(']') => break,
                        Some(_) => {}
                        None => return wrong("'[' has no ']'"),
                    }
                }
                repeatable = true;
            }
            '(' => {
                depth += 1;
                repeatable = false;
                if chars.next_if_eq(&'?').is_some() && chars.peek().is_none() {
                    return wrong("'(?' is not finished");
                }
            }
            ')' if depth == 0 => return wrong("')' has no '('"),
            ')' => {
                depth -= 1;
                repeatable = true;
            }
            '*' | '+' | '?' if !repeatable => return wrong(&format!("nothing before '{c}' to repeat")),
            '*' | '+' | '?' => {
                let _ = chars.next_if_eq(&'?');
                repeatable = false;
            }
            '|' => repeatable = false,
            _ => repeatable = true,
        }
    }
    if depth > 0 { wrong("'(' has no ')'") } else { Ok(()) }
}

//! Checks of the texts of rules and policies.

use super::super::shape::shorten;
use super::super::text;
use crate::name::is_subdomain;
use crate::policy::{Port, PortRange};
use crate::selector::Selector;

type Checked = Result<(), String>;

/// Longest selector in a rule.
const SELECTOR: usize = 1024;

const PROTOCOLS: [(&str, u8); 6] =
    [("TCP", 6), ("UDP", 17), ("ICMP", 1), ("ICMPv6", 58), ("SCTP", 132), ("UDPLite", 136)];

/// The number of a protocol: a name in any case, or 1 to 255.
pub(crate) fn protocol_number(text: &str) -> Option<u8> {
    let named = PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, number)| *number);
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    named.or_else(|| text.parse().ok().filter(|number| digits && *number > 0))
}

/// The name of a protocol, or its number.
pub(crate) fn protocol_name(number: u8) -> String {
    let named = PROTOCOLS.iter().find(|(_, known)| *known == number);
    named.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())
}

/// A protocol.
pub(super) fn protocol(given: &str) -> Checked {
    match protocol_number(given) {
        Some(_) => Ok(()),
        None => Err(format!(
            "'{}' is not a protocol; write TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 1 to 255",
            shorten(given)
        )),
    }
}

/// A port of a rule: a number, a range or a name.
pub(crate) fn port_of(given: &str) -> Option<Port> {
    let number = |given: &str| given.parse::<u16>().ok().filter(|port| *port > 0);
    let digits = |given: &str| !given.is_empty() && given.bytes().all(|b| b.is_ascii_digit());
    match given.split_once(':') {
        Some((first, last)) if digits(first) && digits(last) => {
            PortRange::new(number(first)?, number(last)?).map(Port::Range)
        }
        None if digits(given) => number(given).map(PortRange::one).map(Port::Range),
        _ => text::port_name(given).is_ok().then(|| Port::Named(given.to_owned())),
    }
}

/// A port of a rule.
pub(super) fn port(given: &str) -> Checked {
    match port_of(given) {
        Some(_) => Ok(()),
        None => Err(format!(
            "'{}' is not a port; write 1 to 65535, a range such as 20000:29999, or the name of a port",
            shorten(given)
        )),
    }
}

fn short(given: &str) -> Checked {
    let length = given.chars().count();
    if length > SELECTOR {
        return Err(format!(
            "'{}' is {length} characters long; a selector of a rule has at most {SELECTOR}",
            shorten(given)
        ));
    }
    Ok(())
}

/// A selector of a rule.
pub(super) fn selector(given: &str) -> Checked {
    short(given)?;
    text::selector(given)
}

/// The selector of a rule for namespaces: `global()`, alone, is for what has none.
pub(super) fn namespace_selector(given: &str) -> Checked {
    short(given)?;
    let selector: Selector = given.parse().map_err(|error: crate::selector::ParseSelectorError| error.to_string())?;
    if selector.is_global() && selector != Selector::global() {
        return Err(format!(
            "selector '{}': 'global()' is what has no namespace, and can only stand alone; write two rules",
            shorten(given)
        ));
    }
    Ok(())
}

/// The path of an HTTP request (RFC 3986 section 3.3), as far as it matters.
pub(super) fn http_path(given: &str) -> Checked {
    if given.starts_with('/') && !given.contains(['?', '#']) && !given.chars().any(char::is_whitespace) {
        return Ok(());
    }
    Err(format!("'{}' is not a path; begin it with '/', and leave out '?', '#' and spaces", shorten(given)))
}

/// The method of an HTTP request (RFC 9110 section 9.1), or `*`.
pub(super) fn http_method(given: &str) -> Checked {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if given.bytes().all(token) {
        return Ok(());
    }
    Err(format!("'{}' is not an HTTP method; write e.g. GET", shorten(given)))
}

/// The name of a policy of projectcalico.org: one label, before which the tier may stand; in a namespace also what
/// Kubernetes' and OpenStack's policies are converted to.
pub(super) fn policy_name(given: &str, namespaced: bool) -> Checked {
    if !is_subdomain(given) {
        // Said already.
        return Ok(());
    }
    let converted = ["knp.default.", "ossg.default."].into_iter().any(|prefix| given.starts_with(prefix));
    if given.split('.').count() <= 2 || (namespaced && converted) {
        return Ok(());
    }
    Err(format!("'{}' is not the name of a policy; write at most one '.', after the name of its tier", shorten(given)))
}

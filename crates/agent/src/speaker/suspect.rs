//! Why a TCP connection does not come up, in words. A peer whose segments the kernel drops (another password, too far
//! away) says nothing, and neither does the socket; what tells is which counters of the kernel moved meanwhile
//! (`TcpExt` in `/proc/net/netstat`: `include/uapi/linux/snmp.h`, `net/ipv4/proc.c`). They count for the whole host,
//! so what they say is likely, not certain.

use super::socket::Terms;
use lasthop_bgp::config::Ttl;
use nix::errno::Errno;
use std::io;
use std::time::Duration;

/// Segments that the kernel dropped in silence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    /// Signed, where we have no key.
    unexpected: u64,
    /// Not signed, where we have a key.
    unsigned: u64,
    /// Signed with another key.
    wrong: u64,
    /// With a lower TTL than we take (RFC 5082).
    far: u64,
}

impl Dropped {
    /// The counters of this process's network namespace; all zero where they cannot be read.
    pub(super) fn read() -> Self {
        std::fs::read_to_string("/proc/self/net/netstat").map(|text| Self::parse(&text)).unwrap_or_default()
    }

    /// A line of names and a line of values for each group.
    fn parse(text: &str) -> Self {
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return Self::default() };
        let pairs = names.split_whitespace().zip(values.split_whitespace());
        let mut dropped = Self::default();
        for (name, value) in pairs {
            let value = value.parse::<u64>().unwrap_or(0);
            match name {
                "TCPMD5Unexpected" | "TCPAOKeyNotFound" => dropped.unexpected += value,
                "TCPMD5NotFound" | "TCPAORequired" => dropped.unsigned += value,
                "TCPMD5Failure" | "TCPAOBad" => dropped.wrong += value,
                "TCPMinTTLDrop" => dropped.far += value,
                _ => {}
            }
        }
        dropped
    }

    fn since(self, before: Self) -> Self {
        Self {
            unexpected: self.unexpected.saturating_sub(before.unexpected),
            unsigned: self.unsigned.saturating_sub(before.unsigned),
            wrong: self.wrong.saturating_sub(before.wrong),
            far: self.far.saturating_sub(before.far),
        }
    }
}

/// What the counters say against a peer.
fn evidence(terms: &Terms, dropped: Dropped) -> Option<String> {
    let segments = |count: u64| if count == 1 { "1 segment".to_owned() } else { format!("{count} segments") };
    match (&terms.auth, terms.ttl) {
        (Some(_), _) if dropped.wrong > 0 => {
            let count = segments(dropped.wrong);
            Some(format!("its password differs from ours (the kernel dropped {count} signed with another one)"))
        }
        (Some(_), _) if dropped.unsigned > 0 => {
            let count = segments(dropped.unsigned);
            Some(format!("it has no password for us, and we have one for it (the kernel dropped {count} without)"))
        }
        (None, _) if dropped.unexpected > 0 => {
            let count = segments(dropped.unexpected);
            Some(format!("it has a password for us, and we have none for it (the kernel dropped {count} with one)"))
        }
        (_, Ttl::Security(hops)) if dropped.far > 0 => {
            let count = segments(dropped.far);
            let far = if hops <= 1 { "our link".to_owned() } else { format!("{hops} hops") };
            Some(format!(
                "it is further away than {far}, or does not send with TTL 255 (the kernel dropped {count} with a lower one)"
            ))
        }
        _ => None,
    }
}

/// What a connection that got no answer within `limit` most likely failed for.
pub(super) fn silence(terms: &Terms, limit: Duration, (before, after): (Dropped, Dropped)) -> String {
    let likely = evidence(terms, after.since(before)).unwrap_or_else(|| {
        let expects = match (&terms.auth, terms.ttl) {
            (Some(_), _) => "its password is missing or another one, or a firewall drops us",
            (None, Ttl::Security(_)) => "it drops us: a firewall, or a password or TTL that it expects of us",
            (None, _) => "it is away, or drops us: a firewall, or a password that it expects of us",
        };
        expects.to_owned()
    });
    format!("no answer from port {} within {} s; likely {likely}", terms.port, limit.as_secs())
}

/// Why a connection is up and the peer's OPEN does not come, if the counters tell.
pub(super) fn no_open(terms: &Terms, before: Dropped) -> Option<String> {
    let likely = evidence(terms, Dropped::read().since(before))?;
    Some(format!("connected, but its OPEN does not come; likely {likely}"))
}

/// What the system's word for a failed connection means here.
pub(super) fn refusal(terms: &Terms, error: &io::Error) -> String {
    let (peer, port) = (terms.peer, terms.port);
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ECONNREFUSED) => {
            format!("connection refused: {peer} is there, but no BGP speaker accepts us on its port {port}")
        }
        Some(Errno::EHOSTUNREACH) => match terms.ttl {
            Ttl::Hops(hops) => {
                let hops = if hops <= 1 { "1 hop".to_owned() } else { format!("{hops} hops") };
                format!("unreachable: nobody answers at {peer}, or it is more than {hops} away")
            }
            Ttl::Any | Ttl::Security(_) => format!("unreachable: nobody answers at {peer}"),
        },
        Some(Errno::ENETUNREACH) => format!("unreachable: this host has no route to {peer}"),
        Some(Errno::ECONNRESET) => format!("{peer} reset the connection before it was up"),
        Some(Errno::ETIMEDOUT) => format!("no answer from port {port} of {peer}"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lasthop_bgp::config::{Auth, PeerConfig, Secret};
    use lasthop_net::Asn;

    fn terms(auth: Option<&str>, ttl: Ttl) -> Terms {
        let auth = auth.map(|key| Auth::Md5(Secret::new(key)));
        Terms::of(&PeerConfig { auth, ttl, ..PeerConfig::new([10, 0, 0, 2].into(), Asn(1)) })
    }

    #[test]
    fn counters_are_read_by_name() {
        let text = "TcpExt: SyncookiesSent TCPMD5NotFound TCPMD5Unexpected TCPMD5Failure TCPMinTTLDrop\n\
                    TcpExt: 9 1 2 3 4\nIpExt: InNoRoutes\nIpExt: 0\n";
        assert_eq!(Dropped::parse(text), Dropped { unsigned: 1, unexpected: 2, wrong: 3, far: 4 });
        assert_eq!(Dropped::parse("nothing"), Dropped::default());
    }

    #[test]
    fn silence_names_the_likeliest_cause_and_never_the_password() {
        let none = Dropped::default();
        for (auth, ttl, moved, expected) in [
            (
                Some("hunter2"),
                Ttl::Any,
                Dropped { wrong: 3, ..none },
                "its password differs from ours (the kernel dropped 3",
            ),
            (Some("hunter2"), Ttl::Any, Dropped { unsigned: 1, ..none }, "no password for us, and we have one"),
            (Some("hunter2"), Ttl::Any, none, "its password is missing or another one"),
            (None, Ttl::Any, Dropped { unexpected: 1, ..none }, "a password for us, and we have none"),
            // Some other peer's.
            (None, Ttl::Any, Dropped { wrong: 1, far: 1, ..none }, "a firewall, or a password that it expects"),
            (None, Ttl::Security(1), Dropped { far: 2, ..none }, "further away than our link"),
            (None, Ttl::Security(3), Dropped { far: 2, ..none }, "further away than 3 hops"),
            (None, Ttl::Security(1), none, "password or TTL that it expects"),
        ] {
            let words = silence(&terms(auth, ttl), Duration::from_secs(5), (none, moved));
            assert!(
                words.starts_with("no answer from port 179 within 5 s; likely ") && words.contains(expected),
                "{words}"
            );
            assert!(!words.contains("hunter2"));
        }
    }

    #[test]
    fn errors_of_the_system_are_told_by_what_they_mean() {
        let of = |errno: Errno, ttl| refusal(&terms(None, ttl), &io::Error::from(errno));
        assert!(
            of(Errno::ECONNREFUSED, Ttl::Any)
                .contains("10.0.0.2 is there, but no BGP speaker accepts us on its port 179")
        );
        assert!(of(Errno::EHOSTUNREACH, Ttl::Any).ends_with("nobody answers at 10.0.0.2"));
        assert!(of(Errno::EHOSTUNREACH, Ttl::Hops(1)).ends_with("or it is more than 1 hop away"));
        assert!(of(Errno::ENETUNREACH, Ttl::Any).contains("no route to 10.0.0.2"));
        let ours = io::Error::new(io::ErrorKind::InvalidInput, "the password has 81 octets");
        assert_eq!(refusal(&terms(None, Ttl::Any), &ours), "the password has 81 octets");
    }
}

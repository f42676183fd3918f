//! How a session ended: a class that can be counted, and one line that says who ended it and what is most likely wrong.

use crate::config::Role;
use crate::session::{Down, Phase, Terms};
use crate::wire::{Notification, family_of};
use std::fmt;

/// Who ended a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndedBy {
    /// We did, with a NOTIFICATION.
    Us,
    /// The peer did, with a NOTIFICATION.
    Peer,
    /// TCP did.
    Connection,
}

impl fmt::Display for EndedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Us => "us",
            Self::Peer => "peer",
            Self::Connection => "connection",
        })
    }
}

/// A way in which sessions end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ending {
    /// Who ended it.
    pub by: EndedBy,
    /// What for, as the RFCs name it.
    pub reason: &'static str,
}

impl Ending {
    pub(crate) fn of(down: &Down) -> Self {
        let (by, notification) = match down {
            Down::Sent(notification, _) => (EndedBy::Us, notification),
            Down::Received(notification) => (EndedBy::Peer, notification),
            Down::Lost(_) => return Self { by: EndedBy::Connection, reason: "connection lost" },
        };
        Self { by, reason: notification.meant().words().unwrap_or("unknown code") }
    }
}

/// What an operator is told.
pub(crate) fn words(down: &Down, (terms, phase): (&Terms, Phase)) -> String {
    match down {
        Down::Sent(notification, words) => format!("we ended it: {words} [{}]", notification.title()),
        Down::Received(notification) => {
            let meant = notification.meant();
            match meaning(&meant, terms) {
                Some(meaning) => format!("the peer ended it: {meaning} [{}]", notification.title()),
                None => format!("the peer ended it: {notification}"),
            }
        }
        Down::Lost(reason) if phase == Phase::Established => format!("connection lost: {reason}"),
        Down::Lost(reason) => {
            format!(
                "connection lost before the session was up: {reason}; does it have us as a peer, and is it enabled?"
            )
        }
    }
}

/// What the peer's NOTIFICATION most likely means for who runs our end.
fn meaning(notification: &Notification, terms: &Terms) -> Option<String> {
    Some(match (notification.code, notification.subcode) {
        (2, 2) => format!("it expects another AS of us than {}", terms.local_asn),
        (2, 3) => format!("it does not accept our identifier {}: is it its own as well?", terms.router_id),
        (2, 6) => format!("it does not accept our hold time of {} s", terms.hold_time),
        (2, 7) => {
            let families: Vec<String> = terms.families.iter().map(ToString::to_string).collect();
            format!("it misses a capability of ours; the families that we offer are {}", families.join(", "))
        }
        (2, 11) => match terms.role {
            Some((role, _)) => format!("its role does not go with ours, {}", role_name(role)),
            None => "it wants us to name a role, and none is configured".to_owned(),
        },
        (4, _) => "it heard nothing from us for its hold time".to_owned(),
        (6, 1) => {
            let limit = match notification.data[..] {
                [a, b, safi, c, d, e, f] => family_of(u16::from_be_bytes([a, b]), safi)
                    .map(|family| format!(" ({} of {family})", u32::from_be_bytes([c, d, e, f]))),
                _ => None,
            };
            format!("we announce more prefixes than it takes{}", limit.unwrap_or_default())
        }
        (6, subcode @ (2 | 4)) => {
            let did = if subcode == 2 { "shut the session down" } else { "reset the session" };
            let text = notification.shutdown_text().map(|text| format!(": '{text}'")).unwrap_or_default();
            format!("its operator {did}{text}")
        }
        (6, 3) => "it has us as a peer no longer".to_owned(),
        (6, 5) => "it refuses connections from us: does it have us as a peer?".to_owned(),
        (6, 6) => "its configuration changed".to_owned(),
        (6, 7) => "it kept another connection to us".to_owned(),
        (6, 10) => "its BFD hears us no more".to_owned(),
        (8, _) => "we did not read what it sent".to_owned(),
        _ => return None,
    })
}

/// A role as RFC 9234 names it.
pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Provider => "provider",
        Role::RouteServer => "route server",
        Role::RouteServerClient => "route server client",
        Role::Customer => "customer",
        Role::Peer => "peer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RoleMode;
    use lasthop_net::{Asn, Family};
    use std::collections::BTreeMap;

    fn terms() -> Terms {
        Terms {
            local_asn: Asn(64512),
            peer_asn: Asn(64513),
            router_id: [10, 0, 0, 1].into(),
            hold_time: 9,
            families: Family::ALL.into(),
            graceful_restart: None,
            long_lived: None,
            role: Some((Role::Customer, RoleMode::Strict)),
            extended_next_hop: false,
            add_path: BTreeMap::new(),
        }
    }

    #[test]
    fn a_notification_is_told_by_what_it_means_for_us() {
        for (code, data, line, counted) in [
            ((2, 2), &[][..], "it expects another AS of us than 64512 [NOTIFICATION 2/2 (bad peer AS)]", "bad peer AS"),
            (
                (2, 11),
                &[][..],
                "its role does not go with ours, customer [NOTIFICATION 2/11 (role mismatch)]",
                "role mismatch",
            ),
            (
                (6, 1),
                &[0, 1, 1, 0, 0, 0, 10][..],
                "we announce more prefixes than it takes (10 of IPv4) [NOTIFICATION 6/1 (maximum number of prefixes reached)]",
                "maximum number of prefixes reached",
            ),
            (
                (6, 9),
                b"\x06\x02\x03bye",
                "its operator shut the session down: 'bye' [NOTIFICATION 6/9 (hard reset) for NOTIFICATION 6/2 (administrative shutdown)]",
                "administrative shutdown",
            ),
            ((3, 11), &[1, 2][..], "NOTIFICATION 3/11 (malformed AS_PATH), data 0102", "malformed AS_PATH"),
            ((99, 1), &[][..], "NOTIFICATION 99/1", "unknown code"),
        ] {
            let down = Down::Received(Notification::new(code, data));
            assert_eq!(words(&down, (&terms(), Phase::OpenSent)), format!("the peer ended it: {line}"));
            assert_eq!(Ending::of(&down), Ending { by: EndedBy::Peer, reason: counted });
        }
    }

    #[test]
    fn a_lost_connection_says_whether_the_session_was_up() {
        let down = Down::Lost("reset".to_owned());
        assert_eq!(words(&down, (&terms(), Phase::Established)), "connection lost: reset");
        let early = words(&down, (&terms(), Phase::OpenSent));
        assert!(early.contains("before the session was up: reset; does it have us as a peer"), "{early}");
    }
}

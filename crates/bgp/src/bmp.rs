//! BMP messages (RFC 7854): what a monitoring station is told of sessions and of what peers say.
//!
//! Routes are told as they were before any policy: each UPDATE as it came, and to a station that comes later what is held
//! of them, encoded anew in the session's format. An UPDATE that was treated as withdrawn (RFC 7606) is told as that
//! withdrawal, since a station could not read it either. TCP's ephemeral ports are not known here, and told as 0.

use crate::peer::Peer;
use crate::session::{Connection, Down};
use crate::speaker::Speaker;
use crate::wire::{
    AsnWidth, AttributeBlock, Format, MAX_EXTENDED_LEN, end_of_rib, nlri::Nlri, nlri::PathIds, pack_reach,
};
use lasthop_net::{Family, Prefix};
use std::net::IpAddr;
use std::time::{Duration, Instant};

const ROUTE_MONITORING: u8 = 0;
const STATISTICS: u8 = 1;
const PEER_DOWN: u8 = 2;
const PEER_UP: u8 = 3;
const INITIATION: u8 = 4;
const TERMINATION: u8 = 5;

/// Prefixes of one part of what is told to a station that came.
const PART: usize = 256;

/// The same moment on the speaker's clock and in the time since 1970: stations want the latter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// On the speaker's clock.
    pub instant: Instant,
    /// Since 1970.
    pub since_1970: Duration,
}

impl Clock {
    pub(crate) fn of(self, then: Instant) -> Duration {
        match then.checked_duration_since(self.instant) {
            Some(later) => self.since_1970 + later,
            None => self.since_1970.saturating_sub(self.instant.duration_since(then)),
        }
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![3];
    out.extend(u32::try_from(body.len() + 6).unwrap_or(u32::MAX).to_be_bytes());
    out.push(kind);
    out.extend(body);
    out
}

fn information(kind: u16, value: &[u8], out: &mut Vec<u8>) {
    let value = value.get(..value.len().min(usize::from(u16::MAX))).unwrap_or_default();
    out.extend(kind.to_be_bytes());
    out.extend(u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
    out.extend(value);
}

/// The first message to a station: who speaks (RFC 7854 section 4.3).
#[must_use]
pub fn initiation(name: &str, description: &str) -> Vec<u8> {
    let mut body = Vec::new();
    information(1, description.as_bytes(), &mut body);
    information(2, name.as_bytes(), &mut body);
    message(INITIATION, &body)
}

/// The last one: we stop (section 4.5, reason 0).
#[must_use]
pub fn termination() -> Vec<u8> {
    let mut body = Vec::new();
    information(1, &0u16.to_be_bytes(), &mut body);
    message(TERMINATION, &body)
}

/// The header of what concerns a peer (section 4.2): pre-policy, at this time.
fn about(peer: &Peer, connection: &Connection, time: Duration) -> Vec<u8> {
    let agreed = connection.agreed();
    let (v6, narrow) = (peer.config.address.is_ipv6(), agreed.is_some_and(|agreed| agreed.width == AsnWidth::Two));
    // V: the address is IPv6. A: AS_PATHs have numbers of two octets.
    let mut out = vec![0, if v6 { 0x80 } else { 0 } | if narrow { 0x20 } else { 0 }];
    out.extend([0; 8]);
    out.extend(wide(peer.config.address));
    out.extend(peer.config.asn.0.to_be_bytes());
    out.extend(agreed.map_or([0; 4], |agreed| agreed.router_id.octets()));
    out.extend(u32::try_from(time.as_secs()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(time.subsec_micros().to_be_bytes());
    out
}

/// An address in 16 octets: an IPv4 one in the last four.
fn wide(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => lasthop_net::scoped::link_of(address).0.octets(),
        IpAddr::V4(address) => {
            let mut octets = [0; 16];
            octets[12..].copy_from_slice(&address.octets());
            octets
        }
    }
}

/// A session is up (section 4.10).
pub(crate) fn peer_up(peer: &Peer, connection: &Connection, time: Duration) -> Vec<u8> {
    let mut body = about(peer, connection, time);
    body.extend(wide(connection.local));
    let (ours, theirs) = connection.ports(peer.config.port);
    body.extend(ours.to_be_bytes());
    body.extend(theirs.to_be_bytes());
    body.extend(connection.our_open());
    body.extend(connection.their_open());
    message(PEER_UP, &body)
}

/// A session is down (section 4.9).
pub(crate) fn peer_down(peer: &Peer, (connection, down): (&Connection, &Down), time: Duration) -> Vec<u8> {
    let mut body = about(peer, connection, time);
    match down {
        Down::Sent(notification, _) => {
            body.push(1);
            body.extend(notification.encode());
        }
        Down::Received(notification) => {
            body.push(3);
            body.extend(notification.encode());
        }
        Down::Lost(_) => body.push(4),
    }
    message(PEER_DOWN, &body)
}

/// What a peer said of routes (section 4.6).
pub(crate) fn route_monitoring(peer: &Peer, connection: &Connection, (update, time): (&[u8], Duration)) -> Vec<u8> {
    let mut body = about(peer, connection, time);
    body.extend(update);
    message(ROUTE_MONITORING, &body)
}

fn statistics(peer: &Peer, connection: &Connection, time: Duration) -> Vec<u8> {
    let mut body = about(peer, connection, time);
    let counters = [
        // Refused by policy or as a loop; treated as withdrawn.
        (0u16, u32::try_from(peer.refused).unwrap_or(u32::MAX)),
        (11, u32::try_from(peer.counters.treated_as_withdraw).unwrap_or(u32::MAX)),
    ];
    body.extend(3u32.to_be_bytes());
    for (kind, value) in counters {
        information(kind, &value.to_be_bytes(), &mut body);
    }
    // Routes in the Adj-RIB-In.
    information(7, &(peer.prefixes.len() as u64).to_be_bytes(), &mut body);
    message(STATISTICS, &body)
}

/// What a station that comes is told before what happens from then on: all sessions, then what each peer said, in parts.
#[derive(Debug)]
pub struct BmpTable {
    next: Option<(Family, Option<Prefix>)>,
}

impl BmpTable {
    /// The messages that begin it: a Peer Up for each session.
    #[must_use]
    pub fn begin(speaker: &Speaker, now: Instant) -> (Self, Vec<u8>) {
        let up = speaker.sessions().flat_map(|(peer, connection)| {
            let since = connection.established_since().unwrap_or(now);
            peer_up(peer, connection, speaker.wall(since))
        });
        (Self { next: Some((Family::V4, None)) }, up.collect())
    }

    /// The next part; `None` at the end.
    pub fn part(&mut self, speaker: &Speaker, now: Instant) -> Option<Vec<u8>> {
        let (family, after) = self.next?;
        let time = speaker.wall(now);
        let mut out = Vec::new();
        let (told, last) = speaker.told_rows(family, after, PART);
        for (id, update) in told {
            let Some((peer, connection)) = speaker.session(id) else { continue };
            out.extend(route_monitoring(peer, connection, (&update, time)));
        }
        self.next = match (last, family) {
            (Some(last), _) => Some((family, Some(last))),
            (None, family) => {
                for (peer, connection) in speaker.sessions() {
                    // Only what the peer has told is over.
                    if peer.end_of_rib.contains(&family) {
                        out.extend(route_monitoring(peer, connection, (&end_of_rib(family), time)));
                    }
                }
                (family == Family::V4).then_some((Family::V6, None))
            }
        };
        Some(out)
    }
}

/// How an UPDATE looks that says of one path what its peer said, in the format of the session.
pub(crate) fn told_update(
    (attributes, nlri): (&crate::attributes::Attributes, Nlri),
    connection: &Connection,
) -> Option<Vec<u8>> {
    let agreed = connection.agreed()?;
    let family = nlri.family();
    let ids = if agreed.paths_in.contains(&family) { PathIds::Present } else { PathIds::Absent };
    let format = Format { width: agreed.width, longest: MAX_EXTENDED_LEN, ids };
    let mut attributes = attributes.clone();
    if let IpAddr::V6(hop) = attributes.next_hop {
        attributes.next_hop = lasthop_net::scoped::link_of(hop).0.into();
    }
    let block = AttributeBlock::encode(&attributes, family, format);
    let mut update = Vec::new();
    let messages = pack_reach(&block, &[nlri], &mut update);
    (messages > 0).then_some(update)
}

impl Speaker {
    /// A statistics report for each session (RFC 7854 section 4.8).
    #[must_use]
    pub fn bmp_statistics(&self, now: Instant) -> Vec<u8> {
        let time = self.wall(now);
        self.sessions().flat_map(|(peer, connection)| statistics(peer, connection, time)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_and_after_the_clock_was_read_are_told() {
        let instant = Instant::now() + Duration::from_secs(100);
        let clock = Clock { instant, since_1970: Duration::from_secs(1000) };
        assert_eq!(clock.of(instant + Duration::from_millis(1500)), Duration::from_millis(1_001_500));
        assert_eq!(clock.of(instant - Duration::from_secs(50)), Duration::from_secs(950));
    }

    #[test]
    fn the_first_and_the_last_message() {
        assert_eq!(initiation("h1", "x"), [3, 0, 0, 0, 17, 4, 0, 1, 0, 1, b'x', 0, 2, 0, 2, b'h', b'1']);
        assert_eq!(termination(), [3, 0, 0, 0, 12, 5, 0, 1, 0, 2, 0, 0]);
    }
}

//! Ending the connections that a change of policy denies, and no others.

use super::{
    CTA_IP_V4_DST, CTA_IP_V4_SRC, CTA_IP_V6_DST, CTA_IP_V6_SRC, CTA_TUPLE_IP, CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, Entry,
    GET, NFGENMSG,
};
use crate::Error;
use crate::link::family_number;
use crate::netlink::{Attribute, Attributes, Message, Protocol, Received, Socket};
use lasthop_net::Family;
use lasthop_policy::decide::{Packet, Transport};

const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMP_CODE: u16 = 6;
const CTA_PROTO_ICMPV6_TYPE: u16 = 8;
const CTA_PROTO_ICMPV6_CODE: u16 = 9;

/// A connection, by its first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection {
    /// As it was sent.
    pub sent: Packet,
    /// As policy of workloads sees it: with the destination that it was translated to.
    pub judged: Packet,
}

impl Connection {
    pub(super) fn parse(message: Received<'_>) -> Option<Self> {
        let attributes = message.attributes(NFGENMSG);
        let sent = first_packet(&attributes.get(CTA_TUPLE_ORIG)?.nested())?;
        let answer = first_packet(&attributes.get(CTA_TUPLE_REPLY)?.nested())?;
        let transport = match (sent.transport, answer.transport) {
            (Transport::Ports { protocol, source, .. }, Transport::Ports { source: destination, .. }) => {
                Transport::Ports { protocol, source, destination }
            }
            (transport, _) => transport,
        };
        Some(Self { sent, judged: Packet { source: sent.source, destination: answer.source, transport } })
    }
}

/// The packet that a tuple stands for.
fn first_packet(tuple: &Attributes<'_>) -> Option<Packet> {
    let ip = tuple.get(CTA_TUPLE_IP)?.nested();
    let address = |kinds: [u16; 2]| kinds.into_iter().find_map(|kind| ip.get(kind)).and_then(Attribute::ip);
    let protocol = tuple.get(CTA_TUPLE_PROTO)?.nested();
    let byte = |kind| protocol.get(kind).and_then(Attribute::u8);
    let port = |kind| protocol.get(kind).and_then(Attribute::u16_be);
    let number = byte(CTA_PROTO_NUM)?;
    let transport = match (number, port(CTA_PROTO_SRC_PORT), port(CTA_PROTO_DST_PORT)) {
        (1 | 58, ..) => Transport::Icmp {
            protocol: number,
            kind: byte(CTA_PROTO_ICMP_TYPE).or_else(|| byte(CTA_PROTO_ICMPV6_TYPE))?,
            code: byte(CTA_PROTO_ICMP_CODE).or_else(|| byte(CTA_PROTO_ICMPV6_CODE))?,
        },
        (_, Some(source), Some(destination)) => Transport::of(number, source, destination),
        _ => Transport::Other(number),
    };
    Some(Packet {
        source: address([CTA_IP_V4_SRC, CTA_IP_V6_SRC])?,
        destination: address([CTA_IP_V4_DST, CTA_IP_V6_DST])?,
        transport,
    })
}

/// Deletes every connection that `ends` names, and no other; how many there were. One look at all entries.
///
/// In the calling thread's network namespace.
pub fn delete_where(mut ends: impl FnMut(&Connection) -> bool) -> Result<usize, Error> {
    let mut socket = Socket::open(Protocol::Netfilter)?;
    let mut requests: Vec<Message> = Vec::new();
    for family in Family::ALL {
        let request = Message::new(GET, 0).fixed(&[family_number(family), 0, 0, 0]);
        let replies = socket.dump(&request, "list connections")?;
        let concerned = replies.iter().filter(|message| Connection::parse(*message).is_some_and(|c| ends(&c)));
        requests.extend(concerned.filter_map(Entry::parse).map(|entry| entry.delete()));
    }
    let mut deleted = 0;
    for result in socket.batch(&requests, "delete connections that are denied now") {
        match result {
            Ok(()) => deleted += 1,
            // It ended in the meantime.
            Err(error) if error.is_absent() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netns;
    use std::collections::BTreeSet;
    use std::process::Command;

    struct Gone(String);

    impl Drop for Gone {
        fn drop(&mut self) {
            let _ = netns::delete(&self.0);
        }
    }

    fn packet(source: &str, destination: &str, port: u16) -> Packet {
        let address = |text: &str| text.parse().unwrap();
        Packet { source: address(source), destination: address(destination), transport: Transport::of(17, 9, port) }
    }

    #[test]
    fn exactly_the_connections_named_end() {
        let name = format!("lht{}-revoke", std::process::id());
        let made = netns::create(&name).unwrap();
        let _gone = Gone(name.clone());
        for arguments in [
            "-s 10.65.0.2 -d 10.65.1.2",
            "-s 10.65.0.3 -d 10.65.1.2",
            "-s fd00:65::2 -d fd00:65::9",
            "-s 198.51.100.1 -d 172.31.0.1 -r 10.65.0.2 -q 198.51.100.1 --reply-port-src 5353 --reply-port-dst 9",
        ] {
            let line = format!("conntrack -I -p udp --sport 9 --dport 53 -t 300 {arguments}");
            let output = Command::new("ip").args(["netns", "exec", &name, "sh", "-c", &line]).output().unwrap();
            assert!(output.status.success(), "{line}: {output:?}");
        }
        made.run(|| {
            let all = || {
                let mut seen = BTreeSet::new();
                delete_where(|connection| !seen.insert(*connection)).unwrap();
                seen
            };
            let before = all();
            assert_eq!(before.len(), 4);
            let translated = Connection {
                sent: packet("198.51.100.1", "172.31.0.1", 53),
                judged: packet("198.51.100.1", "10.65.0.2", 5353),
            };
            assert!(before.contains(&translated), "{before:?}");
            let denied = [packet("10.65.0.3", "10.65.1.2", 53), packet("fd00:65::2", "fd00:65::9", 53)];
            let ends = |connection: &Connection| *connection == translated || denied.contains(&connection.judged);
            assert_eq!(delete_where(ends), Ok(3));
            let left = packet("10.65.0.2", "10.65.1.2", 53);
            assert_eq!(all(), BTreeSet::from([Connection { sent: left, judged: left }]));
        })
        .unwrap();
    }
}

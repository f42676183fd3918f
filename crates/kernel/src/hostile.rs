//! Whatever bytes come in place of the kernel's messages, reading them gives something or nothing, and never panics.

use crate::link::{LinkState, Links};
use crate::neighbours;
use crate::netlink::{Message, Received, Replies};
use crate::routes::RouteEntry;
use proptest::prelude::*;

/// A datagram with one message of this type around some bytes.
fn datagram(kind: u16, payload: &[u8]) -> Replies {
    let mut bytes = u32::try_from(16 + payload.len()).unwrap().to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&[0; 10]);
    bytes.extend_from_slice(payload);
    let mut replies = Replies::default();
    replies.parse(&bytes);
    replies
}

/// Bytes that look like a fixed part and attributes, with lengths that may lie.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let family = prop_oneof![Just(0u8), Just(2), Just(10), Just(7), any::<u8>()];
    let fixed = proptest::collection::vec(any::<u8>(), 0..20);
    let attribute = (0u16..40, 0u16..40, proptest::collection::vec(any::<u8>(), 0..24));
    (family, fixed, proptest::collection::vec(attribute, 0..8)).prop_map(|(family, fixed, attributes)| {
        let mut bytes = vec![family];
        bytes.extend(fixed);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        for (kind, lie, value) in attributes {
            let length = if lie < 30 { 4 + value.len() as u16 } else { lie };
            bytes.extend_from_slice(&length.to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    })
}

fn read_as_anything(message: Received<'_>) {
    let mut links = Links::default();
    let _ = LinkState::parse(message);
    let _ = links.observe(message);
    let _ = RouteEntry::parse(message).map(|entry| crate::routes::OwnRoute::of(&entry));
    let _ = crate::routes::parse_next_hop(message);
    let _ = neighbours::Entry::parse(message);
    let _ = crate::settings::parse_netconf(message);
    let _ = crate::conntrack::parse(message);
    let _ = crate::bpf::touched_link(message);
}

proptest! {
    #[test]
    fn no_message_makes_reading_panic(kind: u16, route in 16u16..108, payload in payload(), noise: Vec<u8>) {
        for payload in [&payload, &noise] {
            for kind in [kind, route] {
                datagram(kind, payload).iter().for_each(read_as_anything);
            }
        }
    }

    #[test]
    fn a_spoilt_route_is_read_or_refused(at in 0usize..80, byte: u8) {
        let mut message = Message::new(libc::RTM_NEWROUTE, 0).fixed(&[2, 32, 0, 0, 254, 76, 253, 1, 0, 0, 0, 0]);
        message.put_ip(libc::RTA_DST, [10, 65, 0, 2].into()).put_u32(libc::RTA_OIF, 7).put_u32(libc::RTA_PRIORITY, 5);
        message.nest(libc::RTA_MULTIPATH, |m| {
            m.put_fixed(&[8, 0, 0, 0, 3, 0, 0, 0]).put_fixed(&[8, 0, 0, 0, 4, 0, 0, 0]);
        });
        let mut bytes = message.payload().to_vec();
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        datagram(libc::RTM_NEWROUTE, &bytes).iter().for_each(read_as_anything);
    }
}

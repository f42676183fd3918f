use super::*;
use nix::errno::Errno;
use proptest::prelude::*;
use std::net::IpAddr;

const RTM_GETLINK: u16 = libc::RTM_GETLINK;
const RTM_DELLINK: u16 = libc::RTM_DELLINK;
const IFLA_IFNAME: u16 = libc::IFLA_IFNAME;

fn link_request(kind: u16, name: &str) -> Message {
    let mut message = Message::new(kind, 0).fixed(&[0; 16]);
    message.put_str(IFLA_IFNAME, name);
    message
}

#[test]
fn what_was_put_is_read() {
    let v4: IpAddr = "10.65.0.1".parse().unwrap();
    let v6: IpAddr = "fd00::1".parse().unwrap();
    let mut message = Message::new(7, 0).fixed(&[9; 6]);
    message.put_u8(1, 5).put_u16_be(2, 6).put_u32(3, 7).put_str(4, "abc").put_ip(5, v4).put_ip(6, v6).put_flag(7);
    message.nest(8, |m| {
        m.put_u64_be(1, 8).nest(2, |m| {
            m.put_u32_be(1, 9);
        });
    });
    let attributes = Attributes::after(message.payload(), 6);
    let find = |kind| attributes.get(kind).unwrap();
    assert_eq!(find(1).u8(), Some(5));
    assert_eq!(find(2).u16_be(), Some(6));
    assert_eq!(find(3).u32(), Some(7));
    assert_eq!(find(4).str(), Some("abc"));
    assert_eq!(find(5).ip(), Some(v4));
    assert_eq!(find(6).ip(), Some(v6));
    assert_eq!(find(7).payload, b"");
    let nested = find(8).nested();
    assert_eq!(nested.get(1).unwrap().u64_be(), Some(8));
    assert_eq!(nested.get(2).unwrap().nested().get(1).unwrap().u32_be(), Some(9));
    assert_eq!(find(1).u32(), None, "a payload of another length is not read");
    assert_eq!(message.payload().len() % 4, 0);
}

#[test]
fn a_request_is_answered_and_a_refusal_says_why() {
    let mut socket = Socket::open(Protocol::Route).unwrap();
    let replies = socket.request(&link_request(RTM_GETLINK, "lo"), "look at lo").unwrap();
    let lo = replies.iter().next().unwrap();
    assert_eq!(lo.attributes(16).get(IFLA_IFNAME).unwrap().str(), Some("lo"));
    let error = socket.request(&link_request(RTM_DELLINK, "lht-none"), "delete link lht-none").unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ENODEV));
    assert!(error.to_string().starts_with("delete link lht-none: "), "{error}");
    // A link index that cannot be: the kernel adds an explanation.
    let mut route =
        Message::new(libc::RTM_NEWROUTE, libc::NLM_F_CREATE as u16).fixed(&[2, 99, 0, 0, 254, 0, 0, 0, 0, 0, 0, 0]);
    route.put_ip(1, "10.0.0.1".parse().unwrap());
    let error = socket.request(&route, "add a bad route").unwrap_err();
    assert!(error.to_string().contains("Invalid prefix length"), "{error}");
}

#[test]
fn a_batch_matches_refusals_to_messages() {
    let mut socket = Socket::open(Protocol::Route).unwrap();
    let messages: Vec<Message> =
        (0..600).map(|i| link_request(RTM_GETLINK, if i % 7 == 3 { "lht-none" } else { "lo" })).collect();
    let results = socket.batch(&messages, "look");
    assert_eq!(results.len(), 600);
    for (index, result) in results.iter().enumerate() {
        assert_eq!(result.is_err(), index % 7 == 3, "{index}: {result:?}");
    }
    assert!(socket.batch(&[], "nothing").is_empty());
}

#[test]
fn a_dump_has_every_link() {
    let mut socket = Socket::open(Protocol::Route).unwrap();
    let replies = socket.dump(&Message::new(RTM_GETLINK, 0).fixed(&[0; 16]), "list links").unwrap();
    let names: Vec<&str> = replies.iter().filter_map(|m| m.attributes(16).get(IFLA_IFNAME)?.str()).collect();
    assert!(names.contains(&"lo"), "{names:?}");
    assert!(socket.receive().unwrap().is_empty());
}

#[test]
fn a_refused_transaction_names_the_message() {
    let mut socket = Socket::open(Protocol::Netfilter).unwrap();
    // NFT_MSG_DELTABLE (2) of a table that is not there, second of two; the first is a harmless NFT_MSG_GETGEN-like no-op.
    let mut delete = Message::new(10 << 8 | 2, 0).fixed(&[1, 0, 0, 0]);
    delete.put_str(1, "lht-none");
    let refused = socket.transaction(&[delete.clone(), delete], None).unwrap_err();
    assert_eq!(
        refused.iter().map(|(i, r)| (*i, r.errno)).collect::<Vec<_>>(),
        [(0, Errno::ENOENT), (1, Errno::ENOENT)]
    );
    assert!(socket.transaction(&[], None).unwrap().is_empty());
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), fixed in 0usize..40) {
        let mut replies = Replies::default();
        replies.parse(&bytes);
        replies.parse(&bytes);
        for message in replies.iter() {
            for attribute in message.attributes(fixed) {
                let _ = (attribute.u8(), attribute.u16_be(), attribute.u32(), attribute.u64_be(), attribute.str(), attribute.ip());
                prop_assert!(attribute.nested().count() <= bytes.len());
            }
        }
        let covered: usize = Attributes::after(&bytes, fixed).map(|a| a.payload.len() + 4).sum();
        prop_assert!(covered <= bytes.len());
    }

    #[test]
    fn a_length_that_lies_ends_the_reading(length: u16, kind: u16, rest in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&rest);
        let fits = (4..=bytes.len()).contains(&usize::from(length));
        prop_assert_eq!(Attributes::after(&bytes, 0).next().is_some(), fits);
    }
}

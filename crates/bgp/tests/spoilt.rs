//! A whole speaker under spoilt messages: it never panics, what it says stays well-formed, other peers never notice, and a
//! good route is accepted afterwards.

#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it must be")]

mod common;

use common::dice::Dice;
use common::prefix;
use common::raw::{Bench, RawOpen, attribute, hex, message, update};
use lasthop_bgp::{ConnId, Input, Origin, PeerState};

const SPOILER: [u8; 4] = [10, 99, 1, 2];
const WITNESS: [u8; 4] = [10, 99, 1, 3];

fn open(internal: bool) -> RawOpen {
    let mut open = RawOpen::new(if internal { 65000 } else { 65001 }, [192, 0, 2, 100]);
    // With graceful restart, so that lost connections leave stale routes behind.
    let capabilities = [&open.parameters[3..], &hex("400a003c0001018000020180")[..]].concat();
    open.parameters = common::raw::parameters(&capabilities);
    open
}

fn good(internal: bool, last: usize) -> Vec<u8> {
    let path = if internal { Vec::new() } else { hex("0201 0000fde9") };
    let mut out = [attribute(0x40, 1, &[0]), attribute(0x40, 2, &path), attribute(0x40, 3, &SPOILER)].concat();
    out.extend(attribute(0x40, 5, &[0, 0, 0, 100]));
    out.extend(attribute(0xc0, 8, &hex("fde90001fde90002")));
    let reach = hex("0002 01 10 fd990000000000000000000000000002 00 40 fd65000000000000 40 fd66000000000000");
    match last % 3 {
        0 => out.extend(attribute(0x80, 14, &reach)),
        1 => out.extend(attribute(0x80, 15, &hex("000201 40fd65000000000000"))),
        _ => {}
    }
    let last = u8::try_from(last % 32).unwrap();
    update(&[32, 203, 0, 113, last ^ 1], &out, &[32, 203, 0, 113, last, 24, 198, 51, last])
}

fn spoil(message: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..dice.roll(3) {
        let at = 19 + dice.roll(message.len() - 18);
        match dice.roll(4) {
            0 if at < message.len() => message[at] ^= 1 << dice.roll(8),
            1 if at < message.len() => message[at] = [0, 1, 4, 24, 0x40, 0x80, 0xff][dice.roll(7)],
            2 if message.len() < 4000 => message.insert(at.min(message.len()), u8::try_from(dice.roll(256)).unwrap()),
            _ if at < message.len() => drop(message.remove(at)),
            _ => {}
        }
        message.resize(message.len().max(19), 0);
    }
    if dice.roll(50) != 0 {
        let len = u16::try_from(message.len()).unwrap().to_be_bytes();
        message[16..18].copy_from_slice(&len);
    }
}

fn ensure_up(bench: &mut Bench, conn: &mut ConnId, internal: bool) {
    if bench.speaker.peers()[0].state != PeerState::Established {
        *conn = bench.connect(SPOILER, &open(internal));
    }
}

#[test]
fn forty_thousand_spoilt_messages_harm_nobody_but_their_sender() {
    for internal in [false, true] {
        let mut dice = Dice(0x0ddb_a115);
        let mut bench = Bench::two_peers(internal);
        bench.with(|speaker, now| speaker.advertise(now, prefix("10.65.0.24/32"), Origin::default()));
        let witness = bench.connect(WITNESS, &RawOpen::new(if internal { 65000 } else { 65002 }, [192, 0, 2, 200]));
        let mut conn = ConnId(0);
        let (mut resets, mut sent) = (0, 0);
        for round in 0..20_000 {
            let before = bench.seen.len();
            ensure_up(&mut bench, &mut conn, internal);
            resets += bench.seen.len() - before;
            let mut spoilt = match dice.roll(40) {
                0 => message(5, &[0, 1, 0, 1]),
                1 => open(internal).bytes(),
                2 => update(&[], &[], &[]),
                _ => good(internal, round),
            };
            spoil(&mut spoilt, &mut dice);
            bench.send(conn, &spoilt);
            sent += 1;
            if dice.roll(200) == 0 {
                bench.input(Input::Closed { conn, reason: "reset".to_owned() });
            }
            if bench.seen.len() > 50 {
                bench.seen.retain(|id, _| *id == witness || *id == conn);
            }
            for seen in bench.seen.values_mut() {
                seen.messages.retain(|(kind, _)| *kind == 3);
            }
        }
        assert!(resets > 50 && resets < sent / 2, "{resets} sessions for {sent} messages: too few or too many");
        assert_eq!(bench.speaker.peers()[1].state, PeerState::Established);
        assert!(!bench.seen[&witness].closed);
        ensure_up(&mut bench, &mut conn, internal);
        bench.send(conn, &good(internal, 3));
        assert!(bench.seen[&witness].routes.contains_key(&prefix("203.0.113.3/32")));
        // With the peer gone for good nothing of it is left.
        bench.with(|speaker, now| speaker.remove_peer(now, SPOILER.into()));
        assert!(bench.learned.is_empty());
        assert_eq!(bench.seen[&witness].routes.len(), 1);
        assert_eq!(bench.speaker.paths(None).len(), 1);
    }
}

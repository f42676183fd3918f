//! The ARP and ND responder: the host's MAC is the answer to whatever a workload resolves.
//!
//! Why a program of our own at the ingress of every workload link: the kernel's `proxy_arp` answers only for
//! addresses that it has a route to by another link (arp_process, net/ipv4/arp.c), `proxy_ndp` only for addresses
//! listed one by one (ndisc_recv_ns, net/ipv6/ndisc.c). Both let the workload write into the host's neighbour table.
//! The program needs no route, holds the link's own addresses only, and stays when the agent is gone.
//!
//! "Own" is an address of the workload; a sender may also lie in a prefix that it is allowed to send from.
//!
//! | from the workload | what becomes of it |
//! |---|---|
//! | ARP request (RFC 826), sender own, target not own | turned into the reply |
//! | ARP request otherwise: probe, announcement, foreign sender | dropped |
//! | ARP reply, sender own | on to the host |
//! | NS (RFC 4861 section 7.2) from an own or link-local address, target not own | turned into the NA |
//! | NS from no address (duplicate address detection) | on to the host, which answers for its own address only |
//! | NA with an own or link-local source and target | on to the host |
//! | other NS and NA, RS, RA, redirect | dropped |
//! | other IPv6 | on to the host |
//! | frames with an 802.1Q or 802.1ad tag, whatever is in them | dropped |
//! | IPv4 and whatever else there is | not shown to the program ([`super::Responders`]) |
//!
//! Most IPv6 packets are none of these: the first test is one byte, read without a call.

use super::asm::{Alu, Assembler, AssemblyError, Helper, Insn, Label, Reg, Size, When};
use lasthop_net::{Mac, Prefix};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::Range;

/// Verdicts of a classifier that acts by itself (include/uapi/linux/pkt_cls.h).
const UNSPEC: i32 = -1;
const SHOT: i32 = 2;

/// Fields of `struct __sk_buff`.
const PROTOCOL: i16 = 16;
const VLAN_PRESENT: i16 = 20;
const IFINDEX: i16 = 40;
const DATA: i16 = 76;
const DATA_END: i16 = 80;

/// `BPF_F_RECOMPUTE_CSUM`.
const RECOMPUTE: i32 = 1;

/// Two bytes of a frame as a load from memory gives them.
const fn half(bytes: [u8; 2]) -> i32 {
    u16::from_ne_bytes(bytes) as i32
}

const fn word(bytes: [u8; 4]) -> i32 {
    i32::from_ne_bytes(bytes)
}

/// The program for a link whose host side has `host_mac` and whose workload may send from `sources`: its own addresses
/// are those that are single.
pub fn program(host_mac: Mac, sources: &BTreeSet<Prefix>) -> Result<Vec<Insn>, AssemblyError> {
    let mut asm = Assembler::new();
    let a = &mut asm;
    let ends = Ends { pass: a.label(), drop: a.label(), redirect: a.label() };
    let (arp, v6) = (a.label(), a.label());
    a.load(Size::W, Reg::R2, Reg::R1, VLAN_PRESENT).jump_if(When::Ne, Reg::R2, 0, ends.drop);
    a.load(Size::W, Reg::R2, Reg::R1, PROTOCOL);
    a.copy(Reg::R6, Reg::R1);
    a.jump_if(When::Eq, Reg::R2, half([0x86, 0xdd]), v6).jump_if(When::Eq, Reg::R2, half([0x08, 0x06]), arp);
    a.jump(ends.drop);
    a.bind(arp);
    answer_arp(a, host_mac, &v4_matches(sources), &ends);
    a.bind(v6);
    answer_nd(a, host_mac, &v6_matches(sources), &ends);
    a.bind(ends.redirect);
    a.load(Size::W, Reg::R1, Reg::R6, IFINDEX).set(Reg::R2, 0).call(Helper::Redirect).exit();
    a.bind(ends.drop).finish(SHOT);
    a.bind(ends.pass).finish(UNSPEC);
    asm.assemble()
}

/// `address & mask == value`, in halves as a load from memory gives them; IPv4 has the first only.
#[derive(Clone, Copy)]
struct Match {
    value: [u64; 2],
    mask: [u64; 2],
    /// Whether this is one address.
    single: bool,
}

fn v4_matches(sources: &BTreeSet<Prefix>) -> Vec<Match> {
    let matches = sources.iter().filter_map(|prefix| {
        let IpAddr::V4(address) = prefix.address() else { return None };
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.len())).unwrap_or(0).to_be_bytes();
        let [value, mask] = [address.octets(), mask].map(|bytes| u64::from(u32::from_ne_bytes(bytes)));
        Some(Match { value: [value, 0], mask: [mask, 0], single: prefix.is_host() })
    });
    matches.collect()
}

fn v6_matches(sources: &BTreeSet<Prefix>) -> Vec<Match> {
    let halves = |octets: [u8; 16]| [0, 8].map(|at| u64::from_ne_bytes(std::array::from_fn(|i| octets[at + i])));
    let matches = sources.iter().filter_map(|prefix| {
        let IpAddr::V6(address) = prefix.address() else { return None };
        let mask = u128::MAX.checked_shl(128 - u32::from(prefix.len())).unwrap_or(0).to_be_bytes();
        Some(Match { value: halves(address.octets()), mask: halves(mask), single: prefix.is_host() })
    });
    matches.collect()
}

/// How a packet ends.
struct Ends {
    pass: Label,
    drop: Label,
    /// Out by the link it came in by.
    redirect: Label,
}

/// `stack[to..] = frame[bytes]`; drops frames that are shorter.
fn fetch(a: &mut Assembler, bytes: Range<i32>, to: i16, ends: &Ends) {
    a.copy(Reg::R1, Reg::R6).set(Reg::R2, bytes.start).copy(Reg::R3, Reg::Frame).alu(Alu::Add, Reg::R3, i32::from(to));
    a.set(Reg::R4, bytes.end - bytes.start).call(Helper::LoadBytes).jump_if(When::Ne, Reg::R0, 0, ends.drop);
}

/// `frame[0..len] = stack[from..]`.
fn put_back(a: &mut Assembler, from: i16, len: i32, ends: &Ends) {
    a.copy(Reg::R1, Reg::R6).set(Reg::R2, 0).copy(Reg::R3, Reg::Frame).alu(Alu::Add, Reg::R3, i32::from(from));
    a.set(Reg::R4, len).set(Reg::R5, RECOMPUTE).call(Helper::StoreBytes).jump_if(When::Ne, Reg::R0, 0, ends.drop);
}

/// A MAC address on the stack, at an even offset.
fn store_mac(a: &mut Assembler, at: i16, mac: Mac) {
    let [b0, b1, b2, b3, b4, b5] = mac.0;
    a.store_value(Size::H, Reg::Frame, at, half([b0, b1]));
    a.store_value(Size::H, Reg::Frame, at + 2, half([b2, b3]));
    a.store_value(Size::H, Reg::Frame, at + 4, half([b4, b5]));
}

/// Where the parts of the reply lie on the stack: 42 bytes of Ethernet header and ARP.
mod arp_reply {
    pub(super) const AT: i16 = -48;
    pub(super) const SOURCE: i16 = AT + 6;
    pub(super) const TYPE_AND_HARDWARE: i16 = AT + 12;
    pub(super) const PROTOCOL_AND_LENGTHS: i16 = AT + 16;
    pub(super) const OPERATION: i16 = AT + 20;
    pub(super) const SENDER_MAC: i16 = AT + 22;
    pub(super) const SENDER: i16 = AT + 28;
    pub(super) const TARGET_MAC: i16 = AT + 32;
    pub(super) const TARGET: i16 = AT + 38;
    pub(super) const LEN: i32 = 42;
    /// Room for the request's fixed fields, sender and target.
    pub(super) const REQUEST: i16 = -64;
    pub(super) const REQUEST_SENDER: i16 = -56;
    pub(super) const REQUEST_TARGET: i16 = -52;
}

/// Jumps if the IPv4 address in a register is among `sources`.
fn jump_if_v4(a: &mut Assembler, address: Reg, sources: &[Match], to: Label) {
    for source in sources {
        let [value, mask] = [source.value[0], source.mask[0]].map(|bits| (bits as u32).cast_signed());
        a.copy(Reg::R1, address).alu(Alu::And, Reg::R1, mask).jump_if(When::Eq, Reg::R1, value, to);
    }
}

fn answer_arp(a: &mut Assembler, host_mac: Mac, sources: &[Match], ends: &Ends) {
    use arp_reply as r;
    let (sender, target) = (Reg::R7, Reg::R8);
    let (request, from_own) = (a.label(), a.label());
    fetch(a, 14..22, r::REQUEST, ends);
    fetch(a, 28..32, r::REQUEST_SENDER, ends);
    fetch(a, 38..42, r::REQUEST_TARGET, ends);
    // Ethernet, IPv4; lengths 6 and 4.
    a.load(Size::W, Reg::R1, Reg::Frame, r::REQUEST);
    a.jump_if(When::Ne, Reg::R1, word([0x00, 0x01, 0x08, 0x00]), ends.drop);
    a.load(Size::W, Reg::R1, Reg::Frame, r::REQUEST + 4);
    a.load(Size::W, sender, Reg::Frame, r::REQUEST_SENDER);
    a.load(Size::W, target, Reg::Frame, r::REQUEST_TARGET);
    a.jump_if(When::Eq, Reg::R1, word([6, 4, 0, 1]), request);
    a.jump_if(When::Ne, Reg::R1, word([6, 4, 0, 2]), ends.drop);
    jump_if_v4(a, sender, sources, ends.pass);
    a.jump(ends.drop);
    a.bind(request);
    let own: Vec<Match> = sources.iter().filter(|source| source.single).copied().collect();
    jump_if_v4(a, target, &own, ends.drop);
    a.jump_if(When::Eq, sender, 0, ends.drop);
    jump_if_v4(a, sender, sources, from_own);
    a.jump(ends.drop);
    a.bind(from_own);
    fetch(a, 6..12, r::AT, ends);
    store_mac(a, r::SOURCE, host_mac);
    a.store_value(Size::W, Reg::Frame, r::TYPE_AND_HARDWARE, word([0x08, 0x06, 0x00, 0x01]));
    a.store_value(Size::W, Reg::Frame, r::PROTOCOL_AND_LENGTHS, word([0x08, 0x00, 6, 4]));
    a.store_value(Size::H, Reg::Frame, r::OPERATION, half([0, 2]));
    store_mac(a, r::SENDER_MAC, host_mac);
    a.store(Size::W, Reg::Frame, r::SENDER, target);
    fetch(a, 22..28, r::TARGET_MAC, ends);
    fetch(a, 28..32, r::TARGET, ends);
    put_back(a, r::AT, r::LEN, ends);
    a.jump(ends.redirect);
}

/// Where the parts of the advertisement lie on the stack: 86 bytes of Ethernet, IPv6 and ICMPv6 with one option.
mod advertisement {
    pub(super) const AT: i16 = -102;
    pub(super) const MAC_SOURCE: i16 = AT + 6;
    pub(super) const TYPE: i16 = AT + 12;
    /// Version, class, flow label; length; next header; hop limit.
    pub(super) const IP: i16 = AT + 14;
    pub(super) const SOURCE: i16 = IP + 8;
    pub(super) const DESTINATION: i16 = IP + 24;
    pub(super) const ICMP: i16 = IP + 40;
    pub(super) const CHECKSUM: i16 = ICMP + 2;
    pub(super) const FLAGS: i16 = ICMP + 4;
    pub(super) const TARGET: i16 = ICMP + 8;
    pub(super) const OPTION: i16 = ICMP + 24;
    pub(super) const ICMP_LEN: u8 = 32;
    pub(super) const LEN: i32 = 86;
    /// Room for the first eight bytes of the solicitation's IPv6 header, and of its ICMPv6 header.
    pub(super) const REQUEST: i16 = -112;
    pub(super) const REQUEST_ICMP: i16 = -120;
}

/// Lets an IPv6 packet pass whose next header is not ICMPv6, if its header lies where it can be read at once.
fn skip_other_headers(a: &mut Assembler, ends: &Ends) {
    const NEXT_HEADER: i16 = 14 + 6;
    let elsewhere = a.label();
    a.load(Size::W, Reg::R2, Reg::R6, DATA).load(Size::W, Reg::R3, Reg::R6, DATA_END);
    a.copy(Reg::R4, Reg::R2).alu(Alu::Add, Reg::R4, i32::from(NEXT_HEADER) + 1);
    a.jump_if_reg(When::Gt, Reg::R4, Reg::R3, elsewhere);
    a.load(Size::B, Reg::R1, Reg::R2, NEXT_HEADER).jump_if(When::Ne, Reg::R1, 58, ends.pass);
    a.bind(elsewhere);
}

fn answer_nd(a: &mut Assembler, host_mac: Mac, sources: &[Match], ends: &Ends) {
    use advertisement as r;
    let own: Vec<Match> = sources.iter().filter(|source| source.single).copied().collect();
    skip_other_headers(a, ends);
    fetch(a, 14..22, r::REQUEST, ends);
    a.load(Size::B, Reg::R1, Reg::Frame, r::REQUEST + 6).jump_if(When::Ne, Reg::R1, 58, ends.pass);
    fetch(a, 54..58, r::REQUEST_ICMP, ends);
    a.load(Size::B, Reg::R7, Reg::Frame, r::REQUEST_ICMP);
    let (solicitation, advertisement, from_ok) = (a.label(), a.label(), a.label());
    a.jump_if(When::Eq, Reg::R7, 135, solicitation).jump_if(When::Eq, Reg::R7, 136, advertisement);
    for kind in [133, 134, 137] {
        a.jump_if(When::Eq, Reg::R7, kind, ends.drop);
    }
    a.jump(ends.pass);

    a.bind(advertisement);
    fetch(a, 22..38, r::DESTINATION, ends);
    fetch(a, 62..78, r::TARGET, ends);
    let target_next = a.label();
    jump_if_ours(a, r::DESTINATION, sources, target_next);
    a.jump(ends.drop);
    a.bind(target_next);
    jump_if_ours(a, r::TARGET, sources, ends.pass);
    a.jump(ends.drop);

    a.bind(solicitation);
    // Hop limit 255, code 0.
    a.load(Size::B, Reg::R1, Reg::Frame, r::REQUEST + 7).jump_if(When::Ne, Reg::R1, 255, ends.drop);
    a.load(Size::B, Reg::R1, Reg::Frame, r::REQUEST_ICMP + 1).jump_if(When::Ne, Reg::R1, 0, ends.drop);
    fetch(a, 62..78, r::TARGET, ends);
    fetch(a, 22..38, r::DESTINATION, ends);
    a.load(Size::D, Reg::R7, Reg::Frame, r::DESTINATION).load(Size::D, Reg::R8, Reg::Frame, r::DESTINATION + 8);
    a.copy(Reg::R1, Reg::R7).alu_reg(Alu::Or, Reg::R1, Reg::R8).set(Reg::R2, 0);
    a.jump_if_reg(When::Eq, Reg::R1, Reg::R2, ends.pass);
    jump_if_ours(a, r::DESTINATION, sources, from_ok);
    a.jump(ends.drop);
    a.bind(from_ok);
    jump_if_v6(a, r::TARGET, &own, ends.drop);
    a.load(Size::B, Reg::R1, Reg::Frame, r::TARGET).jump_if(When::Eq, Reg::R1, 0xff, ends.drop);
    write_advertisement(a, host_mac, ends);
    a.jump(ends.redirect);
}

/// Jumps if the IPv6 address on the stack is among `sources`. Leaves its halves in R7 and R8.
fn jump_if_v6(a: &mut Assembler, at: i16, sources: &[Match], to: Label) {
    a.load(Size::D, Reg::R7, Reg::Frame, at).load(Size::D, Reg::R8, Reg::Frame, at + 8);
    for source in sources {
        let next = a.label();
        for (half, (value, mask)) in [Reg::R7, Reg::R8].into_iter().zip(source.value.into_iter().zip(source.mask)) {
            if mask != 0 {
                a.set_wide(Reg::R1, mask).alu_reg(Alu::And, Reg::R1, half);
                a.set_wide(Reg::R2, value).jump_if_reg(When::Ne, Reg::R1, Reg::R2, next);
            }
        }
        // Conditional in form only, because the verifier refuses what nothing leads to, such as what is behind ::/0.
        a.set(Reg::R1, 0).jump_if(When::Eq, Reg::R1, 0, to).bind(next);
    }
}

/// Jumps if the IPv6 address on the stack is among `sources` or link-local.
fn jump_if_ours(a: &mut Assembler, at: i16, sources: &[Match], to: Label) {
    jump_if_v6(a, at, sources, to);
    a.load(Size::H, Reg::R1, Reg::Frame, at).alu(Alu::And, Reg::R1, half([0xff, 0xc0]));
    a.jump_if(When::Eq, Reg::R1, half([0xfe, 0x80]), to);
}

/// Turns the solicitation, whose source and target are in place on the stack, into the advertisement.
fn write_advertisement(a: &mut Assembler, host_mac: Mac, ends: &Ends) {
    use advertisement as r;
    fetch(a, 6..12, r::AT, ends);
    store_mac(a, r::MAC_SOURCE, host_mac);
    a.store_value(Size::H, Reg::Frame, r::TYPE, half([0x86, 0xdd]));
    a.store_value(Size::W, Reg::Frame, r::IP, word([0x60, 0, 0, 0]));
    a.store_value(Size::W, Reg::Frame, r::IP + 4, word([0, r::ICMP_LEN, 58, 255]));
    for (offset, half) in [(0, Reg::R7), (8, Reg::R8)] {
        a.load(Size::D, half, Reg::Frame, r::TARGET + offset);
        a.store(Size::D, Reg::Frame, r::SOURCE + offset, half);
    }
    a.store_value(Size::W, Reg::Frame, r::ICMP, word([136, 0, 0, 0]));
    // Router, solicited, override.
    a.store_value(Size::W, Reg::Frame, r::FLAGS, word([0xe0, 0, 0, 0]));
    // Target link-layer address, one unit of eight bytes.
    a.store_value(Size::H, Reg::Frame, r::OPTION, half([2, 1]));
    store_mac(a, r::OPTION + 2, host_mac);
    // Addresses and message in one go; the rest of the pseudo header (RFC 8200 section 8.1) is the seed.
    let seed = half([0, r::ICMP_LEN]) + half([0, 58]);
    a.set(Reg::R1, 0).set(Reg::R2, 0).copy(Reg::R3, Reg::Frame).alu(Alu::Add, Reg::R3, i32::from(r::SOURCE));
    a.set(Reg::R4, 32 + i32::from(r::ICMP_LEN)).set(Reg::R5, seed).call(Helper::ChecksumDiff);
    for _ in 0..2 {
        a.copy(Reg::R1, Reg::R0).alu(Alu::ShiftRight, Reg::R1, 16);
        a.alu(Alu::And, Reg::R0, 0xffff).alu_reg(Alu::Add, Reg::R0, Reg::R1);
    }
    a.alu(Alu::Xor, Reg::R0, 0xffff).store(Size::H, Reg::Frame, r::CHECKSUM, Reg::R0);
    a.copy(Reg::R1, Reg::R6).set(Reg::R2, r::LEN).set(Reg::R3, 0).call(Helper::ChangeTail);
    a.jump_if(When::Ne, Reg::R0, 0, ends.drop);
    put_back(a, r::AT, r::LEN, ends);
}

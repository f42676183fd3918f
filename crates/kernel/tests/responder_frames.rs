//! The responder, frame by frame, in the kernel but on no link.

use lasthop_kernel::bpf::responder::program;
use lasthop_kernel::bpf::sys::Program;
use lasthop_net::{Mac, Prefix};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

const HOST: Mac = Mac([0xee; 6]);
const GUEST: [u8; 6] = [0x02, 0, 0, 0, 0, 0x18];
const PASS: i32 = -1;
const DROP: i32 = 2;
const REDIRECT: i32 = 7;

fn responder() -> Program {
    let own = ["10.65.0.2", "10.65.9.9", "fd00:65::2", "fd00:65::99", "192.0.2.0/25", "2001:db8:7::/63"];
    let own: BTreeSet<Prefix> = own.map(|text| text.parse().expect("a prefix")).into();
    Program::load("lasthop_test", &program(HOST, &own).expect("complete")).expect("run as root")
}

fn ethernet(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(GUEST);
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

fn arp(operation: u16, sender: &str, target: &str) -> Vec<u8> {
    let octets = |text: &str| text.parse::<Ipv4Addr>().expect("an address").octets();
    let mut payload = vec![0, 1, 8, 0, 6, 4];
    payload.extend(operation.to_be_bytes());
    payload.extend(GUEST);
    payload.extend(octets(sender));
    payload.extend([0; 6]);
    payload.extend(octets(target));
    ethernet(0x0806, &payload)
}

fn checksum(source: Ipv6Addr, destination: Ipv6Addr, icmp: &[u8]) -> u16 {
    let mut bytes = [source.octets(), destination.octets()].concat();
    bytes.extend((icmp.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, 58]);
    bytes.extend(icmp);
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// ICMPv6 with four bytes of flags, a target and options.
fn icmp6(kind: u8, hop_limit: u8, (source, target): (&str, &str), options: &[u8]) -> Vec<u8> {
    let source: Ipv6Addr = source.parse().expect("an address");
    let target: Ipv6Addr = target.parse().expect("an address");
    let destination: Ipv6Addr = "ff02::1:ff00:1".parse().expect("an address");
    let mut icmp = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend(target.octets());
    icmp.extend(options);
    let sum = checksum(source, destination, &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut payload = vec![0x60, 0, 0, 0];
    payload.extend((icmp.len() as u16).to_be_bytes());
    payload.extend([58, hop_limit]);
    payload.extend(source.octets());
    payload.extend(destination.octets());
    payload.extend(icmp);
    ethernet(0x86dd, &payload)
}

fn link_address() -> Vec<u8> {
    [&[1, 1], GUEST.as_slice()].concat()
}

#[test]
fn each_frame_meets_its_verdict() {
    let responder = responder();
    let ns = |source, target| icmp6(135, 255, (source, target), &link_address());
    let na = |source, target| icmp6(136, 255, (source, target), &link_address());
    let own = "fd00:65::2";
    let guest = "fe80::18";
    for (what, frame, verdict) in [
        ("request for the gateway", arp(1, "10.65.0.2", "169.254.1.1"), REDIRECT),
        ("request from the other own address", arp(1, "10.65.9.9", "8.8.8.8"), REDIRECT),
        ("request from an allowed prefix", arp(1, "192.0.2.127", "192.0.2.1"), REDIRECT),
        ("request from beside it", arp(1, "192.0.2.128", "169.254.1.1"), DROP),
        ("reply from an allowed prefix", arp(2, "192.0.2.5", "172.31.0.1"), PASS),
        ("solicitation from an allowed prefix", ns("2001:db8:7:1::9", "2001:db8:7::1"), REDIRECT),
        ("solicitation from beside it", ns("2001:db8:7:2::9", "2001:db8:7::1"), DROP),
        ("request for the own address", arp(1, "10.65.0.2", "10.65.0.2"), DROP),
        ("request for the other own address", arp(1, "10.65.0.2", "10.65.9.9"), DROP),
        ("probe", arp(1, "0.0.0.0", "10.65.0.2"), DROP),
        ("probe for a foreign address", arp(1, "0.0.0.0", "10.65.0.3"), DROP),
        ("foreign announcement", arp(1, "10.65.0.3", "10.65.0.3"), DROP),
        ("foreign sender", arp(1, "10.65.0.3", "169.254.1.1"), DROP),
        ("reply", arp(2, "10.65.0.2", "172.31.0.1"), PASS),
        ("foreign reply", arp(2, "10.65.0.3", "10.65.0.3"), DROP),
        ("RARP", arp(3, "10.65.0.2", "10.65.0.2"), DROP),
        ("short ARP", arp(1, "10.65.0.2", "169.254.1.1")[..40].to_vec(), DROP),
        ("solicitation of the gateway", ns(guest, "fe80::ecee:eeff:feee:eeee"), REDIRECT),
        ("solicitation of a global address", ns(own, "2001:db8::1"), REDIRECT),
        ("solicitation of the own address", ns(own, "fd00:65::99"), DROP),
        ("solicitation from a foreign address", ns("fd00:65::3", "2001:db8::1"), DROP),
        ("duplicate address detection", icmp6(135, 255, ("::", own), &[]), PASS),
        ("solicitation of a group", ns(own, "ff02::1"), DROP),
        ("solicitation from afar", icmp6(135, 254, (own, "2001:db8::1"), &link_address()), DROP),
        ("solicitation without option", icmp6(135, 255, (own, "2001:db8::1"), &[]), REDIRECT),
        ("advertisement of the own address", na(own, own), PASS),
        ("advertisement from link-local", na(guest, "fd00:65::99"), PASS),
        ("foreign advertisement", na(own, "fd00:65::3"), DROP),
        ("forged advertisement", na("fd00:65::3", own), DROP),
        ("router solicitation", icmp6(133, 255, (guest, "::"), &[]), DROP),
        ("router advertisement", icmp6(134, 255, (guest, "::"), &[]), DROP),
        ("redirect", icmp6(137, 255, (guest, "::"), &[]), DROP),
        ("echo request", icmp6(128, 64, (own, "::"), &[]), PASS),
        ("IPv6 TCP", ethernet(0x86dd, &[6; 60]), PASS),
        ("802.1Q", ethernet(0x8100, &[0; 60]), DROP),
        ("QinQ", ethernet(0x88a8, &[0; 60]), DROP),
    ] {
        assert_eq!(responder.try_on(&frame).expect("it runs").0, verdict, "{what}");
    }
}

#[test]
fn an_arp_reply_is_right() {
    let (_, reply) = responder().try_on(&arp(1, "10.65.0.2", "8.8.8.8")).expect("it runs");
    let mut expect = GUEST.to_vec();
    expect.extend(HOST.0);
    expect.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
    expect.extend(HOST.0);
    expect.extend([8, 8, 8, 8]);
    expect.extend(GUEST);
    expect.extend([10, 65, 0, 2]);
    assert_eq!(reply, expect);
}

#[test]
fn an_advertisement_is_right_whatever_the_options_of_the_solicitation() {
    for options in [vec![], link_address(), [link_address(), vec![14, 1, 1, 2, 3, 4, 5, 6]].concat()] {
        for (low, target) in ["2001:db8::1", "2001:db8::ffff:ffff:ffff", "fe80::1"].into_iter().enumerate() {
            let source = ["fd00:65::2", "fe80::18", "fd00:65::99"][low];
            let request = icmp6(135, 255, (source, target), &options);
            let (_, reply) = responder().try_on(&request).expect("it runs");
            let (source, target): (Ipv6Addr, Ipv6Addr) =
                (source.parse().expect("an address"), target.parse().expect("an address"));
            let mut icmp = vec![136, 0, 0, 0, 0xe0, 0, 0, 0];
            icmp.extend(target.octets());
            icmp.extend([2, 1]);
            icmp.extend(HOST.0);
            let sum = checksum(target, source, &icmp);
            icmp[2..4].copy_from_slice(&sum.to_be_bytes());
            let mut expect = GUEST.to_vec();
            expect.extend(HOST.0);
            expect.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
            expect.extend(target.octets());
            expect.extend(source.octets());
            expect.extend(icmp);
            assert_eq!(reply, expect, "{source} asks for {target}, {} bytes of options", options.len());
        }
    }
}

#[test]
fn a_wrong_program_is_refused_with_the_verifiers_words() {
    use lasthop_kernel::bpf::asm::{Assembler, Reg, Size};
    let mut a = Assembler::new();
    a.load(Size::W, Reg::R0, Reg::R1, 0x7000).exit();
    let error = Program::load("wrong", &a.assemble().expect("complete")).expect_err("out of bounds").to_string();
    assert!(error.contains("invalid bpf_context access"), "{error}");
}

/// Everything allowed: still no answer to a probe, nor for the own address.
#[test]
fn any_source_allowed() {
    let sources = ["10.65.0.2", "0.0.0.0/0", "fd00:65::2", "::/0"].map(|text| text.parse().expect("a prefix")).into();
    let responder = Program::load("lasthop_test", &program(HOST, &sources).expect("complete")).expect("run as root");
    for (what, frame, verdict) in [
        ("any", arp(1, "192.0.2.1", "8.8.8.8"), REDIRECT),
        ("probe", arp(1, "0.0.0.0", "8.8.8.8"), DROP),
        ("own", arp(1, "10.65.0.2", "10.65.0.2"), DROP),
        ("any solicitation", icmp6(135, 255, ("2001:db8::5", "2001:db8::1"), &link_address()), REDIRECT),
        ("own solicitation", icmp6(135, 255, ("2001:db8::5", "fd00:65::2"), &link_address()), DROP),
        ("duplicate address detection", icmp6(135, 255, ("::", "fd00:65::2"), &[]), PASS),
    ] {
        assert_eq!(responder.try_on(&frame).expect("it runs").0, verdict, "{what}");
    }
}

/// Prints what the program costs a packet that it lets pass.
#[test]
fn what_passes_pays_little() {
    let responder = responder();
    for (what, frame) in [
        ("IPv6 TCP", ethernet(0x86dd, &[6; 60])),
        ("ARP request", arp(1, "10.65.0.2", "8.8.8.8")),
        ("NS", icmp6(135, 255, ("fd00:65::2", "2001:db8::1"), &link_address())),
    ] {
        let nanoseconds = responder.time(&frame, 100_000).expect("it runs");
        println!("{what}: {nanoseconds} ns");
        assert!(nanoseconds < 2_000, "{what}: {nanoseconds} ns");
    }
}

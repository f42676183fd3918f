//! Connection tracking entries of addresses that leave (conformance case G3).
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;

use common::Scratch;
use lasthop_kernel::conntrack;
use std::collections::BTreeSet;
use std::net::IpAddr;

fn insert(scratch: &Scratch, source: &str, destination: &str, port: u32) {
    scratch.sh(&format!(
        "conntrack -I -s {source} -d {destination} -p udp --sport {port} --dport 53 -t 300 >/dev/null 2>&1"
    ));
}

fn count(scratch: &Scratch) -> usize {
    let list = "conntrack -L 2>/dev/null | grep -c udp || true";
    scratch.sh(list).parse().unwrap()
}

/// Deletes the entries of addresses; how many fewer there are.
fn delete(scratch: &Scratch, addresses: &[&str]) -> usize {
    let addresses: BTreeSet<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
    let before = count(scratch);
    scratch.run(|| conntrack::delete_for(&addresses).unwrap());
    before - count(scratch)
}

#[test]
fn only_the_entries_of_the_address_go() {
    let scratch = Scratch::new();
    for port in 1..=3 {
        insert(&scratch, "10.65.0.2", "10.65.1.2", port);
        insert(&scratch, "10.65.1.7", "10.65.0.2", port);
        insert(&scratch, "10.65.0.20", "10.65.1.2", port);
        insert(&scratch, "fd00:65::2", "fd00:65::9", port);
        insert(&scratch, "fd00:65::8", "fd00:65::9", port);
    }
    // Translated: the workload shows only in the reply.
    scratch.sh("conntrack -I -s 198.51.100.1 -d 172.31.0.1 -r 10.65.0.2 -q 198.51.100.1 -p udp --sport 9 --dport 53 --reply-port-src 53 --reply-port-dst 9 -t 300 >/dev/null 2>&1");
    assert_eq!(count(&scratch), 16);
    assert_eq!(delete(&scratch, &["10.65.0.99"]), 0);
    assert_eq!(delete(&scratch, &["10.65.0.2"]), 7);
    assert_eq!(count(&scratch), 9);
    assert_eq!(delete(&scratch, &["10.65.0.2"]), 0);
    assert_eq!(delete(&scratch, &["fd00:65::2", "10.65.0.20"]), 6);
    assert_eq!(count(&scratch), 3);
}

#[test]
fn many_addresses_cost_one_look() {
    let scratch = Scratch::new();
    let all: Vec<String> = (1..=20).map(|n| format!("10.65.0.{n}")).collect();
    for address in &all {
        insert(&scratch, address, "10.65.1.2", 7);
        insert(&scratch, &address.replace("10.65.0", "10.65.9"), "10.65.1.2", 7);
    }
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    assert_eq!(delete(&scratch, &all), 20);
    assert_eq!(count(&scratch), 20);
    assert_eq!(delete(&scratch, &[]), 0);
}

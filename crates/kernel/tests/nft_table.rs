//! The nftables table on a real kernel: what is written is read back, what is right is not touched, what was tampered
//! with is put right, and an endpoint costs the same at any number of endpoints.

mod netns;

use lasthop_compute::{EndpointToHost, Guard, Nat, Source};
use lasthop_kernel::nft::{Nft, PolicyScope, Watch, allow_all};
use lasthop_kernel::reconcile::{Outcome, Scope};
use lasthop_net::IfName;
use lasthop_policy::ir::PolicyChanges;
use netns::Netns;
use std::collections::BTreeSet;
use std::time::Instant;

fn guard(action: EndpointToHost) -> Guard {
    Guard { link_prefixes: ["lh", "tap"].map(str::to_owned).into(), endpoint_to_host: action }
}

fn nat() -> Nat {
    let set = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("a prefix")).collect();
    Nat {
        sources: set(&["10.65.0.0/17", "10.65.128.0/17", "10.65.7.0/24", "fd00:65::/64"]),
        inside: set(&["10.65.0.0/16", "172.16.0.0/12", "fd00:65::/64"]),
    }
}

fn source(link: &str, prefix: &str) -> Source {
    Source { link: link.parse().expect("a name"), prefix: prefix.parse().expect("a prefix") }
}

fn all_done<K: Ord + std::fmt::Debug>(outcome: &Outcome<K>) {
    assert!(outcome.failed.is_empty(), "{:?}", outcome.failed);
}

fn ready(nft: &mut Nft, sources: &BTreeSet<Source>) -> usize {
    let links: BTreeSet<IfName> = sources.iter().map(|source| source.link.clone()).collect();
    let report = nft.sync_skeleton(&guard(EndpointToHost::Drop), &nat()).expect("the skeleton");
    let first = nft.sync_sources(sources, Scope::All);
    let second = nft.sync_policy(&allow_all(&links), PolicyScope::All);
    all_done(&first);
    all_done(&second);
    assert_eq!(first.done.len(), sources.len());
    report.changes.len() + first.writes + second.writes
}

fn some_sources() -> BTreeSet<Source> {
    BTreeSet::from([
        source("lh0", "10.65.0.2"),
        source("lh0", "fd00:65::2"),
        source("lh0", "192.0.2.0/24"),
        source("lh0", "192.0.2.128/25"),
        source("lh0", "2001:db8::/32"),
        source("tapa429fb36-04", "10.65.0.24"),
        source("lh1", "0.0.0.0/0"),
    ])
}

#[test]
fn what_is_right_is_not_touched() {
    let host = Netns::new("nft");
    host.enter(|| {
        let mut nft = Nft::open().expect("sockets");
        assert!(ready(&mut nft, &some_sources()) > 0);
        assert_eq!(ready(&mut nft, &some_sources()), 0, "in the same process");
        let mut nft = Nft::open().expect("sockets");
        let mut watch = Watch::open().expect("a socket");
        nft.read_back().expect("read back");
        assert_eq!(ready(&mut nft, &some_sources()), 0, "after a restart");
        assert!(!watch.touched(&BTreeSet::new()).expect("no overrun"), "nothing is announced");
    });
    let listing = host.sh("nft list ruleset");
    println!("{listing}");
    for expected in [
        "\"lh0\" . 10.65.0.2",
        "\"tapa429fb36-04\" . 10.65.0.24",
        "\"lh0\" . 192.0.2.0/24",
        "\"lh1\" . 0.0.0.0/0",
        "\"lh0\" . fd00:65::2",
        "\"lh0\" : ",
        " : goto stack-",
        "type filter hook prerouting priority -450; policy accept;",
        "iifname \"lh*\" goto check_source comment \"from lh\"",
        "ct state established,related accept comment \"established\"",
        "ip option lsrr exists",
        "ip6 saddr fe80::/10 jump link_only",
        "ip6 hoplimit 255 icmpv6 type 135-136 accept",
        "elements = { 10.65.0.0/16 }",
        "ip saddr @nat4 ip daddr != @inside4 masquerade",
    ] {
        assert!(listing.contains(expected), "{expected} is not in\n{listing}");
    }
}

#[test]
fn an_action_change_rewrites_only_the_chain_it_is_in() {
    let host = Netns::new("nft");
    host.enter(|| {
        let mut nft = Nft::open().expect("sockets");
        ready(&mut nft, &some_sources());
        for action in [EndpointToHost::Accept, EndpointToHost::Drop, EndpointToHost::Return] {
            let report = nft.sync_skeleton(&guard(action), &nat()).expect("the skeleton");
            assert_eq!(report.changes.len(), 2, "{report:?}");
            assert!(report.changes.iter().all(|change| change.contains("chain to_host")), "{report:?}");
            let mut again = Nft::open().expect("sockets");
            assert_eq!(
                again.sync_skeleton(&guard(action), &nat()).expect("the skeleton").changes,
                Vec::<String>::new()
            );
        }
        let mut other = nat();
        other.sources.remove(&"fd00:65::/64".parse().expect("a prefix"));
        let report = nft.sync_skeleton(&guard(EndpointToHost::Return), &other).expect("the skeleton");
        assert_eq!(report.changes, ["set nat6: 2 elements deleted"]);
    });
}

/// Each is done to a table that is right, noticed by an event, and put right; what others own stays.
#[test]
fn tampering_is_noticed_and_put_right() {
    let host = Netns::new("nft");
    host.sh("nft add table inet foreign; nft add chain inet foreign c '{type filter hook forward priority 5;}'");
    let foreign = host.sh("nft list table inet foreign");
    for tampering in [
        "nft delete table inet lasthop",
        "nft flush ruleset && nft add table inet foreign && nft add chain inet foreign c '{type filter hook forward priority 5;}'",
        "nft flush chain inet lasthop check_source",
        "nft insert rule inet lasthop forward accept",
        "nft insert rule inet lasthop forward iifname { \"lh0\", \"lh9\" } accept",
        "nft add rule inet lasthop judge_from accept",
        "nft replace rule inet lasthop to_workload handle $(nft -a list chain inet lasthop to_workload | awk '/no-policy-to/ {print $NF}') accept comment no-policy-to",
        "nft delete rule inet lasthop prerouting handle $(nft -a list chain inet lasthop prerouting | awk '/from lh/ {print $NF}')",
        "nft flush set inet lasthop sources4",
        "nft delete element inet lasthop sources6 '{ \"lh0\" . fd00:65::2 }'",
        "nft add element inet lasthop sources4 '{ \"lh0\" . 10.65.0.3 }'",
        "nft add element inet lasthop prefixes4 '{ \"lh0\" . 10.1.0.1-10.1.0.7 }'",
        "nft add element inet lasthop sources4 '{ * }'",
        "nft add element inet lasthop from_stack '{ * : ::7 }'",
        "nft delete element inet lasthop from_stack '{ \"lh0\" }'",
        "nft delete element inet lasthop from_stack '{ \"lh0\" }'; nft add element inet lasthop from_stack '{ \"lh0\" : ::7 }'",
        "nft add element inet lasthop to_stack '{ \"lh7\" : ::7 }'",
        "nft add element inet lasthop stacks '{ 1.1.1.1 . 2.2.2.2 . 3.3.3.3 : accept }'",
        "nft flush map inet lasthop stacks",
        "nft flush chain inet lasthop $(nft list chains inet | awk '/stack-/ {print $2}')",
        "nft insert rule inet lasthop $(nft list chains inet | awk '/stack-/ {print $2}') drop",
        "nft delete element inet lasthop nat4 '{ 10.65.0.0/16 }'",
        "nft add element inet lasthop inside4 '{ 8.8.8.0/24 }'",
        "nft add chain inet lasthop forward '{ policy drop; }'",
        "nft add chain inet lasthop mine; nft add rule inet lasthop mine accept",
        "nft add set inet lasthop mine '{ type ipv4_addr; }'",
        "nft add chain inet lasthop early '{ type filter hook forward priority -10; policy drop; }'",
        "nft add table inet lasthop '{ flags dormant; }'",
        "nft flush table inet lasthop; nft delete map inet lasthop to_stack; nft add map inet lasthop to_stack '{ type ipv4_addr : verdict; }'",
    ] {
        host.enter(|| {
            let mut nft = Nft::open().expect("sockets");
            nft.read_back().expect("read back");
            ready(&mut nft, &some_sources());
            let mut watch = Watch::open().expect("a socket");
            // Sorted, because a set that was made anew is listed last.
            let whole = "nft list table inet lasthop | sed 's/packets [0-9]* bytes [0-9]*//' | sort";
            let before = host.sh(whole);
            host.sh(tampering);
            assert!(watch.touched(&nft.ports()).expect("no overrun"), "noticed: {tampering}");
            nft.read_back().expect("read back");
            let writes = ready(&mut nft, &some_sources());
            assert!(writes > 0, "{tampering}");
            assert_eq!(host.sh(whole), before, "{tampering}");
            assert!(!watch.touched(&nft.ports()).expect("no overrun"), "our own writes are no drift: {tampering}");
            let mut again = Nft::open().expect("sockets");
            again.read_back().expect("read back");
            assert_eq!(ready(&mut again, &some_sources()), 0, "{tampering}");
            assert_eq!(host.sh("nft list table inet foreign"), foreign, "{tampering}");
        });
    }
    host.enter(|| Nft::open().expect("sockets").remove_all().expect("removed"));
    assert_eq!(host.sh("nft list ruleset"), foreign);
    host.enter(|| Nft::open().expect("sockets").remove_all().expect("nothing there is success"));
}

#[test]
fn a_bad_key_stops_no_other() {
    let host = Netns::new("nft");
    host.enter(|| {
        let mut nft = Nft::open().expect("sockets");
        ready(&mut nft, &BTreeSet::new());
        // Somebody else's overlapping range, put there behind our back: our prefix is refused, the rest is not.
        host.sh("nft add element inet lasthop prefixes4 '{ \"lh0\" . 192.0.1.7-192.0.2.9 }'");
        let outcome = nft.sync_sources(&some_sources(), Scope::All);
        assert_eq!(outcome.failed.keys().collect::<Vec<_>>(), [&source("lh0", "192.0.2.0/24")], "{outcome:?}");
        let error = outcome.failed.values().next().expect("one").to_string();
        assert!(error.starts_with("source 192.0.2.0/24 of lh0: "), "{error}");
        host.sh("nft flush set inet lasthop prefixes4");
        assert!(nft.sync_sources(&some_sources(), Scope::Keys(&BTreeSet::new())).failed.is_empty(), "tried again");
        nft.read_back().expect("read back");
        ready(&mut nft, &some_sources());
    });
    assert!(host.sh("nft list set inet lasthop prefixes4").contains("\"lh0\" . 192.0.2.0/24"));
}

#[test]
fn a_prefix_inside_another_comes_back_when_the_outer_one_goes() {
    let host = Netns::new("nft");
    let list = || host.sh("nft list set inet lasthop prefixes4");
    host.enter(|| {
        let mut nft = Nft::open().expect("sockets");
        let mut sources = some_sources();
        ready(&mut nft, &sources);
        assert!(!list().contains("192.0.2.128/25"), "{}", list());
        let outer = source("lh0", "192.0.2.0/24");
        sources.remove(&outer);
        let outcome = nft.sync_sources(&sources, Scope::Keys(&BTreeSet::from([outer.clone()])));
        assert!(outcome.removed.contains(&outer) && outcome.failed.is_empty(), "{outcome:?}");
        assert!(list().contains("\"lh0\" . 192.0.2.128/25") && !list().contains("192.0.2.0/24"), "{}", list());
        sources.insert(outer.clone());
        let outcome = nft.sync_sources(&sources, Scope::Keys(&BTreeSet::from([outer.clone()])));
        assert!(outcome.failed.is_empty() && outcome.done.contains(&outer), "{outcome:?}");
        assert!(!list().contains("192.0.2.128/25") && list().contains("192.0.2.0/24"), "{}", list());
    });
}

#[test]
fn wrong_prefixes_change_nothing() {
    let host = Netns::new("nft");
    host.enter(|| {
        let mut nft = Nft::open().expect("sockets");
        let guard = Guard { link_prefixes: BTreeSet::from([String::new()]), ..Guard::default() };
        let error = nft.sync_skeleton(&guard, &nat()).expect_err("nothing to guard by").to_string();
        assert!(error.contains("interface prefix ''"), "{error}");
    });
    assert_eq!(host.sh("nft list ruleset"), "");
}

fn numbered(count: u32) -> BTreeSet<Source> {
    let of = |i: u32| {
        let (high, low) = (i >> 8, i & 255);
        let link = format!("lh{i:010x}");
        [source(&link, &format!("10.65.{high}.{low}")), source(&link, &format!("fd00:65::{i:x}"))]
    };
    (1..=count).flat_map(of).collect()
}

/// Prints microseconds: a whole load, a read-back, one endpoint more and less.
#[test]
fn an_endpoint_costs_the_same_at_any_number() {
    let mut medians = Vec::new();
    for count in [10, 1_000, 10_000] {
        let host = Netns::new("nft");
        host.enter(|| {
            let mut nft = Nft::open().expect("sockets");
            let mut watch = Watch::open().expect("a socket");
            let mut sources = numbered(count);
            let begin = Instant::now();
            ready(&mut nft, &sources);
            let load = begin.elapsed();
            let begin = Instant::now();
            nft.read_back().expect("read back");
            let read = begin.elapsed();
            assert_eq!(ready(&mut nft, &sources), 0);
            let links: BTreeSet<IfName> = sources.iter().map(|source| source.link.clone()).collect();
            let mut policy = allow_all(&links);
            let (mut adds, mut removes) = (Vec::new(), Vec::new());
            for _ in 0..200 {
                let new = [source("lhnew", "10.66.0.1"), source("lhnew", "fd00:66::1")];
                let keys = BTreeSet::from(new.clone());
                let name = BTreeSet::from([new[0].link.clone()]);
                sources.extend(new.clone());
                policy.workloads.extend(allow_all(&name).workloads);
                let begin = Instant::now();
                all_done(&nft.sync_sources(&sources, Scope::Keys(&keys)));
                let changes = PolicyChanges { workloads: name.clone(), ..PolicyChanges::default() };
                all_done(&nft.sync_policy(&policy, PolicyScope::Changed(&changes)));
                adds.push(begin.elapsed());
                for key in &keys {
                    sources.remove(key);
                    policy.workloads.remove(&key.link);
                }
                let begin = Instant::now();
                let changes = PolicyChanges { workloads: name.clone(), ..PolicyChanges::default() };
                all_done(&nft.sync_policy(&policy, PolicyScope::Changed(&changes)));
                all_done(&nft.sync_sources(&sources, Scope::Keys(&keys)));
                removes.push(begin.elapsed());
            }
            assert!(!watch.touched(&nft.ports()).expect("no overrun"), "all this was our own doing");
            adds.sort();
            removes.sort();
            println!(
                "{count} endpoints: load {load:?}, read back {read:?}, one more {:?} (p99 {:?}), one less {:?} (p99 {:?})",
                adds[100], adds[197], removes[100], removes[197]
            );
            medians.push(adds[100].max(removes[100]));
        });
    }
    assert!(medians.iter().all(|median| median.as_micros() < 1_000), "{medians:?}");
}

/// The kernel lets nobody else touch a table that has an owner: that is told, with what was attempted.
#[test]
fn a_table_that_somebody_owns_is_an_error_in_words() {
    use std::io::Write;
    let host = Netns::new("nft");
    let mut owner = std::process::Command::new("ip")
        .args(["netns", "exec", &host.name, "nft", "-i"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("nft is installed");
    let mut input = owner.stdin.take().expect("piped");
    input.write_all(b"add table inet lasthop { flags owner; }\n").expect("written");
    let begin = Instant::now();
    while !host.sh("nft list tables").contains("lasthop") {
        assert!(begin.elapsed().as_secs() < 5, "nft makes the table");
    }
    let error = host.enter(|| {
        let mut nft = Nft::open().expect("sockets");
        nft.read_back().expect("read back");
        nft.sync_skeleton(&guard(EndpointToHost::Drop), &nat()).expect_err("not ours").to_string()
    });
    assert!(error.starts_with("write nftables rules: table inet lasthop: ") && error.contains("ermitted"), "{error}");
    println!("{error}");
    drop(input);
    owner.wait().expect("our own child");
}

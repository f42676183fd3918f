//! The lives of links and records: born in any order, recreated, moved, claimed twice, cut short, all taken away
//! (cases D5 to D12 and E9 of the conformance suite's `datapath.md`).
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/drive.rs"]
mod drive;
mod support;

use drive::{PAIR, SOON, Space, adopt, attach, lab_of, veth};
use lasthop_agent::api::{Detach, Request};
use std::time::{Duration, Instant};
use support::Lab;

/// Makes a veth as another program would: `link` on the host, `eth0` in the workload, configured there.
fn plug(lab: &Lab, host: &str, link: &str, to: (&Space, &str)) {
    let (space, address) = to;
    lab.shell(host, &format!("ip link add {link} type veth peer name eth0 netns {}", space.0));
    space.shell(&format!(
        "ip link set lo up; ip link set eth0 up; ip addr add {address}/32 dev eth0; \
         ip route add 169.254.1.1 dev eth0 scope link; ip route add default via 169.254.1.1 dev eth0 src {address}"
    ));
}

fn route_of(address: &str) -> String {
    let family = if address.contains(':') { "-6" } else { "-4" };
    format!("ip {family} route show {address}")
}

fn detach(lab: &Lab, host: &str, name: &str) {
    let detach = Detach { namespace: "default".to_owned(), name: name.to_owned() };
    let gone = lab.client(host).detach(detach).unwrap();
    assert!(gone.existed, "{name}");
}

#[test]
fn a_link_that_is_made_anew_under_its_name_is_taken_up_again() {
    // D5.
    let lab = lab_of(PAIR);
    let space = lab.space("a");
    plug(&lab, "h1", "lha", (&space, "10.65.0.50"));
    let answer = lab.attach("h1", &attach("a", adopt("lha"), &["10.65.0.50"]));
    assert!(answer.pending.is_empty(), "{answer:?}");
    lab.answers("w3", "10.65.0.50");
    for _ in 0..3 {
        lab.shell("h1", "ip link del lha");
        plug(&lab, "h1", "lha", (&space, "10.65.0.50"));
        let index: u32 = lab.shell("h1", "cat /sys/class/net/lha/ifindex").parse().unwrap();
        assert_ne!(Some(index), answer.ifindex);
        lab.until("h1", "ip route show 10.65.0.50", |said| said.contains("dev lha proto 76 scope link"));
        lab.until("h1", "tc filter show dev lha ingress", |said| said.contains("lasthop_arp"));
        lab.answers("w3", "10.65.0.50");
    }
    let elements = lab.shell("h1", "nft list set inet lasthop sources4");
    assert_eq!(elements.matches("10.65.0.50").count(), 1, "{elements}");
}

#[test]
fn record_and_link_come_in_any_order_and_nothing_passes_before_both() {
    // D6: the record first.
    let lab = lab_of(PAIR);
    let space = lab.space("a");
    let request = attach("a", adopt("lha"), &["10.65.0.50"]);
    let answer = lab.attach("h1", &request);
    assert_eq!((answer.ifindex, answer.programmed.len()), (None, 0), "{answer:?}");
    assert!(answer.pending.values().any(|why| why.contains("absent")), "{answer:?}");
    assert!(!lab.shell("h2", "ip route").contains("10.65.0.50"), "advertised before it is there");
    plug(&lab, "h1", "lha", (&space, "10.65.0.50"));
    lab.answers("w3", "10.65.0.50");
    assert!(space.reaches("10.65.1.2", 5));
    detach(&lab, "h1", "a");
    lab.until("h2", "ip route", |said| !said.contains("10.65.0.50"));

    // The link first, up, with a route and a neighbour that let it speak if anything would let it.
    let other = lab.space("b");
    plug(&lab, "h1", "lhb", (&other, "10.65.0.51"));
    lab.shell("h1", "ip link set lhb up; ip route add 10.65.0.51 dev lhb");
    let mac = lab.shell("h1", "cat /sys/class/net/lhb/address");
    other.shell(&format!("ip neigh add 169.254.1.1 lladdr {mac} dev eth0"));
    let seen = lab.capture("w3", &["-i", "eth0", "icmp", "and", "host", "10.65.0.51"]);
    assert!(!other.reaches("10.65.1.2", 8), "a link without a record reached a workload");
    assert_eq!(seen.stop().trim(), "", "w3 saw what came from a link without a record");
    other.shell("ip neigh del 169.254.1.1 dev eth0");
    let answer = lab.attach("h1", &attach("b", adopt("lhb"), &["10.65.0.51"]));
    assert!(answer.pending.is_empty(), "{answer:?}");
    lab.answers("w3", "10.65.0.51");
    assert!(other.reaches("10.65.1.2", 5));
}

#[test]
fn an_address_on_two_hosts_is_local_on_each_and_remote_once_the_local_one_goes() {
    // D8.
    let lab = lab_of(PAIR);
    let spaces = ["a", "b"].map(|name| lab.space(name));
    for (host, space) in ["h1", "h2"].into_iter().zip(&spaces) {
        let request = attach(&format!("on-{host}"), veth(space, "eth0"), &["10.65.0.50", "fd00:65::50"]);
        let answer = lab.attach(host, &request);
        assert!(answer.pending.is_empty(), "{answer:?}");
    }
    for host in ["h1", "h2"] {
        for address in ["10.65.0.50", "fd00:65::50"] {
            let route = lab.until(host, &route_of(address), |said| said.contains("dev lh"));
            assert_eq!(route.trim().lines().count(), 1, "{host}: {route}");
        }
    }
    // Each host has heard of the other's before the local one goes.
    lab.until("h1", "lasthop bgp paths -o json", |said| said.matches("10.65.0.50/32").count() >= 2);
    let monitor = lab.beside("h1", &["stdbuf", "-oL", "ip", "monitor", "route"]);
    lab.until("h1", "ip route replace 192.0.2.7 dev lo; pgrep -x ip", |said| !said.is_empty());
    detach(&lab, "h1", "on-h1");
    for (line, via) in [("ip route get 10.65.0.50", "via 172.31.0.2"), ("ip route get fd00:65::50", "via fd00:31::2")] {
        lab.until("h1", line, |said| said.contains(via));
    }
    let seen = monitor.stop();
    let lost = seen.lines().find(|line| line.starts_with("Deleted 10.65.0.50"));
    assert_eq!(lost, None, "a moment without a route: {seen}");
    lab.answers("w1", "10.65.0.50");
    detach(&lab, "h2", "on-h2");
    for host in ["h1", "h2"] {
        lab.until(host, "ip route; ip -6 route", |said| !said.contains("10.65.0.50") && !said.contains("fd00:65::50"));
    }
}

#[test]
fn a_workload_moves_and_others_do_not_notice() {
    // D9.
    let lab = lab_of(PAIR);
    let other = lab.beside("w3", &["ping", "-n", "-i", "0.02", "10.65.0.4"]);
    let moved = lab.beside("t1", &["ping", "-n", "-q", "-i", "0.02", "10.65.0.2"]);
    lab.answers("t1", "10.65.0.2");
    lab.ok(&["move", "w1", "h2"]);
    lab.until("h1", "ip route get 10.65.0.2", |said| said.contains("via 172.31.0.2"));
    lab.answers("t1", "10.65.0.2");
    lab.answers("w3", "fd00:65::2");
    let said = moved.stop();
    let numbers: Vec<u32> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [sent, received] = [numbers[0], numbers[1]];
    println!("moved: {} of {sent} requests lost, about {} ms", sent - received, (sent - received) * 20);
    assert!(sent - received < 250, "an outage of more than 5 s: {said}");
    drive::none_lost(&other.stop());
    let left = lab.shell("h1", "ip route show 10.65.0.2 proto 76; ip link; nft list ruleset");
    assert!(!left.contains("lhw1") && !left.contains("10.65.0.2 "), "{left}");
}

/// How many of each there are on a host.
fn counts(lab: &Lab) -> String {
    let line = "for f in -4 -6; do ip $f route show table all | wc -l; ip $f neigh show nud permanent | wc -l; done; \
        ip -o link | wc -l; tc qdisc show | wc -l; nft list table inet lasthop | sed 's/counter packets.*//' | wc -c";
    lab.shell("h1", line).replace('\n', " ")
}

#[test]
fn five_hundred_come_at_once_and_go_at_once() {
    // D10.
    const ALL: usize = 500;
    const CALLERS: usize = 20;
    let lab = lab_of(PAIR);
    let before = counts(&lab);
    let spaces: Vec<Space> = (0..CALLERS).map(|caller| lab.space(&format!("s{caller}"))).collect();
    let each = |work: &(dyn Fn(usize, usize) + Sync)| {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for caller in 0..CALLERS {
                scope.spawn(move || (caller..ALL).step_by(CALLERS).for_each(|number| work(caller, number)));
            }
        });
        begun.elapsed()
    };
    let came = each(&|caller, number| {
        let address = format!("10.65.{}.{}", 10 + number / 250, 1 + number % 250);
        let link = veth(&spaces[caller], &format!("e{number}"));
        let answer = lab.attach("h1", &attach(&format!("n{number}"), link, &[&address]));
        assert!(answer.pending.is_empty(), "{answer:?}");
    });
    let routes = |host| lab.shell(host, "ip route | grep -cE '^10.65.1[01][.]' || true");
    assert_eq!(routes("h1"), ALL.to_string());
    let end = Instant::now() + SOON;
    while routes("h2") != ALL.to_string() {
        assert!(Instant::now() < end, "{} of {ALL} routes on the other host", routes("h2"));
        std::thread::sleep(Duration::from_millis(50));
    }
    let went = each(&|_, number| detach(&lab, "h1", &format!("n{number}")));
    println!("{ALL} workloads by {CALLERS} callers: all there after {came:?}, all gone after {went:?}");
    assert_eq!(routes("h1"), "0");
    lab.until("h2", "ip route | grep -cE '^10.65.1[01][.]'", |said| said.trim() == "0");
    assert_eq!(counts(&lab), before, "the host is not as it was");
    assert_eq!(lab.status_of("h1").pending.len(), 0);
}

#[test]
fn several_addresses_of_both_families_and_a_second_link() {
    // D11.
    let lab = lab_of(PAIR);
    let space = lab.space("a");
    let first = ["10.65.0.50", "10.65.0.51", "fd00:65::50", "fd00:65::51"];
    let second = ["10.65.0.60", "fd00:65::60"];
    let one = lab.attach("h1", &attach("a-0", veth(&space, "eth0"), &first));
    let two = lab.attach("h1", &attach("a-1", veth(&space, "eth1"), &second));
    assert!(one.pending.is_empty() && two.pending.is_empty() && one.link != two.link, "{one:?} {two:?}");
    for (answer, addresses) in [(&one, &first[..]), (&two, &second[..])] {
        for address in addresses {
            let route = lab.shell("h1", &route_of(address));
            assert!(route.contains(&format!("dev {} ", answer.link)), "{address}: {route}");
            lab.until("h2", &format!("ip route get {address}"), |said| said.contains("via"));
        }
    }
    // What leaves by each link has that link's addresses, or the host would drop it.
    for address in first.iter().chain(&second) {
        lab.answers("w3", address);
    }
    for address in ["10.65.0.51", "10.65.0.60", "fd00:65::51", "fd00:65::60"] {
        let to = if address.contains(':') { "fd00:65::102" } else { "10.65.1.2" };
        assert!(space.reaches(&format!("-I {address} {to}"), 2), "asking from {address}");
    }
    detach(&lab, "h1", "a-1");
    lab.until("h2", "ip route; ip -6 route", |said| !said.contains("10.65.0.60") && !said.contains("fd00:65::60"));
    lab.answers("w3", "10.65.0.51");
}

#[test]
fn a_tap_without_its_process_keeps_its_route_and_works_again_with_it() {
    // D12. The route stays: the machine is expected back, and its host answers for it meanwhile.
    let lab = lab_of(PAIR);
    lab.answers("w3", "10.65.0.4");
    lab.ok(&["kill", "t1", "guest"]);
    lab.until("h1", "cat /sys/class/net/tapt1/carrier", |said| said.trim() == "0");
    let route = lab.shell("h1", "ip route show 10.65.0.4");
    assert!(route.contains("dev tapt1 proto 76 scope link"), "{route}");
    assert!(!lab.inside("w3", &["ping", "-n", "-c1", "-W1", "10.65.0.4"]).0);
    assert!(lab.workloads_of("h1")["default/t1"].link_state == "down");
    lab.ok(&["start", "t1", "guest"]);
    lab.answers("w3", "10.65.0.4");
    lab.answers("w3", "fd00:65::4");
    assert_eq!(lab.workloads_of("h1")["default/t1"].link_state, "up");
}

#[test]
fn of_two_that_claim_an_address_one_wins_and_the_other_follows() {
    let lab = lab_of(PAIR);
    let spaces = ["a", "b"].map(|name| lab.space(name));
    for (space, link) in spaces.iter().zip(["lha", "lhb"]) {
        plug(&lab, "h1", link, (space, "10.65.0.50"));
    }
    let document = |name: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {{ name: {name}, namespace: default }}\n\
             spec: {{ node: h1, orchestrator: lasthop, workload: {name}, endpoint: eth0, interfaceName: lh{name}, \
             ipNetworks: [10.65.0.50/32] }}\n---\n"
        )
    };
    // Whichever comes first, the same one has it.
    lab.apply(&document("b"));
    lab.until("h1", "ip route show 10.65.0.50", |said| said.contains("dev lhb "));
    lab.apply(&document("a"));
    lab.until("h1", "ip route show 10.65.0.50", |said| said.contains("dev lha "));
    lab.answers("w3", "10.65.0.50");
    let seen = lab.capture("w3", &["-i", "eth0", "icmp[icmptype]==8"]);
    assert!(!spaces[1].reaches("10.65.1.2", 3), "the one without the address speaks with it");
    assert_eq!(seen.stop().trim(), "");
    let findings = lab.status_of("h1").findings;
    let named = findings.iter().find(|(object, _)| object.contains("default/b"));
    assert!(named.is_some_and(|(object, why)| format!("{object} {why}").contains("10.65.0.50")), "{findings:?}");
    lab.ok(&["kill", "h1", "agent"]);
    lab.ok(&["start", "h1", "agent"]);
    lab.until("h1", "lasthop status -o json", |said| said.contains("default/b"));
    assert!(lab.shell("h1", "ip route show 10.65.0.50").contains("dev lha "), "another one after a restart");
    lab.shell("store", "lasthop delete wep a -n default");
    lab.until("h1", "ip route show 10.65.0.50", |said| said.contains("dev lhb "));
    lab.answers("w3", "10.65.0.50");
    assert!(lab.status_of("h1").findings.is_empty());
}

#[test]
fn attaching_again_answers_the_same_and_writes_nothing() {
    let lab = lab_of(PAIR);
    let space = lab.space("a");
    lab.shell("h1", "ip link add lhb type veth peer name lhbp; ip link set lhbp up");
    let requests = [
        attach("a", veth(&space, "eth0"), &["10.65.0.50", "fd00:65::50"]),
        attach("b", adopt("lhb"), &["10.65.0.51", "fd00:65::51"]),
    ];
    let firsts = requests.each_ref().map(|request| lab.attach("h1", request));
    let published = || lab.status_of("h1").store.unpublished == 0;
    let end = Instant::now() + SOON;
    while !published() {
        assert!(Instant::now() < end, "not published");
        std::thread::sleep(Duration::from_millis(20));
    }
    // Long enough for what the kernel tells late of the first time.
    lab.until("h1", "ip -6 addr show dev lhb", |said| said.contains("fe80") && !said.contains("tentative"));
    let (writes, revision) = (lab.status_of("h1").writes, lab.status_of("h1").store.revision);
    let monitors =
        [("h1", "ip"), ("h1", "nft")].map(|(host, program)| lab.beside(host, &["stdbuf", "-oL", program, "monitor"]));
    lab.until("h1", "pgrep -f '^nft monitor'", |said| !said.trim().is_empty());
    std::thread::sleep(Duration::from_millis(300));
    for (request, first) in requests.iter().zip(&firsts) {
        for _ in 0..3 {
            let mut again = lab.attach("h1", request);
            again.elapsed_us = first.elapsed_us;
            assert_eq!(&again, first);
        }
    }
    let [links, rules] = monitors.map(support::Beside::stop);
    assert_eq!(rules.trim(), "", "rules changed");
    for line in links.lines().filter(|line| !line.contains("REACHABLE") && !line.contains("STALE")) {
        assert!(!line.contains("lh"), "{line}");
    }
    assert_eq!(lab.status_of("h1").writes, writes);
    assert_eq!(lab.status_of("h1").store.revision, revision, "the same record was published again");
}

/// What a host is like, but for what changes by itself.
fn whole(lab: &Lab, host: &str) -> String {
    lab.shell(
        host,
        "exec 2>/dev/null; echo routes; ip -4 route show table all; ip -6 route show table all | grep -v fe80 | sort; \
         ip nexthop; echo rules; ip rule; ip -6 rule; echo nft; nft list ruleset; \
         echo links; ip -o link | sed 's/^[0-9]*: //; s/qlen [0-9]*//' | sort; \
         echo tc; tc qdisc show | sort; for l in $(ls /sys/class/net); do tc filter show dev $l ingress; done; \
         echo neighbours; ip neigh show nud permanent; \
         echo settings; grep -r . /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf /proc/sys/net/ipv4/ip_forward \
           /proc/sys/net/ipv4/nexthop_compat_mode /proc/sys/net/ipv4/neigh | grep -v stable_secret | sort",
    )
}

#[test]
fn all_taken_away_the_host_is_as_it_was() {
    // E9. Of links that other programs made (the TAP, lhz) one thing stays as the agent set it: up.
    let lab = lab_of(PAIR);
    let foreign = "ip route add 192.0.2.0/24 dev lo proto static; ip rule add from 10.9.9.9 table 99; \
        nft add table inet foreign; nft add chain inet foreign c '{type filter hook forward priority 5;}'";
    lab.shell("h1", foreign);
    lab.shell("h1", "ip link add lhz type veth peer name lhzp; ip link set lhzp up");
    lab.shell("h1", "ip link set lhz address 02:00:00:00:00:90 up");
    // Taken away once: what is left is what is not ours.
    lab.shell("h1", "lasthop remove-all");
    let before = whole(&lab, "h1");
    for ours in ["proto 76", "proto 77", "lasthop", "lhw1", "ingress"] {
        assert!(!before.contains(ours), "{ours} is left in {before}");
    }
    assert!(before.contains("tapt1") && before.contains("192.0.2.0/24") && before.contains("table inet foreign"));
    assert!(!lab.inside("h1", &["lasthop", "status"]).0, "the agent still runs");
    lab.until("h2", "ip route", |said| !said.contains("10.65.0.2 ") && !said.contains("10.65.0.4 "));
    // And again, after a life between.
    lab.ok(&["start", "h1", "agent"]);
    let answer = lab.attach("h1", &attach("z", adopt("lhz"), &["10.65.0.90", "fd00:65::90"]));
    assert!(answer.pending.is_empty(), "{answer:?}");
    lab.until("h1", "ip route", |said| said.contains("10.65.1.2 "));
    assert_ne!(whole(&lab, "h1"), before);
    lab.shell("h1", "lasthop remove-all");
    let after = whole(&lab, "h1");
    let not_in = |one: &str, other: &str| -> Vec<String> {
        one.lines().filter(|line| !other.lines().any(|l| l == *line)).map(str::to_owned).collect()
    };
    let (gone, left) = (not_in(&before, &after), not_in(&after, &before));
    assert!(gone.is_empty() && left.is_empty(), "gone: {gone:#?}\nleft: {left:#?}");
    let refused = lab.inside("h1", &["lasthop", "remove-all"]);
    assert!(!refused.0 && refused.1.contains("is 'lasthop agent' running here?"), "{}", refused.1);
}

#[test]
fn killed_at_any_moment_of_a_storm_nothing_is_left_over_or_missing() {
    const KILLS: u32 = 20;
    const CALLERS: usize = 4;
    let lab = lab_of(PAIR);
    let spaces: Vec<Space> = (0..CALLERS).map(|caller| lab.space(&format!("s{caller}"))).collect();
    let before = counts(&lab);
    let storm = std::sync::atomic::AtomicBool::new(true);
    let seed = std::process::id();
    // What each workload is known to be: attached, detached, or either, if the agent died over it.
    let known: Vec<Option<bool>> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let (lab, space, storm) = (&lab, &spaces[caller], &storm);
                scope.spawn(move || {
                    let mut known = [Some(false); 3];
                    let mut dice = seed.wrapping_mul(2_654_435_761).wrapping_add(caller as u32) | 1;
                    while storm.load(std::sync::atomic::Ordering::Relaxed) {
                        dice ^= dice << 13;
                        dice ^= dice >> 17;
                        dice ^= dice << 5;
                        let (which, come) = ((dice >> 8) as usize % 3, dice & 64 == 0);
                        let name = format!("s{caller}-{which}");
                        let request = if come {
                            let address = format!("10.65.{}.{}", 20 + caller, 1 + which);
                            Request::Attach(Box::new(attach(&name, veth(space, &format!("e{which}")), &[&address])))
                        } else {
                            Request::Detach(Detach { namespace: "default".to_owned(), name })
                        };
                        let answer: Result<serde_json::Value, _> = lab.client("h1").call(request);
                        known[which] = answer.is_ok().then_some(come);
                    }
                    known
                })
            })
            .collect();
        for kill in 0..KILLS {
            let pause = (seed.wrapping_mul(31).wrapping_add(kill * 7919)) % 60;
            std::thread::sleep(Duration::from_millis(u64::from(pause)));
            lab.ok(&["kill", "h1", "agent"]);
            lab.ok(&["start", "h1", "agent"]);
        }
        drop(lab.client("h1"));
        storm.store(false, std::sync::atomic::Ordering::Relaxed);
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    });
    let end = Instant::now() + SOON;
    loop {
        let wrong = inconsistency(&lab, &known);
        let Some(wrong) = wrong else { break };
        assert!(Instant::now() < end, "{wrong}\n{}", lab.logs());
        std::thread::sleep(Duration::from_millis(100));
    }
    // And all of them go.
    for name in lab.workloads_of("h1").into_keys().filter(|name| name.starts_with("default/s")) {
        detach(&lab, "h1", name.trim_start_matches("default/"));
    }
    assert_eq!(counts(&lab), before);
}

/// What of a host does not agree with what its callers know, in words.
fn inconsistency(lab: &Lab, known: &[Option<bool>]) -> Option<String> {
    let status = lab.status_of("h1");
    if status.store.state != "in-sync" || status.store.unpublished > 0 || !status.findings.is_empty() {
        return Some(format!("{:?} {:?}", status.store, status.findings));
    }
    let workloads = lab.workloads_of("h1");
    let routes = lab.shell("h1", "ip route show proto 76");
    let links = lab.shell("h1", "ip -o link");
    let sources = lab.shell("h1", "nft list table inet lasthop");
    let stored = lab.shell("store", "lasthop get wep -A -o yaml");
    let recorded = |name: &str| lab.directory("h1").join(format!("state/attachments/default%{name}.json")).exists();
    for (at, known) in known.iter().enumerate() {
        let (caller, which) = (at / 3, at % 3);
        let (name, address) = (format!("s{caller}-{which}"), format!("10.65.{}.{} ", 20 + caller, 1 + which));
        let workload = workloads.get(&format!("default/{name}"));
        if known.is_some_and(|known| known != workload.is_some()) {
            return Some(format!("{name} was answered {known:?} and is now {workload:?}"));
        }
        // A caller that got no answer may have left a record whose link was never made: attaching again makes it.
        let whole = workload.is_some_and(|workload| workload.link_state != "absent");
        let has = [
            routes.contains(&address),
            links.contains(&format!("alias lasthop:default/{name}")) || links.contains(&format!("default/{name} ")),
            sources.contains(&format!(" . {}", address.trim())),
        ];
        if known.is_some() && has.iter().any(|has| *has != whole) {
            return Some(format!("{name}: wanted {whole}, route, link, source are {has:?}\n{links}"));
        }
        if recorded(&name) != workload.is_some() || stored.contains(&format!("name: {name}\n")) != workload.is_some() {
            return Some(format!("{name}: the host has {workload:?}, recorded {}\n{stored}", recorded(&name)));
        }
    }
    let made = links.lines().filter(|line| line.contains(": lh") && !line.contains("lhw1")).count();
    let there = workloads.values().filter(|one| one.endpoint.contains("/s") && one.link_state != "absent").count();
    (made != there).then(|| format!("{made} links for {there} workloads\n{links}"))
}

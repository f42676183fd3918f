//! The store is away, or holds what nobody can use: hosts go on, and what they did is told when it is back.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/drive.rs"]
mod drive;
mod support;

use drive::{PAIR, SOON, attach, lab_of, veth};
use lasthop_agent::api::{Detach, Status};
use std::time::{Duration, Instant};
use support::Lab;

/// Waits until an agent says what it ought to.
fn says(lab: &Lab, host: &str, is_so: impl Fn(&Status) -> bool) -> Status {
    let end = Instant::now() + SOON + SOON;
    loop {
        let status = lab.status_of(host);
        if is_so(&status) {
            return status;
        }
        assert!(Instant::now() < end, "{status:#?}\n{}", lab.logs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn in_sync(status: &Status) -> bool {
    status.store.state == "in-sync" && status.store.unpublished == 0
}

fn detach(lab: &Lab, host: &str, name: &str) {
    let detach = Detach { namespace: "default".to_owned(), name: name.to_owned() };
    assert!(lab.client(host).detach(detach).unwrap().existed, "{name}");
}

#[test]
fn without_a_store_hosts_go_on_restart_attach_and_detach() {
    let lab = lab_of(PAIR);
    let spaces = ["a", "b"].map(|name| lab.space(name));
    lab.attach("h1", &attach("a", veth(&spaces[0], "eth0"), &["10.65.0.50"]));
    says(&lab, "h1", in_sync);
    // The snapshot holds what the store told within a second.
    let snapshot = lab.directory("h1").join("state/snapshot.json");
    let end = Instant::now() + SOON;
    while !std::fs::read_to_string(&snapshot).unwrap_or_default().contains("10.65.0.50") {
        assert!(Instant::now() < end, "no snapshot");
        std::thread::sleep(Duration::from_millis(50));
    }
    lab.ok(&["kill", "store", "server"]);
    let pings = lab.beside("w3", &["ping", "-n", "-i", "0.02", "10.65.0.2"]);
    lab.answers("w3", "fd00:65::2");

    // A restarted agent finds everything as it ought to be.
    lab.ok(&["kill", "h1", "agent"]);
    let monitor = lab.beside("h1", &["stdbuf", "-oL", "ip", "monitor", "route", "link", "neigh", "rule"]);
    let rules = lab.beside("h1", &["stdbuf", "-oL", "nft", "monitor"]);
    lab.until("h1", "pgrep -f '^nft monitor'", |said| !said.trim().is_empty());
    std::thread::sleep(Duration::from_millis(300));
    lab.ok(&["start", "h1", "agent"]);
    let status = says(&lab, "h1", |status| status.speaker.in_sync);
    assert_eq!(status.store.state, "from snapshot");
    assert!(status.store.error.is_some() && status.writes == 0, "{status:#?}");
    let seen: Vec<String> = monitor.stop().lines().filter(|line| !is_neighbour_talk(line)).map(str::to_owned).collect();
    assert_eq!((seen, rules.stop().trim().to_owned()), (Vec::new(), String::new()), "written at the restart");

    // It attaches and detaches, and the other host hears of it.
    let answer = lab.attach("h1", &attach("b", veth(&spaces[1], "eth0"), &["10.65.0.51"]));
    assert!(answer.pending.is_empty(), "{answer:?}");
    detach(&lab, "h1", "a");
    lab.answers("w3", "10.65.0.51");
    lab.until("h2", "ip route", |said| !said.contains("10.65.0.50 "));
    assert_eq!(lab.status_of("h1").store.unpublished, 2);
    drive::none_lost(&pings.stop());

    // Also over another restart; and the store is told when it is back.
    lab.ok(&["kill", "h1", "agent"]);
    lab.ok(&["start", "h1", "agent"]);
    let status = says(&lab, "h1", |status| status.store.state == "from snapshot");
    assert_eq!(status.store.unpublished, 2);
    lab.answers("w3", "10.65.0.51");
    lab.ok(&["start", "store", "server"]);
    says(&lab, "h1", in_sync);
    let stored = lab.shell("store", "lasthop get wep -A -o yaml");
    assert!(stored.contains("10.65.0.51/32") && !stored.contains("10.65.0.50/32"), "{stored}");
    lab.answers("w3", "10.65.0.51");
}

/// Neighbours that come and go by themselves: those of the fabric.
fn is_neighbour_talk(line: &str) -> bool {
    line.contains("dev eth0") && line.contains("lladdr") || line.ends_with("FAILED") || line.contains(" dev tap")
}

#[test]
fn an_endpoint_deleted_while_its_agent_was_dead_is_gone_after_its_restart() {
    let lab = lab_of(PAIR);
    let space = lab.space("a");
    let answer = lab.attach("h1", &attach("a", veth(&space, "eth0"), &["10.65.0.50"]));
    says(&lab, "h1", in_sync);
    lab.answers("w3", "10.65.0.50");
    lab.ok(&["kill", "h1", "agent"]);
    lab.shell("store", "lasthop delete wep a -n default");
    lab.answers("w3", "10.65.0.50");
    lab.ok(&["start", "h1", "agent"]);
    says(&lab, "h1", in_sync);
    lab.until("h1", "ip route; ip link; nft list ruleset", |said| {
        !said.contains("10.65.0.50") && !said.contains(&answer.link)
    });
    lab.until("h2", "ip route", |said| !said.contains("10.65.0.50 "));
    let record = lab.directory("h1").join("state/attachments/default%a.json");
    assert!(!record.exists(), "{}", std::fs::read_to_string(record).unwrap());
    lab.answers("w3", "10.65.0.2");
}

#[test]
fn an_object_that_nobody_can_use_is_named_and_the_others_work() {
    let lab = lab_of(PAIR);
    // As an older program would have left it: written past the check at the edge.
    lab.ok(&["kill", "store", "server"]);
    let bad = serde_json::json!({
        "apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
        "metadata": {"name": "bad", "namespace": "default"},
        "spec": {"node": "h1", "interfaceName": "lhbad", "ipNetworks": ["10.65.0.300/32"], "colour": "red"},
    });
    put_unchecked(&lab, bad);
    lab.ok(&["start", "store", "server"]);
    let status = says(&lab, "h1", |status| in_sync(status) && !status.findings.is_empty());
    let (object, why) = status.findings.iter().next().unwrap();
    assert!(object.contains("default/bad") && (why.contains("10.65.0.300") || why.contains("colour")), "{status:#?}");
    assert!(lab.shell("h1", "lasthop status").contains("default/bad"));
    // The others are in force, and more come.
    let space = lab.space("a");
    let answer = lab.attach("h1", &attach("a", veth(&space, "eth0"), &["10.65.0.50"]));
    assert!(answer.pending.is_empty(), "{answer:?}");
    for address in ["10.65.0.2", "10.65.0.4", "10.65.0.50"] {
        lab.answers("w3", address);
    }
    lab.shell("store", "lasthop delete wep bad -n default");
    says(&lab, "h1", |status| status.findings.is_empty());
}

/// Puts a document into the file of a store that does not run.
fn put_unchecked(lab: &Lab, document: serde_json::Value) {
    use lasthop_store::Store;
    let file = lab.directory("store").join("state/store.redb");
    let key = lasthop_model::Key {
        kind: lasthop_model::Kind::WorkloadEndpoint,
        namespace: Some("default".to_owned()),
        name: "bad".to_owned(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let anything = lasthop_store::Options::new(std::sync::Arc::new(|_: lasthop_store::Candidate<'_>| Ok(())));
        // The file is free once the last thread of the killed server is gone.
        let end = Instant::now() + SOON;
        let store = loop {
            match lasthop_store::Embedded::open(&file, anything.clone()) {
                Ok(store) => break store,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        store.create(key, document).await.unwrap();
    });
}

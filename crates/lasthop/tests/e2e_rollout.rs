//! Changes that one waits for, and changes that go back by themselves, on real hosts.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::{Duration, Instant};
use support::Lab;

const W2: &str = "10.65.0.3";
const W3: &str = "10.65.1.2";
const TIER: &str = "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: { name: first }\nspec: { order: 1 }\n";

impl Lab {
    fn reaches(&self, from: &str, to: &str) -> bool {
        self.inside(from, &["ping", "-n", "-c", "1", "-W", "0.5", to]).0
    }

    #[track_caller]
    fn comes_to(&self, (from, to): (&str, &str), allowed: bool, within: Duration) {
        let begun = Instant::now();
        while self.reaches(from, to) != allowed {
            let word = if allowed { "allowed" } else { "denied" };
            assert!(begun.elapsed() < within, "{from} → {to} is not {word} after {within:?}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What the store has of a kind comes to be so.
    #[track_caller]
    fn stores(&self, kind: &str, so: impl Fn(&[serde_json::Value]) -> bool) {
        let begun = Instant::now();
        loop {
            let (ok, said) = self.inside("store", &["lasthop", "get", kind, "-o", "json"]);
            let listed: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
            if ok && so(listed["items"].as_array().unwrap_or(&Vec::new())) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(15), "{kind}: {said}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// `lasthop apply` with more arguments: whether it worked, and what it said.
    fn applies(&self, documents: &str, more: &[&str]) -> (bool, String) {
        let path = std::env::temp_dir().join(format!("lasthop-e2e-{}.yaml", self.name));
        std::fs::write(&path, documents).unwrap();
        let command = [&["lasthop", "apply", "-f", path.to_str().unwrap()], more].concat();
        let result = self.inside("store", &command);
        std::fs::remove_file(&path).unwrap();
        result
    }

    #[track_caller]
    fn apply(&self, documents: &str, more: &[&str]) -> String {
        let (ok, said) = self.applies(documents, more);
        assert!(ok, "{said}\n{}", self.logs());
        said
    }
}

/// Nobody reaches anybody, or all reach all.
fn policy(action: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{ name: all }}
spec:
  selector: all()
  types: [Ingress]
  ingress:
  - {{ action: {action} }}
"
    )
}

fn name(said: &str) -> String {
    let (_, rest) = said.split_once("lasthop confirm ").unwrap_or_else(|| panic!("{said}"));
    rest.split_whitespace().next().unwrap().to_owned()
}

/// w1, w2 and t1 on h1, w3 on h2.
fn datapath() -> Lab {
    Lab::up(&["--topology", "datapath"])
}

#[test]
fn after_waiting_no_packet_meets_what_was_before() {
    let lab = datapath();
    for round in 0..10 {
        lab.apply(&policy("Deny"), &["--wait"]);
        for (from, to) in [("w1", W2), ("w1", W3), ("w3", W2)] {
            assert!(!lab.reaches(from, to), "round {round}: {from} → {to} after a denial that was waited for");
        }
        lab.apply(&policy("Allow"), &["--wait"]);
        for (from, to) in [("w1", W2), ("w1", W3), ("w3", W2)] {
            assert!(lab.reaches(from, to), "round {round}: {from} → {to} after a permission that was waited for");
        }
    }
    lab.stores("rollout", |left| left.is_empty());
    lab.stores("rolloutreport", |left| left.is_empty());
}

#[test]
fn a_host_that_is_late_is_named_with_the_reason() {
    let lab = datapath();
    lab.ok(&["kill", "h2", "agent"]);
    let (ok, said) = lab.applies(&policy("Deny"), &["--wait", "--timeout", "2s"]);
    assert!(!ok && said.contains("h2: has not reported: is its agent running"), "{said}");
    assert!(!said.contains("h1:"), "{said}");
    assert!(!lab.reaches("w1", W2), "where the agent runs, it is in force");
}

#[test]
fn a_resource_of_no_use_to_a_host_is_not_in_force_there() {
    let lab = datapath();
    // Hosts of this lab have IPv4 addresses alone.
    let peer = "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: { name: six }\nspec: { peerIP: 'fd00:7::1', asNumber: 64512 }\n";
    let (ok, said) = lab.applies(peer, &["--wait", "--timeout", "15s"]);
    assert!(!ok && said.contains("BGPPeer/six is not in force: "), "{said}");
    // It stands in the way of nothing else.
    lab.apply(TIER, &["--wait", "--timeout", "15s"]);
}

#[test]
fn what_nobody_confirms_goes_back_also_after_a_restart_and_with_the_store_gone() {
    let lab = datapath();
    lab.apply(TIER, &[]);
    let changed = format!("{}---\n{}", TIER.replace("order: 1", "order: 2"), policy("Deny"));
    let said = lab.apply(&changed, &["--confirm", "6s", "--wait"]);
    let begun = Instant::now();
    assert!(!lab.reaches("w1", W2) && !lab.reaches("w1", W3), "in force at once: {said}");
    lab.ok(&["kill", "h1", "agent"]);
    lab.ok(&["kill", "store", "server"]);
    lab.ok(&["start", "h1", "agent"]);
    std::thread::sleep(Duration::from_secs(3).saturating_sub(begun.elapsed()));
    assert!(!lab.reaches("w1", W2) && !lab.reaches("w1", W3), "in force until then");
    lab.comes_to(("w1", W2), true, Duration::from_secs(15));
    lab.comes_to(("w1", W3), true, Duration::from_secs(15));
    lab.ok(&["kill", "h1", "agent"]);
    lab.ok(&["start", "h1", "agent"]);
    std::thread::sleep(Duration::from_secs(3));
    assert!(lab.reaches("w1", W2), "it stays so over another restart");

    // The store comes to say the same, and no packet tells when.
    lab.ok(&["start", "store", "server"]);
    for kind in ["rollout", "rolloutreport", "gnp"] {
        lab.stores(kind, |left| left.is_empty());
        assert!(lab.reaches("w1", W2) && lab.reaches("w1", W3), "meanwhile");
    }
    lab.stores("tier", |tiers| {
        tiers.iter().any(|tier| tier["metadata"]["name"] == "first" && tier["spec"]["order"] == 1)
    });
    assert!(lab.reaches("w1", W2) && lab.reaches("w1", W3), "after it");
}

#[test]
fn what_is_confirmed_stays_and_what_is_taken_back_goes_at_once() {
    let lab = datapath();
    let said = lab.apply(&policy("Deny"), &["--confirm", "3s"]);
    let begun = Instant::now();
    let (ok, said) = lab.inside("store", &["lasthop", "confirm", &name(&said)]);
    assert!(ok, "{said}");
    lab.comes_to(("w1", W2), false, Duration::from_secs(5));
    std::thread::sleep(Duration::from_secs(5).saturating_sub(begun.elapsed()));
    assert!(!lab.reaches("w1", W2) && !lab.reaches("w1", W3), "confirmed");

    let said = lab.apply(&policy("Allow"), &["--confirm", "10m"]);
    let id = name(&said);
    lab.comes_to(("w1", W3), true, Duration::from_secs(5));
    let (ok, said) = lab.applies(&policy("Deny"), &["--confirm", "10m"]);
    assert!(!ok && said.contains(&format!("lasthop confirm --revert {id}")), "one after the other: {said}");
    let (ok, said) = lab.inside("store", &["lasthop", "confirm", "--revert", &id]);
    assert!(ok && said.contains("GlobalNetworkPolicy/all taken back"), "{said}");
    lab.comes_to(("w1", W3), false, Duration::from_secs(5));
    let (ok, said) = lab.inside("store", &["lasthop", "confirm", &id]);
    assert!(!ok && said.contains("there is no change"), "{said}");
}

#[test]
fn mistakes_are_said_in_one_line_and_nothing_is_changed() {
    let lab = datapath();
    for (more, words) in [
        (["--confirm", "soon"], "invalid value 'soon'"),
        (["--confirm", "10ms"], "less than a second"),
        (["--timeout", "3s"], "--wait"),
    ] {
        let (ok, said) = lab.applies(TIER, &more);
        assert!(!ok && said.contains(words), "{more:?}: {said}");
    }
    let node = lab.inside("store", &["lasthop", "get", "node", "h1", "-o", "yaml"]).1;
    let (ok, said) = lab.applies(&node.replace("spec:", "spec:\n  # other\n"), &["--confirm", "5s"]);
    assert!(ok || said.contains("hosts write this kind themselves"), "{said}");
    let (_, tiers) = lab.inside("store", &["lasthop", "get", "tier", "-o", "json"]);
    assert!(!tiers.contains("first"), "{tiers}");
}

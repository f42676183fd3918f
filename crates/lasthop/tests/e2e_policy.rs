//! Policy on real hosts: from a resource in the store to what packets meet.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::time::{Duration, Instant};
use support::Lab;

/// Within this a change must be in force, also on a busy machine.
const SOON: Duration = Duration::from_secs(5);

impl Lab {
    fn reaches(&self, from: &str, to: &str) -> bool {
        self.inside(from, &["ping", "-n", "-c", "1", "-W", "0.5", to]).0
    }

    #[track_caller]
    fn comes_to(&self, from: &str, to: &str, allowed: bool) {
        let begun = Instant::now();
        while self.reaches(from, to) != allowed {
            let word = if allowed { "allowed" } else { "denied" };
            assert!(begun.elapsed() < SOON, "{from} → {to} is not {word} after {SOON:?}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    #[track_caller]
    fn apply(&self, documents: &str) {
        let path = std::env::temp_dir().join(format!(
            "lasthop-e2e-policy-{}-{:?}.yaml",
            std::process::id(),
            std::thread::current().id()
        ));
        std::fs::write(&path, documents).unwrap();
        let (ok, said) = self.inside("store", &["lasthop", "apply", "-f", path.to_str().unwrap()]);
        std::fs::remove_file(&path).unwrap();
        assert!(ok, "{said}");
    }

    #[track_caller]
    fn delete(&self, kind: &str, name: &str) {
        let (ok, said) = self.inside("store", &["lasthop", "delete", kind, name]);
        assert!(ok, "{said}");
    }
}

/// w1, w2 and t1 on h1, w3 on h2.
fn datapath() -> Lab {
    Lab::up(&["--topology", "datapath"])
}

const W1: &str = "10.65.0.2";
const W2: &str = "10.65.0.3";
const W3: &str = "10.65.1.2";

#[test]
fn a_policy_closes_opens_and_goes() {
    let lab = datapath();
    for (from, to) in [("w1", W2), ("w3", W2), ("w2", W1)] {
        assert!(lab.reaches(from, to), "{from} → {to} before any policy");
    }
    lab.apply(&format!(
        "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{ name: only-w3 }}
spec:
  selector: all()
  types: [Ingress]
  ingress:
  - {{ action: Allow, source: {{ nets: [{W3}/32] }} }}
"
    ));
    lab.comes_to("w1", W2, false);
    lab.comes_to("w2", W1, false);
    lab.comes_to("w3", W2, true);
    lab.comes_to("w3", W1, true);
    lab.comes_to("w1", W3, false);
    lab.delete("globalnetworkpolicy", "only-w3");
    lab.comes_to("w1", W2, true);
    lab.comes_to("w1", W3, true);
}

#[test]
fn a_selector_follows_its_members_on_any_host() {
    let lab = datapath();
    let set = |nets: &str| {
        format!(
            "apiVersion: projectcalico.org/v3
kind: GlobalNetworkSet
metadata: {{ name: clients, labels: {{ role: client }} }}
spec: {{ nets: [{nets}] }}
"
        )
    };
    lab.apply(&format!(
        "{}---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {{ name: clients, namespace: default }}
spec:
  selector: all()
  ingress:
  - {{ action: Allow, source: {{ namespaceSelector: global(), selector: role == 'client' }} }}
",
        set(&format!("{W3}/32"))
    ));
    lab.comes_to("w1", W2, false);
    lab.comes_to("w3", W2, true);
    lab.apply(&set(&format!("{W3}/32, {W1}/32")));
    lab.comes_to("w1", W2, true);
    lab.comes_to("w1", W3, true);
    lab.apply(&set(&format!("{W1}/32")));
    lab.comes_to("w3", W2, false);
}

#[test]
fn a_restarted_agent_finds_policy_in_force_and_writes_nothing() {
    let lab = datapath();
    lab.apply(&format!(
        "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{ name: only-w3 }}
spec:
  selector: all()
  ingress:
  - {{ action: Allow, source: {{ nets: [{W3}/32] }} }}
  egress:
  - {{ action: Allow }}
"
    ));
    lab.comes_to("w1", W2, false);
    lab.ok(&["kill", "h1", "agent"]);
    assert!(!lab.reaches("w1", W2) && lab.reaches("w3", W2), "policy outlives the agent");
    let monitor = lab.beside("h1", &["nft", "monitor"]);
    std::thread::sleep(Duration::from_millis(300));
    lab.ok(&["start", "h1", "agent"]);
    lab.comes_to("w3", W1, true);
    assert!(!lab.reaches("w1", W2));
    std::thread::sleep(Duration::from_millis(300));
    let seen = monitor.stop();
    assert!(!seen.contains("add") && !seen.contains("delete"), "{seen}");
}

fn only_w3() -> String {
    format!(
        "apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {{ name: only-w3 }}
spec:
  selector: all()
  ingress:
  - {{ action: Allow, source: {{ nets: [{W3}/32] }} }}
  egress:
  - {{ action: Allow }}
"
    )
}

#[test]
fn what_is_denied_is_told_and_rules_count() {
    let lab = datapath();
    lab.apply(&only_w3());
    lab.comes_to("w1", W2, false);
    lab.comes_to("w3", W2, true);
    let told = lab.beside("h1", &["lasthop", "drops", "--for", "20s"]);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        assert!(!lab.reaches("w1", W2));
    }
    let told = told.stop();
    let expected = format!("{W1} → {W2}, ICMP type 8 code 0 (default/w2): denied by the default of tier default");
    assert!(told.contains(&expected), "{told}");
    let (ok, rules) = lab.inside("h1", &["lasthop", "policy", "counters", "-o", "json"]);
    let rules: serde_json::Value =
        serde_json::from_str(&rules).unwrap_or_else(|error| panic!("{ok}: {error}: {rules}"));
    let packets = |direction: &str| {
        let rules = rules.as_array().unwrap().iter();
        let of = rules.filter(|rule| rule["owner"] == "GlobalNetworkPolicy/only-w3" && rule["direction"] == direction);
        of.map(|rule| rule["packets"].as_u64().unwrap()).sum::<u64>()
    };
    assert!(packets("ingress") > 0 && packets("egress") > 0, "{rules:#}");
}

#[test]
fn a_connection_that_policy_denies_now_ends_and_no_other() {
    let lab = datapath();
    lab.apply(
        "apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: { name: default }
spec: { revokeConnections: DeniedFlows }
",
    );
    // One connection each: the echo identifier stays.
    let ping = |from: &str| lab.beside(from, &["ping", "-n", "-q", "-i", "0.05", W2]);
    let (denied, allowed) = (ping("w1"), ping("w3"));
    std::thread::sleep(Duration::from_secs(1));
    lab.apply(&only_w3());
    lab.comes_to("w1", W2, false);
    std::thread::sleep(Duration::from_secs(2));
    let (denied, allowed) = (denied.stop(), allowed.stop());
    assert!(allowed.contains(" 0% packet loss"), "{allowed}");
    assert!(!denied.contains(" 0% packet loss") && !denied.contains(" 0 received"), "{denied}");
}

#[test]
fn iptables_carries_policy_where_a_host_asks_for_it() {
    let lab = datapath();
    let settings = |mode: &str| {
        format!(
            "apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {{ name: default }}
spec: {{ nftablesMode: {mode}, iptablesBackend: Legacy }}
"
        )
    };
    lab.apply(&settings("Disabled"));
    lab.apply(&only_w3());
    lab.comes_to("w1", W2, false);
    lab.comes_to("w3", W2, true);
    let begun = Instant::now();
    while lab.inside("h1", &["nft", "list", "table", "inet", "lasthop"]).0 {
        assert!(begun.elapsed() < SOON, "the nft table stays\n{}", lab.logs());
    }
    assert!(lab.inside("h1", &["iptables-legacy-save"]).1.contains("LASTHOP-"));
    assert!(!lab.reaches("w1", W2) && lab.reaches("w3", W1));
    lab.apply(&settings("Enabled"));
    let begun = Instant::now();
    while lab.inside("h1", &["iptables-legacy-save"]).1.contains("LASTHOP-") {
        assert!(begun.elapsed() < SOON, "the chains stay\n{}", lab.logs());
    }
    assert!(!lab.reaches("w1", W2) && lab.reaches("w3", W1));
}

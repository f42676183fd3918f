//! `lasthop explain`, `policy test` and `policy plan` over files, with the real binary: no root, no store.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

const SHOP: &str = "\
apiVersion: projectcalico.org/v3
kind: Node
metadata: { name: compute-1 }
spec: { bgp: { ipv4Address: 172.18.203.10/24 } }
---
apiVersion: projectcalico.org/v3
kind: Node
metadata: { name: compute-2 }
spec: { bgp: { ipv4Address: 172.18.203.11/24 } }
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: { name: workloads }
spec: { cidr: 10.65.0.0/16, natOutgoing: true }
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: { name: web, namespace: shop, labels: { app: web } }
spec: { node: compute-1, interfaceName: tap1, ipNetworks: [10.65.0.1/32, 'fd65::1/128'] }
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: { name: web2, namespace: shop, labels: { app: web } }
spec: { node: compute-2, interfaceName: tap2, ipNetworks: [10.65.0.2/32, 'fd65::2/128'] }
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: { name: db, namespace: shop, labels: { app: db } }
spec: { node: compute-2, interfaceName: tap3, ipNetworks: [10.65.0.3/32, 'fd65::3/128'] }
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: { name: db, namespace: shop }
spec:
  selector: app == 'db'
  ingress:
  - { action: Allow, protocol: TCP, source: { selector: app == 'web' }, destination: { ports: [5432] } }
";

/// The same policy with one port more, and open to an office.
const WIDER: &str = "\
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: { name: db, namespace: shop }
spec:
  selector: app == 'db'
  ingress:
  - { action: Allow, protocol: TCP, source: { selector: app == 'web' }, destination: { ports: ['5432:5433'] } }
  - { action: Allow, protocol: TCP, source: { nets: [203.0.113.0/24], notNets: [203.0.113.128/25] }, destination: { ports: [22] } }
";

const TESTS: &str = "\
resources: shop.yaml
tests:
- { from: shop/web, to: shop/db, port: 5432, must: allow }
- { from: shop/web, to: shop/db, port: 5433, must: deny }
- { from: 203.0.113.7, to: shop/db, port: 5432, ipVersion: 4, must: deny, name: ours alone }
- { from: shop/web, to: host/compute-1, protocol: icmp, must: deny }
- { from: host/compute-2, to: shop/db, protocol: 47, must: allow }
";

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in [("shop.yaml", SHOP), ("wider.yaml", WIDER), ("tests.yaml", TESTS)] {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    directory
}

/// Exit code, stdout, stderr.
fn lasthop(directory: &Path, line: &str) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_lasthop"))
        .args(line.split_whitespace())
        .current_dir(directory)
        .env_remove("LASTHOP_CONFIG")
        .env_remove("LASTHOP_SERVER")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn explain_names_each_hop_and_the_rule() {
    let directory = directory();
    let asked = [
        (
            "--from shop/web --to shop/db --port 5432",
            "\
shop/web → shop/db, 10.65.0.1 → 10.65.0.3, TCP port 5432: allowed
  egress of shop/web: allowed by egress rule 0 of Profile/kns.shop
  route: compute-1 → compute-2: 10.65.0.3/32 via 172.18.203.11, learned over BGP
  ingress of shop/db: allowed by ingress rule 0 of NetworkPolicy/shop/db (tier default)
",
        ),
        (
            "-n shop --from web2 --to db --port 80 --ip-version 6",
            "\
shop/web2 → shop/db, fd65::2 → fd65::3, TCP port 80: denied
  egress of shop/web2: allowed by egress rule 0 of Profile/kns.shop
  ingress of shop/db: denied by the default of tier default: NetworkPolicy/shop/db apply, and no rule of theirs matches
    nearest: ingress rule 0 of NetworkPolicy/shop/db (tier default) would have allowed it, but destination.ports is 80, the rule asks for 5432
",
        ),
        (
            "--from 10.65.0.1 --to 203.0.113.7 --proto udp --port 53",
            "\
shop/web → 203.0.113.7, 10.65.0.1 → 203.0.113.7, UDP port 53: allowed
  egress of shop/web: allowed by egress rule 0 of Profile/kns.shop
  route: compute-1 → outside, by its other routes
  outgoing NAT: the source becomes the host's address: IPPool/workloads has natOutgoing
",
        ),
        (
            "--from shop/web --to host/compute-1 --port 80",
            "\
shop/web → host/compute-1, 10.65.0.1 → 172.18.203.10, TCP port 80: denied
  egress of shop/web: allowed by egress rule 0 of Profile/kns.shop
  host compute-1, from its workload: denied by defaultEndpointToHostAction: Drop
",
        ),
    ];
    for (line, expected) in asked {
        let (exit, stdout, stderr) = lasthop(directory.path(), &format!("explain -f shop.yaml {line}"));
        assert_eq!((exit, stderr.as_str()), (0, ""), "{line}");
        assert_eq!(stdout, expected, "{line}");
    }
    let line = "explain -f shop.yaml --from shop/web --to shop/db --port 80 -o json";
    let value: Value = serde_json::from_str(&lasthop(directory.path(), line).1).unwrap();
    assert_eq!((&value["verdict"], &value["steps"][2]["verdict"]), (&"denied".into(), &"denied".into()));
    assert_eq!(value["steps"][2]["nearest"][0]["differences"][0]["wanted"], "5432");
}

#[test]
fn tests_pass_and_fail_with_the_reason() {
    let directory = directory();
    let (exit, stdout, stderr) = lasthop(directory.path(), "policy test tests.yaml");
    assert_eq!((exit, stdout.as_str(), stderr.as_str()), (0, "5 passed, 0 failed\n", ""));
    std::fs::write(directory.path().join("tests.yaml"), TESTS.replace("5433, must: deny", "5433, must: allow"))
        .unwrap();
    let (exit, stdout, _) = lasthop(directory.path(), "policy test tests.yaml");
    assert_eq!(exit, 1);
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 3, "both families are tried: {stdout}");
    assert!(
        lines[0].starts_with("FAILED shop/web → shop/db, 10.65.0.1 → 10.65.0.3, TCP port 5433: must be allowed, is denied: ingress of shop/db: "),
        "{stdout}"
    );
    assert!(lines[0].ends_with("but destination.ports is 5433, the rule asks for 5432"), "{stdout}");
    assert_eq!(lines[2], "4 passed, 1 failed");
    let (exit, stdout, _) = lasthop(directory.path(), "policy test tests.yaml -o json");
    let value: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((exit, &value[1]["holds"], &value[0]["holds"]), (1, &false.into(), &true.into()));
}

#[test]
fn a_plan_says_who_gains_and_who_loses() {
    let directory = directory();
    let (exit, stdout, stderr) = lasthop(directory.path(), "policy plan --before shop.yaml -f shop.yaml");
    assert_eq!((exit, stdout.as_str(), stderr.as_str()), (0, "nobody gains or loses anything\n", ""));
    let (exit, stdout, stderr) = lasthop(directory.path(), "policy plan --before shop.yaml -f wider.yaml");
    let expected = "\
gains 203.0.113.0/24 (but 203.0.113.128/25) → shop/db: TCP port 22 (IPv4)
gains workloads with app=web → shop/db: TCP port 5433
2 changes
"
    .replace("app=web", "app=web (2)");
    assert_eq!((exit, stdout.as_str(), stderr.as_str()), (2, expected.as_str(), ""));
    let line = "policy plan --before shop.yaml --delete networkpolicy/shop/db -o json";
    let (exit, stdout, _) = lasthop(directory.path(), line);
    let value: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(exit, 2);
    let web =
        value["changes"].as_array().unwrap().iter().find(|change| change["from"]["ends"][0]["name"] == "shop/web");
    let change = web.unwrap();
    assert_eq!((&change["effect"], &change["to"]["described"]), (&"gains".into(), &"shop/db".into()));
    assert_eq!(change["traffic"], serde_json::json!(["everything but TCP port 5432"]), "{stdout}");
    let line = "policy plan --before shop.yaml -f wider.yaml --delete networkpolicy/shop/db";
    assert_eq!(lasthop(directory.path(), line).0, 2);
}

#[test]
fn mistakes_are_one_line_each() {
    let directory = directory();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("odd.yaml", "resources: shop.yaml\ntests:\n- { from: shop/web, to: shop/db, prot: 1, must: deny }\n");
    write("none.yaml", "tests: []\n");
    write("ends.yaml", "resources: shop.yaml\ntests:\n- { from: shop/wbe, to: shop/db, port: 1, must: deny }\n");
    let cases = [
        (
            "explain -f shop.yaml --from shop/wbe --to shop/db --port 1",
            4,
            "workload 'shop/wbe' does not exist; did you mean 'shop/web",
        ),
        (
            "explain -f shop.yaml --from shop/web --to host/compute-9 --port 1",
            4,
            "host 'compute-9' is not known; did you mean",
        ),
        ("explain -f shop.yaml --from shop/web --to shop/db", 2, "the port is missing"),
        ("explain -f shop.yaml --from shop/web --to shop/db --proto icmp --port 1", 2, "has no ports; leave it out"),
        ("explain -f shop.yaml --from shop/web --to shop/db --proto tpc --port 1", 2, "write tcp, udp, sctp"),
        ("explain -f shop.yaml --from 203.0.113.7 --to fd65::3 --port 1", 2, "have no addresses of one family"),
        ("explain -f gone.yaml --from a --to b --port 1", 2, "cannot read gone.yaml"),
        ("policy test gone.yaml", 2, "gone.yaml: cannot be read"),
        ("policy test none.yaml", 2, "names no resources: add 'resources: DIR' to it, or use -f"),
        ("policy test odd.yaml", 2, "odd.yaml: is no file of tests: "),
        ("policy test ends.yaml", 2, "ends.yaml: tests[0]: workload 'shop/wbe' does not exist"),
        ("policy plan", 2, "were not provided"),
        (
            "policy plan --before shop.yaml --delete networkpolicy/shop/bd",
            4,
            "--delete: NetworkPolicy/shop/bd does not exist",
        ),
        ("policy plan --before shop.yaml --delete tier/shop/bd", 2, "Tier has no namespace; leave out 'shop'"),
    ];
    for (line, code, expected) in cases {
        let (exit, stdout, stderr) = lasthop(directory.path(), line);
        assert_eq!((exit, stdout.as_str()), (code, ""), "'{line}': {stderr}");
        assert_eq!(stderr.lines().count(), 1, "'{line}': {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(expected), "'{line}': {stderr}");
    }
}

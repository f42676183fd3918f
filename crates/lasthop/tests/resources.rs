//! Resources through the command line, with a real `lasthop server` on the other side of a unix socket or of TLS.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use lasthop_model::Kind;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const POOL: &str = "\
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: { name: pool-1 }
spec: { cidr: 10.65.0.0/16, natOutgoing: true }
";

const ENDPOINT: &str = "\
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: { name: vm1 }
spec: { node: compute-1, interfaceName: tap1, ipNetworks: [10.65.0.24/32] }
";

const NODE: &str = "\
apiVersion: projectcalico.org/v3
kind: Node
metadata: { name: compute-1 }
spec: { bgp: { ipv4Address: 172.18.203.10/24 } }
";

/// A server in a directory of its own; ended when dropped.
struct Site {
    directory: tempfile::TempDir,
    server: Child,
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn command(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lasthop"));
    command.current_dir(directory).env("LASTHOP_CONFIG", "lasthop.yaml").env_remove("LASTHOP_SERVER");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Site {
    /// A server with this configuration beside its directories.
    fn start(more: &str, prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = format!("node: store-1\nrunDirectory: run\nstateDirectory: state\n{more}");
        std::fs::write(directory.path().join("lasthop.yaml"), config).unwrap();
        prepare(directory.path());
        let server = command(directory.path()).arg("server").stderr(Stdio::null()).spawn().unwrap();
        let site = Self { directory, server };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !site.path("run/store.sock").exists() {
            assert!(Instant::now() < deadline, "the server did not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Exit code, stdout, stderr.
    fn run(&self, line: &str) -> (i32, String, String) {
        let output = command(self.directory.path()).args(line.split_whitespace()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    /// stdout of what must succeed.
    fn ok(&self, line: &str) -> String {
        let (exit, stdout, stderr) = self.run(line);
        assert_eq!((exit, stderr.as_str()), (0, ""), "'{line}'");
        stdout
    }

    /// stdout of what must succeed, perhaps with notes.
    fn noted(&self, line: &str) -> String {
        let (exit, stdout, stderr) = self.run(line);
        assert!(exit == 0 && stderr.lines().all(|line| line.starts_with("note: ")), "'{line}': {stderr}");
        stdout
    }

    /// Exit code and stderr of what must fail.
    fn fails(&self, line: &str, code: i32, expected: &str) {
        let (exit, stdout, stderr) = self.run(line);
        assert_eq!((exit, stdout.as_str()), (code, ""), "'{line}': {stderr}");
        assert!(stderr.contains(expected), "'{line}': expected {expected:?} in {stderr:?}");
        assert!(stderr.lines().all(|line| line.starts_with("error: ")), "'{line}': {stderr}");
    }

    fn all(&self) -> Value {
        serde_json::from_str(&self.ok("get all -A -o json")).unwrap()
    }
}

#[test]
fn apply_twice_writes_once() {
    let site = Site::start("", |_| {});
    site.write("all.yaml", &format!("{POOL}---\n{ENDPOINT}---\n{NODE}"));
    let created = "IPPool pool-1 created\nWorkloadEndpoint default/vm1 created\nNode compute-1 created\n";
    assert_eq!(site.ok("apply -f all.yaml"), created);
    let before = site.all();
    assert_eq!(site.ok("apply -f all.yaml"), created.replace("created", "unchanged"));
    assert_eq!(site.all(), before, "revisions are as before");
    site.write("all.yaml", &POOL.replace("true", "false"));
    assert_eq!(site.ok("apply --dry-run -f all.yaml"), "IPPool pool-1 would be changed\n");
    assert_eq!(site.all(), before);
    assert_eq!(site.ok("apply -f all.yaml"), "IPPool pool-1 configured\n");
    assert!(site.ok("get ippools").contains("pool-1  10.65.0.0/16  false  false"));
    let done: Value = serde_json::from_str(&site.ok("apply -f all.yaml -o json")).unwrap();
    assert_eq!((&done[0]["result"], &done[0]["name"]), (&"unchanged".into(), &"pool-1".into()));
}

#[test]
fn what_get_prints_apply_takes() {
    let site = Site::start("", |_| {});
    site.write("all.yaml", &format!("{POOL}---\n{ENDPOINT}"));
    site.ok("create -f all.yaml");
    for format in ["yaml", "json"] {
        site.write("got", &site.ok(&format!("get all -A -o {format}")));
        assert_eq!(site.ok("apply -f got"), "IPPool pool-1 unchanged\nWorkloadEndpoint default/vm1 unchanged\n");
        site.write("got", &site.ok(&format!("get ippool pool-1 -o {format}")));
        assert_eq!(site.ok("replace -f got"), "IPPool pool-1 unchanged\n");
    }
    // Somebody else is faster: what was read before does not go over it.
    site.write("old", &site.ok("get ippool pool-1 -o yaml"));
    site.write("new", &POOL.replace("true", "false"));
    site.ok("apply -f new");
    site.fails("apply -f old", 1, "was changed since it was read");
    assert!(site.ok("get pool pool-1").contains("false"));
}

#[test]
fn one_wrong_document_changes_nothing() {
    let site = Site::start("", |_| {});
    site.write("pool.yaml", POOL);
    site.ok("apply -f pool.yaml");
    let before = site.all();
    let other = POOL.replace("pool-1", "pool-2");
    let cases = [
        (
            "apply",
            format!("{other}---\n{}", NODE.replace("ipv4Address", "ipv4Adress")),
            2,
            "x.yaml:9: Node/compute-1: spec.bgp.",
        ),
        (
            "apply",
            format!("{other}---\n{}", POOL.replace("10.65.0.0/16", "10.65.0.0/33")),
            2,
            "x.yaml:9: IPPool/pool-1: spec.cidr: ",
        ),
        ("apply", format!("{other}---\n{other}"), 2, "is already at x.yaml:1; remove one"),
        (
            "create",
            format!("{other}---\n{POOL}"),
            1,
            "IPPool/pool-1 exists already: use 'apply' or 'replace'; nothing was changed",
        ),
        (
            "replace",
            format!("{POOL}---\n{other}"),
            4,
            "IPPool/pool-2 does not exist: use 'apply' or 'create'; nothing was",
        ),
        ("delete", format!("{POOL}---\n{other}"), 4, "IPPool/pool-2 does not exist: nothing was deleted"),
        ("apply", "kind: [".to_owned(), 2, "x.yaml:1: is not valid YAML"),
        ("apply", String::new(), 2, "no resources in x.yaml: nothing to do"),
        (
            "apply",
            "kind: IPPool\nmetadata: { name: a }\n".to_owned(),
            2,
            "apiVersion: is missing; write projectcalico.org/v3",
        ),
        ("apply", POOL.replace("IPPool", "IPPol"), 2, "did you mean 'IPPool'?"),
        ("apply", POOL.replace("IPPool", "IPReservation"), 2, "x.yaml:2: kind: 'IPReservation' is"),
        ("apply -n blue", ENDPOINT.replace("name: vm1", "name: vm1, namespace: red"), 2, "--namespace says 'blue'"),
    ];
    for (verb, text, code, expected) in cases {
        site.write("x.yaml", &text);
        site.fails(&format!("{verb} -f x.yaml"), code, expected);
        assert_eq!(site.all(), before, "'{verb}' changed something");
    }
    site.write("x.yaml", "");
    std::fs::write(site.path("bytes"), [0xff, 0xfe]).unwrap();
    std::fs::create_dir(site.path("empty")).unwrap();
    for (line, code, expected) in [
        ("apply -f none.yaml", 2, "cannot read none.yaml: No such file"),
        ("apply -f bytes", 2, "cannot read bytes: it is not UTF-8 text"),
        ("apply -f empty", 2, "no resources in empty: nothing to do"),
        ("get nodez", 2, "'nodez' is not a kind of resource"),
        ("get ippool none", 4, "IPPool 'none' does not exist; 'lasthop get ippools' shows all"),
        ("get wep none -n blue", 4, "WorkloadEndpoint 'none' does not exist in namespace 'blue'; -A looks into all"),
        ("get ippool -n blue", 2, "--namespace: IPPool has no namespace; drop the flag"),
        ("get all pool-1", 2, "'all' takes no name"),
        ("get wep -n a -A", 2, "cannot be used with"),
        ("delete ippool none", 4, "IPPool/none does not exist: nothing was deleted"),
        ("delete ippool pool-1 none", 4, "IPPool/none does not exist: nothing was deleted"),
        ("delete ippool", 2, "were not provided: <NAME>..."),
        ("get nodes --ca x", 2, "--ca is for a server: add --server HOST:PORT"),
        ("get nodes --server nowhere", 2, "--server: 'nowhere' is not HOST:PORT"),
        ("get nodes --server 127.0.0.1:1", 2, "--ca is missing: 127.0.0.1:1 wants to know who we are"),
        ("get nodes --server 127.0.0.1:1 --ca a --cert b --key c", 2, "a: No such file or directory"),
    ] {
        site.fails(line, code, expected);
        assert_eq!(site.all(), before, "'{line}' changed something");
    }
}

#[test]
fn a_directory_and_stdin_are_sources() {
    let site = Site::start("", |_| {});
    std::fs::create_dir_all(site.path("m/inner")).unwrap();
    site.write("m/a.yaml", POOL);
    site.write("m/b.json", r#"{"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"name": "n1"}}"#);
    site.write("m/notes.txt", "no resource");
    site.write("m/inner/c.yml", ENDPOINT);
    assert_eq!(site.ok("apply -f m"), "IPPool pool-1 created\nNode n1 created\n");
    assert_eq!(site.ok("validate -f m -R"), "3 documents are valid\n");
    let stdout = site.ok("apply -f m -R -n blue");
    assert_eq!(stdout, "IPPool pool-1 unchanged\nNode n1 unchanged\nWorkloadEndpoint blue/vm1 created\n");
    assert_eq!(site.ok("get wep"), "no workloadendpoints\n");
    assert!(site.ok("get wep -n blue").contains("blue       vm1   compute-1  10.65.0.24/32  tap1"));
    let mut child =
        command(site.directory.path()).args(["delete", "-f", "-", "-n", "blue"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(ENDPOINT.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "WorkloadEndpoint blue/vm1 deleted\n");
    assert_eq!(site.ok("delete -f m -R -n blue --if-exists"), "IPPool pool-1 deleted\nNode n1 deleted\n");
    assert_eq!(site.all()["items"], Value::Array(vec![]));
}

#[test]
fn every_kind_goes_in_and_comes_out() {
    let site = Site::start("", |_| {});
    let text = include_str!("../../model/tests/data/full.yaml").replace("  resourceVersion: \"17\"\n", "");
    site.write("all.yaml", &text);
    let count = Kind::ALL.len();
    assert_eq!(site.noted("validate -f all.yaml"), format!("{count} documents are valid\n"));
    assert_eq!(site.noted("apply -f all.yaml").matches(" created\n").count(), count);
    assert_eq!(site.noted("apply -f all.yaml").matches(" unchanged\n").count(), count);
    for kind in Kind::ALL {
        let everywhere = if kind.is_namespaced() { " -A" } else { "" };
        let rows = site.ok(&format!("get {} -o wide{everywhere}", kind.plural()));
        let built_in = if kind == Kind::Tier { 3 } else { 0 };
        assert_eq!(rows.lines().count(), 2 + built_in, "{kind}: {rows}");
    }
    assert!(site.ok("get np -n blue").contains("web   default  100    role == 'web'"), "{}", site.ok("get np -n blue"));
    assert!(site.ok("get knp -n blue").contains("role=web,stage NotIn,team Exists"), "{}", site.ok("get knp -n blue"));
    site.write("back.yaml", &site.ok("get all -A -o yaml"));
    assert_eq!(site.noted("validate -f back.yaml"), format!("{count} documents are valid\n"));
    assert_eq!(site.noted("apply -f back.yaml").matches(" unchanged\n").count(), count);
    // The two NetworkPolicies of one name are two resources.
    assert_eq!(site.ok("delete np web -n blue"), "NetworkPolicy blue/web deleted\n");
    assert_eq!(site.ok("get knp web -n blue -o json").matches("networking.k8s.io/v1").count(), 1);
    site.fails("delete tier default", 2, "Tier/default is built in and always there");
    site.fails(
        "delete tier security",
        1,
        "Tier/security is in use by GlobalNetworkPolicy/security.hosts: delete that first",
    );
    site.fails("delete namespace none", 4, "Namespace/none does not exist");
    assert_eq!(site.noted("delete -f all.yaml --if-exists").matches(" deleted\n").count(), count - 1);
    assert_eq!(site.all()["items"], Value::Array(vec![]));
}

#[test]
fn built_in_tiers_are_listed_without_a_resource() {
    let site = Site::start("", |_| {});
    let listed = |rows: &str| -> Vec<String> {
        rows.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };
    let built_in = ["default 1000000 Deny yes", "kube-admin 1000 Pass yes", "kube-baseline 10000000 Pass yes"];
    assert_eq!(listed(&site.ok("get tiers")), built_in);
    let tier = |name: &str, order: u32| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: Tier\nmetadata: {{name: {name}}}\nspec: {{order: {order}, defaultAction: Deny}}\n"
        )
    };
    site.write("tiers.yaml", &format!("{}---\n{}", tier("default", 1_000_000), tier("ops", 50)));
    site.ok("apply -f tiers.yaml");
    assert_eq!(listed(&site.ok("get tiers")), [&built_in[..], &["ops 50 Deny -"]].concat());
    assert_eq!(site.ok("get tier kube-admin -o json").matches("\"Pass\"").count(), 1);
    // What comes out goes in again, and a list of everything holds what is in the store.
    site.write("back.yaml", &site.ok("get tiers -o yaml"));
    assert_eq!(site.ok("validate -f back.yaml"), "4 documents are valid\n");
    assert_eq!(site.all()["items"].as_array().map(Vec::len), Some(2));
}

#[test]
fn what_cannot_be_honoured_is_said_when_it_is_checked() {
    let site = Site::start("", |_| {});
    let policy = "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: out}\n\
        spec:\n  tier: Admin\n  priority: 5\n  subject: {namespaces: {}}\n  egress:\n  \
        - {action: Accept, to: [{domainNames: [example.com]}]}\n  - {action: Deny, to: [{nodes: {}}]}\n";
    site.write("out.yaml", policy);
    let (exit, stdout, stderr) = site.run("validate -f out.yaml");
    assert_eq!((exit, stdout.as_str()), (0, "1 document is valid\n"), "{stderr}");
    for (line, path) in stderr.lines().zip(["spec.egress[0].to[0].domainNames", "spec.egress[1].to[0].nodes"]) {
        assert!(line.starts_with("note: ") && line.contains(&format!("{path}: cannot be honoured here")), "{line}");
    }
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
}

#[test]
fn what_can_only_be_checked_is_checked() {
    let site = Site::start("", |_| {});
    let reservation = "apiVersion: projectcalico.org/v3\nkind: IPReservation\nmetadata: {name: r}\nspec: {reservedCIDRs: [10.65.0.0/24]}\n";
    site.write("reservation.yaml", reservation);
    assert_eq!(site.noted("validate -f reservation.yaml"), "1 document is valid\n");
    site.fails(
        "apply -f reservation.yaml",
        2,
        "reservation.yaml:2: kind: 'IPReservation' is a kind that this version of lasthop does not support",
    );
    site.write("reservation.yaml", &reservation.replace("10.65.0.0/24", "ten"));
    site.fails("validate -f reservation.yaml", 2, "reservation.yaml:4: spec.reservedCIDRs[0]: 'ten'");
}

#[test]
fn what_resets_a_session_is_shown_and_refused() {
    let site = Site::start("", |_| {});
    let node = |name: &str, last: u8, more: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {{name: {name}}}\n\
             spec: {{bgp: {{ipv4Address: 172.31.0.{last}/24{more}}}}}\n---\n"
        )
    };
    site.write("nodes.yaml", &(node("n1", 1, "") + &node("n2", 2, "")));
    let (exit, stdout, stderr) = site.run("bgp plan -f nodes.yaml");
    assert_eq!(exit, 2, "{stderr}");
    assert!(stdout.contains("172.31.0.2  start") && stdout.contains("172.31.0.1  start"), "{stdout}");
    site.ok("apply -f nodes.yaml");
    assert_eq!(site.ok("bgp plan -f nodes.yaml"), "no session changes\n");
    site.write("other.yaml", &node("n2", 2, ", asNumber: 65001"));
    let (exit, stdout, _) = site.run("bgp plan -f other.yaml");
    assert_eq!((exit, stdout.matches("  reset  ").count()), (2, 2), "both ends: {stdout}");
    let before = site.all();
    site.fails("apply -f other.yaml", 1, "the session of n1 with 172.31.0.2 (mesh) would be reset: asn would change");
    site.fails("apply -f other.yaml", 1, "--allow-reset");
    assert_eq!(site.all(), before);
    assert_eq!(site.ok("apply -f other.yaml --allow-reset"), "Node n2 configured\n");
    let hot = "apiVersion: projectcalico.org/v3\nkind: BGPConfiguration\nmetadata: {name: default}\nspec: {listenPort: 1790}\n";
    site.write("hot.yaml", hot);
    let plan = site.ok("bgp plan -f hot.yaml -o json");
    assert!(plan.contains("\"effect\": \"hot\""), "{plan}");
    site.ok("apply -f hot.yaml");
    assert_eq!(site.run("bgp plan --delete node/n2").0, 2);
    site.fails("bgp plan --delete node/n3", 4, "Node/n3 does not exist");
}

#[test]
fn a_watch_shows_each_change() {
    let site = Site::start("", |_| {});
    site.write("pool.yaml", POOL);
    site.write("node.yaml", NODE);
    let mut watch = command(site.directory.path()).args(["get", "pools", "-w", "-o", "json"]).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    // The watch may begin before or after: either way the pool is told once, and the node never.
    site.ok("apply -f node.yaml -f pool.yaml");
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!((&first["kind"], &first["metadata"]["name"]), (&"IPPool".into(), &"pool-1".into()));
    site.ok("delete pool pool-1");
    let second: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(second["deleted"], "IPPool/pool-1");
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn other_hosts_come_with_certificates() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!(
        "server: {{ listen: '127.0.0.1:{port}', ca: pki/ca.pem, certificate: pki/server-s.pem, key: pki/server-s-key.pem }}"
    );
    let site = Site::start(&listen, |directory| {
        for line in [
            "init pki",
            "init other",
            "issue pki server s",
            "issue pki admin a",
            "issue pki node compute-1",
            "issue other admin a",
        ] {
            let output = command(directory).arg("certs").args(line.split_whitespace()).output().unwrap();
            assert!(output.status.success(), "certs {line}: {}", String::from_utf8_lossy(&output.stderr));
        }
    });
    let with = |line: &str, name: &str| {
        format!("{line} --server 127.0.0.1:{port} --ca pki/ca.pem --cert {name}.pem --key {name}-key.pem")
    };
    site.write("node.yaml", NODE);
    site.write("pool.yaml", POOL);
    assert_eq!(site.ok(&with("apply -f pool.yaml", "pki/admin-a")), "IPPool pool-1 created\n");
    assert_eq!(site.ok(&with("apply -f node.yaml", "pki/node-compute-1")), "Node compute-1 created\n");
    assert!(site.ok(&with("get pools", "pki/node-compute-1")).contains("pool-1"));
    let before = site.all();
    site.fails(&with("delete pool pool-1", "pki/node-compute-1"), 5, "denied: ");
    site.fails(&with("delete pool pool-1", "other/admin-a"), 5, "cannot reach the store: 127.0.0.1:");
    site.fails(&with("get pools", "pki/server-s"), 5, "cannot reach the store: 127.0.0.1:");
    assert_eq!(site.all(), before);
    site.fails("certs init pki", 1, "ca.pem exists already");
    site.fails("certs issue pki node compute-1", 1, "exists already");
    site.fails("certs issue nowhere node compute-1", 4, "make an authority first with `lasthop certs init`");
    site.fails("certs issue pki host compute-1", 2, "'host' is not a role: use server, node or admin");
    site.fails("certs issue pki node Compute_1", 2, "'Compute_1' is not a valid name");
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let site = Site::start("", |_| {});
    site.fails("server", 1, "store.redb is in use by another process");
    site.write("lasthop.yaml", "group: no-such-group-here\nrunDirectory: run2\nstateDirectory: state2\n");
    site.fails("server", 2, "group 'no-such-group-here' does not exist: create it with 'groupadd --system");
    site.write("lasthop.yaml", "runDirectory: none\nstateDirectory: none\n");
    site.fails("get nodes", 5, "cannot reach the store: none/store.sock: ");
    site.fails("get nodes", 5, "is 'lasthop agent' or 'lasthop server' running there?");
}

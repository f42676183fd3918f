//! One host, all of it: `lasthop bgp` and `lasthop agent` in a network namespace with no more capabilities than their
//! units give them, and the operator's commands on them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

#[path = "support/fake_speaker.rs"]
mod fake_speaker;

use fake_speaker::FakeSpeaker;
use lasthop_agent::speaker::ToSpeaker;
use lasthop_agent::speaker::protocol::ToAgent;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A host; taken away when dropped.
struct Host {
    name: String,
    directory: tempfile::TempDir,
    daemons: Vec<Child>,
}

impl Drop for Host {
    fn drop(&mut self) {
        for child in &mut self.daemons {
            let _ = child.kill();
            let _ = child.wait();
        }
        for name in [self.name.clone(), self.workload()] {
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}

fn ip(line: &str) {
    let output = Command::new("ip").args(line.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "run as root: ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The capabilities of a unit, as setpriv takes them.
fn bounding_set(unit: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist").join(unit);
    let text = std::fs::read_to_string(path).unwrap();
    let set = text.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let names = set.split_whitespace().map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()));
    format!("--bounding-set=-all{}", names.collect::<String>())
}

impl Host {
    /// A host with a fabric link, a TAP, and an empty namespace for a workload; nothing runs.
    fn new(label: &str) -> Self {
        let host = Self {
            name: format!("lht{}-{label}", std::process::id()),
            directory: tempfile::tempdir().unwrap(),
            daemons: Vec::new(),
        };
        let name = &host.name;
        ip(&format!("netns add {name}"));
        ip(&format!("netns add {}", host.workload()));
        ip(&format!("-n {name} link set lo up"));
        ip(&format!("-n {name} link add eth0 type veth peer name eth1"));
        ip(&format!("-n {name} addr add 172.18.203.10/24 dev eth0"));
        ip(&format!("-n {name} link set eth0 up"));
        ip(&format!("-n {name} tuntap add tapa429fb36-04 mode tap"));
        std::fs::write(host.path("lasthop.yaml"), "node: compute-1\nrunDirectory: run\nstateDirectory: state\n")
            .unwrap();
        host
    }

    fn workload(&self) -> String {
        format!("{}w", self.name)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, before: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).args(before).arg(env!("CARGO_BIN_EXE_lasthop"));
        command.current_dir(self.directory.path()).env("LASTHOP_CONFIG", "lasthop.yaml").env_remove("LASTHOP_SERVER");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts a daemon as its unit would; its place among the daemons.
    fn start(&mut self, daemon: &str, unit: &str) -> usize {
        let set = bounding_set(unit);
        let log = std::fs::File::create(self.path(&format!("{daemon}.log"))).unwrap();
        let mut command = self.command(&["setpriv", &set, "--no-new-privs"]);
        self.daemons.push(command.arg(daemon).stdout(Stdio::null()).stderr(log).spawn().unwrap());
        self.daemons.len() - 1
    }

    fn run(&self, line: &str) -> (i32, String, String) {
        let Output { status, stdout, stderr } = self.command(&[]).args(line.split_whitespace()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    fn ok(&self, line: &str) -> String {
        let (exit, stdout, stderr) = self.run(line);
        assert_eq!((exit, stderr.as_str()), (0, ""), "'{line}'");
        stdout
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.ok(&format!("{line} -o json"))).unwrap()
    }

    /// A caller of the agent's own, without a program's start in between.
    fn caller(&self) -> Caller {
        let stream = UnixStream::connect(self.path("run/agent.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Caller(BufReader::new(stream))
    }

    /// The kernel's routes of a prefix, as 'ip route' prints them.
    fn kernel_route(&self, prefix: &str) -> String {
        let output = Command::new("ip").args(["-n", &self.name, "route", "show", prefix]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until the agent answers and its status is what it ought to be.
    fn wait(&self, what: &str, right: impl Fn(&Value) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let (exit, stdout, stderr) = self.run("status -o json");
            if exit == 0 && right(&serde_json::from_str(&stdout).unwrap()) {
                return;
            }
            let logs = || std::fs::read_to_string(self.path("agent.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{what}: {stdout}{stderr}\n{}", logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

struct Caller(BufReader<UnixStream>);

impl Caller {
    fn ask(&mut self, request: &str) {
        self.0.get_mut().write_all(format!("{{\"v\":1,{request}}}\n").as_bytes()).unwrap();
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Whether there is an answer already.
    fn is_answered(&mut self) -> bool {
        self.0.get_ref().set_nonblocking(true).unwrap();
        let answered = self.0.fill_buf().is_ok();
        self.0.get_ref().set_nonblocking(false).unwrap();
        answered
    }
}

const RESOURCES: &str = "\
apiVersion: projectcalico.org/v3
kind: Node
metadata: { name: compute-1 }
spec: { bgp: { ipv4Address: 172.18.203.10/24 } }
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: { name: workloads }
spec: { cidr: 10.65.0.0/16 }
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: { name: nobody }
spec: { peerIP: 172.18.203.2, asNumber: 64512 }
";

#[test]
fn an_operators_day() {
    let mut host = Host::new("day");
    let speaker = host.start("bgp", "lasthop-bgp.service");
    let agent = host.start("agent", "lasthop-agent.service");
    host.wait("in sync", |status| status["store"]["state"] == "in-sync" && status["speaker"]["state"] == "connected");
    std::fs::write(host.path("r.yaml"), RESOURCES).unwrap();
    let done = host.ok("apply -f r.yaml");
    assert_eq!(done, "Node compute-1 created\nIPPool workloads created\nBGPPeer nobody created\n");

    let done =
        host.ok("workload add vm1 --ip 10.65.0.24 --tap tapa429fb36-04 --mac fa:16:3e:00:00:01 --label role=web");
    assert!(done.starts_with("workload default/vm1: in force, in "), "{done}");
    let c1 = host.json(&format!("workload add c1 --ip 10.65.0.25 --ip fd65::25 --netns {}", host.workload()));
    assert_eq!(c1["programmed"], serde_json::json!(["10.65.0.25/32", "fd65::25/128"]));

    let mut before = host.json("workload list");
    let mistakes = [
        ("workload add vm2 --ip 10.65.0.26 --netns nosuch".to_owned(), "nosuch"),
        ("workload add vm2 --ip 10.65.0.26 --netns 4194304".to_owned(), "4194304"),
        ("workload add vm2 --ip 10.65.0.26 --tap eth0".to_owned(), "eth0"),
        ("workload add vm2 --ip 10.65.0.26 --tap tapa429fb36-04".to_owned(), "tapa429fb36-04"),
        (format!("workload add vm2 --ip 10.65.0.24 --netns {}", host.workload()), "10.65.0.24"),
        ("workload show vm2".to_owned(), "vm2"),
        ("workload delete vm2".to_owned(), "vm2"),
    ];
    for (line, named) in mistakes {
        let (exit, stdout, stderr) = host.run(&line);
        assert!(exit != 0 && stdout.is_empty(), "'{line}': {exit} {stdout}");
        assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "'{line}': {stderr}");
        assert!(stderr.contains(named), "'{line}' does not name {named}: {stderr}");
        assert_eq!(host.json("workload list"), before, "'{line}' changed something");
    }

    // What is not in force says why, also after others have come and gone, until it is in force or not wanted.
    let absent = host.json("workload add vm3 --ip 10.65.0.27 --tap tap-late");
    assert_eq!(absent["pending"]["route 10.65.0.27/32"], "link tap-late is absent", "{absent}");
    host.ok("workload add vm4 --ip 10.65.0.28 --tap tap-never");
    host.ok("workload delete vm4");
    let pending = |status: &Value| status["pending"].as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    let told = pending(&host.json("status"));
    assert!(told.contains("route 10.65.0.27/32") && !told.contains("10.65.0.28"), "{told}");
    let line = host.ok("routes").lines().find(|line| line.starts_with("10.65.0.27/32")).unwrap().to_owned();
    assert!(line.ends_with("pending  link tap-late is absent"), "{line}");
    ip(&format!("-n {} tuntap add tap-late mode tap", host.name));
    host.wait("connected once the link is there", |status| !pending(status).contains("10.65.0.27"));
    host.ok("workload delete vm3");

    let table = host.ok("routes -o wide");
    assert!(table.contains("10.65.0.24/32  direct       dev tapa429fb36-04"), "{table}");
    let whole = host.ok("routes --host");
    assert!(whole.lines().any(|line| line.starts_with("172.18.203.0/24") && line.contains("kernel")), "{whole}");
    assert!(
        whole.lines().any(|line| line.starts_with("10.65.0.24/32") && line.contains("workload default/vm1")),
        "{whole}"
    );
    let why = host.ok("bgp why 10.65.0.24");
    assert!(why.starts_with("10.65.0.24/32 is this host's own\n"), "{why}");
    assert!(why.contains("the session is not Established"), "{why}");
    assert!(host.ok("bgp peers").contains("172.18.203.2  64512"));
    assert!(host.ok("bgp paths").contains("10.65.0.25/32  own route"));
    let status = host.ok("status");
    assert!(status.starts_with("compute-1  degraded: 1 session down\n"), "{status}");

    // The agent dies: the speaker goes on, and a new agent finds everything as it was.
    host.daemons[agent].kill().unwrap();
    host.daemons[agent].wait().unwrap();
    assert_eq!(host.run("status").0, 5);
    assert!(host.daemons[speaker].try_wait().unwrap().is_none(), "the speaker ended with the agent");
    host.start("agent", "lasthop-agent.service");
    host.wait("back", |status| status["workloads"]["ready"] == 2 && status["direct_routes"]["ready"] == 3);
    let mut after = host.json("workload list");
    for list in [&mut before, &mut after] {
        list.as_array_mut().unwrap().sort_by_key(|one| one["endpoint"].to_string());
    }
    assert_eq!(after, before);

    assert_eq!(host.ok("workload delete vm1 c1"), "workload default/c1: deleted\nworkload default/vm1: deleted\n");
    assert_eq!(host.json("workload list"), serde_json::json!([]));
    // The store hears of it afterwards.
    let deadline = Instant::now() + Duration::from_secs(10);
    while host.ok("get wep -A") != "no workloadendpoints\n" {
        assert!(Instant::now() < deadline, "the store has not heard of it: {}", host.ok("get wep -A"));
    }
}

#[test]
fn a_link_that_somebody_else_made_is_never_deleted() {
    let mut host = Host::new("theirs");
    host.start("agent", "lasthop-agent.service");
    host.wait("in sync", |status| status["store"]["state"] == "in-sync");
    let (name, workload) = (host.name.clone(), host.workload());
    ip(&format!("-n {name} link add tapqemu type veth peer name tapqemu-peer"));
    let index = |link: &str| {
        let path = format!("/sys/class/net/{link}/ifindex");
        let output = Command::new("ip").args(["netns", "exec", &name, "cat", &path]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let before = index("tapqemu");
    assert_ne!(before, "");
    let take = format!("workload add c1 --ip 10.65.0.25 --netns {workload} --host-ifname tapqemu");
    let refused = |when: &str| {
        let (exit, _, stderr) = host.run(&take);
        assert_eq!((exit, stderr.contains("interface tapqemu is there already")), (1, true), "{when}: {stderr}");
        assert_eq!(index("tapqemu"), before, "{when}");
    };
    refused("of nobody");
    host.ok(&format!("workload add c1 --ip 10.65.0.25 --netns {workload}"));
    refused("while the workload has a link that we made");
    host.ok("workload delete c1");
    host.ok("workload add c1 --ip 10.65.0.25 --tap tapqemu");
    refused("while the workload has adopted it");
}

#[test]
fn a_workload_that_gets_another_link_leaves_none_behind() {
    let mut host = Host::new("other");
    host.start("agent", "lasthop-agent.service");
    host.wait("in sync", |status| status["store"]["state"] == "in-sync");
    let workload = host.workload();
    let add = format!("workload add c1 --ip 10.65.0.25 --netns {workload}");
    host.ok(&format!("{add} --host-ifname lhone --ifname one"));
    host.ok(&format!("{add} --host-ifname lhtwo --ifname two"));
    let links = Command::new("ip").args(["-n", &host.name, "-brief", "link"]).output().unwrap();
    let links = String::from_utf8(links.stdout).unwrap();
    assert_eq!((links.contains("lhone"), links.contains("lhtwo")), (false, true), "{links}");
}

#[test]
fn a_second_agent_on_a_host_is_refused_and_the_first_goes_on() {
    let mut host = Host::new("second");
    host.start("agent", "lasthop-agent.service");
    host.wait("in sync", |status| status["store"]["state"] == "in-sync");
    let (exit, _, stderr) = host.run("agent");
    assert_eq!((exit, stderr.contains("another agent runs with run/agent.lock: stop it")), (1, true), "{stderr}");
    std::fs::write(host.path("other.yaml"), "node: compute-1\nrunDirectory: run2\nstateDirectory: state2\n").unwrap();
    let (exit, _, stderr) = host.run("agent --config other.yaml");
    let expected = "error: another agent configures this network namespace";
    assert_eq!((exit, stderr.contains(expected)), (1, true), "directories of its own do not help: {stderr}");
    assert_eq!(host.json("status")["node"], "compute-1");
    let mode = std::fs::metadata(host.path("state")).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "the state directory is root's own: {mode:o}");
}

#[test]
fn no_workload_is_reachable_before_the_guard_is_up() {
    let mut host = Host::new("guard");
    // A table that another program owns cannot be changed by us; it goes with its owner.
    let mut nft = Command::new("ip");
    nft.args(["netns", "exec", &host.name, "nft", "--interactive"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut process = nft.spawn().unwrap();
    process.stdin.as_mut().unwrap().write_all(b"add table inet lasthop { flags owner; }\n").unwrap();
    host.daemons.push(process);
    let owner = host.daemons.len() - 1;
    let workload = host.workload();
    let tables = || Command::new("ip").args(["netns", "exec", &host.name, "nft", "list", "tables"]).output().unwrap();
    while tables().stdout.is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    host.start("agent", "lasthop-agent.service");
    host.wait("guard refused", |status| status["pending"]["guard table inet lasthop"].is_string());
    let (_, stdout, stderr) = host.run(&format!("workload add c1 --ip 10.65.0.25 --netns {workload}"));
    let routes = Command::new("ip").args(["-n", &host.name, "route", "show", "10.65.0.25"]).output().unwrap();
    assert_eq!(String::from_utf8(routes.stdout).unwrap(), "", "{stdout}{stderr}");
    assert!(stdout.contains("not yet in force"), "{stdout}{stderr}");
    host.daemons[owner].kill().unwrap();
    host.daemons[owner].wait().unwrap();
    host.wait("in force", |status| status["workloads"]["ready"] == 1 && status["direct_routes"]["ready"] == 1);
}

#[test]
fn prometheus_and_probes_are_answered() {
    let mut host = Host::new("http");
    let config = std::fs::read_to_string(host.path("lasthop.yaml")).unwrap();
    std::fs::write(host.path("lasthop.yaml"), config + "listen: { metrics: \"127.0.0.1:9091\" }\n").unwrap();
    host.start("agent", "lasthop-agent.service");
    host.wait("in sync", |status| status["store"]["state"] == "in-sync");
    let get = |path: &str| {
        let script = format!("exec 3<>/dev/tcp/127.0.0.1/9091; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
        let mut bash = Command::new("ip");
        let output = bash.args(["netns", "exec", &host.name, "bash", "-c", &script]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().to_lowercase()
    };
    for (path, code, kind, part) in [
        ("/metrics", "200", "application/openmetrics-text; version=1.0.0", "\nlasthop_store_in_sync 1\n"),
        ("/metrics", "200", "application/openmetrics-text; version=1.0.0", "\n# eof\n"),
        ("/health", "200", "text/plain", "alive"),
        ("/ready", "503", "text/plain", "the bgp speaker is not connected"),
        ("/", "404", "text/plain", "try /metrics"),
    ] {
        let answer = get(path);
        assert!(answer.starts_with(&format!("http/1.0 {code}")), "{path}: {answer}");
        assert!(answer.contains(&format!("content-type: {kind}")) && answer.contains(part), "{path}: {answer}");
    }
}

#[test]
fn a_link_that_is_absent_is_named_and_not_each_of_its_settings() {
    let mut host = Host::new("absent");
    host.start("agent", "lasthop-agent.service");
    host.wait("in sync", |status| status["store"]["state"] == "in-sync");
    host.run("workload add vm9 --ip 10.65.0.29 --tap tapabsent --mac fa:16:3e:00:00:09");
    let status = host.json("status");
    let pending: Vec<_> = status["pending"].as_object().unwrap().keys().collect();
    assert_eq!(pending, ["link tapabsent", "neighbour 10.65.0.29 on tapabsent", "route 10.65.0.29/32"]);
    ip(&format!("-n {} tuntap add tapabsent mode tap", host.name));
    host.wait("in force", |status| status["direct_routes"]["ready"] == 1 && status["pending"] == serde_json::json!({}));
}

#[test]
fn a_route_that_yields_is_settled_and_comes_when_the_other_goes() {
    let mut host = Host::new("yields");
    ip(&format!("-n {} route add 10.65.0.0/16 dev eth0 scope link", host.name));
    host.start("bgp", "lasthop-bgp.service");
    host.start("agent", "lasthop-agent.service");
    host.wait("in sync", |status| status["store"]["state"] == "in-sync" && status["speaker"]["state"] == "connected");
    std::fs::write(host.path("r.yaml"), RESOURCES).unwrap();
    host.ok("apply -f r.yaml");
    host.wait("the pool's route yields", |status| {
        status["yielding"]["route 10.65.0.0/16"] == "a foreign route (boot) is in place"
    });
    assert_eq!(host.json("status")["pending"], serde_json::json!({}), "nothing is missing");
    let line = host.ok("routes").lines().find(|line| line.starts_with("10.65.0.0/16")).unwrap().to_owned();
    assert!(line.ends_with("yields  a foreign route (boot) is in place"), "{line}");
    ip(&format!("-n {} route del 10.65.0.0/16 dev eth0", host.name));
    host.wait("ours is in its place", |status| status["yielding"] == serde_json::json!({}));
    assert!(host.kernel_route("10.65.0.0/16").starts_with("unreachable"), "{}", host.kernel_route("10.65.0.0/16"));
    ip(&format!("-n {} route replace 10.65.0.0/16 dev eth0 scope link", host.name));
    host.wait("yields again", |status| status["yielding"].as_object().unwrap().len() == 1);
    host.ok("delete ippool workloads");
    host.wait("the pool is gone", |status| status["yielding"] == serde_json::json!({}));
}

#[test]
fn a_route_goes_only_once_its_withdrawal_is_told_and_other_work_goes_on_meanwhile() {
    let mut host = Host::new("withdraw");
    std::fs::create_dir(host.path("run")).unwrap();
    let mut speaker = FakeSpeaker::listen(&host.path("run/bgp.sock"));
    host.start("agent", "lasthop-agent.service");
    host.wait("in sync", |status| status["store"]["state"] == "in-sync");
    std::fs::write(host.path("r.yaml"), RESOURCES).unwrap();
    host.ok("apply -f r.yaml");
    speaker.accept();
    speaker.hear_until(|message| *message == ToSpeaker::Complete);
    speaker.say(&ToAgent::LearnedInSync);
    let is = |wanted: &'static str| move |message: &ToSpeaker| matches!(message, ToSpeaker::Advertise(prefixes) if prefixes.iter().any(|p| p.to_string() == wanted));
    let attach =
        r#""op":"attach","name":"vm1","link":{"adopt":{"ifname":"tapa429fb36-04"}},"addresses":["10.65.0.24"]"#;
    let detach = r#""op":"detach","name":"vm1""#;
    let (mut one, mut other) = (host.caller(), host.caller());
    let mut attached = |speaker: &mut FakeSpeaker| {
        one.ask(attach);
        assert_eq!(one.answer()["ok"]["programmed"], serde_json::json!(["10.65.0.24/32"]));
        speaker.hear_until(is("10.65.0.24/32"));
    };
    // The route stands, and everybody else is answered, as long as the withdrawal is not told.
    let mut stands = |leaving: &mut Caller, when: &str| {
        other.ask(r#""op":"attach","name":"vm2","link":{"adopt":{"ifname":"tap-never"}},"addresses":["10.65.0.26"]"#);
        assert_eq!(other.answer()["ok"]["link"], "tap-never", "{when}");
        let route = host.kernel_route("10.65.0.24");
        assert!(!leaving.is_answered(), "{when}: answered before the withdrawal was told");
        assert!(route.contains("tapa429fb36-04"), "{when}: the route went before its withdrawal was told: {route}");
    };
    let goes = |leaving: &mut Caller, when: &str| {
        assert_eq!(leaving.answer()["ok"]["existed"], true, "{when}");
        assert_eq!(host.kernel_route("10.65.0.24"), "", "{when}");
    };

    attached(&mut speaker);
    let mut leaving = host.caller();
    leaving.ask(detach);
    let (seq, prefixes) = speaker.withdrawal();
    assert_eq!(prefixes, ["10.65.0.24/32"]);
    stands(&mut leaving, "a speaker that takes its time");
    speaker.say(&ToAgent::Withdrawn { seq });
    goes(&mut leaving, "a speaker that has told its peers");

    attached(&mut speaker);
    speaker.cut();
    leaving.ask(detach);
    stands(&mut leaving, "the line is cut");
    speaker.accept();
    let told = speaker.hear_until(|message| *message == ToSpeaker::Complete);
    assert!(!told.iter().any(is("10.65.0.24/32")), "advertised again on its way out: {told:?}");
    let (seq, _) = speaker.withdrawal();
    stands(&mut leaving, "the line is back");
    speaker.say(&ToAgent::Withdrawn { seq });
    goes(&mut leaving, "told by the line that came back");
    speaker.say(&ToAgent::LearnedInSync);

    attached(&mut speaker);
    leaving.ask(detach);
    speaker.withdrawal();
    stands(&mut leaving, "a speaker that hangs");
    goes(&mut leaving, "a speaker that hangs is not waited for without end");

    // Taken back before it was told: advertised anew, and never away.
    attached(&mut speaker);
    leaving.ask(detach);
    let (seq, _) = speaker.withdrawal();
    attached(&mut speaker);
    speaker.say(&ToAgent::Withdrawn { seq });
    stands(&mut host.caller(), "attached again");
    assert_eq!(leaving.answer()["ok"]["existed"], true);
}

//! The commands that talk to an agent, against one that answers from a script.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;

/// Answers every request on `agent.sock` in `directory` with what `script` says, and tells what was asked.
fn agent(directory: &Path, script: impl Fn(&Value) -> Value + Send + 'static) -> mpsc::Receiver<Value> {
    let listener = UnixListener::bind(directory.join("agent.sock")).unwrap();
    let (asked, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut line = String::new();
            while stream.read_line(&mut line).unwrap_or(0) > 0 {
                let request: Value = serde_json::from_str(&line).unwrap();
                line.clear();
                writeln!(stream.get_mut(), "{}", script(&request)).unwrap();
                asked.send(request).unwrap();
            }
        }
    });
    requests
}

fn lasthop(directory: &Path, line: &str) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_lasthop"))
        .args(line.split_whitespace())
        .args(["--socket", "agent.sock"])
        .current_dir(directory)
        .env_remove("LASTHOP_CONFIG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn attached() -> Value {
    json!({"ok": {
        "link": "tapa429fb36-04", "ifindex": 7, "host_mac": null, "workload_mac": "fa:16:3e:00:00:01", "mtu": 1500,
        "addresses": ["10.65.0.24", "fd65::24"], "gateway_v4": "169.254.1.1", "gateway_v6": "fe80::1",
        "programmed": ["10.65.0.24/32", "fd65::24/128"], "pending": {}, "elapsed_us": 1500,
    }})
}

#[test]
fn workload_add_asks_for_what_was_said() {
    let directory = tempfile::tempdir().unwrap();
    let requests = agent(directory.path(), |_| attached());
    let cases = [
        (
            "workload add vm1 --ip 10.65.0.24 --ip fd65::24 --tap tapa429fb36-04 --mac FA:16:3E:00:00:01 --label role=web",
            json!({"v": 1, "op": "attach", "namespace": "default", "name": "vm1",
                   "link": {"adopt": {"ifname": "tapa429fb36-04"}}, "addresses": ["10.65.0.24", "fd65::24"],
                   "mac": "fa:16:3e:00:00:01", "labels": {"role": "web"}}),
        ),
        (
            "workload add c1 -n blue --ip 10.65.0.25 --netns c1 --ifname net0 --mtu 1450 --allow-source 10.99.0.0/24",
            json!({"v": 1, "op": "attach", "namespace": "blue", "name": "c1", "addresses": ["10.65.0.25"],
                   "link": {"veth": {"netns": {"name": "c1"}, "ifname": "net0"}}, "mtu": 1450,
                   "allowed_sources": ["10.99.0.0/24"]}),
        ),
        (
            "workload add c2 --ip 10.65.0.26 --netns 4711 --host-ifname lhc2",
            json!({"v": 1, "op": "attach", "namespace": "default", "name": "c2", "addresses": ["10.65.0.26"],
                   "link": {"veth": {"netns": {"pid": 4711}, "ifname": "eth0", "host_ifname": "lhc2"}}}),
        ),
        (
            "workload add c3 --ip 10.65.0.27 --netns /proc/1/ns/net",
            json!({"v": 1, "op": "attach", "namespace": "default", "name": "c3", "addresses": ["10.65.0.27"],
                   "link": {"veth": {"netns": {"path": "/proc/1/ns/net"}, "ifname": "eth0"}}}),
        ),
    ];
    for (line, expected) in cases {
        let (exit, stdout, stderr) = lasthop(directory.path(), line);
        assert_eq!((exit, stderr.as_str()), (0, ""), "'{line}'");
        assert_eq!(requests.recv().unwrap(), expected, "'{line}'");
        assert!(stdout.contains("in force, in 1.5 ms"), "{stdout}");
    }
    let (_, stdout, _) = lasthop(directory.path(), &format!("{} -o json", cases_line()));
    let value: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(value["programmed"], json!(["10.65.0.24/32", "fd65::24/128"]));
}

fn cases_line() -> &'static str {
    "workload add vm1 --ip 10.65.0.24 --tap tap1"
}

#[test]
fn a_refusal_is_one_line_and_an_exit_code() {
    for (code, exit) in [("invalid", 2), ("conflict", 1), ("not_found", 4), ("kernel", 1), ("unavailable", 5)] {
        let directory = tempfile::tempdir().unwrap();
        let message = format!("link tap1: refused as {code}:\n  so it is");
        let answer = json!({"error": {"code": code, "message": message}});
        let _requests = agent(directory.path(), move |_| answer.clone());
        for line in ["status", "routes", "bgp peers", "bgp why 10.65.0.1", "workload list", cases_line()] {
            let (found, stdout, stderr) = lasthop(directory.path(), line);
            assert_eq!(stderr, format!("error: link tap1: refused as {code}: so it is\n"), "'{line}'");
            assert_eq!((found, stdout.as_str()), (exit, ""), "'{line}'");
        }
    }
}

#[test]
fn an_agent_that_answers_nonsense_is_one_line() {
    for answer in [json!("what"), json!({"ok": 7}), json!({"ok": {"node": 1}}), json!({})] {
        let directory = tempfile::tempdir().unwrap();
        let said = answer.clone();
        let _requests = agent(directory.path(), move |_| said.clone());
        for line in ["status", "routes", "workload list"] {
            let (exit, stdout, stderr) = lasthop(directory.path(), line);
            assert_eq!((exit, stdout.as_str()), (1, ""), "{answer} to '{line}': {stderr}");
            assert!(stderr.contains("of the same version?") && stderr.lines().count() == 1, "{stderr}");
        }
    }
}

#[test]
fn deleting_says_what_was_there_and_what_was_not() {
    let directory = tempfile::tempdir().unwrap();
    let there = |request: &Value| request["name"] != "none";
    let requests = agent(directory.path(), move |request| json!({"ok": {"existed": there(request), "elapsed_us": 1}}));
    let cases = [
        ("workload delete vm1 vm2", 0, "workload default/vm1: deleted\nworkload default/vm2: deleted\n", 0),
        ("workload delete -n blue none", 4, "", 1),
        ("workload delete vm1 none", 3, "workload default/vm1: deleted\n", 1),
    ];
    for (line, code, expected, mistakes) in cases {
        let (exit, stdout, stderr) = lasthop(directory.path(), line);
        assert_eq!((exit, stdout.as_str()), (code, expected), "'{line}': {stderr}");
        assert_eq!(stderr.lines().count(), mistakes, "'{line}': {stderr}");
    }
    assert_eq!(requests.recv().unwrap(), json!({"v": 1, "op": "detach", "namespace": "default", "name": "vm1"}));
}

#[test]
fn routes_and_workloads_are_shown() {
    let directory = tempfile::tempdir().unwrap();
    let _requests = agent(directory.path(), |request| match request["op"].as_str() {
        Some("routes") => json!({"ok": [{
            "prefix": "10.65.0.21/32", "kind": "remote", "link": null, "next_hops": ["172.18.203.126"],
            "because": "learned by BGP", "in_kernel": true, "pending": null, "advertised": false,
        }]}),
        _ => json!({"ok": [{
            "endpoint": "default/vm1", "link": "tap1", "link_state": "up", "addresses": ["10.65.0.24"], "mac": null,
            "labels": {}, "source": "attached here", "programmed": ["10.65.0.24/32"], "pending": {},
        }]}),
    });
    let (_, stdout, _) = lasthop(directory.path(), "routes");
    assert!(stdout.contains("10.65.0.21/32  remote  172.18.203.126  learned by BGP  yes"), "{stdout}");
    assert!(!stdout.contains('\u{1b}'), "coloured though stdout is no terminal: {stdout:?}");
    let (_, stdout, _) = lasthop(directory.path(), "workload ls");
    assert!(stdout.contains("default/vm1  10.65.0.24  tap1  up          in force"), "{stdout}");
    let (_, stdout, _) = lasthop(directory.path(), "workload show vm1");
    assert!(stdout.contains("  link        tap1, up\n"), "{stdout}");
    let (exit, _, stderr) = lasthop(directory.path(), "workload show vm2");
    assert_eq!(
        (exit, stderr.as_str()),
        (4, "error: workload default/vm2: there is none; 'lasthop workload list' shows all\n")
    );
    let (_, stdout, _) = lasthop(directory.path(), "routes -o yaml");
    assert!(stdout.starts_with("- prefix: 10.65.0.21/32\n"), "{stdout}");
}

//! A mistake about a lab is one line that names the thing and the fix, and nothing is made.
#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use support::{lasthop, text};

/// What is said, and the exit code.
fn refused(arguments: &[&str]) -> (String, i32) {
    let output = lasthop(arguments);
    let said = text(&output.stderr);
    assert!(!output.status.success(), "{arguments:?} is accepted");
    assert_eq!(said.trim_end().lines().count(), 1, "{arguments:?}: {said}");
    (said, output.status.code().unwrap())
}

#[test]
fn a_mistake_is_one_line_with_the_fix() {
    let name = support::name();
    for (arguments, expect, exit) in [
        (vec!["up", "--topology", "refrence"], "did you mean 'reference'?", 1),
        (vec!["up", "--hosts", "0"], "choose 1 to 1000 hosts", 2),
        (vec!["up", "--hosts", "3", "--topology", "vm"], "not like 'vm'", 1),
        (vec!["up", "--workloads", "3"], "--hosts", 2),
        (vec!["down"], "there is no lab", 4),
        (vec!["status"], "there is no lab", 4),
        (vec!["exec", "compute-1", "--", "true"], "there is no lab", 4),
        (vec!["ping"], "there is no lab", 4),
        (vec!["routes", "compute-1"], "there is no lab", 4),
        (vec!["move", "w21", "compute-1"], "there is no lab", 4),
        (vec!["start", "compute-1", "agent"], "there is no lab", 4),
        (vec!["kill", "compute-1", "agent", "--signal", "FOO"], "'FOO' is no signal", 2),
        (vec!["topologies", "nothing"], "there is no network 'nothing'", 4),
    ] {
        let (said, code) = refused(&[&["lab", "--name", &name], arguments.as_slice()].concat());
        assert!(said.contains(expect), "{arguments:?}: {said}");
        assert_eq!(code, exit, "{arguments:?}: {said}");
    }
    assert!(refused(&["lab", "--name", "a-b", "up"]).0.contains("'a-b' is no name for a lab"));
    assert!(!std::path::Path::new("/run/lasthop-lab").join(&name).exists());
}

#[test]
fn a_wrong_key_in_a_network_file_is_named_with_its_line() {
    let reference = text(&lasthop(&["lab", "topologies", "reference"]).stdout);
    let file = tempfile::NamedTempFile::new().unwrap();
    for (from, to, expect) in [
        ("workloads:", "worklods:", "there is no key 'worklods' here: did you mean 'workloads'?"),
        ("host: compute-1", "host: compute-9", "did you mean 'compute-1'?"),
        ("172.18.203.126", "172.18.203.10", "both have the address 172.18.203.10"),
        ("kind: tap", "kind: tun", "tun"),
        ("hosts:", "workloads: []\nhosts:", "duplicate"),
        ("gateway: [172.18.203.1]", "gateway: [172.18.204.1]", "has the address 172.18.204.1, which is in no subnet"),
    ] {
        std::fs::write(file.path(), reference.replacen(from, to, 1)).unwrap();
        let path = file.path().to_str().unwrap();
        let (said, code) = refused(&["lab", "up", "--name", &support::name(), "--topology", path]);
        assert!(said.contains(expect) && !said.contains("-->"), "{to}: {said}");
        assert_eq!(code, 2, "a document that is not valid: {said}");
    }
}

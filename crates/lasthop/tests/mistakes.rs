//! Every mistake is answered by exactly one line on stderr that names the thing and the fix, with an exit code that is
//! not zero. Runs the real binary.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `lasthop` in `directory` with words split at spaces; exit code, stdout, stderr.
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

fn check(directory: &Path, line: &str, code: i32, expected: &str) {
    let (exit, stdout, stderr) = lasthop(directory, line);
    assert_eq!(stderr.lines().count(), 1, "'{line}' must be answered by one line:\n{stderr}");
    assert!(stderr.starts_with("error: "), "'{line}': {stderr}");
    assert!(stderr.contains(expected), "'{line}': expected {expected:?} in {stderr:?}");
    assert_eq!(exit, code, "'{line}': {stderr}");
    assert_eq!(stdout, "", "'{line}' printed a result");
}

#[test]
fn wrong_flags_and_arguments() {
    let directory = tempfile::tempdir().unwrap();
    let cases = [
        ("statsu", "'statsu'; a similar subcommand exists: 'status'; see 'lasthop --help'"),
        ("status --sokcet x", "'--sokcet' found; a similar argument exists: '--socket'; see 'lasthop status --help'"),
        ("status extra", "unexpected argument 'extra'"),
        ("status --socket", "a value is required for '--socket <FILE>'"),
        ("status -o xml", "'xml' for '--output <FORMAT>' [possible values: table, wide, yaml, json]"),
        ("routes --wide", "unexpected argument '--wide' found"),
        ("completions tcsh", "[possible values: bash, elvish, fish, powershell, zsh]"),
        ("bgp peer", "a similar subcommand exists: 'peers'; see 'lasthop bgp --help'"),
        ("bgp why", "were not provided: <PREFIX>; see 'lasthop bgp why --help'"),
        ("bgp why 10.65.0/24", "'10.65.0/24' is not an IP address or prefix: write e.g. 10.65.0.0/16"),
        ("bgp why 10.65.0.0/33", "'10.65.0.0/33' has no valid prefix length: it must be 0 to 32"),
        ("bgp paths fd65::/129", "'fd65::/129' has no valid prefix length: it must be 0 to 128"),
        ("workload add", "were not provided: --ip <ADDRESS>, <--tap <LINK>|--netns <NETNS>>, <NAME>"),
        ("workload add vm1 --ip 10.65.0.24", "were not provided: <--tap <LINK>|--netns <NETNS>>"),
        ("workload add vm1 --tap tap1", "were not provided: --ip <ADDRESS>"),
        ("workload add vm1 --ip 10.65.0.300 --tap tap1", "'10.65.0.300' for '--ip <ADDRESS>': not an IPv4 or IPv6"),
        ("workload add vm1 --ip 10.65.0.24/32 --tap tap1", "write 10.65.0.24 without a length"),
        ("workload add vm1 --ip 127.0.0.1 --tap tap1", "not an address that a workload can have"),
        ("workload add VM_1 --ip 10.65.0.24 --tap tap1", "'VM_1' is not a valid name: use lower-case letters"),
        ("workload add vm1 -n a/b --ip 10.65.0.24 --tap tap1", "'a/b' is not a valid name"),
        ("workload add vm1 --ip 10.65.0.24 --tap tapa429fb36-04-long", "use 1 to 15 printable characters"),
        ("workload add vm1 --ip 10.65.0.24 --tap tap1 --netns c1", "'--tap <LINK>' cannot be used with '--netns"),
        ("workload add vm1 --ip 10.65.0.24 --tap tap1 --mtu 1400", "cannot be used with '--mtu <MTU>'"),
        ("workload add vm1 --ip 10.65.0.24 --netns c1 --mtu 500", "500 is not in 1280..=65535"),
        ("workload add vm1 --ip 10.65.0.24 --netns a/b", "give a name under /run/netns, a path that begins with '/'"),
        ("workload add vm1 --ip 10.65.0.24 --netns 0", "0 is no process"),
        ("workload add vm1 --ip 10.65.0.24 --tap tap1 --mac 1:2:3", "'1:2:3' is not a MAC address: write six"),
        ("workload add vm1 --ip 10.65.0.24 --tap tap1 --mac 01:00:5e:00:00:01", "a group address: the lowest bit"),
        ("workload add vm1 --ip 10.65.0.24 --tap tap1 --label web", "'web' for '--label <KEY=VALUE>': write KEY=VALUE"),
        ("workload add vm1 --ip 10.65.0.24 --tap tap1 --label a=1 --label a=2", "--label: a key is given twice"),
        ("workload add vm1 --ip 10.65.0.24 --tap tap1 --allow-source x", "'x' is not an IP address or prefix"),
        ("workload delete", "were not provided: <NAME>..."),
        ("workload show", "were not provided: <NAME>"),
    ];
    for (line, expected) in cases {
        check(directory.path(), line, 2, expected);
    }
}

#[test]
fn wrong_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let cases = [
        ("noed: a", "x.yaml: noed: unknown key: did you mean 'node'?"),
        ("node: Compute_1", "x.yaml: node: 'Compute_1' is not a valid name"),
        ("store: { sever: 'a:1' }", "x.yaml: store.sever: unknown key: did you mean 'server'?"),
        ("log: { level: loud }", "x.yaml: log.level: 'loud' is not one of error, warn, info, debug, trace"),
        ("node: [", "x.yaml: not valid YAML: "),
        ("node: a\nnode: b", "x.yaml: not valid YAML: "),
    ];
    for (text, expected) in cases {
        std::fs::write(directory.path().join("x.yaml"), text).unwrap();
        for command in ["status", "agent", "bgp", "bgp peers"] {
            check(directory.path(), &format!("--config x.yaml {command}"), 2, expected);
        }
    }
    check(directory.path(), "--config none.yaml status", 2, "cannot read the configuration none.yaml: No such file");
    check(directory.path(), "agent --config .", 2, "cannot read the configuration .: Is a directory");
}

#[test]
fn an_agent_that_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("x.yaml"), "runDirectory: run").unwrap();
    for command in ["status", "routes", "bgp peers", "workload list", "workload add vm1 --ip 10.65.0.24 --tap tap1"] {
        let expected = "cannot reach the agent at run/agent.sock: No such file";
        check(directory.path(), &format!("{command} --config x.yaml"), 5, expected);
        check(directory.path(), &format!("{command} --socket s"), 5, "agent at s: No such file or directory");
    }
}

#[test]
fn no_permission() {
    assert!(nix::unistd::geteuid().is_root(), "run as root: this test becomes another user");
    // The build directory need not be open to others: what is run is a copy.
    let directory = tempfile::tempdir().unwrap();
    let open = |name: &str, mode| {
        std::fs::set_permissions(directory.path().join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    std::fs::copy(env!("CARGO_BIN_EXE_lasthop"), directory.path().join("lasthop")).unwrap();
    std::fs::write(directory.path().join("closed.yaml"), "node: a").unwrap();
    std::fs::write(directory.path().join("x.yaml"), "runDirectory: .").unwrap();
    let _agent = UnixListener::bind(directory.path().join("agent.sock")).unwrap();
    let _store = UnixListener::bind(directory.path().join("store.sock")).unwrap();
    for (name, mode) in [(".", 0o755), ("closed.yaml", 0o600), ("agent.sock", 0o600), ("store.sock", 0o600)] {
        open(name, mode);
    }
    for (line, code, expected) in [
        ("status --config x.yaml", 5, "agent.sock: Permission denied (os error 13): run as root, or as a member of"),
        ("workload delete vm1 --config x.yaml", 5, "agent.sock: Permission denied"),
        ("get nodes --config x.yaml", 5, "cannot reach the store: ./store.sock: Permission denied"),
        ("status --config closed.yaml", 2, "closed.yaml: Permission denied (os error 13); run as root"),
        ("certs init pki", 1, "pki: Permission denied"),
        ("server --config x.yaml", 1, "Permission denied"),
    ] {
        let output = Command::new("./lasthop")
            .args(line.split_whitespace())
            .current_dir(directory.path())
            .env_remove("LASTHOP_CONFIG")
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "'{line}': {stderr}");
        assert!(stderr.contains(expected), "'{line}': expected {expected:?} in {stderr:?}");
        assert_eq!(output.status.code(), Some(code), "'{line}': {stderr}");
    }
}

#[test]
fn help_and_version_are_no_mistakes() {
    let directory = tempfile::tempdir().unwrap();
    for (line, expected) in [
        ("--help", "Exit codes:"),
        ("--version", "lasthop 0."),
        ("workload add --help", "lasthop workload add c1"),
        ("completions bash", "_lasthop"),
        ("completions zsh", "#compdef lasthop"),
        ("completions fish", "complete -c lasthop"),
    ] {
        let (exit, stdout, stderr) = lasthop(directory.path(), line);
        assert_eq!((exit, stderr.as_str()), (0, ""), "'{line}'");
        assert!(stdout.contains(expected), "'{line}': {stdout}");
        assert!(!stdout.contains('\u{1b}'), "'{line}' is coloured though stdout is no terminal");
    }
}

//! The systemd units: each runs a command that there is, with no more than it needs, and an agent that stops leaves the
//! speaker alone.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends there")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// The settings of a unit by name; those given several times joined by a space.
fn unit(name: &str) -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist").join(name);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut settings: BTreeMap<String, String> = BTreeMap::new();
    for (key, value) in text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')) {
        let all = settings.entry(key.to_owned()).or_default();
        *all = format!("{all} {value}").trim().to_owned();
    }
    settings
}

#[test]
fn every_unit_runs_a_command_with_no_more_than_it_needs() {
    let capabilities = [
        ("lasthop-agent.service", "CAP_NET_ADMIN CAP_SYS_ADMIN CAP_SYS_PTRACE CAP_CHOWN"),
        ("lasthop-bgp.service", "CAP_NET_BIND_SERVICE CAP_NET_ADMIN"),
        ("lasthop-server.service", "CAP_CHOWN"),
    ];
    for (name, capabilities) in capabilities {
        let unit = unit(name);
        for (key, value) in [
            ("Type", "notify"),
            ("CapabilityBoundingSet", capabilities),
            ("NoNewPrivileges", "yes"),
            ("ProtectSystem", "strict"),
            ("ProtectHome", "yes"),
            ("RuntimeDirectory", "lasthop"),
            ("RuntimeDirectoryPreserve", "yes"),
            ("KillMode", "mixed"),
        ] {
            assert_eq!(unit.get(key).map(String::as_str), Some(value), "{name}: {key}");
        }
        // An agent that ends as it was told to ('lasthop remove-all') stays ended.
        let restart = if name == "lasthop-agent.service" { "on-failure" } else { "always" };
        assert_eq!(unit["Restart"], restart, "{name}");
        let words: Vec<_> = unit["ExecStart"].split_whitespace().collect();
        assert_eq!(words[0], "/usr/local/bin/lasthop", "{name}");
        let help = Command::new(env!("CARGO_BIN_EXE_lasthop")).args(&words[1..]).arg("--help").output().unwrap();
        assert!(help.status.success(), "{name}: {}", unit["ExecStart"]);
    }
}

#[test]
fn an_agent_that_stops_leaves_the_speaker_running() {
    let (agent, speaker) = (unit("lasthop-agent.service"), unit("lasthop-bgp.service"));
    assert_eq!(agent["Wants"], "lasthop-bgp.service");
    for key in ["Requires", "BindsTo", "PartOf", "Requisite", "Upholds", "PropagatesStopTo", "Conflicts"] {
        assert!(!agent.contains_key(key) && !speaker.contains_key(key), "{key} ties the two together");
    }
}

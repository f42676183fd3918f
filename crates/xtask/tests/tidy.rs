//! The walls of the house: which crate may depend on which, and which crates are pure.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each crate, and what of ours it may depend on. A further arrow is a decision for ARCHITECTURE.md.
const WALLS: &[(&str, &[&str])] = &[
    ("net", &[]),
    ("model", &["net"]),
    ("bgp", &["net"]),
    ("policy", &["model", "net"]),
    ("compute", &["model", "policy", "bgp", "net"]),
    ("store", &["model", "net"]),
    ("kernel", &["compute", "policy", "net"]),
    ("agent", &["net", "model", "policy", "bgp", "compute", "store", "kernel"]),
    ("lab", &["net", "model", "store", "kernel", "agent"]),
    ("lasthop", &["net", "model", "policy", "bgp", "compute", "store", "kernel", "agent", "lab"]),
];

/// Crates without I/O, clocks, threads, randomness or an async runtime.
const PURE: &[&str] = &["net", "model", "bgp", "policy", "compute"];

/// What a pure crate may not name, outside comments and tests.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::env",
    "std::net::Tcp",
    "std::net::Udp",
    "std::thread",
    "std::process",
    "std::os",
    "Instant::now",
    "SystemTime::now",
    "HashMap",
    "HashSet",
    "println!",
    "async fn",
    "tokio",
    "libc::",
    "nix::",
    "rand::",
];

/// Where `anyhow` may be used.
const MAY_EXIT: &[&str] = &["agent", "lab", "lasthop", "testkit", "xtask"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

/// The normal dependencies of each of our crates.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let normal = |package: &serde_json::Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        all.filter(|d| d["kind"].is_null()).map(|d| d["name"].as_str().unwrap().to_owned()).collect()
    };
    packages.iter().map(|p| (p["name"].as_str().unwrap().to_owned(), normal(p))).collect()
}

fn package(folder: &str) -> String {
    if folder == "lasthop" { "lasthop".to_owned() } else { format!("lasthop-{folder}") }
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The lines of a file that are neither comments nor in the test module that ends it.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().take_while(|(_, line)| !line.starts_with("#[cfg(test)]"));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

#[test]
fn arrows_point_only_where_the_house_allows() {
    let all = dependencies();
    for (folder, allowed) in WALLS {
        let allowed: BTreeSet<String> = allowed.iter().map(|name| package(name)).collect();
        let ours = all[&package(folder)].iter().filter(|name| name.starts_with("lasthop"));
        let wrong: Vec<_> = ours.filter(|name| !allowed.contains(*name)).collect();
        assert!(wrong.is_empty(), "{folder} may not depend on {wrong:?}");
    }
    let known: BTreeSet<String> = WALLS.iter().map(|(folder, _)| package(folder)).collect();
    let development = ["lasthop-testkit", "lasthop-xtask"];
    let unknown: Vec<_> =
        all.keys().filter(|name| !known.contains(*name) && !development.contains(&name.as_str())).collect();
    assert!(unknown.is_empty(), "crates without a place in the house: {unknown:?}");
}

#[test]
fn pure_crates_touch_nothing() {
    let all = dependencies();
    let mut wrong = Vec::new();
    for folder in PURE {
        for name in ["tokio", "libc", "nix", "socket2", "rand", "redb"] {
            assert!(!all[&package(folder)].contains(name), "{folder} is pure and may not depend on {name}");
        }
        let mut files = Vec::new();
        sources(&root().join("crates").join(folder).join("src"), &mut files);
        for file in files.iter().filter(|file| !file.ends_with("tests.rs") && !file.iter().any(|p| p == "tests")) {
            let text = std::fs::read_to_string(file).unwrap();
            for (number, line) in code(&text) {
                let named = IMPURE.iter().filter(|word| line.contains(**word));
                wrong.extend(named.map(|word| format!("{}:{}: {word}", file.display(), number + 1)));
            }
        }
    }
    assert!(wrong.is_empty(), "pure crates name what is impure:\n{}", wrong.join("\n"));
}

#[test]
fn only_programs_use_anyhow_and_only_the_edge_uses_serde() {
    let all = dependencies();
    for (folder, _) in WALLS {
        let has = |name: &str| all[&package(folder)].contains(name);
        assert!(!has("anyhow") || MAY_EXIT.contains(folder), "{folder} may not use anyhow: give it an error type");
        assert!(
            !has("serde") || !["net", "bgp", "policy", "compute", "kernel"].contains(folder),
            "{folder} may not use serde"
        );
    }
}

#[test]
fn files_are_short_enough_to_hold_in_mind() {
    let mut files = Vec::new();
    sources(&root().join("crates"), &mut files);
    let lines = |file: &PathBuf| std::fs::read_to_string(file).unwrap().lines().count();
    let long: Vec<String> = files
        .iter()
        .map(|f| (lines(f), f))
        .filter(|(n, _)| *n > 1000)
        .map(|(n, f)| format!("{} {n}", f.display()))
        .collect();
    assert!(long.is_empty(), "files over 1,000 lines:\n{}", long.join("\n"));
    let mut counts: Vec<usize> = files.iter().map(lines).collect();
    counts.sort_unstable();
    let p90 = counts[counts.len() * 9 / 10];
    assert!(p90 <= 600, "nine of ten files should be under 600 lines; the 90th percentile is {p90}");
}

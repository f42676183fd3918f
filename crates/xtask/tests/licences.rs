//! Every dependency's licence is one we may ship under, and no crate is there in needless versions.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Licences that ask for no more than attribution.
const ALLOWED: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "0BSD",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
    "CC0-1.0",
    "MIT-0",
    "BSL-1.0",
    "CDLA-Permissive-2.0",
];

/// Crates that are in the tree in two versions since their users do not agree, with the reason.
const TWICE: &[(&str, &str)] = &[
    ("embedded-io", "postcard itself depends on both, behind features of which we use neither"),
    ("syn", "build time only: the authors of derive macros move from 2 to 3 one by one"),
];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform=x86_64-unknown-linux-gnu"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Packages that end up in the binary on Linux: normal and build dependencies, as the resolver says.
fn shipped(metadata: &Value) -> BTreeSet<String> {
    let nodes: BTreeMap<&str, &Value> =
        metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|n| (n["id"].as_str().unwrap(), n)).collect();
    let root = nodes.keys().find(|id| id.contains("crates/lasthop#")).expect("the binary's package");
    let mut seen = BTreeSet::new();
    let mut next = vec![*root];
    while let Some(id) = next.pop() {
        if !seen.insert(id.to_owned()) {
            continue;
        }
        for dependency in nodes[id]["deps"].as_array().unwrap() {
            let kinds = dependency["dep_kinds"].as_array().unwrap();
            if kinds.iter().any(|kind| kind["kind"] != "dev") {
                next.push(dependency["pkg"].as_str().unwrap());
            }
        }
    }
    seen
}

/// Whether one of the alternatives of an SPDX expression is allowed.
fn allowed(expression: &str) -> bool {
    let plain = expression.replace(['(', ')'], " ").replace('/', " OR ");
    plain.split(" AND ").all(|all| all.split(" OR ").any(|one| ALLOWED.contains(&one.trim())))
}

#[test]
fn licences_are_ones_we_may_ship_under() {
    let metadata = metadata();
    let shipped = shipped(&metadata);
    assert!(shipped.len() > 50, "the dependency tree is implausibly small: {}", shipped.len());
    let packages = metadata["packages"].as_array().unwrap();
    let wrong: Vec<String> = packages
        .iter()
        .filter(|package| shipped.contains(package["id"].as_str().unwrap()))
        .filter(|package| !package["license"].as_str().is_some_and(allowed))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(wrong.is_empty(), "licences to look at:\n{}", wrong.join("\n"));
}

#[test]
fn no_crate_is_shipped_in_two_versions_without_a_reason() {
    let metadata = metadata();
    let shipped = shipped(&metadata);
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        if shipped.contains(package["id"].as_str().unwrap()) {
            let name = package["name"].as_str().unwrap();
            versions.entry(name).or_default().insert(package["version"].as_str().unwrap());
        }
    }
    let known: BTreeSet<&str> = TWICE.iter().map(|(name, _)| *name).collect();
    let twice: Vec<_> = versions.iter().filter(|(name, v)| v.len() > 1 && !known.contains(*name)).collect();
    assert!(twice.is_empty(), "in two versions: {twice:?}");
}

#[test]
fn the_declared_licence_is_in_the_tree_word_for_word() {
    let metadata = metadata();
    let root = std::path::Path::new(metadata["workspace_root"].as_str().unwrap());
    let members = metadata["workspace_members"].as_array().unwrap();
    for package in metadata["packages"].as_array().unwrap().iter().filter(|p| members.contains(&p["id"])) {
        assert_eq!(package["license"], "Apache-2.0", "{}", package["name"]);
    }
    let text = std::fs::read_to_string(root.join("LICENSE")).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    let parts = [
        "Apache License Version 2.0, January 2004",
        "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION",
        "3. Grant of Patent License.",
        "9. Accepting Warranty or Additional Liability.",
        "END OF TERMS AND CONDITIONS",
    ];
    let plain = words.join(" ");
    for part in parts {
        assert!(plain.contains(part), "'{part}' is missing from LICENSE");
    }
    assert_eq!(words.len(), 1581, "the standard text, whole and nothing else");
}

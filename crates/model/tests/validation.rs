//! Whole resources against the conformance cases: the outcome, and the field that the error names.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use lasthop_model::v3::{check, checked_kinds};
use lasthop_model::{Kind, Resource};
use serde_json::Value;
use std::collections::BTreeMap;

fn file() -> Value {
    serde_json::from_str(include_str!("../../../conformance/validation.json")).unwrap()
}

fn text<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().unwrap_or_default()
}

/// Which field each invalid case is about: `id path`, a line each.
fn blamed() -> BTreeMap<&'static str, &'static str> {
    include_str!("data/blamed.txt").lines().filter_map(|line| line.split_once(' ')).collect()
}

/// Why a case fails, if it does.
fn judge(case: &Value, path: Option<&str>) -> Option<String> {
    let (id, reason) = (text(case, "id"), text(case, "reason"));
    match (check(&case["resource"]), text(case, "expected")) {
        (Ok(_), "valid") => None,
        (Ok(_), _) => Some(format!("{id}: accepted, but: {reason}")),
        (Err(invalid), "valid") => Some(format!("{id}: {reason}, but: {invalid}")),
        (Err(invalid), _) => {
            let line = invalid.to_string();
            if line.contains('\n') {
                return Some(format!("{id}: more than one line: {line}"));
            }
            match path {
                None => Some(format!(
                    "{id}: blamed.txt does not say which field it is about ({})",
                    invalid.problems[0].path
                )),
                Some(path) if invalid.problems.iter().any(|problem| problem.path == path) => None,
                Some(path) => Some(format!("{id}: does not name {path}: {line}")),
            }
        }
    }
}

#[test]
fn every_conformance_case_of_the_kinds_that_are_checked() {
    let file = file();
    let blamed = blamed();
    let (mut passed, mut failures) = (0, Vec::new());
    let mut not_yet: BTreeMap<&str, usize> = BTreeMap::new();
    for case in file["cases"].as_array().unwrap() {
        if text(case, "confidence") == "low" {
            continue;
        }
        let kind = text(case, "kind");
        if Kind::all_written(kind).next().is_none() && !checked_kinds().contains(&kind) {
            *not_yet.entry(text(case, "kind")).or_default() += 1;
            continue;
        }
        match judge(case, blamed.get(text(case, "id")).copied()) {
            None => passed += 1,
            Some(failure) => failures.push(failure),
        }
    }
    println!("{passed} passed, {} failed, {} not yet: {not_yet:?}", failures.len(), not_yet.values().sum::<usize>());
    assert!(failures.is_empty(), "{} fail:\n{}", failures.len(), failures.join("\n"));
    assert!(not_yet.is_empty(), "{not_yet:?}");
    assert!(passed >= 320, "the case file is not whole: {passed}");
}

#[test]
fn every_conformance_case_of_an_update() {
    for case in file()["updates"].as_array().unwrap() {
        let result = Resource::check_update(&case["old"], &case["new"]);
        let expected = text(case, "expected") == "valid";
        assert_eq!(result.is_ok(), expected, "{}: {}: {result:?}", text(case, "id"), text(case, "reason"));
    }
}

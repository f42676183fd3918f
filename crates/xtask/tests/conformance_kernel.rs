//! Real packets on a real kernel: policy means there what the evaluator says it means.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use lasthop_kernel::iptables::Backend;
use lasthop_policy::ir::{Action, HostPolicy};
use lasthop_xtask::conformance::{Dataplane, Kernel, Outcome, cases, policy_cases, read};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

fn file() -> Value {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/policy_verdicts.json")).unwrap()
}

/// Each `nth` case of the file.
fn sample(nth: usize) -> Value {
    let mut file = file();
    let sample = file["cases"].as_array().unwrap().iter().step_by(nth).cloned().collect();
    file["cases"] = Value::Array(sample);
    file
}

fn judge(file: &Value, dataplane: Dataplane) -> Outcome {
    let outcome = policy_cases(file, "", &mut Kernel::new(dataplane));
    assert!(outcome.failed.is_empty(), "{dataplane:?}:\n{}", outcome.failed.join("\n"));
    outcome
}

#[test]
fn nftables_passes_every_case() {
    let outcome = judge(&file(), Dataplane::Nft);
    assert!(outcome.passed >= 258, "only {} cases were judged", outcome.passed);
    assert!(outcome.passed + outcome.unjudged >= 271, "only {} cases were looked at", outcome.passed);
    let probes: usize = cases(&file()).map(|case| case.unwrap().probes.len()).sum();
    assert!(outcome.untried.len() * 20 < probes, "{} of {probes} probes were not tried", outcome.untried.len());
}

#[test]
fn iptables_passes_a_sample_on_both_backends() {
    for backend in [Backend::Legacy, Backend::Nft] {
        let outcome = judge(&sample(9), Dataplane::Iptables(backend));
        assert!(outcome.passed >= 28, "only {} cases were judged", outcome.passed);
    }
}

/// Changes one thing in a policy, if it finds it.
type Mutation = fn(&mut lasthop_policy::ir::Program);

const MUTATIONS: [(&str, Mutation); 5] = [
    ("allow becomes deny", |program| {
        program
            .rules
            .iter_mut()
            .filter(|rule| rule.action == Action::Allow)
            .for_each(|rule| rule.action = Action::Deny);
    }),
    ("deny becomes allow", |program| {
        program
            .rules
            .iter_mut()
            .filter(|rule| rule.action == Action::Deny)
            .for_each(|rule| rule.action = Action::Allow);
    }),
    ("ports are forgotten", |program| program.rules.iter_mut().for_each(|rule| rule.destination.ports = None)),
    ("sources are forgotten", |program| program.rules.iter_mut().for_each(|rule| rule.source.within.clear())),
    ("protocols are forgotten", |program| program.rules.iter_mut().for_each(|rule| rule.protocol = None)),
];

#[test]
fn probes_notice_policy_that_was_tampered_with() {
    let file = sample(6);
    for (name, mutation) in MUTATIONS {
        let tamper = move |policy: &mut HostPolicy| {
            policy.programs.values_mut().for_each(|program| mutation(Arc::make_mut(program)));
        };
        let outcome = policy_cases(&file, "", &mut Kernel::tampered(Dataplane::Nft, Box::new(tamper)));
        assert!(outcome.failed.iter().any(|line| line.contains("verdict expected")), "{name}: nobody noticed");
    }
}

/// Names of namespaces of this process.
fn left() -> Vec<String> {
    let own = format!("lhc{}-", std::process::id());
    lasthop_kernel::netns::names().unwrap().into_iter().filter(|name| name.starts_with(&own)).collect()
}

#[test]
fn an_engine_takes_its_namespaces_with_it() {
    let mut engine = Kernel::new(Dataplane::Nft);
    policy_cases(&sample(100), "", &mut engine);
    assert!(!left().is_empty());
    let names = left();
    drop(engine);
    assert!(names.iter().any(|name| !left().contains(name)));
}

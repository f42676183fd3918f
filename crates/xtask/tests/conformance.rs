//! The shared case files, all of them, against the evaluator.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use lasthop_xtask::conformance::{Answer, Case, Engine, Evaluator, Outcome, cases, policy_cases, read};
use std::path::Path;

fn file(name: &str) -> serde_json::Value {
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance").join(name)).unwrap()
}

fn judge(engine: &mut dyn Engine) -> Outcome {
    policy_cases(&file("policy_verdicts.json"), "", engine)
}

#[test]
fn the_evaluator_passes_every_case() {
    let outcome = judge(&mut Evaluator);
    assert!(outcome.failed.is_empty(), "{}", outcome.failed.join("\n"));
    assert!(outcome.passed >= 271, "only {} cases were judged", outcome.passed);
}

/// An engine that answers every probe alike.
struct Stubborn(bool);

impl Engine for Stubborn {
    fn judge(&mut self, case: &Case) -> anyhow::Result<Vec<Answer>> {
        Ok(case.probes.iter().map(|_| Answer { arrives: Some(self.0), ..Answer::default() }).collect())
    }
}

#[test]
fn no_engine_passes_by_always_saying_the_same() {
    for stubborn in [true, false] {
        assert!(judge(&mut Stubborn(stubborn)).failed.len() > 150);
    }
}

#[test]
fn the_evaluator_knows_why() {
    for case in cases(&file("policy_verdicts.json")) {
        let case = case.unwrap();
        for (probe, answer) in case.probes.iter().zip(Evaluator.judge(&case).unwrap()) {
            assert!(
                answer.arrives == Some(true) || answer.why.contains("denied"),
                "{}: {}: {}",
                case.id,
                probe.name,
                answer.why
            );
            assert!(!answer.why.contains('\n'), "{}: {}", case.id, answer.why);
        }
    }
}

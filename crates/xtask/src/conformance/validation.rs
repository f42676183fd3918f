//! Cases about whole resources.

use super::{Outcome, list, text};
use serde_json::Value;

pub(super) fn run(file: &Value, only: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for case in list(file, "cases").iter().filter(|case| text(case, "id").starts_with(only)) {
        let (id, expected) = (text(case, "id"), text(case, "expected"));
        let judged = lasthop_model::v3::check(&case["resource"]);
        let actual = if judged.is_ok() { "valid" } else { "invalid" };
        if actual == expected {
            outcome.passed += 1;
        } else if text(case, "confidence") == "low" {
            outcome.unjudged += 1;
        } else {
            let why = judged.err().map_or_else(|| text(case, "reason").to_owned(), |error| error.to_string());
            outcome.failed.push(format!("{id}: expected {expected}, was {actual}: {why}"));
        }
    }
    outcome
}

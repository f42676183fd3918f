//! Cases about selectors.

use super::{Outcome, list, text};
use lasthop_model::Labels;
use lasthop_model::selector::Selector;
use serde_json::Value;

pub(super) fn run(file: &Value, only: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for case in list(file, "cases").iter().filter(|case| text(case, "id").starts_with(only)) {
        let labels: Labels = case["labels"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect();
        let parsed = text(case, "selector").parse::<Selector>();
        let (actual, why) = match &parsed {
            Ok(selector) => (if selector.matches(&labels) { "true" } else { "false" }, selector.to_string()),
            Err(error) => ("parse-error", error.to_string()),
        };
        let expected = match &case["expected"] {
            Value::Bool(true) => "true",
            Value::Bool(false) => "false",
            other => other.as_str().unwrap_or_default(),
        };
        let same = expected.replace(['_', ' '], "-") == actual || (expected.contains("error") && parsed.is_err());
        let complaint = format!("{}: expected {expected}, was {actual}: {why}", text(case, "id"));
        outcome.note(if same { Vec::new() } else { vec![complaint] });
    }
    outcome
}

//! The selector language against the conformance cases, and as a round trip.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use lasthop_model::Labels;
use lasthop_model::selector::Selector;
use proptest::prelude::*;
use serde_json::Value;

fn cases() -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("../../../conformance/selectors.json")).unwrap();
    file["cases"].as_array().unwrap().clone()
}

#[test]
fn every_conformance_case() {
    let mut failures = Vec::new();
    let cases = cases();
    assert!(cases.len() > 200, "the case file is not whole");
    for case in &cases {
        let (id, text) = (case["id"].as_str().unwrap(), case["selector"].as_str().unwrap());
        let labels: Labels = serde_json::from_value(case["labels"].clone()).unwrap();
        match (text.parse::<Selector>(), &case["expected"]) {
            (Ok(selector), Value::Bool(expected)) => {
                if selector.matches(&labels) != *expected {
                    failures.push(format!("{id}: {text}: matches is {}", !expected));
                }
                let printed = selector.to_string();
                if let Some(canonical) = case["canonical"].as_str()
                    && canonical != printed
                {
                    failures.push(format!("{id}: {text}: prints as {printed}, not {canonical}"));
                }
                if printed.parse().as_ref() != Ok(&selector) {
                    failures.push(format!("{id}: {printed} does not parse to the same"));
                }
            }
            (Err(error), Value::String(_)) => {
                let line = error.to_string();
                if line.contains('\n') || !line.contains("character") {
                    failures.push(format!("{id}: the error is not one line with a position: {line}"));
                }
            }
            (Ok(selector), _) => failures.push(format!("{id}: {text}: parses as {selector}")),
            (Err(error), _) => failures.push(format!("{id}: {error}")),
        }
    }
    assert!(failures.is_empty(), "{} of {} fail:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

#[test]
fn errors_say_where_and_what_to_write() {
    for (text, message) in [
        (
            "a = 'b'",
            "selector 'a = 'b'': character 3: found '=' where ==, !=, in, not in, contains, starts with or ends with is expected; write '==' to compare",
        ),
        ("a == b", "selector 'a == b': character 6: found 'b' where text in quotes is expected; put it in quotes"),
        (
            "a == 'b' and c == 'd'",
            "selector 'a == 'b' and c == 'd'': character 10: found 'and' where '&&', '||' or the end is expected; write '&&'",
        ),
        ("a == \"b", "selector 'a == \"b': character 6: this \" has no closing \""),
        ("(a == 'b'", "selector '(a == 'b'': character 10: ends where ')' is expected"),
        ("a == 'b')", "selector 'a == 'b')': character 9: this ')' has no '('"),
        ("has(", "selector 'has(': character 5: ends where a label, '!', '(', all() or has(…) is expected"),
    ] {
        assert_eq!(text.parse::<Selector>().unwrap_err().to_string(), message);
    }
}

/// Selectors as text, built from their grammar, with odd spacing.
fn selector() -> impl Strategy<Value = String> {
    let key = prop_oneof![
        "[a-c]",
        Just("in".to_owned()),
        Just("not".to_owned()),
        Just("has".to_owned()),
        "[a-zA-Z0-9_./-]{1,8}"
    ];
    let text = prop_oneof!["'[^']{0,4}'", "\"[^\"]{0,4}\"", Just("'v'".to_owned())];
    let texts = proptest::collection::vec(text.clone(), 0..4).prop_map(|texts| texts.join(" ,"));
    let leaf = prop_oneof![
        Just("all()".to_owned()),
        Just("global( )".to_owned()),
        key.clone().prop_map(|k| format!("has( {k})")),
        (
            key.clone(),
            prop_oneof![Just("=="), Just("!="), Just("contains"), Just("starts with"), Just("endswith")],
            text
        )
            .prop_map(|(k, op, t)| format!("{k} {op}{t}")),
        (key, prop_oneof![Just("in"), Just("not  in"), Just("notin")], texts)
            .prop_map(|(k, op, t)| format!("{k}\t{op} {{{t}}}")),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|s| format!("! {s}")),
            inner.clone().prop_map(|s| format!("( {s} )")),
            proptest::collection::vec(inner.clone(), 2..4).prop_map(|s| s.join("&&")),
            proptest::collection::vec(inner, 2..4).prop_map(|s| format!("({})", s.join(" || "))),
        ]
    })
}

fn labels() -> impl Strategy<Value = Labels> {
    proptest::collection::btree_map("[a-c]|in|not|has", "v|[a-z]{0,3}", 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn printing_is_canonical_and_parses_to_the_same(text in selector(), labels in labels()) {
        let first: Selector = text.parse().unwrap();
        let printed = first.to_string();
        let second: Selector = printed.parse().unwrap();
        prop_assert_eq!(&first, &second, "{}", printed);
        prop_assert_eq!(second.to_string(), printed);
        prop_assert_eq!(first.matches(&labels), second.matches(&labels));
    }

    #[test]
    fn negation_is_the_opposite(text in selector(), labels in labels()) {
        let plain: Selector = text.parse().unwrap();
        let negated: Selector = format!("!({text})").parse().unwrap();
        prop_assert_eq!(plain.matches(&labels), !negated.matches(&labels));
    }

    #[test]
    fn no_text_panics(text in "[ab()!&|={}'\" \tinhas,]{0,40}|\\PC{0,40}") {
        if let Err(error) = text.parse::<Selector>() {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }
}

#[test]
fn nesting_without_end_is_an_error_not_a_crash() {
    let deep = format!("{}all(){}", "(".repeat(100_000), ")".repeat(100_000));
    let error = deep.parse::<Selector>().unwrap_err().to_string();
    assert!(error.contains("more than 256 parentheses"), "{error}");
    assert!("!".repeat(100_000).parse::<Selector>().is_err());
}

//! Whatever a document holds, reading it ends in a resource or in a list of problems, each with a path.
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

use lasthop_model::{EndpointKey, Key, Kind, Resource, WorkloadEndpoint, policy, read_documents, to_json, to_yaml, v3};
use lasthop_net::Prefix;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

/// Valid documents: those of the conformance cases, and one with every field in force of each kind.
fn valid() -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("../../../conformance/validation.json")).unwrap();
    let cases = file["cases"].as_array().unwrap().iter();
    let known = |case: &&Value| {
        let kind = case["kind"].as_str().unwrap();
        case["expected"] == "valid" && (Kind::all_written(kind).next().is_some() || v3::checked_kinds().contains(&kind))
    };
    let full = read_documents(include_str!("data/full.yaml"), "full.yaml").unwrap();
    let full = full.into_iter().map(|document| document.value);
    cases.filter(known).map(|case| case["resource"].clone()).chain(full).collect()
}

#[test]
fn the_full_documents_are_valid() {
    let documents = read_documents(include_str!("data/full.yaml"), "full.yaml").unwrap();
    assert_eq!(documents.len(), Kind::ALL.len());
    for document in documents {
        if let Err(invalid) = document.parse() {
            panic!("{}", document.lines(&invalid).join("\n"));
        }
    }
}

/// The JSON pointers of all values in a document.
fn pointers(value: &Value, here: &str, all: &mut Vec<String>) {
    all.push(here.to_owned());
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                let key = key.replace('~', "~0").replace('/', "~1");
                pointers(value, &format!("{here}/{key}"), all);
            }
        }
        Value::Array(items) => {
            for (i, value) in items.iter().enumerate() {
                pointers(value, &format!("{here}/{i}"), all);
            }
        }
        _ => {}
    }
}

fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "[0-9a-f:./,\\[\\]]{0,24}".prop_map(Value::from),
        "[0-9]{1,3}(\\.[0-9]{1,3}){3}(/[0-9]{1,2})?(:[0-9]{0,6})?".prop_map(Value::from),
        "[ -~\n\t]{0,80}".prop_map(Value::from),
        Just(json!("all() && global()")),
        Just(Value::from("x".repeat(300_000))),
        Just(Value::from("a\nb\u{0}c")),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map("\\PC{0,6}|name|cidr|min|max", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

#[derive(Clone, Debug)]
enum Mutation {
    Replace(Index, Value),
    Remove(Index),
    Insert(Index, String, Value),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        (any::<Index>(), anything()).prop_map(|(at, value)| Mutation::Replace(at, value)),
        any::<Index>().prop_map(Mutation::Remove),
        (any::<Index>(), "\\PC{0,8}|[a-zA-Z]{1,12}", anything())
            .prop_map(|(at, key, value)| Mutation::Insert(at, key, value)),
    ]
}

fn mutate(document: &mut Value, mutation: Mutation) {
    let mut all = Vec::new();
    pointers(document, "", &mut all);
    match mutation {
        Mutation::Replace(at, value) => *document.pointer_mut(at.get::<String>(&all)).unwrap() = value,
        Mutation::Remove(at) => {
            let pointer = at.get::<String>(&all).clone();
            let Some((parent, key)) = pointer.rsplit_once('/') else { return };
            match document.pointer_mut(parent).unwrap() {
                Value::Object(object) => drop(object.remove(&key.replace("~1", "/").replace("~0", "~"))),
                Value::Array(items) => drop(items.remove(key.parse().unwrap())),
                _ => {}
            }
        }
        Mutation::Insert(at, key, value) => match document.pointer_mut(at.get::<String>(&all)).unwrap() {
            Value::Object(object) => drop(object.insert(key, value)),
            Value::Array(items) => items.push(value),
            _ => {}
        },
    }
}

fn check(document: &Value) -> Result<(), TestCaseError> {
    if let Ok(resource) = Resource::parse(document) {
        prop_assert_eq!(resource.key(), Key::of(document).unwrap());
        prop_assert!(v3::check(document).is_ok());
    }
    match v3::check(document) {
        Ok(()) => {}
        Err(invalid) => {
            let line = invalid.to_string();
            prop_assert!(!invalid.problems.is_empty());
            prop_assert!(!line.chars().any(char::is_control), "{line:?}");
            for problem in &invalid.problems {
                prop_assert!(!problem.path.is_empty() && !problem.reason.is_empty(), "{problem:?}");
                prop_assert!(problem.to_string().len() < 2000, "{} bytes: {}", line.len(), &line[..200]);
            }
        }
    }
    for notice in v3::without_effect(document) {
        prop_assert!(!notice.path.is_empty());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_documents_are_read_or_refused_with_a_path(
        at in any::<Index>(),
        mutations in proptest::collection::vec(mutation(), 1..4),
    ) {
        let mut document = at.get(valid_documents()).clone();
        for mutation in mutations {
            mutate(&mut document, mutation);
        }
        check(&document)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_unknown_field_is_refused_by_its_path(at in any::<Index>(), field in "zz[a-z]{1,8}") {
        let mut document = at.get(valid_documents()).clone();
        let flat = document["kind"] == "ServiceAccount" || document["kind"] == "EndpointSlice";
        let (place, path) = match flat {
            true => (&mut document, field.clone()),
            false => (&mut document["spec"], format!("spec.{field}")),
        };
        place[&field] = json!(1);
        let invalid = v3::check(&document).unwrap_err();
        prop_assert_eq!(&invalid.problems[0].path, &path);
    }

    #[test]
    fn what_is_printed_reads_the_same(at in any::<Index>()) {
        let document = at.get(valid_documents()).clone();
        for text in [to_yaml(&document), to_json(&document)] {
            let read = read_documents(&text, "f").unwrap();
            prop_assert_eq!(&read[0].value, &document, "{}", text);
        }
    }

    #[test]
    fn mutated_texts_never_panic(at in any::<usize>(), with in "\\PC{0,3}|[\n\t:{}\\[\\]&*!|>'\"-]{1,3}", length in 0_usize..8) {
        let mut text = include_str!("data/full.yaml").to_owned();
        let bound = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let from = bound(at % text.len());
        let to = bound(from + length);
        text.replace_range(from..to.max(from), &with);
        match read_documents(&text, "f.yaml") {
            Err(error) => prop_assert!(!error.to_string().contains('\n'), "{error}"),
            Ok(documents) => for document in documents {
                check(&document.value)?;
                if let Err(invalid) = document.parse() {
                    prop_assert_eq!(document.lines(&invalid).len(), invalid.problems.len());
                }
            },
        }
    }
}

fn valid_documents() -> &'static [Value] {
    static DOCUMENTS: std::sync::OnceLock<Vec<Value>> = std::sync::OnceLock::new();
    DOCUMENTS.get_or_init(valid)
}

fn word() -> impl Strategy<Value = String> {
    "[a-z]([a-z0-9-]{0,8}[a-z0-9])?"
}

fn endpoint() -> impl Strategy<Value = WorkloadEndpoint> {
    use proptest::collection::{btree_map, btree_set, vec};
    use proptest::option::of;
    let address = prop_oneof![
        any::<[u8; 3]>().prop_map(|[a, b, c]| std::net::IpAddr::from([10, a, b, c])),
        any::<u16>().prop_map(|n| std::net::IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, n])),
    ];
    let prefix = (address.clone(), 0_u8..=32).prop_map(|(address, len)| Prefix::new(address, len).unwrap());
    let port = (word(), prop_oneof![Just(6), Just(17), Just(132)], 1_u16..)
        .prop_map(|(name, protocol, port)| policy::NamedPort { name, protocol, port });
    let about = (of(vec(word(), 0..3)), of(word()), vec(port, 0..3), of(word()), btree_map(word(), word(), 0..3));
    ((word(), word(), word(), word()), of(any::<u32>()), btree_set(address, 0..3), btree_set(prefix, 0..3), about)
        .prop_map(|((namespace, name, node, link), mac, addresses, allowed_sources, about)| {
            let (profiles, service_account, ports, orchestrator, labels) = about;
            WorkloadEndpoint {
                key: EndpointKey { namespace, name },
                node: node.parse().unwrap(),
                link: link.parse().unwrap(),
                mac: mac.map(|n| {
                    format!("02:00:{:02x}:{:02x}:{:02x}:{:02x}", n >> 24, n >> 16 & 255, n >> 8 & 255, n & 255)
                        .parse()
                        .unwrap()
                }),
                addresses,
                allowed_sources,
                labels,
                profiles,
                service_account,
                ports,
                orchestrator,
            }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_endpoint_survives_its_document(endpoint in endpoint()) {
        let text = to_yaml(&endpoint.to_document());
        let read = read_documents(&text, "f").unwrap();
        prop_assert_eq!(read[0].parse(), Ok(Resource::WorkloadEndpoint(endpoint)), "{}", text);
    }
}

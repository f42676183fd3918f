//! `BGPFilter`.

use super::super::shape::{Checker, Field, Shape, field};
use super::super::spot::Spot;
use super::super::{bgp, text};
use serde_json::Value;

const RULES: usize = 1024;

pub(super) const SPEC: &[Field] = &[
    field("exportV4", Shape::List(RULES, &Shape::Table(&rule(text::prefix_v4)))),
    field("importV4", Shape::List(RULES, &Shape::Table(&rule(text::prefix_v4)))),
    field("exportV6", Shape::List(RULES, &Shape::Table(&rule(text::prefix_v6)))),
    field("importV6", Shape::List(RULES, &Shape::Table(&rule(text::prefix_v6)))),
];

const fn rule(prefix: super::super::shape::TextCheck) -> [Field; 11] {
    [
        field("action", Shape::OneOf(&["Accept", "Reject"])).required(),
        field("cidr", Shape::Checked(prefix)),
        field("matchOperator", Shape::OneOf(&["Equal", "NotEqual", "In", "NotIn"])),
        field("prefixLength", Shape::Table(LENGTH)),
        field("source", Shape::OneOf(&["RemotePeers"])),
        field("interface", Shape::Checked(text::link_pattern)),
        field("peerType", Shape::OneOf(&["eBGP", "iBGP"])),
        field("communities", Shape::Table(COMMUNITIES)),
        field("asPathPrefix", Shape::List(100, &Shape::Asn)),
        field("priority", bgp::PRIORITY),
        field("operations", Shape::List(10, &Shape::Table(OPERATION))),
    ]
}

const LENGTH: &[Field] = &[field("min", Shape::Integer(0, 128)), field("max", Shape::Integer(0, 128))];

const COMMUNITIES: &[Field] = &[field("values", Shape::List(1, &Shape::Checked(text::community))).required()];

const OPERATION: &[Field] = &[
    field("addCommunity", Shape::Table(&[field("value", Shape::Checked(text::community)).required()])),
    field("prependASPath", Shape::Table(&[field("prefix", Shape::List(10, &Shape::Asn)).required()])),
    field("setPriority", Shape::Table(&[field("value", bgp::PRIORITY).required()])),
];

pub(super) fn check(checker: &mut Checker, spec: &Spot<'_>, _name: &str) {
    for (list, bits) in [("exportV4", 32), ("importV4", 32), ("exportV6", 128), ("importV6", 128)] {
        for rule in spec.items(list) {
            check_rule(checker, &rule, bits);
        }
    }
}

fn check_rule(checker: &mut Checker, rule: &Spot<'_>, bits: u64) {
    let has = |name: &str| rule.get(name).is_some();
    if has("cidr") && !has("matchOperator") {
        let reason = "is missing; say how the route must match cidr: Equal, NotEqual, In or NotIn";
        checker.add(&rule.path_of("matchOperator"), None, reason);
    }
    for name in ["matchOperator", "prefixLength"] {
        if has(name) && !has("cidr") {
            checker.add(&rule.path_of("cidr"), None, format!("is missing; {name} is about it"));
        }
    }
    if let Some(length) = rule.get("prefixLength") {
        let [min, max] = ["min", "max"].map(|name| length.number::<u64>(name));
        for (name, value) in [("min", min), ("max", max)] {
            if let Some(value) = value.filter(|value| *value > bits) {
                let reason = format!("{value} is out of range; write 0 to {bits}");
                checker.add(&length.path_of(name), length.value.get(name), reason);
            }
        }
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            let reason = format!("{min} is greater than max ({max}); swap them");
            checker.add(&length.path_of("min"), length.value.get("min"), reason);
        }
    }
    for operation in rule.items("operations") {
        let count = operation.value.as_object().map(serde_json::Map::len);
        if count.is_some_and(|count| count != 1) {
            let shown = Value::from(count.unwrap_or_default());
            let reason = "must hold exactly one of addCommunity, prependASPath, setPriority; write one entry for each";
            checker.add(&operation.path, Some(&shown), reason);
        }
    }
}

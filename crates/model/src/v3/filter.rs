//! `BGPFilter`.

use super::metadata::document;
use super::shape::{Checker, Field, Need, Shape, field, idle};
use super::spot::Spot;
use super::{bgp, text};
use crate::{
    BgpFilter, FilterAction, FilterOperation, FilterRule, Key, PeerScope, RangeMatch, RangeOperator, Resource,
};
use lasthop_net::{Asn, Family};
use serde_json::Value;

const RULES: usize = 1024;

pub(super) const FIELDS: &[Field] = &document(SPEC, Need::Optional);

const SPEC: &[Field] = &[
    field("exportV4", Shape::List(RULES, &Shape::Table(&rule(text::prefix_v4)))),
    field("importV4", Shape::List(RULES, &Shape::Table(&rule(text::prefix_v4)))),
    field("exportV6", Shape::List(RULES, &Shape::Table(&rule(text::prefix_v6)))),
    field("importV6", Shape::List(RULES, &Shape::Table(&rule(text::prefix_v6)))),
];

const fn rule(prefix: super::shape::TextCheck) -> [Field; 11] {
    [
        field("action", Shape::OneOf(&["Accept", "Reject"])).required(),
        field("cidr", Shape::Checked(prefix)),
        field("matchOperator", Shape::OneOf(&["Equal", "NotEqual", "In", "NotIn"])),
        field("prefixLength", Shape::Table(LENGTH)),
        field("source", Shape::OneOf(&["RemotePeers"])),
        idle("interface", Shape::Checked(text::link_pattern)).closed(),
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

pub(super) fn convert(checker: &mut Checker, spec: &Spot<'_>, key: &Key) -> Resource {
    let mut rules = |lists: [(&str, Family); 2]| {
        let mut all = Vec::new();
        for (list, family) in lists {
            for rule in spec.items(list) {
                check_rule(checker, &rule, u64::from(family.bits()));
                all.extend(read_rule(&rule, family));
            }
        }
        all
    };
    let import = rules([("importV4", Family::V4), ("importV6", Family::V6)]);
    let export = rules([("exportV4", Family::V4), ("exportV6", Family::V6)]);
    Resource::BgpFilter(BgpFilter { name: key.name.clone(), import, export })
}

fn read_rule(rule: &Spot<'_>, family: Family) -> Option<FilterRule> {
    let length = rule.get("prefixLength");
    let bound = |name: &str| length.as_ref().and_then(|length| length.number::<u8>(name));
    let lengths = length.as_ref().map(|_| (bound("min").unwrap_or(0), bound("max").unwrap_or(family.bits())));
    let operator = match rule.text("matchOperator") {
        Some("Equal") => RangeOperator::Equal,
        Some("NotEqual") => RangeOperator::NotEqual,
        Some("NotIn") => RangeOperator::NotIn,
        _ => RangeOperator::In,
    };
    let communities = rule.get("communities").map(|communities| communities.items("values")).unwrap_or_default();
    Some(FilterRule {
        path: rule.path.clone(),
        family,
        action: match rule.text("action")? {
            "Accept" => FilterAction::Accept,
            _ => FilterAction::Reject,
        },
        range: rule.parse("cidr").map(|prefix| RangeMatch { prefix, operator, lengths }),
        learned: rule.text("source").is_some(),
        interface: rule.text("interface").map(str::to_owned),
        peers: rule.text("peerType").map(|kind| if kind == "eBGP" { PeerScope::External } else { PeerScope::Internal }),
        communities: communities.iter().filter_map(|value| value.value.as_str()?.parse().ok()).collect(),
        as_path: asns(rule, "asPathPrefix"),
        priority: rule.number("priority"),
        operations: rule.items("operations").iter().filter_map(read_operation).collect(),
    })
}

fn read_operation(operation: &Spot<'_>) -> Option<FilterOperation> {
    if let Some(community) = operation.get("addCommunity") {
        return community.parse("value").map(FilterOperation::AddCommunity);
    }
    if let Some(path) = operation.get("prependASPath") {
        return Some(FilterOperation::Prepend(asns(&path, "prefix")));
    }
    operation.get("setPriority")?.number("value").map(FilterOperation::SetPriority)
}

fn asns(spot: &Spot<'_>, name: &str) -> Vec<Asn> {
    spot.items(name).iter().filter_map(|item| super::shape::plain(item.value).parse().ok()).collect()
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

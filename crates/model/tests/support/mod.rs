//! Short ways to write policies and what is expected of them.

use lasthop_model::policy::*;
use lasthop_model::selector::Selector;
use lasthop_model::*;
use lasthop_net::Prefix;
use serde_json::{Value, json};
use std::sync::Arc;

pub(crate) fn resource(version: &str, kind: &str, metadata: Value, spec: Value) -> Result<Resource, Invalid> {
    Resource::parse(&json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}))
}

pub(crate) fn policy(resource: Result<Resource, Invalid>) -> Arc<Policy> {
    match resource.unwrap() {
        Resource::Policy(policy) => policy,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn any(action: Action) -> Rule {
    Rule {
        action,
        family: None,
        protocol: None,
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: Peer::default(),
        destination: Peer::default(),
    }
}

pub(crate) fn selector(text: &str) -> Selector {
    text.parse().unwrap()
}

pub(crate) fn nets(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

pub(crate) fn range(first: u16, last: u16) -> Port {
    Port::Range(PortRange::new(first, last).unwrap())
}

pub(crate) fn paths<T: std::fmt::Debug>(result: Result<T, Invalid>) -> Vec<String> {
    result.unwrap_err().problems.into_iter().map(|problem| problem.path).collect()
}

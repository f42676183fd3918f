//! `IPPool`.

use super::metadata::METADATA;
use super::shape::{Checker, Field, Shape, field, idle};
use super::spot::Spot;
use super::text;
use crate::{Invalid, IpPool, Key, Resource};
use lasthop_net::{Family, Prefix};
use serde_json::Value;

pub(super) const FIELDS: &[Field] = &[
    field("apiVersion", Shape::Text),
    field("kind", Shape::Text),
    field("metadata", Shape::Table(METADATA)).required(),
    field("spec", Shape::Table(SPEC)).required(),
    field("status", Shape::Free),
];

const ENCAPSULATION: Shape = Shape::OneOf(&["Never", "Always", "CrossSubnet"]);

const SPEC: &[Field] = &[
    field("cidr", Shape::Checked(text::exact_prefix)).required(),
    field("natOutgoing", Shape::Truth),
    field("disabled", Shape::Truth),
    field("disableBGPExport", Shape::Truth),
    idle("ipipMode", ENCAPSULATION).unless("Never"),
    idle("vxlanMode", ENCAPSULATION).unless("Never"),
    idle("blockSize", Shape::Integer(20, 128)),
    idle("nodeSelector", Shape::Checked(text::selector)).unless("all()"),
    idle("namespaceSelector", Shape::Checked(text::selector)).unless("all()"),
    idle("allowedUses", Shape::List(10, &Shape::OneOf(&["Workload", "Tunnel", "LoadBalancer"]))),
    idle("assignmentMode", Shape::OneOf(&["Automatic", "Manual"])).unless("Automatic"),
];

fn link_local(family: Family) -> Option<Prefix> {
    match family {
        Family::V4 => "169.254.0.0/16".parse().ok(),
        Family::V6 => "fe80::/10".parse().ok(),
    }
}

pub(super) fn convert(checker: &mut Checker, spec: &Spot<'_>, key: &Key) -> Option<Resource> {
    let prefix: Prefix = spec.parse("cidr")?;
    check_range(checker, spec, prefix);
    check_uses(checker, spec);
    let tunnels = ["ipipMode", "vxlanMode"].map(|name| spec.text(name).is_some_and(|mode| mode != "Never"));
    if tunnels == [true, true] {
        let reason = "cannot be on together with ipipMode; set one of them to Never";
        checker.add(&spec.path_of("vxlanMode"), spec.value.get("vxlanMode"), reason);
    }
    if tunnels[0] && prefix.family() == Family::V6 {
        let reason = format!("IP-in-IP is for IPv4 only, and {prefix} is IPv6; write Never");
        checker.add(&spec.path_of("ipipMode"), spec.value.get("ipipMode"), reason);
    }
    Some(Resource::IpPool(IpPool {
        name: key.name.clone(),
        prefix,
        nat_outgoing: spec.is_set("natOutgoing"),
        disabled: spec.is_set("disabled"),
        bgp_export_disabled: spec.is_set("disableBGPExport"),
    }))
}

fn check_range(checker: &mut Checker, spec: &Spot<'_>, prefix: Prefix) {
    let cidr = spec.value.get("cidr");
    let path = spec.path_of("cidr");
    if let Some(local) = link_local(prefix.family())
        && (local.contains(prefix.address()) || prefix.contains(local.address()))
    {
        let reason = format!("'{prefix}' overlaps the link-local range {local}; choose another range");
        checker.add(&path, cidr, reason);
    }
    if prefix.address().is_multicast() || prefix.address().is_loopback() {
        let reason = format!("'{prefix}' holds no addresses that workloads can have; choose another range");
        checker.add(&path, cidr, reason);
    }
    let (from, to, usual) = match prefix.family() {
        Family::V4 => (20, 32, 26),
        Family::V6 => (116, 128, 122),
    };
    let given: Option<u8> = spec.number("blockSize");
    let block = given.unwrap_or(usual);
    if !(from..=to).contains(&block) {
        let reason = format!("{block} is out of range for {}; write {from} to {to}", prefix.family());
        checker.add(&spec.path_of("blockSize"), spec.value.get("blockSize"), reason);
    } else if prefix.len() > block {
        match given {
            Some(_) => {
                let reason =
                    format!("a block of /{block} does not fit into {prefix}; write {} to {to}", prefix.len().max(from));
                checker.add(&spec.path_of("blockSize"), spec.value.get("blockSize"), reason);
            }
            None => {
                let reason =
                    format!("'{prefix}' is smaller than a block of /{block}; make it larger, or set spec.blockSize");
                checker.add(&path, cidr, reason);
            }
        }
    }
}

fn check_uses(checker: &mut Checker, spec: &Spot<'_>) {
    let items = spec.items("allowedUses");
    let uses: Vec<&str> = items.iter().filter_map(|item| item.value.as_str()).collect();
    let mut wrong = |name: &str, reason: &str| checker.add(&spec.path_of(name), spec.value.get(name), reason);
    if uses.contains(&"Tunnel") && spec.get("namespaceSelector").is_some() {
        wrong("namespaceSelector", "has no meaning for tunnel addresses (allowedUses: Tunnel); remove it");
    }
    if !uses.contains(&"LoadBalancer") {
        return;
    }
    if uses.len() > 1 {
        wrong("allowedUses", "LoadBalancer cannot be combined with other uses; make a pool of its own for it");
    }
    if spec.text("nodeSelector").is_some_and(|selector| selector != "all()") {
        wrong("nodeSelector", "a LoadBalancer pool is for all nodes; write all()");
    }
    if spec.is_set("disableBGPExport") {
        wrong("disableBGPExport", "a LoadBalancer pool must be advertised; write false");
    }
    for mode in ["ipipMode", "vxlanMode"] {
        if spec.text(mode).is_some_and(|text| text != "Never") {
            wrong(mode, "a LoadBalancer pool has no tunnels; write Never");
        }
    }
}

/// What may not change in a pool: its range and its block size.
pub(crate) fn check_update(old: &Value, new: &Value) -> Result<(), Invalid> {
    let mut checker = Checker::default();
    let (old, new) = (Spot::root(old), Spot::root(new));
    let (Some(old), Some(new)) = (old.get("spec"), new.get("spec")) else { return Ok(()) };
    let prefix = |spec: &Spot<'_>| spec.parse::<Prefix>("cidr");
    let block = |spec: &Spot<'_>| {
        let usual = prefix(spec).map(|prefix| if prefix.family() == Family::V4 { 26 } else { 122 });
        spec.number::<u8>("blockSize").or(usual)
    };
    if let (Some(was), Some(is)) = (prefix(&old), prefix(&new))
        && was != is
    {
        let reason = format!("'{is}' cannot replace {was}: a pool's range is fixed; make another pool");
        checker.add(&new.path_of("cidr"), new.value.get("cidr"), reason);
    } else if let (Some(was), Some(is)) = (block(&old), block(&new))
        && was != is
    {
        let reason = format!("{is} cannot replace {was}: a pool's block size is fixed; make another pool");
        checker.add(&new.path_of("blockSize"), new.value.get("blockSize"), reason);
    }
    if checker.problems.is_empty() { Ok(()) } else { Err(Invalid { key: None, problems: checker.problems }) }
}

//! `Node`.

use super::metadata::METADATA;
use super::shape::{Checker, Field, Shape, field, idle};
use super::spot::Spot;
use super::text;
use crate::{Drain, Key, Labels, Node, Resource};
use std::net::{Ipv4Addr, Ipv6Addr};

pub(super) const FIELDS: &[Field] = &[
    field("apiVersion", Shape::Text),
    field("kind", Shape::Text),
    field("metadata", Shape::Table(METADATA)).required(),
    field("spec", Shape::Table(SPEC)),
    field("status", Shape::Table(STATUS)),
];

const SPEC: &[Field] = &[
    field("bgp", Shape::Table(BGP)),
    idle("ipv4VXLANTunnelAddr", Shape::Checked(text::ipv4)),
    idle("vxlanTunnelMACAddr", Shape::Checked(text::mac)),
    idle("ipv6VXLANTunnelAddr", Shape::Checked(text::ipv6)),
    idle("vxlanTunnelMACAddrV6", Shape::Checked(text::mac)),
    idle(
        "orchRefs",
        Shape::List(
            100,
            &Shape::Table(&[field("nodeName", Shape::Text), field("orchestrator", Shape::Text).required()]),
        ),
    ),
    idle(
        "wireguard",
        Shape::Table(&[
            field("interfaceIPv4Address", Shape::Checked(text::ipv4)),
            field("interfaceIPv6Address", Shape::Checked(text::ipv6)),
        ]),
    ),
    idle(
        "addresses",
        Shape::List(
            1000,
            &Shape::Table(&[
                field("address", Shape::Checked(text::prefix)).required(),
                field("type", Shape::OneOf(&["InternalIP", "ExternalIP", "CalicoNodeIP"])),
            ]),
        ),
    ),
    idle(
        "interfaces",
        Shape::List(
            1000,
            &Shape::Table(&[
                field("name", Shape::Text),
                field("addresses", Shape::List(1000, &Shape::Checked(text::prefix))),
            ]),
        ),
    ),
];

const BGP: &[Field] = &[
    field("asNumber", Shape::Asn),
    field("ipv4Address", Shape::Checked(text::interface_v4)),
    field("ipv6Address", Shape::Checked(text::interface_v6)),
    idle("ipv4IPIPTunnelAddr", Shape::Checked(text::ipv4)),
    field("routeReflectorClusterID", Shape::Checked(text::ipv4)),
];

const STATUS: &[Field] = &[
    idle("wireguardPublicKey", Shape::Text),
    idle("wireguardPublicKeyV6", Shape::Text),
    field("podCIDRs", Shape::List(100, &Shape::Checked(text::prefix))),
];

pub(super) fn convert(
    checker: &mut Checker,
    (root, spec): (&Spot<'_>, &Spot<'_>),
    key: &Key,
    labels: Labels,
) -> Option<Resource> {
    let bgp = spec.get("bgp");
    if let Some(bgp) = &bgp
        && bgp.value.as_object().is_some_and(serde_json::Map::is_empty)
    {
        checker.add(&bgp.path, Some(bgp.value), "is empty; write ipv4Address or ipv6Address, or leave it out");
    }
    let bgp = bgp.as_ref();
    let address = |name: &str| bgp.and_then(|bgp| bgp.text(name)).map(|text| text.split('/').next().unwrap_or(text));
    Some(Resource::Node(Node {
        name: key.name.parse().ok()?,
        labels,
        ipv4: address("ipv4Address").and_then(|text| text.parse::<Ipv4Addr>().ok()),
        ipv6: address("ipv6Address").and_then(|text| text.parse::<Ipv6Addr>().ok()),
        asn: bgp.and_then(|bgp| bgp.parse("asNumber")).filter(|asn: &lasthop_net::Asn| asn.0 != 0),
        cluster_id: bgp.and_then(|bgp| bgp.parse("routeReflectorClusterID")),
        drain: drain(checker, root),
    }))
}

/// How far the node is on its way out of service; a word that is not known is noted.
fn drain(checker: &mut Checker, root: &Spot<'_>) -> Drain {
    let annotations = root.get("metadata").and_then(|metadata| metadata.get("annotations"));
    let Some(stage) = annotations.as_ref().and_then(|annotations| annotations.get(Node::DRAIN)) else {
        return Drain::No;
    };
    match stage.value.as_str() {
        Some("last-choice") => Drain::LastChoice,
        Some("withdrawn") => Drain::Withdrawn,
        _ => {
            let reason = "is no stage of a drain; write last-choice or withdrawn, or use 'lasthop node drain'";
            checker.add(&stage.path, Some(stage.value), reason);
            Drain::No
        }
    }
}

//! `FelixConfiguration`: the agent's settings.
//!
//! All fields of the reference are accepted ([`super::felix_fields`]); those in force are listed here, with
//! our own additions: `routeMetric` and `hostMAC`.

use super::felix_fields::SPEC;
use super::metadata::METADATA;
use super::shape::{Checker, Field, Shape, field};
use super::spot::Spot;
use crate::{EndpointToHost, HostMac, Key, Overlay, ProgramRoutes, Resource, SettingsScope, SourceSpoofing};
use lasthop_net::Metric;

pub(super) const FIELDS: &[Field] = &[
    field("apiVersion", Shape::Text),
    field("kind", Shape::Text),
    field("metadata", Shape::Table(METADATA)).required(),
    field("spec", Shape::Table(SPEC)),
];

pub(super) fn convert(checker: &mut Checker, spec: &Spot<'_>, key: &Key) -> Option<Resource> {
    let scope = match spec.text("nodeSelector") {
        Some(nodes) if key.name != "default" && !key.name.starts_with("node.") => {
            SettingsScope::Selected { name: key.name.clone(), nodes: nodes.parse().ok()? }
        }
        Some(_) => {
            let reason = format!("has no meaning in '{}', which says by its name for whom it is; remove it", key.name);
            checker.add(&spec.path_of("nodeSelector"), spec.value.get("nodeSelector"), reason);
            return None;
        }
        None => super::bgp::scope(checker, key)?,
    };
    super::felix_fields::check(checker, spec);
    Some(Resource::Settings { scope, overlay: overlay(spec) })
}

fn overlay(spec: &Spot<'_>) -> Overlay {
    let word = |name: &str| spec.text(name).map(str::to_ascii_lowercase);
    Overlay {
        interface_prefixes: spec
            .text("interfacePrefix")
            .map(|text| text.split(',').map(|word| word.trim().to_owned()).collect()),
        endpoint_to_host: match word("defaultEndpointToHostAction").as_deref() {
            Some("drop") => Some(EndpointToHost::Drop),
            Some("accept") => Some(EndpointToHost::Accept),
            Some("return") => Some(EndpointToHost::Return),
            _ => None,
        },
        program_routes: match spec.text("programClusterRoutes") {
            Some("Enabled" | "EnabledNoEncapOnly") => Some(ProgramRoutes::Enabled),
            Some("Disabled") => Some(ProgramRoutes::Disabled),
            // EnabledIPIPOnly leaves the plain routes to the reference's BGP daemon: to us, that is.
            _ => None,
        },
        metric: ["routeMetric", "ipv4NormalRoutePriority", "ipv6NormalRoutePriority"]
            .into_iter()
            .find_map(|name| spec.number(name))
            .map(Metric),
        source_spoofing: match word("workloadSourceSpoofing").as_deref() {
            Some("any") => Some(SourceSpoofing::Any),
            Some("disabled") => Some(SourceSpoofing::Disabled),
            _ => None,
        },
        refresh: spec.duration("routeRefreshInterval"),
        host_mac: match spec.text("hostMAC") {
            Some("Fixed") => Some(HostMac::FixedOnOurs),
            Some("FixedOnAll") => Some(HostMac::FixedOnAll),
            Some("Kept") => Some(HostMac::Kept),
            _ => None,
        },
    }
}

//! `FelixConfiguration`: the agent's settings.
//!
//! All fields of the reference are accepted ([`super::felix_fields`]); those in force are listed here, with
//! our own additions: `routeMetric`, `hostMAC` and `revokeConnections`.

use super::felix_fields::SPEC;
use super::metadata::METADATA;
use super::policy::protocol_number;
use super::shape::{Checker, Field, Shape, field};
use super::spot::Spot;
use super::text;
use crate::{
    Dataplane, DenyAction, EndpointToHost, FailsafePort, HostMac, IptablesBackend, Key, Overlay, ProgramRoutes,
    Resource, Revoke, SettingsScope, SourceSpoofing,
};
use lasthop_net::Metric;
use std::collections::BTreeSet;

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
        dataplane: match spec.text("nftablesMode") {
            Some("Auto") => Some(Dataplane::Auto),
            Some("Enabled") => Some(Dataplane::Nftables),
            Some("Disabled") => Some(Dataplane::Iptables),
            _ => None,
        },
        iptables_backend: match word("iptablesBackend").as_deref() {
            Some("auto") => Some(IptablesBackend::Auto),
            Some("legacy") => Some(IptablesBackend::Legacy),
            Some("nft") => Some(IptablesBackend::Nft),
            _ => None,
        },
        deny_action: match word("nftablesFilterDenyAction").or_else(|| word("iptablesFilterDenyAction")).as_deref() {
            Some("drop") => Some(DenyAction::Drop),
            Some("reject") => Some(DenyAction::Reject),
            _ => None,
        },
        failsafe_in: failsafes(spec, "failsafeInboundHostPorts"),
        failsafe_out: failsafes(spec, "failsafeOutboundHostPorts"),
        log_prefix: spec.text("logPrefix").map(str::to_owned),
        log_rate: spec.text("logActionRateLimit").and_then(text::rate_of),
        log_burst: spec.number("logActionRateLimitBurst"),
        revoke: match spec.text("revokeConnections") {
            Some("RemovedEndpoints") => Some(Revoke::RemovedEndpoints),
            Some("DeniedFlows") => Some(Revoke::DeniedFlows),
            _ => None,
        },
    }
}

/// A list that is there is the whole list, and an empty one leaves no port open.
fn failsafes(spec: &Spot<'_>, name: &str) -> Option<BTreeSet<FailsafePort>> {
    let port = |spot: &Spot<'_>| {
        Some(FailsafePort {
            protocol: protocol_number(spot.text("protocol")?)?,
            port: spot.number("port")?,
            net: spot.parse("net"),
        })
    };
    spec.get(name)?;
    Some(spec.items(name).iter().filter_map(port).collect())
}

//! The plain meaning: [`Desired`] from a [`Snapshot`], all at once. Slow, and read to be believed.

use crate::{Desired, Finding, Guard, Link, Nat, Route, Snapshot, Source, link, peers};
use lasthop_model::{EndpointKey, HostMac, NodeName, ProgramRoutes, Settings, SourceSpoofing, WorkloadEndpoint};
use lasthop_net::{IfName, NextHops, Prefix};
use lasthop_policy::World;
use lasthop_policy::ir::{Failsafe, HostPolicy, Logging};
use lasthop_policy::world::Interfaces;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What `node` ought to hold, given all that is known.
#[must_use]
pub fn desired(snapshot: &Snapshot, node: &NodeName) -> Desired {
    let settings = snapshot.settings(node);
    let mut desired = fixed(snapshot, &settings);
    let mut links: BTreeMap<&IfName, &EndpointKey> = BTreeMap::new();
    let mut addresses: BTreeMap<IpAddr, &EndpointKey> = BTreeMap::new();
    for (key, endpoint) in &snapshot.endpoints {
        if let Err(finding) = guarded(endpoint, &settings) {
            desired.findings.insert(about_endpoint(key), finding);
            continue;
        }
        if let Some(by) = links.get(&endpoint.link) {
            let finding = Finding::LinkTaken { link: endpoint.link.clone(), by: (*by).clone() };
            desired.findings.insert(about_endpoint(key), finding);
            continue;
        }
        links.insert(&endpoint.link, key);
        put_link(&mut desired, endpoint, &settings);
        for &address in &endpoint.addresses {
            if let Some(by) = addresses.get(&address) {
                let finding = Finding::AddressTaken { address, by: (*by).clone() };
                desired.findings.insert(about_address(key, address), finding);
                continue;
            }
            addresses.insert(address, key);
            put_address(&mut desired, endpoint, address);
        }
    }
    desired.gateways = peers::gateways(snapshot, node);
    let gateways: Vec<Prefix> = desired.gateways.keys().copied().collect();
    for prefix in snapshot
        .learned
        .keys()
        .chain(snapshot.pools.values().map(|p| &p.prefix))
        .chain(&gateways)
        .chain(&snapshot.blocks)
    {
        let route = indirect(snapshot, (&settings, &desired.gateways), *prefix).map(|route| (*prefix, route));
        match desired.routes.get(prefix) {
            Some(Route::Direct { .. }) => desired.elsewhere.extend(route),
            _ => desired.routes.extend(route),
        }
    }
    let host_routes = desired.routes.iter().filter(|(_, route)| matches!(route, Route::Direct { .. }));
    let own = host_routes.map(|(prefix, _)| (*prefix, Some(*prefix)));
    let own = own.chain(snapshot.blocks.iter().map(|block| (*block, None)));
    let advertise = own.filter(|(p, direct)| announced(snapshot, *p, *direct)).map(|(prefix, _)| prefix).collect();
    desired.bgp = peers::intent(snapshot, node, (&desired.routes, &mut desired.findings));
    desired.advertise = advertise;
    desired
}

/// What policy says on `node`, given all that it depends on and who has which link in `desired`.
#[must_use]
pub fn desired_policy(
    world: &World,
    node: &NodeName,
    interfaces: &Interfaces,
    about: (&Desired, &Settings),
) -> HostPolicy {
    let (desired, settings) = about;
    let links = desired.links.iter().map(|(link, of)| (link.clone(), of.endpoint.clone())).collect();
    policy_settings(world.host_with(node, interfaces, &links).policy, settings)
}

/// The part of policy that settings decide.
pub(crate) fn policy_settings(policy: HostPolicy, settings: &Settings) -> HostPolicy {
    HostPolicy {
        failsafe_in: Failsafe::all_of(&settings.failsafe_in),
        failsafe_out: Failsafe::all_of(&settings.failsafe_out),
        deny: settings.deny_action,
        log: Logging::of(settings),
        ..policy
    }
}

/// What does not depend on endpoints or paths.
fn fixed(snapshot: &Snapshot, settings: &Settings) -> Desired {
    let invalid = snapshot.invalid.iter();
    let enabled = snapshot.pools.values().filter(|pool| pool.nat_outgoing);
    Desired {
        metric: settings.metric,
        sysctls: link::host_sysctls().into_iter().collect(),
        guard: Guard {
            link_prefixes: settings.interface_prefixes.iter().cloned().collect(),
            endpoint_to_host: settings.endpoint_to_host,
        },
        nat: Nat {
            sources: enabled.map(|pool| pool.prefix).collect(),
            inside: snapshot.pools.values().map(|pool| pool.prefix).collect(),
        },
        findings: invalid.map(|(key, reason)| (key.to_string(), Finding::Invalid { reason: reason.clone() })).collect(),
        ..Desired::default()
    }
}

/// Whether the wildcard guard covers an endpoint's link: else nothing would hold it before its policy is there.
pub(crate) fn guarded(endpoint: &WorkloadEndpoint, settings: &Settings) -> Result<(), Finding> {
    if settings.interface_prefixes.iter().any(|prefix| endpoint.link.as_str().starts_with(prefix.as_str())) {
        Ok(())
    } else {
        let prefixes = settings.interface_prefixes.clone();
        Err(Finding::LinkUnguarded { link: endpoint.link.clone(), prefixes })
    }
}

pub(crate) fn put_link(desired: &mut Desired, endpoint: &WorkloadEndpoint, settings: &Settings) {
    let host_mac = (settings.host_mac == HostMac::FixedOnAll).then_some(link::FIXED_HOST_MAC);
    desired.links.insert(endpoint.link.clone(), Link { endpoint: endpoint.key.clone(), host_mac });
    desired.sysctls.extend(link::link_sysctls(&endpoint.link));
    if settings.source_spoofing == SourceSpoofing::Any {
        let allowed = endpoint.allowed_sources.iter();
        desired.sources.extend(allowed.map(|&prefix| Source { link: endpoint.link.clone(), prefix }));
    }
}

pub(crate) fn put_address(desired: &mut Desired, owner: &WorkloadEndpoint, address: IpAddr) {
    let prefix = Prefix::host(address);
    desired.sources.insert(Source { link: owner.link.clone(), prefix });
    desired.routes.insert(prefix, Route::Direct { link: owner.link.clone() });
    if let Some(mac) = owner.mac {
        desired.neighbours.insert((owner.link.clone(), address), mac);
    }
}

/// The route to a prefix that no local workload has.
pub(crate) fn indirect(
    snapshot: &Snapshot,
    (settings, gateways): (&Settings, &BTreeMap<Prefix, NextHops>),
    prefix: Prefix,
) -> Option<Route> {
    // A peer that announces the way to itself would lead nowhere.
    if let Some(next_hops) = gateways.get(&prefix) {
        return Some(Route::Remote { next_hops: next_hops.clone() });
    }
    // What is free of a block of ours is nowhere, whoever else claims the block.
    if snapshot.blocks.contains(&prefix) {
        return Some(Route::Unreachable);
    }
    match (settings.program_routes, snapshot.learned.get(&prefix)) {
        (ProgramRoutes::Enabled, Some(next_hops)) => Some(Route::Remote { next_hops: next_hops.clone() }),
        (ProgramRoutes::Enabled, None) if snapshot.pools.values().any(|pool| pool.prefix == prefix) => {
            Some(Route::Unreachable)
        }
        _ => None,
    }
}

/// Whether a prefix is announced: a block of ours, or a local workload's (`direct`) that lies in none of them; not from a
/// pool that says no.
pub(crate) fn announced(snapshot: &Snapshot, prefix: Prefix, direct: Option<Prefix>) -> bool {
    let alone = direct.is_some_and(|own| !snapshot.blocks.iter().any(|block| block.covers(own)));
    (alone || snapshot.blocks.contains(&prefix))
        && !snapshot.pools.values().any(|pool| pool.bgp_export_disabled && pool.prefix.covers(prefix))
}

pub(crate) fn about_endpoint(key: &EndpointKey) -> String {
    format!("WorkloadEndpoint/{key}")
}

pub(crate) fn about_address(key: &EndpointKey, address: IpAddr) -> String {
    format!("WorkloadEndpoint/{key} {address}")
}

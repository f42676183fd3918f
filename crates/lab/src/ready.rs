//! When a lab is ready: every session established, every address in every kernel's table where it belongs.

use crate::control;
use crate::progress::Progress;
use crate::routes::{self, ShownRoute};
use crate::state::{LabDirectory, Manifest};
use crate::topology::{Host, Peering};
use anyhow::{Result, bail};
use lasthop_net::Family;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Waits until sessions and routes are as they ought to be.
///
/// # Errors
/// What is still missing when patience is over.
pub fn wait(directory: &LabDirectory, manifest: &Manifest, patience: Duration, progress: &Progress) -> Result<()> {
    until(patience, || {
        let missing = missing_sessions(directory, manifest).or(missing_route(directory, manifest)?);
        if let Some(missing) = &missing {
            progress.waiting(&format!("waiting: {missing}"));
        }
        Ok(missing)
    })
}

/// Waits until routes are as they ought to be.
///
/// # Errors
/// What is still missing when patience is over.
pub fn wait_routes(directory: &LabDirectory, manifest: &Manifest, patience: Duration) -> Result<()> {
    until(patience, || missing_route(directory, manifest))
}

fn until(patience: Duration, mut missing: impl FnMut() -> Result<Option<String>>) -> Result<()> {
    let end = Instant::now() + patience;
    loop {
        match missing()? {
            None => return Ok(()),
            Some(missing) if Instant::now() > end => {
                bail!("waited {} s, still missing: {missing}", patience.as_secs())
            }
            Some(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// The first host whose sessions are not all established, in words.
fn missing_sessions(directory: &LabDirectory, manifest: &Manifest) -> Option<String> {
    let alone = manifest.topology.hosts.len() == 1 || manifest.topology.peering == Peering::Custom;
    manifest.topology.hosts.iter().find_map(|host| {
        let status = match control::status(&directory.agent_socket(&host.name)) {
            Ok(status) => status,
            Err(error) => return Some(format!("{}: {error}", host.name)),
        };
        let sessions = status.speaker.sessions;
        let enough = sessions.ready == sessions.total && (sessions.total > 0 || alone);
        (!enough).then(|| format!("BGP sessions of {} ({} of {})", host.name, sessions.ready, sessions.total))
    })
}

/// The first address that a host's kernel does not route to where it is, in words.
fn missing_route(directory: &LabDirectory, manifest: &Manifest) -> Result<Option<String>> {
    for host in manifest.topology.hosts.iter().filter(|host| !host.reflector) {
        let table = routes::read(&directory.name.namespace(&host.name))?;
        for workload in &manifest.topology.workloads {
            let place = manifest.places.get(&workload.name).map_or(workload.host.as_str(), String::as_str);
            let Some(at) = manifest.topology.host(place) else { continue };
            let astray = workload.addresses.iter().find(|address| !leads_to(&table, host, at, **address));
            if let Some(address) = astray {
                return Ok(Some(format!("the route of {} to {address}", host.name)));
            }
        }
    }
    Ok(None)
}

/// Whether a packet on `host` for `address` goes to the host `at`, or to the workload's own link there.
fn leads_to(table: &[ShownRoute], host: &Host, at: &Host, address: IpAddr) -> bool {
    let Some(route) = routes::lookup(table, address) else { return false };
    if host.name == at.name {
        return route.gateway.is_none() && route.prefix.is_host() && route.link != "lo";
    }
    let far = at.addresses.iter().copied().find(|a| Family::of(*a) == Family::of(address));
    route.gateway.is_some() && route.gateway == far
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_must_lead_to_where_it_is() {
        let topology = crate::builtin::builtin("reference").unwrap().unwrap();
        let host = |name: &str| topology.host(name).unwrap();
        let route = |prefix: &str, gateway: Option<&str>, link: &str| ShownRoute {
            prefix: prefix.parse().unwrap(),
            gateway: gateway.map(|gateway| gateway.parse().unwrap()),
            link: link.to_owned(),
            flags: 1,
            metric: 0,
        };
        let address: IpAddr = "10.65.0.21".parse().unwrap();
        let leg = route("10.65.0.0/16", None, "ns-db03ab89-b4");
        for (routes, at, expect) in [
            (vec![route("10.65.0.21/32", Some("172.18.203.126"), "eth0")], "compute-2", true),
            (vec![leg.clone(), route("10.65.0.0/26", Some("172.18.203.126"), "eth0")], "compute-2", true),
            (vec![route("10.65.0.21/32", Some("172.18.203.129"), "eth0")], "compute-2", false),
            (vec![leg.clone()], "compute-2", false),
            (vec![leg], "compute-1", false),
            (vec![route("10.65.0.21/32", None, "lh1")], "compute-1", true),
            (vec![], "compute-2", false),
        ] {
            assert_eq!(leads_to(&routes, host("compute-1"), host(at), address), expect, "{at}: {routes:?}");
        }
    }
}

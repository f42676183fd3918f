//! What a topology means in resources (projectcalico.org/v3) and in the agents' configuration files.

use crate::build::STORE;
use crate::topology::{Host, Peering, Topology};
use lasthop_net::Family;
use lasthop_store::certs::Files;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

/// The label that tells reflectors from other hosts.
const REFLECTOR_LABEL: &str = "route-reflector";

/// The port that the store is served on.
pub const STORE_PORT: u16 = 7470;

/// The resources of a topology, in an order in which each may be created.
#[must_use]
pub fn resources(topology: &Topology) -> Vec<Value> {
    let mut all = vec![bgp_configuration(topology)];
    all.extend(topology.pools.iter().map(|pool| {
        let spec = json!({
            "cidr": pool.cidr.to_string(), "natOutgoing": pool.nat_outgoing, "ipipMode": "Never", "vxlanMode": "Never",
        });
        resource("IPPool", &pool.name, &BTreeMap::new(), spec)
    }));
    all.extend(topology.hosts.iter().map(|host| node(topology, host)));
    if topology.peering == Peering::Reflector {
        let spec = json!({ "nodeSelector": "all()", "peerSelector": format!("{REFLECTOR_LABEL} == 'true'") });
        all.push(resource("BGPPeer", "reflectors", &BTreeMap::new(), spec));
    }
    all.extend(topology.hosts.iter().filter(|host| host.reflector).map(|host| {
        let spec = json!({ "programClusterRoutes": "Disabled" });
        resource("FelixConfiguration", &format!("node.{}", host.name), &BTreeMap::new(), spec)
    }));
    all.extend(topology.documents.iter().cloned());
    all
}

fn resource(kind: &str, name: &str, labels: &BTreeMap<String, String>, spec: Value) -> Value {
    let mut metadata = json!({ "name": name });
    if !labels.is_empty() {
        metadata["labels"] = json!(labels);
    }
    json!({ "apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": metadata, "spec": spec })
}

fn bgp_configuration(topology: &Topology) -> Value {
    let spec = json!({ "asNumber": topology.as_number, "nodeToNodeMeshEnabled": topology.peering == Peering::Mesh });
    resource("BGPConfiguration", "default", &BTreeMap::new(), spec)
}

fn node(topology: &Topology, host: &Host) -> Value {
    let mut bgp = json!({});
    for address in &host.addresses {
        let family = Family::of(*address);
        let len = topology.subnet(family).map_or(family.bits(), lasthop_net::Prefix::len);
        let key = match family {
            Family::V4 => "ipv4Address",
            Family::V6 => "ipv6Address",
        };
        bgp[key] = json!(format!("{address}/{len}"));
    }
    let mut labels = host.labels.clone();
    if host.reflector {
        labels.insert(REFLECTOR_LABEL.to_owned(), "true".to_owned());
        let ordinal = topology.hosts.iter().filter(|h| h.reflector).position(|h| h.name == host.name).unwrap_or(0);
        bgp["routeReflectorClusterID"] = json!(format!("10.255.255.{}", ordinal + 1));
    }
    resource("Node", &host.name, &labels, json!({ "bgp": bgp }))
}

/// The configuration file of one host's agent and speaker.
#[must_use]
pub fn host_config(topology: &Topology, host: &Host, directories: &HostFiles<'_>) -> Value {
    json!({
        "node": host.name,
        "runDirectory": directories.run.display().to_string(),
        "stateDirectory": directories.state.display().to_string(),
        "store": store_client(topology, directories.files),
    })
}

/// The resources as one file of many documents, to be applied as a user would.
#[must_use]
pub fn file(topology: &Topology) -> String {
    resources(topology).iter().map(|document| format!("---\n{document:#}\n")).collect()
}

fn store_client(topology: &Topology, files: &Files) -> Value {
    json!({
        "server": store_address(topology).map(|address| authority(address, STORE_PORT)),
        "ca": files.ca, "certificate": files.certificate, "key": files.key,
    })
}

/// Where one host's files are.
#[derive(Clone, Copy, Debug)]
pub struct HostFiles<'a> {
    /// Sockets.
    pub run: &'a Path,
    /// Snapshot, attachments.
    pub state: &'a Path,
    /// Certificate and key.
    pub files: &'a Files,
}

/// The configuration file of the store's server.
#[must_use]
pub fn server_config(directories: &HostFiles<'_>) -> Value {
    let Files { ca, certificate, key } = directories.files;
    json!({
        "node": STORE,
        "runDirectory": directories.run.display().to_string(),
        "stateDirectory": directories.state.display().to_string(),
        "store": { "embedded": true },
        "server": { "listen": format!("[::]:{STORE_PORT}"), "ca": ca, "certificate": certificate, "key": key },
    })
}

/// The store's address: IPv4 if it has one.
#[must_use]
pub fn store_address(topology: &Topology) -> Option<IpAddr> {
    topology.fabric.store.iter().copied().min_by_key(|address| Family::of(*address))
}

/// An address and port as one text.
#[must_use]
pub fn authority(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::builtin;

    fn found<'a>(all: &'a [Value], kind: &str, name: &str) -> &'a Value {
        let hit = all.iter().find(|doc| doc["kind"] == kind && doc["metadata"]["name"] == name);
        hit.unwrap_or_else(|| panic!("no {kind} {name}"))
    }

    #[test]
    fn the_reference_network_peers_with_its_reflector_alone() {
        let all = resources(&builtin("reference").unwrap().unwrap());
        assert_eq!(found(&all, "BGPConfiguration", "default")["spec"]["nodeToNodeMeshEnabled"], false);
        let reflector = found(&all, "Node", "reflector");
        assert_eq!(reflector["spec"]["bgp"]["ipv4Address"], "172.18.203.2/24");
        assert_eq!(reflector["spec"]["bgp"]["routeReflectorClusterID"], "10.255.255.1");
        assert_eq!(reflector["metadata"]["labels"]["route-reflector"], "true");
        assert_eq!(found(&all, "FelixConfiguration", "node.reflector")["spec"]["programClusterRoutes"], "Disabled");
        assert_eq!(found(&all, "IPPool", "workloads")["spec"]["natOutgoing"], true);
        found(&all, "BGPPeer", "reflectors");
    }

    #[test]
    fn a_mesh_has_no_peers_configured_and_a_dual_stack_node_both_addresses() {
        let mesh = resources(&builtin("mesh").unwrap().unwrap());
        assert_eq!(found(&mesh, "BGPConfiguration", "default")["spec"]["nodeToNodeMeshEnabled"], true);
        assert!(mesh.iter().all(|doc| doc["kind"] != "BGPPeer"));
        let dual = resources(&builtin("dual").unwrap().unwrap());
        let bgp = &found(&dual, "Node", "compute-1")["spec"]["bgp"];
        assert_eq!(bgp["ipv4Address"], "172.18.203.10/24");
        assert_eq!(bgp["ipv6Address"], "fd00:18:203::10/64");
    }
}

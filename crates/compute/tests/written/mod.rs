//! Resources as users write them, in YAML's short form.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use lasthop_compute::Event;
use lasthop_model::{Key, read_documents};

/// A resource: kind, name, labels, spec.
pub type Written<'a> = (&'a str, &'a str, &'a str, &'a str);

pub fn event((kind, name, labels, spec): Written<'_>) -> Event {
    let text = format!(
        "apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec: {{{spec}}}\n"
    );
    let document = read_documents(&text, "test").unwrap().remove(0);
    Event::Put(Key::of(&document.value).unwrap(), document.parse().unwrap_or_else(|e| panic!("{text}: {e}")))
}

/// Nodes n1 to n3 with addresses 172.18.0.10 to .12; n3 is a reflector by label only.
pub const NODES: [Written<'static>; 3] = [
    ("Node", "n1", "rack: a", "bgp: {ipv4Address: 172.18.0.10/24}"),
    ("Node", "n2", "rack: a", "bgp: {ipv4Address: 172.18.0.11/24}"),
    ("Node", "n3", "rack: b, reflector: 'true'", "bgp: {ipv4Address: 172.18.0.12/24}"),
];
pub const NO_MESH: Written<'static> = ("BGPConfiguration", "default", "", "nodeToNodeMeshEnabled: false");
pub const POOL: Written<'static> = ("IPPool", "workloads", "", "cidr: 10.65.0.0/16");

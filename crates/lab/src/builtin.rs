//! The networks that come with the program, and the one that is made from two numbers.

use crate::topology::{Fabric, Host, Peering, Pool, Topology, TopologyError, Workload, WorkloadKind};
use lasthop_net::Family;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A network that comes with the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Builtin {
    /// Its name.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    text: &'static str,
}

impl Builtin {
    /// The network as YAML, to write one's own from.
    #[must_use]
    pub fn text(&self) -> &'static str {
        self.text
    }
}

/// All of them; the first is the default.
pub const BUILTINS: [Builtin; 5] = [
    Builtin {
        name: "reference",
        about: "three hosts behind a route reflector: a virtual machine on a TAP, three veth workloads, a DHCP leg",
        text: include_str!("../topologies/reference.yaml"),
    },
    Builtin {
        name: "mesh",
        about: "the reference network without the reflector: every host peers with every other",
        text: include_str!("../topologies/mesh.yaml"),
    },
    Builtin {
        name: "dual",
        about: "the reference network with IPv4 and IPv6",
        text: include_str!("../topologies/dual.yaml"),
    },
    Builtin {
        name: "datapath",
        about: "two hosts, an outside host, veth and TAP: small, for looking at packets",
        text: include_str!("../topologies/datapath.yaml"),
    },
    Builtin {
        name: "vm",
        about: "the reference network with a real guest kernel in QEMU on the TAP",
        text: include_str!("../topologies/vm.yaml"),
    },
];

/// The built-in topology of a name, if there is one.
///
/// # Errors
/// Never for the topologies as they are; a broken one is told as a user's would be.
pub fn builtin(name: &str) -> Option<Result<Topology, TopologyError>> {
    BUILTINS.iter().find(|known| known.name == name).map(|known| Topology::parse(known.name, known.text))
}

/// How large a made network is, and in which families.
#[derive(Clone, Debug)]
pub struct Size {
    /// Hosts, reflector not counted.
    pub hosts: u16,
    /// Workloads, spread over the hosts in turn.
    pub workloads: u16,
    /// Who peers with whom; with [`Peering::Reflector`] a reflector is added.
    pub peering: Peering,
    /// The families in use.
    pub families: Vec<Family>,
}

/// Makes a network of a size.
///
/// # Errors
/// If the numbers are too large for the address plan, or zero hosts.
pub fn generate(size: &Size) -> Result<Topology, TopologyError> {
    if size.hosts == 0 || size.hosts > 1000 || size.workloads > 60_000 {
        return Err(TopologyError::Meaning(format!(
            "{} hosts and {} workloads cannot be made: choose 1 to 1000 hosts and up to 60000 workloads",
            size.hosts, size.workloads
        )));
    }
    let all = |plan: fn(Family, u16) -> IpAddr, at: u16| size.families.iter().map(|f| plan(*f, at)).collect::<Vec<_>>();
    let subnets = size.families.iter().filter_map(|f| lasthop_net::Prefix::new(on_fabric(*f, 0), fabric_len(*f)));
    let fabric = Fabric {
        subnets: subnets.collect(),
        gateway: all(on_fabric, 1),
        gateway_name: "gateway".to_owned(),
        internet: all(outside, 1),
        store: all(on_fabric, 3),
    };
    let pools = size.families.iter().filter_map(|family| {
        let cidr = lasthop_net::Prefix::new(in_pool(*family, 0), if *family == Family::V4 { 16 } else { 64 })?;
        Some(Pool { name: format!("workloads-{}", family.to_string().to_lowercase()), cidr, nat_outgoing: true })
    });
    let host = |name: String, at: u16, reflector: bool| Host {
        name,
        addresses: all(on_fabric, at),
        reflector,
        links: Vec::new(),
        labels: std::collections::BTreeMap::new(),
    };
    let mut hosts: Vec<Host> = (1..=size.hosts).map(|n| host(format!("host-{n}"), n + 9, false)).collect();
    if size.peering == Peering::Reflector {
        hosts.push(host("reflector".to_owned(), 2, true));
    }
    let workloads = (0..size.workloads).map(|n| Workload {
        name: format!("w{}", n + 1),
        host: format!("host-{}", n % size.hosts + 1),
        addresses: all(in_pool, n + 16),
        kind: WorkloadKind::Veth,
        link: None,
        mac: None,
    });
    let topology = Topology {
        fabric,
        as_number: 64512,
        peering: size.peering,
        pools: pools.collect(),
        hosts,
        workloads: workloads.collect(),
        documents: Vec::new(),
    };
    topology.check()?;
    Ok(topology)
}

fn fabric_len(family: Family) -> u8 {
    match family {
        Family::V4 => 16,
        Family::V6 => 64,
    }
}

fn on_fabric(family: Family, at: u16) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(0xac12_0000 + u32::from(at)).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x18, 0x203, 0, 0, 0, 0, at).into(),
    }
}

fn in_pool(family: Family, at: u16) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(0x0a41_0000 + u32::from(at)).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x65, 0, 0, 0, 0, 0, at).into(),
    }
}

fn outside(family: Family, at: u16) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(198, 51, 100, at.to_be_bytes()[1]).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, at).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_topology_is_valid() {
        for known in BUILTINS {
            builtin(known.name).unwrap().unwrap_or_else(|error| panic!("{}: {error}", known.name));
        }
        assert!(builtin("nothing").is_none());
    }

    #[test]
    fn networks_are_made_in_the_size_asked_for() {
        for (hosts, workloads, peering, families) in [
            (1, 0, Peering::Mesh, vec![Family::V4]),
            (3, 7, Peering::Reflector, vec![Family::V4, Family::V6]),
            (1000, 2000, Peering::Reflector, vec![Family::V6]),
        ] {
            let made = generate(&Size { hosts, workloads, peering, families: families.clone() }).unwrap();
            let reflectors = made.hosts.iter().filter(|host| host.reflector).count();
            assert_eq!(made.hosts.len() - reflectors, usize::from(hosts));
            assert_eq!(made.workloads.len(), usize::from(workloads));
            assert!(made.workloads.iter().all(|w| w.addresses.len() == families.len()));
        }
        let none = Size { hosts: 0, workloads: 1, peering: Peering::Mesh, families: vec![Family::V4] };
        assert!(generate(&none).unwrap_err().to_string().contains("0 hosts"));
    }
}

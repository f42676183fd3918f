//! What a topology has where nothing is written: as in the reference network.

use super::{Pool, Topology, default_gateway_name};
use lasthop_net::{Family, Prefix};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The reference network's part in one family.
struct Reference {
    subnet: (IpAddr, u8),
    internet: IpAddr,
    pool: (IpAddr, u8),
    pool_name: &'static str,
}

fn reference(family: Family) -> Reference {
    match family {
        Family::V4 => Reference {
            subnet: ([172, 18, 203, 0].into(), 24),
            internet: [198, 51, 100, 1].into(),
            pool: ([10, 65, 0, 0].into(), 16),
            pool_name: "workloads",
        },
        Family::V6 => Reference {
            subnet: ([0xfd00, 0x18, 0x203, 0, 0, 0, 0, 0].into(), 64),
            internet: [0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 1].into(),
            pool: ([0xfd00, 0x65, 0, 0, 0, 0, 0, 0].into(), 64),
            pool_name: "workloads-v6",
        },
    }
}

fn prefix((address, len): (IpAddr, u8)) -> Option<Prefix> {
    Prefix::new(address, len)
}

/// The address so many after another.
fn after(address: IpAddr, count: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().wrapping_add(count)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().wrapping_add(u128::from(count))).into(),
    }
}

impl Topology {
    /// Fills in what was not written.
    pub(super) fn complete(&mut self) {
        let fabric = &mut self.fabric;
        if fabric.subnets.is_empty() {
            let used: BTreeSet<Family> =
                self.hosts.iter().flat_map(|host| &host.addresses).map(|address| Family::of(*address)).collect();
            let wanted = |family: &Family| used.contains(family) || (used.is_empty() && *family == Family::V4);
            fabric.subnets =
                Family::ALL.into_iter().filter(wanted).filter_map(|f| prefix(reference(f).subnet)).collect();
        }
        if fabric.gateway_name.is_empty() {
            fabric.gateway_name = default_gateway_name();
        }
        for (at, addresses) in [(1, &mut fabric.gateway), (3, &mut fabric.store)] {
            if addresses.is_empty() {
                *addresses = fabric.subnets.iter().map(|subnet| after(subnet.address(), at)).collect();
            }
        }
        let families = || fabric.subnets.iter().map(|subnet| reference(subnet.family()));
        if fabric.internet.is_empty() {
            fabric.internet = families().map(|known| known.internet).collect();
        }
        if self.pools.is_empty() {
            let pool = |known: Reference| {
                Some(Pool { name: known.pool_name.to_owned(), cidr: prefix(known.pool)?, nat_outgoing: true })
            };
            self.pools = families().filter_map(pool).collect();
        }
    }
}

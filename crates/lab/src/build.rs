//! From a topology to namespaces and wires: what is there before any of our processes runs.

use crate::links::{End, Inside, veth};
use crate::state::LabName;
use crate::topology::{Host, Interface, Topology, Workload, WorkloadKind};
use anyhow::{Context, Result};
use lasthop_kernel::link::create_tap;
use lasthop_kernel::netns as kernel;
use lasthop_net::{Family, IfName, Prefix};
use std::net::{IpAddr, Ipv6Addr};

/// The namespace of the bridge that connects the hosts.
const FABRIC: &str = "fabric";
/// The namespace that the store is served from.
pub const STORE: &str = "store";
/// The link of hosts on the fabric, and of workloads.
pub const ETH0: &str = "eth0";

/// The parts of a topology that have a namespace of their own, the fabric first.
#[must_use]
pub fn parts(topology: &Topology) -> Vec<&str> {
    let fixed = [FABRIC, topology.fabric.gateway_name.as_str(), STORE];
    let hosts = topology.hosts.iter().map(|host| host.name.as_str());
    let workloads = topology.workloads.iter().filter(|w| w.kind != WorkloadKind::Vm).map(|w| w.name.as_str());
    fixed.into_iter().chain(hosts).chain(workloads).collect()
}

/// Something with an `eth0` on the fabric.
struct OnFabric<'a> {
    name: &'a str,
    addresses: &'a [IpAddr],
    port: String,
}

/// The wires of a lab.
#[derive(Debug)]
pub struct Wires<'a> {
    /// The lab.
    pub lab: &'a LabName,
    /// The network.
    pub topology: &'a Topology,
}

impl Wires<'_> {
    /// Connects the gateway, the store and all hosts to the fabric.
    ///
    /// # Errors
    /// What the kernel refused, and where.
    pub fn connect(&self) -> Result<()> {
        let fabric = self.lab.namespace(FABRIC);
        Inside::run(&fabric, |inside| inside.bridge("br0"))?;
        let gateway = self.topology.fabric.gateway_name.as_str();
        self.plug(&OnFabric { name: gateway, addresses: &self.topology.fabric.gateway, port: "gateway".into() })?;
        self.plug(&OnFabric { name: STORE, addresses: &self.topology.fabric.store, port: "store".into() })?;
        Inside::run(&self.lab.namespace(gateway), |inside| {
            for address in &self.topology.fabric.internet {
                inside.address("lo", host_interface(*address))?;
            }
            Ok(())
        })?;
        self.default_routes(STORE)?;
        for (at, host) in self.topology.hosts.iter().enumerate() {
            self.plug(&OnFabric { name: &host.name, addresses: &host.addresses, port: format!("host{at}") })?;
            self.default_routes(&host.name)?;
            self.legs(host, at)?;
        }
        Ok(())
    }

    fn plug(&self, end: &OnFabric<'_>) -> Result<()> {
        let (fabric, inner) = (self.lab.namespace(FABRIC), self.lab.namespace(end.name));
        veth(
            &End { namespace: &inner, name: ETH0, mac: None },
            &End { namespace: &fabric, name: &end.port, mac: None },
        )?;
        Inside::run(&fabric, |inside| inside.plug(&end.port, "br0"))?;
        Inside::run(&inner, |inside| {
            for address in end.addresses {
                let len = self.topology.subnet(Family::of(*address)).map_or(32, Prefix::len);
                inside.address(ETH0, Interface { address: *address, len })?;
            }
            inside.up(ETH0)
        })
    }

    fn default_routes(&self, name: &str) -> Result<()> {
        Inside::run(&self.lab.namespace(name), |inside| {
            for gateway in &self.topology.fabric.gateway {
                inside.route(ETH0, Prefix::default_route(Family::of(*gateway)), Some(*gateway))?;
            }
            Ok(())
        })
    }

    /// Links of a host beside `eth0`: their far ends lie idle in the fabric's namespace.
    fn legs(&self, host: &Host, at: usize) -> Result<()> {
        let (fabric, inner) = (self.lab.namespace(FABRIC), self.lab.namespace(&host.name));
        for (number, leg) in host.links.iter().enumerate() {
            let far = format!("leg{at}-{number}");
            let name = leg.name.as_str();
            veth(&End { namespace: &inner, name, mac: None }, &End { namespace: &fabric, name: &far, mac: None })?;
            Inside::run(&fabric, |inside| inside.up(&far))?;
            Inside::run(&inner, |inside| {
                leg.addresses.iter().try_for_each(|address| inside.address(name, *address))?;
                inside.up(name)
            })?;
        }
        Ok(())
    }

    /// Makes the TAP of a workload on its host and, for a guest process, the guest's network card.
    ///
    /// # Errors
    /// What the kernel refused, and where.
    pub fn tap(&self, workload: &Workload) -> Result<()> {
        let tap: IfName = workload.tap_name().parse()?;
        let host = self.lab.namespace(&workload.host);
        crate::netns::within(&host, || create_tap(&tap).map(drop))?
            .with_context(|| format!("on '{}'", workload.host))?;
        if workload.kind == WorkloadKind::Tap {
            let card: IfName = ETH0.parse()?;
            let guest = self.lab.namespace(&workload.name);
            crate::netns::within(&guest, || create_tap(&card).map(drop))?
                .with_context(|| format!("the network card of '{}'", workload.name))?;
            Inside::run(&guest, |inside| inside.up_with_mac(ETH0, workload.mac_address()))?;
        }
        Ok(())
    }

    /// Configures a guest as cloud-init would: its addresses alone, the default route through the host.
    ///
    /// # Errors
    /// What the kernel refused, and where.
    pub fn configure_guest(&self, workload: &Workload, gateway_v6: Option<Ipv6Addr>) -> Result<()> {
        let guest = crate::netns::open(&self.lab.namespace(&workload.name))?;
        let addresses = workload.addresses.iter().copied().collect();
        let inside = kernel::Inside { link: ETH0.parse()?, addresses, gateway_v6, mac: None, mtu: None };
        Ok(kernel::configure(&guest, &inside)?)
    }
}

fn host_interface(address: IpAddr) -> Interface {
    Interface { address, len: Family::of(address).bits() }
}

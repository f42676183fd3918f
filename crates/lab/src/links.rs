//! The wires of a lab: veths straight from namespace to namespace, a bridge, addresses and routes. The
//! machine's own namespace never holds an end.

use crate::topology::Interface;
use anyhow::{Context, Result};
use lasthop_kernel::link::{self, AddressSpec, BridgeSpec, Change, PlainRoute, RouteTarget, VethSpec};
use lasthop_kernel::netlink::{Protocol, Socket};
use lasthop_net::{IfName, Mac, Prefix};
use std::net::IpAddr;

/// One end of a veth.
#[derive(Clone, Debug)]
pub struct End<'a> {
    /// The namespace it is in.
    pub namespace: &'a str,
    /// Its name there.
    pub name: &'a str,
    /// Its MAC address, if it is to have a certain one.
    pub mac: Option<Mac>,
}

/// Makes a veth between two namespaces.
///
/// # Errors
/// If a namespace is not there or a name is taken.
pub fn veth(a: &End<'_>, b: &End<'_>) -> Result<()> {
    let far = crate::netns::open(b.namespace)?;
    Inside::run(a.namespace, |inside| {
        let spec = VethSpec {
            name: a.name.parse()?,
            mac: a.mac,
            netns: Some(&far),
            peer_name: b.name.parse()?,
            peer_mac: b.mac,
            mtu: None,
        };
        Ok(link::create_veth(&mut inside.0, &spec)?)
    })
}

/// A netlink socket inside a namespace.
#[derive(Debug)]
pub struct Inside(Socket);

impl Inside {
    /// Runs `work` with a socket inside a namespace.
    ///
    /// # Errors
    /// If the namespace is not there, or as `work` says.
    pub fn run<T: Send>(namespace: &str, work: impl FnOnce(&mut Self) -> Result<T> + Send) -> Result<T> {
        let done = crate::netns::within(namespace, || work(&mut Self(Socket::open(Protocol::Route)?)))?;
        done.with_context(|| format!("in the namespace '{namespace}'"))
    }

    fn change(&mut self, name: &str, change: &Change) -> Result<()> {
        Ok(link::change(&mut self.0, &name.parse()?, change)?)
    }

    /// Makes a bridge, up.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn bridge(&mut self, name: &str) -> Result<()> {
        link::create_bridge(&mut self.0, &BridgeSpec { name: name.parse()? })?;
        self.up(name)
    }

    /// Plugs a link into a bridge and sets it up.
    ///
    /// # Errors
    /// If either is not there.
    pub fn plug(&mut self, name: &str, bridge: &str) -> Result<()> {
        self.change(name, &Change { master: Some(bridge.parse()?), ..Change::up() })
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// If it is not there.
    pub fn up(&mut self, name: &str) -> Result<()> {
        self.change(name, &Change::up())
    }

    /// Gives a link its MAC address and sets it up.
    ///
    /// # Errors
    /// If it is not there, or has none that can change.
    pub fn up_with_mac(&mut self, name: &str, mac: Mac) -> Result<()> {
        self.change(name, &Change { mac: Some(mac), ..Change::up() })
    }

    /// Gives a link an address.
    ///
    /// # Errors
    /// If the link is not there.
    pub fn address(&mut self, name: &str, address: Interface) -> Result<()> {
        let Interface { address, len } = address;
        Ok(link::add_address(&mut self.0, &name.parse()?, &AddressSpec { address, len })?)
    }

    /// Adds a route: through a gateway, or to what is on the link.
    ///
    /// # Errors
    /// If the link is not there or the gateway not reachable.
    pub fn route(&mut self, name: &str, prefix: Prefix, gateway: Option<IpAddr>) -> Result<()> {
        let link: IfName = name.parse()?;
        let target = match gateway {
            Some(gateway) => RouteTarget::GatewayOn { gateway, link },
            None => RouteTarget::Link(link),
        };
        Ok(link::add_route(&mut self.0, &PlainRoute { prefix, target })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes;

    #[test]
    fn two_namespaces_are_wired_and_nothing_is_left() {
        let names = ["a", "b"].map(|end| format!("lht{}-{end}", std::process::id()));
        for name in &names {
            crate::netns::create(name).unwrap();
        }
        let [a, b] = &names;
        let mac = "02:00:00:00:00:0a".parse().unwrap();
        veth(&End { namespace: a, name: "eth0", mac: Some(mac) }, &End { namespace: b, name: "p1", mac: None })
            .unwrap();
        for (name, link, address) in [(a, "eth0", "10.9.0.1/24"), (b, "p1", "10.9.0.2/24")] {
            Inside::run(name, |inside| {
                inside.address(link, address.parse().unwrap())?;
                inside.address(link, "fd09::1/64".parse().unwrap())?;
                inside.up(link)
            })
            .unwrap();
        }
        Inside::run(a, |inside| {
            inside.route("eth0", "0.0.0.0/0".parse().unwrap(), Some("10.9.0.2".parse().unwrap()))?;
            inside.route("eth0", "::/0".parse().unwrap(), Some("fd09::2".parse().unwrap()))
        })
        .unwrap();
        let table = routes::read(a).unwrap();
        let text = routes::as_route_n(&table);
        assert!(
            text.contains("0.0.0.0         10.9.0.2        0.0.0.0         UG    0      0        0 eth0"),
            "{text}"
        );
        assert!(routes::lookup(&table, "2001:db8::1".parse().unwrap()).unwrap().gateway.is_some(), "{text}");
        let error = Inside::run(a, |inside| inside.up("nothere")).unwrap_err();
        assert!(format!("{error:#}").contains("nothere"), "{error:#}");
        for name in &names {
            crate::netns::delete(name).unwrap();
            assert!(!crate::netns::path(name).exists());
        }
    }
}

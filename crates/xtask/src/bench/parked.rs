//! Many workloads on one host: veths whose far ends lie in a namespace of their own.

use super::site::Site;
use anyhow::{Result, anyhow};
use lasthop_agent::api::{Attach, Detach, LinkRequest};
use lasthop_kernel::link::{self, Change, VethSpec};
use lasthop_kernel::netlink::{Protocol, Socket};
use lasthop_lab::netns;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

/// The namespace of the far ends.
const FAR: &str = "far";
/// How many callers attach and detach at once.
const CALLERS: usize = 64;

/// Makes `count` veths on `host`, both ends up.
pub(super) fn make_links(site: &Site, host: &str, count: usize) -> Result<()> {
    let far_name = site.further(FAR)?;
    let far = netns::open(&far_name)?;
    netns::within(&site.namespace(host), || -> Result<()> {
        let mut socket = Socket::open(Protocol::Route)?;
        for number in 0..count {
            let name = link_name(number).parse()?;
            let peer_name = format!("far{number}").parse()?;
            let spec = VethSpec { name, mac: None, netns: Some(&far), peer_name, peer_mac: None, mtu: None };
            link::create_veth(&mut socket, &spec)?;
        }
        Ok(())
    })??;
    netns::within(&far_name, || -> Result<()> {
        let mut socket = Socket::open(Protocol::Route)?;
        for number in 0..count {
            link::change(&mut socket, &format!("far{number}").parse()?, &Change::up())?;
        }
        Ok(())
    })?
}

/// The host's end of a link.
pub(super) fn link_name(number: usize) -> String {
    format!("lhp{number}")
}

/// The name of a workload.
fn name(number: usize) -> String {
    format!("p{number}")
}

/// The address of a workload: from 10.65.8.0 on.
fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 65, 8, 0)) + u32::try_from(number).unwrap_or(0))
}

/// A request to attach a workload to a link that is there.
pub(super) fn adopt(name: &str, ifname: &str, address: Ipv4Addr, mac: Option<String>) -> Attach {
    let link = LinkRequest::Adopt { ifname: ifname.to_owned() };
    Attach { mac, ..Attach::new(name, link, BTreeSet::from([address.into()])) }
}

/// A request to detach a workload.
pub(super) fn detach(name: &str) -> Detach {
    Detach { namespace: "default".to_owned(), name: name.to_owned() }
}

/// How a workload gets its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Links {
    /// It is there, from [`make_links`].
    Adopted,
    /// The agent makes it.
    Made,
}

/// Attaches workloads `numbers`, several callers at once, and waits until the store has them.
pub(super) fn attach(site: &Site, host: &str, numbers: std::ops::Range<usize>, links: Links) -> Result<()> {
    let far = netns::path(&site.namespace(FAR)).display().to_string();
    by_many(site, host, numbers, |client, number| {
        let mac = format!("02:00:00:01:{:02x}:{:02x}", number / 256, number % 256);
        let mut request = adopt(&name(number), &link_name(number), address(number), Some(mac));
        if links == Links::Made {
            request.link = LinkRequest::Veth {
                netns: lasthop_agent::api::Netns::Path(far.clone()),
                ifname: format!("in{number}"),
                host_ifname: None,
            };
        }
        Ok(client.attach(request).map(drop)?)
    })?;
    super::site::until("the store to have all workloads", Duration::from_secs(120), || {
        Ok(site.status(host)?.store.unpublished == 0)
    })?;
    Ok(())
}

/// Detaches workloads, several callers at once.
pub(super) fn detach_all(site: &Site, host: &str, numbers: std::ops::Range<usize>) -> Result<()> {
    by_many(site, host, numbers, |client, number| Ok(client.detach(detach(&name(number))).map(drop)?))
}

fn by_many(
    site: &Site,
    host: &str,
    numbers: std::ops::Range<usize>,
    call: impl Fn(&mut lasthop_agent::client::Client, usize) -> Result<()> + std::marker::Sync,
) -> Result<()> {
    let all: Vec<usize> = numbers.collect();
    let call = &call;
    std::thread::scope(|scope| {
        let parts = all.chunks(all.len().div_ceil(CALLERS).max(1));
        let threads: Vec<_> = parts
            .map(|part| {
                scope.spawn(move || {
                    let mut client = site.client(host)?;
                    part.iter().try_for_each(|number| call(&mut client, *number))
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a caller panicked"))?)
    })
}

//! Hosts in namespaces, and what runs on them: tables by hand, or our engine and kernel driver.

use super::super::forward::{bare_host, direct};
use super::world::{self, NODE, World};
use anyhow::{Context, Result, ensure};
use lasthop_compute::{Changes, Engine, Event};
use lasthop_kernel::nft::PolicyScope;
use lasthop_kernel::reconcile::{Outcome, Scope};
use lasthop_kernel::{Kernel, KernelConfig};
use lasthop_lab::netns;
use std::cell::RefCell;
use std::net::Ipv4Addr;

/// Namespaces that go with this value.
#[derive(Debug, Default)]
pub(super) struct Ground {
    made: RefCell<Vec<String>>,
}

/// A host in a namespace with two workloads, or a veth between these.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The host's namespace.
    pub(super) host: String,
    /// The workloads' namespaces.
    pub(super) workloads: [String; 2],
    /// The workloads' addresses.
    pub(super) addresses: [Ipv4Addr; 2],
}

impl Ground {
    /// A namespace.
    pub(super) fn namespace(&self, name: &str) -> Result<String> {
        let name = format!("lhbench{}-{name}", std::process::id());
        netns::create(&name)?;
        self.made.borrow_mut().push(name.clone());
        Ok(name)
    }

    /// A host with these endpoints of a world wired, and no table.
    pub(super) fn place(&self, name: &str, pair: [usize; 2]) -> Result<Place> {
        let host = self.namespace(name)?;
        let workloads = [self.namespace(&format!("{name}a"))?, self.namespace(&format!("{name}b"))?];
        let addresses = pair.map(world::address);
        for ((number, address), workload) in pair.into_iter().zip(addresses).zip(&workloads) {
            bare_host(&host, &world::link(number), address, workload)?;
        }
        Ok(Place { host, workloads, addresses })
    }

    /// Two workloads with nothing between them.
    pub(super) fn wire(&self, pair: [usize; 2]) -> Result<Place> {
        let workloads = [self.namespace("da")?, self.namespace("db")?];
        let addresses = pair.map(world::address);
        direct([&workloads[0], &workloads[1]], addresses)?;
        Ok(Place { host: workloads[0].clone(), workloads, addresses })
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        for name in self.made.borrow().iter() {
            if let Err(error) = netns::delete(name) {
                eprintln!("the namespace '{name}' stays: {error:#}");
            }
        }
    }
}

/// Engine and kernel driver. To be used on a thread inside the host's namespace.
pub(super) struct Host {
    pub(super) engine: Engine,
    kernel: Kernel,
}

impl Host {
    /// Opens the namespace of the calling thread. Knows nothing yet.
    pub(super) fn open() -> Result<Self> {
        let mut kernel = Kernel::open(&KernelConfig::default())?;
        kernel.read_back()?;
        Ok(Self { engine: Engine::new(NODE.parse().map_err(anyhow::Error::msg)?), kernel })
    }

    /// Takes in events and makes the kernel agree, as the agent does, once the driver has heard of new links.
    pub(super) fn take(&mut self, events: impl IntoIterator<Item = Event>) -> Result<()> {
        events.into_iter().for_each(|event| self.engine.apply(event));
        let changes = self.engine.take_changes();
        self.put(&changes)
    }

    /// Takes in what the kernel has announced.
    pub(super) fn listen(&mut self) {
        self.kernel.drain_events();
    }

    fn put(&mut self, changes: &Changes) -> Result<()> {
        let (kernel, desired) = (&mut self.kernel, self.engine.desired());
        check("routes", &kernel.remove_routes(desired, Scope::Keys(&changes.routes)))?;
        if changes.skeleton {
            check("skeleton", &kernel.sync_skeleton(desired))?;
        }
        check("sources", &kernel.sync_sources(desired, Scope::Keys(&changes.sources)))?;
        check("policy", &kernel.sync_policy(desired, PolicyScope::Changed(&changes.policy)))?;
        check("sysctls", &kernel.sync_sysctls(desired, Scope::Keys(&changes.sysctls)))?;
        check("links", &kernel.sync_links(desired, Scope::Keys(&changes.links)))?;
        check("neighbours", &kernel.sync_neighbours(desired, Scope::Keys(&changes.neighbours)))?;
        check("routes", &kernel.sync_routes(desired, Scope::Keys(&changes.routes)))
    }
}

/// Puts a world into a host's kernel; it stays when this returns.
pub(super) fn program(host: &str, world: World) -> Result<()> {
    netns::within(host, || {
        let mut host = Host::open()?;
        host.take(world.events()?)
    })?
    .with_context(|| format!("program {host}"))
}

fn check<K: Ord + std::fmt::Debug>(what: &str, outcome: &Outcome<K>) -> Result<()> {
    let failed: Vec<String> = outcome.failed.iter().map(|(key, error)| format!("{key:?}: {error}")).collect();
    ensure!(failed.is_empty(), "{what}: {}", failed.join("; "));
    Ok(())
}

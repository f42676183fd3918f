//! A host in a namespace: an underlay link `eth0`, workload links, and the kernel driver on it.

use super::{Scratch, name, prefix};
use lasthop_compute::{Desired, Link, Route, Source, Sysctl};
use lasthop_kernel::link::{self, AddressSpec, Change, VethSpec};
use lasthop_kernel::netlink::{Protocol, Socket};
use lasthop_kernel::nft::{PolicyScope, allow_all};
use lasthop_kernel::reconcile::Scope;
use lasthop_kernel::{Kernel, KernelConfig, KernelEvent};
use lasthop_model::EndpointKey;
use lasthop_net::Mac;
use lasthop_policy::ir::PolicyChanges;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

/// 172.31.0.1/24 and fd00:31::1/64 on eth0; the next host's end of the wire is in a namespace of its own.
pub struct Host {
    pub scratch: Scratch,
    pub wire: Scratch,
    pub record: PathBuf,
}

impl Host {
    pub fn new() -> Self {
        let (scratch, wire) = (Scratch::new(), Scratch::new());
        let record = std::env::temp_dir().join(format!("{}-settings", scratch.name));
        scratch.run(|| {
            let mut socket = Socket::open(Protocol::Route).unwrap();
            create(&mut socket, "eth0", &wire);
            for (address, len) in [("172.31.0.1", 24), ("fd00:31::1", 64)] {
                let spec = AddressSpec { address: address.parse().unwrap(), len };
                link::add_address(&mut socket, &name("eth0"), &spec).unwrap();
            }
        });
        Self { scratch, wire, record }
    }

    /// A workload's veth: its other end is up in the other namespace.
    pub fn workload(&self, link: &str) {
        self.scratch.run(|| create(&mut Socket::open(Protocol::Route).unwrap(), link, &self.wire));
    }

    /// The driver, in the calling thread, which must be inside.
    pub fn kernel(&self) -> Kernel {
        let config = KernelConfig { settings_record: Some(self.record.clone()) };
        let mut kernel = Kernel::open(&config).unwrap();
        kernel.read_back().unwrap();
        kernel
    }

    pub fn sh(&self, line: &str) -> String {
        self.scratch.sh(line)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.record);
        let _ = std::fs::remove_file(self.record.with_extension("links"));
    }
}

fn create(socket: &mut Socket, link: &str, other: &Scratch) {
    let peer = format!("p{link}");
    let spec = VethSpec {
        name: name(link),
        mac: None,
        netns: Some(&other.netns),
        peer_name: name(&peer),
        peer_mac: None,
        mtu: None,
    };
    link::create_veth(socket, &spec).unwrap();
    link::change(socket, &name(link), &Change::up()).unwrap();
    other.run(|| link::change(&mut Socket::open(Protocol::Route).unwrap(), &name(&peer), &Change::up()).unwrap());
}

/// Desired state that is put together by hand.
#[derive(Clone, Default)]
pub struct Wanted(pub Desired);

impl Wanted {
    pub fn workload(mut self, link: &str, addresses: &[&str], mac: &str) -> Self {
        let mac: Mac = mac.parse().unwrap();
        self.0.guard.link_prefixes.insert("lh".to_owned());
        let key = EndpointKey { namespace: "default".to_owned(), name: format!("w-{link}") };
        let host_mac = Some(Mac([0xee; 6]));
        self.0.links.insert(name(link), Link { endpoint: key, host_mac });
        for address in addresses {
            let address: IpAddr = address.parse().unwrap();
            self.0.routes.insert(address.into(), Route::Direct { link: name(link) });
            self.0.neighbours.insert((name(link), address), mac);
            self.0.sources.insert(Source { link: name(link), prefix: address.into() });
        }
        for setting in ["ipv4/conf/LINK/proxy_arp", "ipv4/conf/LINK/forwarding", "ipv6/conf/LINK/proxy_ndp"] {
            self.0.sysctls.insert(Sysctl::at(&format!("net/{}", setting.replace("LINK", link))), "1".into());
        }
        for setting in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            self.0.sysctls.insert(Sysctl::at(setting), "1".into());
        }
        self.0.sysctls.insert(Sysctl::at("net/ipv4/nexthop_compat_mode"), "0".into());
        self
    }

    pub fn remote(mut self, to: &str, next_hops: &[&str]) -> Self {
        let next_hops = next_hops.iter().map(|hop| hop.parse().unwrap()).collect();
        self.0.routes.insert(prefix(to), Route::Remote { next_hops });
        self
    }

    /// A workload's address is elsewhere, too.
    pub fn elsewhere(mut self, to: &str, next_hops: &[&str]) -> Self {
        let next_hops = next_hops.iter().map(|hop| hop.parse().unwrap()).collect();
        self.0.elsewhere.insert(prefix(to), Route::Remote { next_hops });
        self
    }

    pub fn unreachable(mut self, to: &str) -> Self {
        self.0.routes.insert(prefix(to), Route::Unreachable);
        self
    }
}

/// What all passes did.
#[derive(Debug, Default)]
pub struct Pass {
    pub writes: usize,
    pub failed: Vec<String>,
    pub pending: Vec<String>,
    pub yielding: Vec<String>,
}

/// All passes in order, over everything or over what is due.
pub fn sync(kernel: &mut Kernel, wanted: &Wanted, everything: Everything) -> Pass {
    let mut pass = Pass::default();
    let links = wanted.0.links.keys();
    let desired = Desired { policy: allow_all(links), ..wanted.0.clone() };
    macro_rules! run {
        ($table:ident) => {
            let none = BTreeSet::new();
            let scope = if everything == Everything::Yes { Scope::All } else { Scope::Keys(&none) };
            let outcome = kernel.$table(&desired, scope);
            pass.writes += outcome.writes;
            pass.failed.extend(outcome.failed.iter().map(|(key, error)| format!("{key:?}: {error}")));
            pass.pending.extend(outcome.pending.iter().map(|(key, why)| format!("{key:?}: {why}")));
            pass.yielding.extend(outcome.yielding.iter().map(|(key, to)| format!("{key:?}: {to}")));
        };
    }
    run!(remove_routes);
    if everything == Everything::Yes || !kernel.is_guarded() {
        let outcome = kernel.sync_skeleton(&wanted.0);
        pass.writes += outcome.writes;
        pass.failed.extend(outcome.failed.values().map(ToString::to_string));
    }
    run!(sync_sources);
    let none = PolicyChanges::default();
    let scope = if everything == Everything::Yes { PolicyScope::All } else { PolicyScope::Changed(&none) };
    let outcome = kernel.sync_policy(&desired, scope);
    pass.writes += outcome.writes;
    pass.failed.extend(outcome.failed.iter().map(|(key, error)| format!("{key:?}: {error}")));
    run!(sync_sysctls);
    run!(sync_links);
    run!(sync_neighbours);
    run!(sync_routes);
    kernel.label_links();
    pass
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Everything {
    Yes,
    No,
}

/// Everything is as wanted, and a second pass writes nothing.
pub fn settle(kernel: &mut Kernel, wanted: &Wanted) {
    let pass = sync(kernel, wanted, Everything::Yes);
    assert!(pass.failed.is_empty() && pass.pending.is_empty(), "{pass:?}");
    let pass = sync(kernel, wanted, Everything::Yes);
    assert_eq!(pass.writes, 0, "{pass:?}");
    kernel.drain_events();
}

/// Waits for something to be announced and puts it right; what was put right, in words.
pub fn repair(kernel: &mut Kernel, wanted: &Wanted) -> Vec<String> {
    let mut events: Vec<KernelEvent> = Vec::new();
    super::soon(|| {
        events.extend(kernel.drain_events());
        !events.is_empty()
    });
    let pass = sync(kernel, wanted, Everything::No);
    assert!(pass.failed.is_empty(), "{pass:?}");
    events.extend(kernel.drain_events());
    events.iter().filter_map(KernelEvent::drift).collect()
}

//! Everything that policy depends on, from the store or from files, and who is meant by a name on the command line.

use crate::connect::{Context, StoreFlags};
use crate::documents::Sources;
use crate::exit::{Exit, Failure};
use lasthop_compute::Snapshot;
use lasthop_model::policy::{HostEndpoint, HostInterface, Policy};
use lasthop_model::{EndpointKey, Key, NodeName, Resource, closest};
use lasthop_net::{Family, IfName, Prefix};
use lasthop_policy::World;
use lasthop_policy::decide::Packet;
use lasthop_policy::ir::Failsafe;
use lasthop_policy::journey::{Network, Party, Site};
use lasthop_store::Store;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

/// Where resources are read from: files if there are some, else the store.
#[derive(Debug, clap::Args)]
pub(crate) struct Known {
    /// Read resources from here and not from the store: a file, a directory, or - for stdin; repeat for several
    #[arg(short = 'f', long = "filename", value_name = "FILE|DIR|-")]
    pub(crate) files: Vec<PathBuf>,
    /// Also the directories inside a directory
    #[arg(short = 'R', long)]
    pub(crate) recursive: bool,
    /// Namespace of workloads and resources that do not say which [default: default]
    #[arg(short = 'n', long)]
    pub(crate) namespace: Option<String>,
    #[command(flatten)]
    pub(crate) store: StoreFlags,
}

/// All resources that decide about packets.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster {
    world: World,
    /// Nodes, pools and settings.
    snapshot: Snapshot,
}

/// One end of a packet's way.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(crate) party: Party,
    /// As it was written, or as it is called.
    pub(crate) name: String,
    /// Its addresses, IPv4 first.
    pub(crate) addresses: Vec<IpAddr>,
}

impl Known {
    /// Reads them.
    pub(crate) fn read(&self, context: &Context) -> Result<Cluster, Failure> {
        if self.files.is_empty() { Cluster::stored(context, &self.store) } else { self.documents() }
    }

    /// Reads the files.
    pub(crate) fn documents(&self) -> Result<Cluster, Failure> {
        let mut cluster = Cluster::default();
        cluster.add_files(Sources {
            files: self.files.clone(),
            recursive: self.recursive,
            namespace: self.namespace.clone(),
        })?;
        Ok(cluster)
    }

    /// The namespace of workloads that are named without one.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or("default")
    }
}

impl Cluster {
    /// What the store holds. A resource that is not valid is named and counts as absent, but policies: those deny.
    pub(crate) fn stored(context: &Context, flags: &StoreFlags) -> Result<Self, Failure> {
        let items = context.with_store(flags, async |store: &dyn Store| Ok(store.list(None).await?.items))?;
        let mut cluster = Self::default();
        for stored in items {
            if let Err(reason) = cluster.add(&stored.document) {
                eprintln!("note: {}: is not valid: {reason}", stored.key);
                if let Some(policy) = Policy::stand_in(&stored.key, &stored.document) {
                    cluster.world.put(&stored.key, Resource::Policy(policy.into()));
                }
            }
        }
        Ok(cluster)
    }

    /// Adds the documents of files, over what there is.
    pub(crate) fn add_files(&mut self, sources: Sources) -> Result<(), Failure> {
        for document in sources.read()? {
            self.add(&document.value).map_err(|reason| Failure::usage(format!("{}: {reason}", document.origin)))?;
        }
        Ok(())
    }

    fn add(&mut self, document: &Value) -> Result<(), String> {
        let resource = Resource::parse(document).map_err(|invalid| invalid.to_string())?;
        match resource {
            Resource::Node(node) => {
                self.snapshot.nodes.insert(node.name.clone(), node);
            }
            Resource::IpPool(pool) => {
                self.snapshot.pools.insert(pool.name.clone(), pool);
            }
            Resource::Settings { scope, overlay } => {
                self.snapshot.overlays.retain(|other, _| other.name() != scope.name());
                self.snapshot.overlays.insert(scope, overlay);
            }
            other => self.world.put(&other.key(), other),
        }
        Ok(())
    }

    /// Takes a resource away; `false` if there is none.
    pub(crate) fn remove(&mut self, key: &Key) -> bool {
        let before = self.world.clone();
        self.world.remove(key);
        self.world != before
    }

    /// The policy of all hosts.
    pub(crate) fn network(&self) -> Network<'_> {
        let workloads = self.world.workloads.values().map(|endpoint| &endpoint.node);
        let hosts = self.world.hosts.values().map(|endpoint| &endpoint.node);
        let nodes: BTreeSet<&NodeName> = self.snapshot.nodes.keys().chain(workloads).chain(hosts).collect();
        Network::new(&self.world, nodes.into_iter().filter_map(|node| Some((node.clone(), self.site(node)?))))
    }

    /// A host as its resources describe it: its uplink is the interface that has the node's address, or else the one that a
    /// host endpoint names.
    fn site(&self, node: &NodeName) -> Option<Site> {
        let endpoints: Vec<&HostEndpoint> =
            self.world.hosts.values().filter(|endpoint| endpoint.node == *node).collect();
        let own: BTreeSet<IpAddr> = self.addresses_of(node).collect();
        let named = || {
            endpoints.iter().filter_map(|endpoint| match &endpoint.interface {
                HostInterface::Named(name) => Some((name, &endpoint.addresses)),
                HostInterface::All | HostInterface::ByAddress => None,
            })
        };
        let uplink = named().find(|(_, addresses)| !addresses.is_disjoint(&own)).or_else(|| named().next());
        let uplink: IfName = uplink.map(|(name, _)| name.clone()).or_else(|| "uplink".parse().ok())?;
        let mut interfaces: BTreeMap<IfName, BTreeSet<IpAddr>> = BTreeMap::new();
        for (name, addresses) in named() {
            interfaces.entry(name.clone()).or_default().extend(addresses);
        }
        let by_address = endpoints.iter().filter(|endpoint| endpoint.interface == HostInterface::ByAddress);
        let found = by_address.flat_map(|endpoint| endpoint.addresses.iter().copied());
        interfaces.entry(uplink.clone()).or_default().extend(own.into_iter().chain(found));
        let settings = self.snapshot.settings(node);
        Some(Site {
            interfaces,
            uplink,
            endpoint_to_host: settings.endpoint_to_host,
            failsafe_in: Failsafe::all_of(&settings.failsafe_in),
            failsafe_out: Failsafe::all_of(&settings.failsafe_out),
        })
    }

    fn addresses_of(&self, node: &NodeName) -> impl Iterator<Item = IpAddr> {
        let node = self.snapshot.nodes.get(node);
        node.into_iter().flat_map(|node| Family::ALL.into_iter().filter_map(|family| node.address(family)))
    }

    /// Who is meant: a workload by name, `host/NAME`, or whoever has an address.
    pub(crate) fn end(&self, text: &str, namespace: &str) -> Result<End, Failure> {
        let absent = |line: String| Failure::new(Exit::NotFound, line);
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(self.owner(address.to_canonical()));
        }
        if let Some(name) = text.strip_prefix("host/").or_else(|| text.strip_prefix("node/")) {
            let network = self.network();
            let known: Vec<&NodeName> = network.nodes().collect();
            let node = known.iter().find(|node| node.as_str() == name).ok_or_else(|| {
                absent(format!("host '{name}' is not known{}", meant(name, known.iter().map(|node| node.as_str()))))
            })?;
            let addresses: Vec<IpAddr> =
                self.site(node).into_iter().flat_map(|site| site.interfaces).flat_map(|(_, all)| all).collect();
            if addresses.is_empty() {
                return Err(absent(format!("host '{name}' has no address: give its Node one in spec.bgp.ipv4Address")));
            }
            return Ok(End { party: Party::Host((*node).clone()), name: text.to_owned(), addresses });
        }
        let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
        let key = EndpointKey { namespace: namespace.to_owned(), name: name.to_owned() };
        match self.world.workloads.get(&key) {
            Some(endpoint) => {
                let addresses = endpoint.addresses.iter().copied().collect();
                Ok(End { party: Party::Workload(key.clone()), name: key.to_string(), addresses })
            }
            None => {
                let known: Vec<String> = self.world.workloads.keys().map(ToString::to_string).collect();
                let hint = meant(&key.to_string(), known.iter().map(String::as_str));
                Err(absent(format!(
                    "workload '{key}' does not exist{hint}; a host is host/NAME, anything else an address"
                )))
            }
        }
    }

    fn owner(&self, address: IpAddr) -> End {
        let workload = self.world.workloads.values().find(|endpoint| endpoint.addresses.contains(&address));
        let addresses = vec![address];
        if let Some(endpoint) = workload {
            let name = endpoint.key.to_string();
            return End { party: Party::Workload(endpoint.key.clone()), name, addresses };
        }
        let network = self.network();
        let host = network.nodes().find(|node| {
            self.site(node).is_some_and(|site| site.interfaces.values().any(|all| all.contains(&address)))
        });
        match host {
            Some(node) => End { party: Party::Host(node.clone()), name: format!("host/{node}"), addresses },
            None => End { party: Party::Outside, name: address.to_string(), addresses },
        }
    }

    /// The host of an end.
    pub(crate) fn node<'a>(&'a self, party: &'a Party) -> Option<&'a NodeName> {
        match party {
            Party::Workload(key) => self.world.workloads.get(key).map(|endpoint| &endpoint.node),
            Party::Host(node) => Some(node),
            Party::Outside => None,
        }
    }

    /// How a packet gets from one host to another, in words.
    pub(crate) fn route(&self, packet: &Packet, here: Option<&NodeName>, there: Option<&NodeName>) -> String {
        match (here, there) {
            (Some(here), Some(there)) => match self.addresses_of(there).find(|a| Family::of(*a) == packet.family()) {
                Some(next_hop) if next_hop == packet.destination => format!("{here} → {there}"),
                Some(next_hop) => {
                    format!("{here} → {there}: {} via {next_hop}, learned over BGP", Prefix::host(packet.destination))
                }
                None => format!(
                    "{here} → {there}: no {} address of {there} is known, so BGP has no next hop",
                    packet.family()
                ),
            },
            (Some(here), None) => format!("{here} → outside, by its other routes"),
            (None, Some(there)) => format!("outside → {there}"),
            (None, None) => "outside → outside".to_owned(),
        }
    }

    /// The pool whose outgoing NAT gives a packet of a workload the host's address as source.
    pub(crate) fn outgoing_nat(&self, packet: &Packet) -> Option<&str> {
        let pools = || self.snapshot.pools.values();
        let inside = pools().any(|pool| pool.prefix.contains(packet.destination));
        let pool = pools().find(|pool| pool.nat_outgoing && pool.prefix.contains(packet.source));
        pool.filter(|_| !inside).map(|pool| pool.name.as_str())
    }
}

/// What was probably meant.
fn meant<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    closest(word, known).map(|near| format!("; did you mean '{near}'?")).unwrap_or_default()
}

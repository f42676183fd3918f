//! What a network looks like from where packets start and end: which policy an address meets there, and which sets hold it.

use super::traffic::Cuts;
use crate::decide::prefixes_of;
use crate::ir::{Interface, InterfacePolicy, Member, Program, ProgramId, SetId, Stack, StackId};
use crate::journey::{Network, Party, Site};
use lasthop_model::{EndpointToHost, NodeName};
use lasthop_net::{Family, Prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// An address, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Station {
    /// Whose.
    pub(super) party: Party,
    /// The address; outside: one of those meant.
    pub(super) address: IpAddr,
    /// Outside: which part of the address space, by the prefix that it is nearest in.
    pub(super) part: Option<Prefix>,
}

/// All policy that packets of a station can meet on its own host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Frame {
    own: Option<(StackId, StackId)>,
    site: Option<SiteFrame>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SiteFrame {
    interfaces: [Option<InterfacePolicy>; 2],
    /// Dropped, accepted or left to others.
    endpoint_to_host: u8,
    failsafes: [BTreeSet<crate::ir::Failsafe>; 2],
}

/// Which sets hold a station's address, and which its ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Holders {
    pub(super) sets: BTreeSet<SetId>,
    pub(super) ports: BTreeSet<(SetId, u8, u16)>,
}

/// A network, ready to be asked about stations.
pub(super) struct View<'a> {
    pub(super) network: &'a Network<'a>,
    nets: BTreeMap<Prefix, BTreeSet<SetId>>,
    ports: BTreeMap<IpAddr, BTreeSet<(SetId, u8, u16)>>,
    /// Members of each set.
    pub(super) members: BTreeMap<SetId, &'a BTreeSet<Member>>,
    stacks: BTreeMap<StackId, Cuts>,
    /// Programs, and those of each stack.
    programs: BTreeMap<ProgramId, &'a Program>,
    asked: BTreeMap<StackId, &'a Stack>,
}

impl Frame {
    /// All stacks in it.
    pub(super) fn stacks(&self) -> impl Iterator<Item = StackId> {
        let of_interface = |policy: &InterfacePolicy| {
            let InterfacePolicy { input, output, forward_in, forward_out, before_dnat, untracked_in, untracked_out } =
                *policy;
            [input, output, forward_in, forward_out, before_dnat, untracked_in, untracked_out]
        };
        let interfaces = self.site.iter().flat_map(|site| &site.interfaces).flatten();
        let own = self.own.into_iter().flat_map(|(from, to)| [from, to]);
        own.chain(interfaces.flat_map(of_interface).flatten())
    }
}

impl<'a> View<'a> {
    pub(super) fn new(network: &'a Network<'a>) -> Self {
        let mut view = Self {
            network,
            nets: BTreeMap::new(),
            ports: BTreeMap::new(),
            members: BTreeMap::new(),
            stacks: BTreeMap::new(),
            programs: BTreeMap::new(),
            asked: BTreeMap::new(),
        };
        let mut programs = BTreeMap::new();
        for (_, host) in network.hosts.values() {
            view.members.extend(host.policy.sets.iter().map(|(id, set)| (*id, &set.members)));
            for (id, program) in &host.policy.programs {
                programs.entry(*id).or_insert_with(|| Cuts::of(program));
                view.programs.insert(*id, program);
            }
            view.asked.extend(host.policy.stacks.iter().map(|(id, stack)| (*id, &**stack)));
            for (id, stack) in &host.policy.stacks {
                view.stacks.entry(*id).or_insert_with(|| {
                    let mut cuts = Cuts::default();
                    let asked = stack.steps.iter().flat_map(|step| &step.programs);
                    asked.filter_map(|id| programs.get(id)).for_each(|of| cuts.add(of));
                    cuts
                });
            }
        }
        for (id, members) in &view.members {
            for member in *members {
                match member {
                    Member::Net(net) => {
                        view.nets.entry(*net).or_default().insert(*id);
                    }
                    Member::Port(address, protocol, port) => {
                        view.ports.entry(*address).or_default().insert((*id, *protocol, *port));
                    }
                }
            }
        }
        view
    }

    /// Stacks that are made of the same programs in another network, of which some have other rules there.
    pub(super) fn edited(&self, other: &View<'_>) -> BTreeSet<StackId> {
        let programs = |stack: &Stack| stack.steps.iter().flat_map(|step| step.programs.clone()).collect::<Vec<_>>();
        let differs = |id: &ProgramId| self.programs.get(id) != other.programs.get(id);
        let edited = self.asked.iter().filter(|(_, stack)| programs(stack).iter().any(differs));
        edited.map(|(id, _)| *id).collect()
    }

    /// Every prefix that a rule, a set of prefixes or a failsafe port tells apart from what is around it.
    pub(super) fn prefixes(&self, family: Family) -> BTreeSet<Prefix> {
        let mut found: BTreeSet<Prefix> = self.nets.keys().copied().collect();
        found.extend(self.ports.keys().map(|address| Prefix::host(*address)));
        found.extend(self.asked());
        found.retain(|net| net.family() == family);
        found
    }

    /// The prefixes that rules and failsafe ports ask about themselves.
    pub(super) fn asked(&self) -> BTreeSet<Prefix> {
        let mut found = BTreeSet::new();
        for (site, host) in self.network.hosts.values() {
            let rules = host.policy.programs.values().flat_map(|program| &program.rules);
            for side in rules.flat_map(|rule| [&rule.source, &rule.destination]) {
                found.extend(side.nets.iter().flatten().chain(&side.not_nets));
            }
            found.extend(site.failsafe_in.iter().chain(&site.failsafe_out).map(|failsafe| failsafe.net));
        }
        found
    }

    /// The node of a party.
    pub(super) fn node(&self, party: &Party) -> Option<&NodeName> {
        match party {
            Party::Workload(key) => self.network.world.workloads.get(key).map(|endpoint| &endpoint.node),
            Party::Host(node) => self.network.hosts.get_key_value(node).map(|(node, _)| node),
            Party::Outside => None,
        }
    }

    /// Workloads and hosts with their addresses.
    pub(super) fn parties(&self) -> BTreeMap<Party, BTreeSet<IpAddr>> {
        let workloads = self.network.world.workloads.values();
        let workloads = workloads.map(|endpoint| (Party::Workload(endpoint.key.clone()), endpoint.addresses.clone()));
        let hosts = self.network.hosts.iter().map(|(node, (site, _))| {
            (Party::Host(node.clone()), site.interfaces.values().flatten().copied().collect())
        });
        workloads.chain(hosts).collect()
    }

    pub(super) fn frame(&self, party: &Party) -> Frame {
        let at = self.node(party).and_then(|node| self.network.hosts.get(node));
        let own = match (party, at) {
            (Party::Workload(key), Some((_, host))) => {
                let link = self.network.world.workloads.get(key).map(|endpoint| &endpoint.link);
                link.and_then(|link| host.policy.workloads.get(link)).map(|policy| (policy.from, policy.to))
            }
            _ => None,
        };
        let site = at.map(|(site, host)| SiteFrame {
            interfaces: uplink(site).map(|interface| host.policy.interfaces.get(&interface).copied()),
            endpoint_to_host: match site.endpoint_to_host {
                EndpointToHost::Drop => 0,
                EndpointToHost::Accept => 1,
                EndpointToHost::Return => 2,
            },
            failsafes: [site.failsafe_in.clone(), site.failsafe_out.clone()],
        });
        Frame { own, site }
    }

    pub(super) fn holders(&self, address: IpAddr) -> Holders {
        let nets = prefixes_of(address, 0).filter_map(|net| self.nets.get(&net));
        Holders {
            sets: nets.flatten().copied().collect(),
            ports: self.ports.get(&address).cloned().unwrap_or_default(),
        }
    }

    /// Where what packets meet at a station cuts their space.
    pub(super) fn cuts(&self, frame: &Frame) -> Cuts {
        let mut cuts = Cuts::default();
        let mut add = |id: Option<StackId>, mirrored: bool| {
            if let Some(of) = id.and_then(|id| self.stacks.get(&id)) {
                cuts.add(of);
                if mirrored {
                    cuts.add(&of.clone().mirrored());
                }
            }
        };
        if let Some((from, to)) = frame.own {
            add(Some(from), false);
            add(Some(to), false);
        }
        let Some(site) = &frame.site else { return cuts };
        for policy in site.interfaces.iter().flatten() {
            for id in [policy.input, policy.output, policy.forward_in, policy.forward_out, policy.before_dnat] {
                add(id, false);
            }
            // Replies of what is not tracked are judged, too.
            add(policy.untracked_in, true);
            add(policy.untracked_out, true);
        }
        if site.interfaces.iter().any(Option::is_some) {
            for failsafe in site.failsafes.iter().flatten() {
                cuts.port(failsafe.protocol, None, Some(failsafe.port));
            }
        }
        cuts
    }
}

/// The host endpoints that packets of a host can meet: that of its uplink, and that of all interfaces.
fn uplink(site: &Site) -> [Interface; 2] {
    [Interface::Named(site.uplink.clone()), Interface::Any]
}

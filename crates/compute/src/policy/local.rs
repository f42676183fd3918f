//! Endpoints of this host, the stacks that guard them, and what those are made of, each kept while somebody refers to it.

use super::{ItemId, Out, Policies, PolicyId};
use lasthop_model::policy::HostEndpoint;
use lasthop_net::IfName;
use lasthop_policy::compile::{self, Compiled};
use lasthop_policy::ir::{
    Direction, Interface, InterfacePolicy, Program, ProgramId, Set, SetId, Stack, StackId, WorkloadPolicy,
};
use lasthop_policy::order;
use lasthop_policy::sets::SetDefinition;
use lasthop_policy::stack::{self, Applying, At, Place};
use lasthop_policy::world::{guards, kind_of};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What is known of endpoints of this host.
#[derive(Debug, Default)]
pub(super) struct Local {
    workloads: BTreeSet<ItemId>,
    hosts: BTreeMap<String, ItemId>,
    links: BTreeMap<IfName, ItemId>,
    link_of: BTreeMap<ItemId, IfName>,
    /// Endpoints whose stacks may have changed.
    doubtful: BTreeSet<ItemId>,
    /// Links whose endpoint may have changed.
    doubtful_links: BTreeSet<IfName>,
    interfaces_doubtful: bool,
    /// Policies that apply to an endpoint of this host, compiled.
    ready: BTreeMap<(PolicyId, Direction), Option<Ready>>,
    programs: BTreeMap<ProgramId, Counted<Ready>>,
    stacks: BTreeMap<StackId, Counted<Arc<Stack>>>,
    /// Stacks that nobody may refer to.
    idle: BTreeSet<StackId>,
}

/// A compiled program.
#[derive(Clone, Debug)]
struct Ready {
    id: ProgramId,
    program: Arc<Program>,
    sets: Arc<BTreeMap<SetId, SetDefinition>>,
}

#[derive(Debug)]
struct Counted<T> {
    value: T,
    referred: usize,
}

/// Endpoints with the same company have the same stacks: policies, profiles, namespace.
type Company = (Vec<PolicyId>, Option<Vec<String>>, Option<String>);

impl From<Compiled> for Ready {
    fn from(Compiled { program, sets }: Compiled) -> Self {
        Self { id: program.id(), program: Arc::new(program), sets: Arc::new(sets) }
    }
}

impl Local {
    pub(super) fn add_workload(&mut self, id: ItemId) {
        self.workloads.insert(id);
    }

    pub(super) fn add_host(&mut self, id: ItemId, name: &str) {
        self.hosts.insert(name.to_owned(), id);
    }

    pub(super) fn is_local(&self, id: ItemId) -> bool {
        self.workloads.contains(&id) || self.hosts.values().any(|host| *host == id)
    }

    pub(super) fn remove(&mut self, id: ItemId) {
        if !self.workloads.remove(&id) {
            self.hosts.retain(|_, host| *host != id);
            self.interfaces_doubtful = true;
        }
        if let Some(link) = self.link_of.remove(&id) {
            self.links.remove(&link);
            self.doubtful_links.insert(link);
        }
    }

    pub(super) fn doubtful(&mut self, ids: impl IntoIterator<Item = ItemId>) {
        self.doubtful.extend(ids);
    }

    pub(super) fn all_doubtful(&mut self) {
        self.doubtful.extend(&self.workloads);
        self.interfaces_doubtful = true;
    }

    pub(super) fn interfaces_doubtful(&mut self) {
        self.interfaces_doubtful = true;
    }

    pub(super) fn forget_policy(&mut self, id: PolicyId) {
        self.ready.remove(&(id, Direction::Ingress));
        self.ready.remove(&(id, Direction::Egress));
    }

    pub(super) fn set_link(&mut self, link: &IfName, owner: Option<ItemId>) {
        if let Some(before) = self.links.remove(link) {
            self.link_of.remove(&before);
        }
        if let Some(id) = owner {
            if let Some(before) = self.link_of.insert(id, link.clone()) {
                self.links.remove(&before);
                self.doubtful_links.insert(before);
            }
            self.links.insert(link.clone(), id);
        }
        self.doubtful_links.insert(link.clone());
    }
}

impl Policies {
    /// Brings up to date what is doubtful.
    pub(super) fn settle(&mut self, to: &mut Out<'_>) {
        let doubtful = std::mem::take(&mut self.local.doubtful);
        if doubtful.iter().any(|id| self.local.hosts.values().any(|host| host == id)) {
            self.local.interfaces_doubtful = true;
        }
        let mut links = std::mem::take(&mut self.local.doubtful_links);
        links.extend(doubtful.iter().filter_map(|id| self.local.link_of.get(id)).cloned());
        let mut known: BTreeMap<Company, WorkloadPolicy> = BTreeMap::new();
        for link in links {
            let owner = self.local.links.get(&link).copied().filter(|id| self.local.workloads.contains(id));
            let wanted = owner.map(|id| self.workload(id, &mut known, to));
            self.guard_link(link, wanted, to);
        }
        if std::mem::take(&mut self.local.interfaces_doubtful) {
            self.guard_interfaces(to);
        }
        self.sweep(to);
    }

    fn guard_link(&mut self, link: IfName, wanted: Option<WorkloadPolicy>, to: &mut Out<'_>) {
        let before = to.policy.workloads.get(&link).copied();
        if before == wanted {
            return;
        }
        for stack in wanted.into_iter().flat_map(|policy| [policy.from, policy.to]) {
            self.refer(stack);
        }
        match wanted {
            Some(wanted) => to.policy.workloads.insert(link.clone(), wanted),
            None => to.policy.workloads.remove(&link),
        };
        to.changes.workloads.insert(link);
        for stack in before.into_iter().flat_map(|policy| [policy.from, policy.to]) {
            self.release(stack);
        }
    }

    fn workload(
        &mut self,
        id: ItemId,
        known: &mut BTreeMap<Company, WorkloadPolicy>,
        to: &mut Out<'_>,
    ) -> WorkloadPolicy {
        let home = self.items.get(id).map(|item| item.home.clone());
        let company: Company = (
            self.subjects.selectors_of(id).collect(),
            home.as_ref().and_then(|home| home.profiles.clone()),
            home.as_ref().and_then(|home| home.namespace.clone()),
        );
        if let Some(policy) = known.get(&company) {
            return *policy;
        }
        let namespace = company.2.as_deref();
        let names = company.1.clone().unwrap_or_else(|| namespace.map(stack::namespace_profile).into_iter().collect());
        let [from, to_workload] = [Direction::Egress, Direction::Ingress].map(|direction| {
            let (applying, mut used) = self.applying(&company.0, (At::Workload, Place::Normal), direction);
            let profiles = self.profiles(&names, namespace, direction);
            let ids = profiles.iter().map(|ready| ready.id).collect();
            used.extend(profiles);
            let stack = stack::assemble(Place::Normal, applying, ids);
            self.keep(stack.unwrap_or_else(Stack::allow_all), used, to)
        });
        let policy = WorkloadPolicy { from, to: to_workload };
        known.insert(company, policy);
        policy
    }

    fn guard_interfaces(&mut self, to: &mut Out<'_>) {
        let guards: Vec<(Interface, HostEndpoint)> = guards(self.hosts.values(), &self.interfaces)
            .into_iter()
            .map(|(interface, endpoint)| (interface, endpoint.clone()))
            .collect();
        let mut wanted = BTreeMap::new();
        for (interface, endpoint) in guards {
            let policy = self.interface(&interface, &endpoint, to);
            wanted.insert(interface, policy);
        }
        let before = std::mem::replace(&mut to.policy.interfaces, wanted.clone());
        for stack in wanted.values().flat_map(stacks_of) {
            self.refer(stack);
        }
        for stack in before.values().flat_map(stacks_of) {
            self.release(stack);
        }
        to.changes.host |= before != wanted;
    }

    fn interface(&mut self, interface: &Interface, endpoint: &HostEndpoint, to: &mut Out<'_>) -> InterfacePolicy {
        let Some(&id) = self.local.hosts.get(&endpoint.name) else { return InterfacePolicy::default() };
        let policies: Vec<PolicyId> = self.subjects.selectors_of(id).collect();
        stack::interface(interface, |place, direction| {
            let (applying, mut used) = self.applying(&policies, (At::Host, place), direction);
            let profiles = match place {
                Place::Normal => self.profiles(&endpoint.profiles, None, direction),
                Place::Forward | Place::BeforeDnat | Place::Untracked => Vec::new(),
            };
            let ids = profiles.iter().map(|ready| ready.id).collect();
            used.extend(profiles);
            stack::assemble(place, applying, ids).map(|stack| self.keep(stack, used, to))
        })
    }

    /// Those of these policies that are asked at a place, and their programs.
    fn applying(
        &mut self,
        policies: &[PolicyId],
        (at, place): (At, Place),
        direction: Direction,
    ) -> (Vec<Applying>, Vec<Ready>) {
        let (mut applying, mut used) = (Vec::new(), Vec::new());
        for id in policies {
            let Some(policy) = self.policies.get(id).filter(|policy| stack::is_asked(policy, at, place)) else {
                continue;
            };
            let ready = self.local.ready.entry((*id, direction));
            let ready = ready.or_insert_with(|| compile::policy(policy, direction).map(Ready::from));
            let Some(ready) = ready.clone() else { continue };
            let (tier_rank, otherwise) = order::tier(&policy.tier, &self.tiers);
            applying.push(Applying {
                tier_rank,
                rank: order::policy(policy),
                tier: policy.tier.clone(),
                otherwise,
                program: ready.id,
                force: ready.program.force,
            });
            used.push(ready);
        }
        (applying, used)
    }

    fn profiles(&self, names: &[String], namespace: Option<&str>, direction: Direction) -> Vec<Ready> {
        let known = &self.profiles;
        names.iter().filter_map(|name| stack::profile(name, namespace, known, direction)).map(Ready::from).collect()
    }

    /// A policy's rules are others; endpoints that it applies to have the same stacks as before.
    pub(super) fn edit(&mut self, id: PolicyId, to: &mut Out<'_>) {
        self.local.forget_policy(id);
        let Some(policy) = self.policies.get(&id).cloned() else { return };
        for direction in [Direction::Ingress, Direction::Egress] {
            let ready = compile::policy(&policy, direction).map(Ready::from);
            if let Some(ready) = ready.filter(|ready| self.local.programs.contains_key(&ready.id)) {
                self.local.ready.insert((id, direction), Some(ready.clone()));
                self.renew_program(ready, to);
            }
        }
    }

    /// Keeps a stack as long as somebody refers to it.
    fn keep(&mut self, stack: Stack, used: Vec<Ready>, to: &mut Out<'_>) -> StackId {
        let id = stack.id();
        if self.local.stacks.contains_key(&id) {
            used.into_iter().for_each(|ready| self.renew_program(ready, to));
            return id;
        }
        for ready in used {
            self.refer_program(ready, to);
        }
        let stack = Arc::new(stack);
        to.policy.stacks.insert(id, stack.clone());
        to.changes.stacks.insert(id);
        self.local.stacks.insert(id, Counted { value: stack, referred: 0 });
        self.local.idle.insert(id);
        id
    }

    fn refer(&mut self, id: StackId) {
        if let Some(stack) = self.local.stacks.get_mut(&id) {
            stack.referred += 1;
        }
    }

    fn release(&mut self, id: StackId) {
        if let Some(stack) = self.local.stacks.get_mut(&id) {
            stack.referred = stack.referred.saturating_sub(1);
            if stack.referred == 0 {
                self.local.idle.insert(id);
            }
        }
    }

    /// Takes away what nobody refers to any more.
    fn sweep(&mut self, to: &mut Out<'_>) {
        for id in std::mem::take(&mut self.local.idle) {
            if self.local.stacks.get(&id).is_none_or(|stack| stack.referred > 0) {
                continue;
            }
            if let Some(stack) = self.local.stacks.remove(&id) {
                to.policy.stacks.remove(&id);
                to.changes.stacks.insert(id);
                let programs = stack.value.steps.iter().flat_map(|step| step.programs.iter().copied());
                programs.for_each(|program| self.release_program(program, to));
            }
        }
    }

    fn refer_program(&mut self, ready: Ready, to: &mut Out<'_>) {
        if let Some(program) = self.local.programs.get_mut(&ready.id) {
            program.referred += 1;
            return self.renew_program(ready, to);
        }
        to.policy.programs.insert(ready.id, ready.program.clone());
        to.changes.programs.insert(ready.id);
        self.refer_sets(&ready, to);
        self.local.programs.insert(ready.id, Counted { value: ready, referred: 1 });
    }

    /// A program that somebody refers to may have other rules than before.
    fn renew_program(&mut self, ready: Ready, to: &mut Out<'_>) {
        let Some(program) = self.local.programs.get_mut(&ready.id) else { return };
        if program.value.program == ready.program {
            return;
        }
        let before = std::mem::replace(&mut program.value, ready.clone());
        to.policy.programs.insert(ready.id, ready.program.clone());
        to.changes.programs.insert(ready.id);
        self.refer_sets(&ready, to);
        self.release_sets(&before, to);
    }

    fn release_program(&mut self, id: ProgramId, to: &mut Out<'_>) {
        let Some(program) = self.local.programs.get_mut(&id) else { return };
        program.referred -= 1;
        if program.referred > 0 {
            return;
        }
        let Some(program) = self.local.programs.remove(&id) else { return };
        to.policy.programs.remove(&id);
        to.changes.programs.insert(id);
        self.release_sets(&program.value, to);
    }

    fn refer_sets(&mut self, ready: &Ready, to: &mut Out<'_>) {
        for (id, definition) in ready.sets.iter() {
            if self.sets.refer(*id, definition) {
                self.begin_set(*id, definition, to);
            }
        }
    }

    fn release_sets(&mut self, ready: &Ready, to: &mut Out<'_>) {
        for set in ready.sets.keys() {
            if self.sets.release(*set) {
                self.selected.remove_selector(*set);
                to.policy.sets.remove(set);
                to.changes.sets.insert(*set);
            }
        }
    }

    fn begin_set(&mut self, id: SetId, definition: &SetDefinition, to: &mut Out<'_>) {
        to.policy.sets.insert(id, Set { kind: kind_of(definition, []), members: BTreeSet::new() });
        to.changes.sets.insert(id);
        match definition.selector() {
            Some(selector) => {
                for item in self.selected.put_selector(id, selector.clone()) {
                    if let Some(item) = self.items.get(item) {
                        self.sets.give(id, definition.members_of(&item.nets, &item.ports), &mut to.sets());
                    }
                }
            }
            None => self.fill_service(id, definition, to),
        }
    }
}

fn stacks_of(policy: &InterfacePolicy) -> Vec<StackId> {
    let InterfacePolicy { input, output, forward_in, forward_out, before_dnat, untracked_in, untracked_out } = *policy;
    [input, output, forward_in, forward_out, before_dnat, untracked_in, untracked_out].into_iter().flatten().collect()
}

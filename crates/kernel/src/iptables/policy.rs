//! Programs, stacks and who has which, as chains.
//!
//! ```text
//! LASTHOP-from ─ -i lhw1 ─▶ goto stack ─┬─ call step ─┬─ call program: allow ─▶ goto LASTHOP-allow: notes it, returns
//!                                       │             │                deny  ─▶ goto a chain that logs and drops
//!                                       │             │                pass  ─▶ goto LASTHOP-pass: notes it, returns
//!                                       │             ├─ judged: return      silence returns, the next program is called
//!                                       │             └─ otherwise: nothing, or drop
//!                                       ├─ allowed: return (from a chain gone to, so to whoever asked LASTHOP-from)
//!                                       └─ end: nothing, or drop
//! ```
//!
//! * A program is one chain for all who use it, a step and a stack too; each by the name of its content.
//! * A rule is one line, or several with the same target: see [`super::matches`]. Its id is `<program>:<index>`.
//! * A chain of a dispatch tree ends in drop, so a link that is nobody's passes nothing.

use super::mark::Mask;
use super::matches::{self, Context};
use super::memo::Memo;
use super::rule::{Chain, Chains, Rule, Table, Target, chain_name};
use super::sets::{Kind, Spec, net};
use super::skeleton::{FROM, LINK_ONLY, Place, TO, icmpv6, is_plain};
use lasthop_net::{Family, IfName};
use lasthop_policy::ir::{
    Action, DenyAction, Digest, End, Failsafe, Force, HostPolicy, Interface, InterfacePolicy, Logging, Owner, Program,
    ProgramId, Rate, SetId, StackId, Step, StepName, TierDefault,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The NFLOG group to which denied packets are offered, some of them. Their prefix is the id of what decided.
pub const DENIED_GROUP: u16 = 76;
/// How many denied packets each rule offers: in the long run, and at once.
const DENIED_RATE: &str = " -m limit --limit 10/sec --limit-burst 20";
/// `--nflog-prefix` (`nf_loginfo`'s prefix is 64 bytes with its end).
const NFLOG_PREFIX: usize = 63;
/// Links that one chain of a dispatch tree looks up one by one.
const BRANCH: usize = 16;
/// How deep a dispatch tree grows: nftables calls no more than 16 chains deep.
const DEPTH: usize = 3;
/// `--log-prefix` (`LOG`'s prefix is 30 bytes with its end).
const LOG_PREFIX: usize = 29;

const ALLOW: &str = "LASTHOP-allow";
const PASS: &str = "LASTHOP-pass";
const UNPASS: &str = "LASTHOP-unpass";
/// Under what the end of a stack is counted and reported.
const END: &str = "end";

/// Something of a policy that cannot be programmed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Object {
    /// A program. Whoever has it passes nothing in its direction.
    Program(ProgramId),
    /// A stack. Whoever has it passes nothing in its direction.
    Stack(StackId),
    /// A workload link. It passes nothing.
    Link(IfName),
    /// One of the host's own interfaces. Its policy is not in force.
    Interface(IfName),
    /// A set, by name. Programs that ask it are not in force.
    Set(String),
    /// A chain that should be gone, by table and name.
    Chain(String),
}

/// A policy as chains of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rendered {
    pub(super) chains: Chains,
    /// Sets of prefixes that rules write out.
    pub(super) lists: BTreeMap<String, Spec>,
    /// Whose chain it is, where that is a program's or a stack's.
    pub(super) owners: BTreeMap<String, Object>,
    /// What could not be said.
    pub(super) failed: BTreeMap<Object, String>,
}

/// What rendering depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inputs<'a> {
    pub(super) policy: &'a HostPolicy,
    pub(super) kinds: &'a BTreeMap<SetId, Kind>,
    /// What the kernel or its tools have refused.
    pub(super) refused: &'a BTreeMap<Object, String>,
    pub(super) mask: Mask,
}

/// The places where the host's own interfaces have policy.
pub(super) fn places(policy: &HostPolicy) -> BTreeSet<Place> {
    let has = |place: &Place| policy.interfaces.values().any(|interface| stack_at(interface, *place).is_some());
    Place::ALL.into_iter().filter(has).collect()
}

fn stack_at(interface: &InterfacePolicy, place: Place) -> Option<StackId> {
    match place {
        Place::UntrackedIn => interface.untracked_in,
        Place::UntrackedOut => interface.untracked_out,
        Place::BeforeDnat => interface.before_dnat,
        Place::Input => interface.input,
        Place::Output => interface.output,
        Place::ForwardIn => interface.forward_in,
        Place::ForwardOut => interface.forward_out,
    }
}

/// The chains in which links are looked up while nobody has said what policy is: they drop everything.
pub(super) fn closed() -> Chains {
    let chain = |name: &str, way| ((Table::Filter, name.to_owned()), Chain::new(name, vec![unknown(way)]));
    Chains::from([chain(FROM, Way::From), chain(TO, Way::To)])
}

/// All chains of a policy.
pub(super) fn render(inputs: Inputs<'_>, family: Family, memo: &mut Memo) -> Rendered {
    memo.begin(inputs.policy);
    let mut r = Renderer {
        inputs,
        context: Context { family, kinds: inputs.kinds, lists: BTreeMap::new() },
        out: Rendered::default(),
        table: Table::Filter,
        memo,
    };
    r.out.failed = inputs.refused.clone();
    let policy = inputs.policy;
    let mut used: BTreeSet<(Table, StackId)> = BTreeSet::new();
    for workload in policy.workloads.values() {
        used.extend([(Table::Filter, workload.from), (Table::Filter, workload.to)]);
    }
    for interface in policy.interfaces.values() {
        let at = |place: Place| Some((place.table(), stack_at(interface, place)?));
        used.extend(Place::ALL.into_iter().filter_map(at));
    }
    for (table, stack) in &used {
        r.table = *table;
        r.stack(*stack);
    }
    r.table = Table::Filter;
    for way in [Way::From, Way::To] {
        r.dispatch(way);
    }
    for place in places(policy) {
        r.table = place.table();
        r.interfaces(place);
    }
    r.out.lists = r.context.lists;
    r.out
}

/// Whether links are looked up by what they send or by what they are sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    From,
    To,
}

fn unknown(way: Way) -> Rule {
    let id = match way {
        Way::From => "no_policy_from",
        Way::To => "no_policy_to",
    };
    Rule::new(id, "", Target::Drop)
}

pub(super) fn program_chain(ProgramId(digest): ProgramId) -> String {
    chain_name('p', digest)
}

fn stack_chain(StackId(digest): StackId) -> String {
    chain_name('s', digest)
}

struct Renderer<'a> {
    inputs: Inputs<'a>,
    context: Context<'a>,
    out: Rendered,
    /// The table that is being rendered into.
    table: Table,
    memo: &'a mut Memo,
}

impl Renderer<'_> {
    fn put(&mut self, name: String, rules: Vec<Rule>) {
        let chain = Chain::new(&name, rules);
        self.out.chains.insert((self.table, name), chain);
    }

    fn has(&self, name: &str) -> bool {
        self.out.chains.contains_key(&(self.table, name.to_owned()))
    }

    /// A chain that notes something in the mark, and returns whence its caller was called.
    fn noting(&mut self, name: &str, target: Target) -> Target {
        if !self.has(name) {
            self.put(name.to_owned(), vec![Rule::new("-", "", target)]);
        }
        Target::Goto(name.to_owned())
    }

    /// A chain that reports a packet under this id and drops it.
    fn deny(&mut self, id: &str) -> Target {
        let name = chain_name('d', Digest::of(&id));
        if !self.has(&name) {
            let prefix = &id[..id.len().min(NFLOG_PREFIX)];
            let log = format!("NFLOG --nflog-group {DENIED_GROUP} --nflog-prefix \"{prefix}\"");
            let mut rules = vec![Rule::new("-", DENIED_RATE, Target::Other(log))];
            if self.inputs.policy.deny == DenyAction::Reject && self.table == Table::Filter {
                let reset = Target::Other("REJECT --reject-with tcp-reset".to_owned());
                rules.push(Rule::new("-", " -p 6", reset));
                let prohibited = match self.context.family {
                    Family::V4 => "REJECT --reject-with icmp-admin-prohibited",
                    Family::V6 => "REJECT --reject-with icmp6-adm-prohibited",
                };
                rules.push(Rule::new("-", "", Target::Other(prohibited.to_owned())));
            } else {
                rules.push(Rule::new("-", "", Target::Drop));
            }
            self.put(name.clone(), rules);
        }
        Target::Goto(name)
    }

    /// A chain that notes some packets in the kernel's log and comes back.
    fn log(&mut self, owner: &Owner) -> Target {
        let log = &self.inputs.policy.log;
        let prefix = log_prefix(log, owner);
        let limit = log.rate.map(|rate| limit(rate, log.burst)).unwrap_or_default();
        let name = chain_name('l', Digest::of(&(&prefix, &limit)));
        if !self.has(&name) {
            let log = Target::Other(format!("LOG --log-prefix \"{prefix}\""));
            self.put(name.clone(), vec![Rule::new("-", limit, log)]);
        }
        Target::Jump(name)
    }

    /// Whether the program is there, rendered; else it denies all that ask for it.
    fn program(&mut self, id: ProgramId) -> Result<(), String> {
        let name = program_chain(id);
        if let Some(reason) = self.out.failed.get(&Object::Program(id)) {
            return Err(reason.clone());
        }
        if self.has(&name) {
            return Ok(());
        }
        let Some(program) = self.inputs.policy.programs.get(&id) else {
            return Err(format!("program {} is not there", id.0));
        };
        let (key, kinds) = ((self.table, id), self.inputs.kinds);
        let sets_failed = self.out.failed.keys().any(|object| matches!(object, Object::Set(_)));
        if let Some(part) = self.memo.part(key, program, kinds).filter(|_| !sets_failed) {
            self.out.chains.extend(part.chains.iter().map(|(key, chain)| (key.clone(), Arc::clone(chain))));
            self.context.lists.extend(part.lists.iter().map(|(name, spec)| (name.clone(), spec.clone())));
            self.out.owners.insert(name, Object::Program(id));
            return Ok(());
        }
        // Apart from all others, so that it can be kept.
        let others = (std::mem::take(&mut self.out.chains), std::mem::take(&mut self.context.lists));
        self.memo.rendered += 1;
        let result = self.rules(id, program).map(|rules| self.put(name.clone(), rules));
        let chains = std::mem::replace(&mut self.out.chains, others.0);
        let lists = std::mem::replace(&mut self.context.lists, others.1);
        if let Err(reason) = result {
            self.out.failed.insert(Object::Program(id), reason.clone());
            return Err(reason);
        }
        self.out.chains.extend(chains.iter().map(|(key, chain)| (key.clone(), Arc::clone(chain))));
        self.context.lists.extend(lists.iter().map(|(name, spec)| (name.clone(), spec.clone())));
        self.out.owners.insert(name, Object::Program(id));
        self.memo.keep(key, (program, kinds), (chains, lists));
        Ok(())
    }

    fn rules(&mut self, id: ProgramId, program: &Program) -> Result<Vec<Rule>, String> {
        let mut rules = Vec::new();
        for (index, rule) in program.rules.iter().enumerate() {
            let lines = matches::lines(rule, &mut self.context).map_err(|why| format!("rule {index}: {why}"))?;
            if let Some(set) = rule_sets(rule, &self.context).find(|set| self.out.failed.contains_key(set)) {
                return Err(format!("rule {index}: {}", self.out.failed[&set]));
            }
            let counted = format!("{}:{index}", id.0);
            let target = if lines.is_empty() { Target::Count } else { self.target(program, rule.action, &counted) };
            for line in lines {
                if line.unless.is_empty() {
                    rules.push(Rule::new(&counted, line.matches, target.clone()));
                } else {
                    rules.extend(self.unless(program, &line, (&counted, &target)));
                }
            }
        }
        Ok(rules)
    }

    fn target(&mut self, program: &Program, action: Action, id: &str) -> Target {
        let mask = self.inputs.mask;
        match (program.force, action) {
            (Force::Staged, Action::Log) => Target::Count,
            (Force::Staged, _) => Target::Return,
            (Force::Enforced, Action::Allow) => self.noting(ALLOW, mask.allow()),
            (Force::Enforced, Action::Pass) => self.noting(PASS, mask.pass()),
            (Force::Enforced, Action::Deny) => self.deny(id),
            (Force::Enforced, Action::Log) => self.log(&program.owner),
        }
    }

    /// What no single line can say: a chain that is left for each exception, and has the target at its end.
    fn unless(&mut self, program: &Program, line: &matches::Line, (id, target): (&str, &Target)) -> Vec<Rule> {
        let mask = self.inputs.mask;
        let except = line.unless.iter().map(|matches| Rule::new("-", matches, Target::Return));
        let mut last = Rule::new(id, "", target.clone());
        let mut rules = Vec::new();
        let staged = program.force == Force::Staged && *target == Target::Return;
        if staged {
            // Returning from there says nothing here, so it is noted.
            last.target = mask.pass();
        }
        let inner: Vec<Rule> = except.chain([last]).collect();
        let name = chain_name('x', Digest::of(&(id, &line.matches, &inner)));
        self.put(name.clone(), inner);
        rules.push(Rule::new("-", &line.matches, Target::Jump(name)));
        if staged {
            let forget = self.noting(UNPASS, mask.unpass());
            rules.push(Rule::new("-", mask.is_passed(), forget));
        } else if program.force == Force::Enforced {
            rules.push(Rule::new("-", mask.is_judged(), Target::Return));
        }
        rules
    }

    /// The chain of a step; its name.
    fn step(&mut self, step: &Step) -> Result<String, String> {
        let name = chain_name('t', Digest::of(step));
        if self.has(&name) {
            return Ok(name);
        }
        let mut rules = Vec::new();
        for (place, id) in step.programs.iter().enumerate() {
            self.program(*id)?;
            rules.push(Rule::new("-", "", Target::Jump(program_chain(*id))));
            let last = place + 1 == step.programs.len();
            if self.may_judge(*id) && !(last && step.otherwise == TierDefault::Pass) {
                rules.push(Rule::new("-", self.inputs.mask.is_judged(), Target::Return));
            }
        }
        if step.otherwise == TierDefault::Deny {
            let id = step_id(&step.name);
            let deny = self.deny(&id);
            rules.push(Rule::new(id, "", deny));
        }
        self.put(name.clone(), rules);
        Ok(name)
    }

    fn has_rule(&self, id: ProgramId, action: Action) -> bool {
        let program = self.inputs.policy.programs.get(&id);
        program.is_some_and(|p| p.force == Force::Enforced && p.rules.iter().any(|rule| rule.action == action))
    }

    fn may_judge(&self, id: ProgramId) -> bool {
        self.has_rule(id, Action::Allow) || self.has_rule(id, Action::Pass)
    }

    fn stack(&mut self, id: StackId) {
        let name = stack_chain(id);
        let rules = self.stack_rules(id).unwrap_or_else(|reason| {
            self.out.failed.insert(Object::Stack(id), reason);
            vec![Rule::new("unusable", "", Target::Drop)]
        });
        self.out.owners.insert(name.clone(), Object::Stack(id));
        self.put(name, rules);
    }

    fn stack_rules(&mut self, id: StackId) -> Result<Vec<Rule>, String> {
        if let Some(reason) = self.inputs.refused.get(&Object::Stack(id)) {
            return Err(reason.clone());
        }
        let policy = self.inputs.policy;
        let stack = policy.stacks.get(&id).ok_or_else(|| format!("stack {} is not there", id.0))?;
        let mask = self.inputs.mask;
        let mut rules = Vec::new();
        if !stack.steps.is_empty() {
            rules.push(Rule::new("-", "", mask.unjudge()));
        }
        for step in &stack.steps {
            let name = self.step(step)?;
            rules.push(Rule::new("-", "", Target::Jump(name)));
            if step.programs.iter().any(|id| self.has_rule(*id, Action::Allow)) {
                rules.push(Rule::new("-", mask.is_allowed(), Target::Return));
            }
            if step.programs.iter().any(|id| self.has_rule(*id, Action::Pass)) {
                rules.push(Rule::new("-", "", mask.unpass()));
            }
        }
        if stack.end == End::Deny {
            let deny = self.deny(END);
            rules.push(Rule::new(END, "", deny));
        }
        Ok(rules)
    }

    /// The tree in which workload links are looked up.
    fn dispatch(&mut self, way: Way) {
        let mut links = Vec::new();
        for (link, workload) in &self.inputs.policy.workloads {
            let object = Object::Link(link.clone());
            if !is_plain(link.as_str()) {
                let reason =
                    format!("interface name '{link}' cannot be written in iptables: use letters, digits, . _ -");
                self.out.failed.insert(object, reason);
            } else if !self.inputs.refused.contains_key(&object) {
                let stack = match way {
                    Way::From => workload.from,
                    Way::To => workload.to,
                };
                links.push((link.as_str(), stack_chain(stack)));
            }
        }
        let name = match way {
            Way::From => FROM,
            Way::To => TO,
        };
        self.branch(way, name.to_owned(), (&links, 0));
    }

    /// One chain of the tree: `links` all begin alike.
    fn branch(&mut self, way: Way, name: String, (links, depth): (&[(&str, String)], usize)) {
        let option = match way {
            Way::From => "-i",
            Way::To => "-o",
        };
        let found =
            |(link, stack): &(&str, String)| Rule::new("-", format!(" {option} {link}"), Target::Goto(stack.clone()));
        let mut rules: Vec<Rule> = Vec::new();
        if links.len() <= BRANCH || depth == DEPTH {
            rules.extend(links.iter().map(found));
        } else {
            let common = common_beginning(links);
            // Sorted, so those that begin alike are neighbours, and a name that is all of the beginning is the first.
            for group in links.chunk_by(|a, b| a.0.as_bytes().get(common) == b.0.as_bytes().get(common)) {
                let [one] = group else {
                    let beginning = &group[0].0[..=common];
                    let inner = chain_name(option.as_bytes()[1].into(), Digest::of(&beginning));
                    rules.push(Rule::new("-", format!(" {option} {beginning}+"), Target::Goto(inner.clone())));
                    self.branch(way, inner, (group, depth + 1));
                    continue;
                };
                rules.push(found(one));
            }
        }
        rules.push(unknown(way));
        self.put(name, rules);
    }

    /// The chain in which the host's own interfaces are looked up.
    fn interfaces(&mut self, place: Place) {
        let policy = self.inputs.policy;
        let family = self.context.family;
        let option = match place {
            Place::UntrackedOut | Place::Output | Place::ForwardOut => "-o",
            _ => "-i",
        };
        let mut rules = Vec::new();
        if !matches!(place, Place::ForwardIn | Place::ForwardOut) {
            // The host's talk with itself, and with its neighbours about who is who, is nobody's business.
            rules.push(Rule::new("-", format!(" {option} lo"), Target::Return));
            if family == Family::V6 {
                let link_only = LINK_ONLY.map(|(limit, kind)| icmpv6(limit, kind));
                rules.extend(link_only.map(|matches| Rule::new("link_only", matches, Target::Return)));
            }
        }
        if place.table() == Table::Filter {
            rules.push(Rule::new("invalid", " -m conntrack --ctstate INVALID", Target::Drop));
        }
        rules.extend(failsafes(policy, place, family));
        let mut any = None;
        for (interface, stacks) in &policy.interfaces {
            match interface {
                Interface::Any => any = stack_at(stacks, place),
                Interface::Named(name) if !is_plain(name.as_str()) => {
                    let reason = format!("interface name '{name}' cannot be written in iptables");
                    self.out.failed.insert(Object::Interface(name.clone()), reason);
                }
                Interface::Named(name) => {
                    let stack = stack_at(stacks, place);
                    rules.push(of_interface(&format!(" {option} {name}"), stack));
                }
            }
        }
        rules.extend(any.map(|stack| of_interface("", Some(stack))));
        self.put(place.chain().to_owned(), rules);
    }
}

fn of_interface(matches: &str, stack: Option<StackId>) -> Rule {
    Rule::new("-", matches, stack.map_or(Target::Return, |stack| Target::Goto(stack_chain(stack))))
}

/// The names of the sets that a rule asks, as objects that may have failed.
fn rule_sets<'a>(rule: &'a lasthop_policy::ir::Rule, context: &'a Context<'_>) -> impl Iterator<Item = Object> + 'a {
    let sets = [&rule.source, &rule.destination].into_iter().flat_map(lasthop_policy::ir::Side::sets);
    sets.filter_map(|set| {
        let kind = *context.kinds.get(&set)?;
        Some(Object::Set(super::sets::name(set, kind, context.family)))
    })
}

/// How many bytes all names begin with alike.
fn common_beginning(links: &[(&str, String)]) -> usize {
    let (Some((first, _)), Some((last, _))) = (links.first(), links.last()) else { return 0 };
    first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count()
}

/// Failsafe ports, before anything else. Before connection tracking also what answers them.
fn failsafes(policy: &HostPolicy, place: Place, family: Family) -> Vec<Rule> {
    let rule = |failsafe: &Failsafe, other: &str, port: &str| {
        let Failsafe { protocol, net: prefix, port: number } = failsafe;
        let matches = format!(" {other} {} -p {protocol} -m multiport {port} {number}", net(*prefix));
        Rule::new("failsafe", matches, Target::Return)
    };
    let of = |all: &'_ BTreeSet<Failsafe>, other: &str, port: &str| -> Vec<Rule> {
        all.iter().filter(|f| f.net.family() == family).map(|f| rule(f, other, port)).collect()
    };
    let (inward, outward) = (&policy.failsafe_in, &policy.failsafe_out);
    match place {
        Place::Input | Place::BeforeDnat => of(inward, "-s", "--dports"),
        Place::Output => of(outward, "-d", "--dports"),
        Place::UntrackedIn => [of(inward, "-s", "--dports"), of(outward, "-s", "--sports")].concat(),
        Place::UntrackedOut => [of(outward, "-d", "--dports"), of(inward, "-d", "--sports")].concat(),
        Place::ForwardIn | Place::ForwardOut => Vec::new(),
    }
}

/// What the kernel's log says in front of a packet, as far as it needs no quoting.
fn log_prefix(log: &Logging, owner: &Owner) -> String {
    log.prefix_of(owner, LOG_PREFIX).split(' ').map(plain).collect::<Vec<_>>().join(" ")
}

/// The match that holds so often. The kernel keeps what may come at once in 32 bits, for which a large burst at a low rate is
/// too much (`xt_limit` counts at most 38,400 credits a second).
fn limit(rate: Rate, burst: u32) -> String {
    let (word, seconds) = match rate.per.as_secs() {
        ..=1 => ("second", 1),
        2..=60 => ("minute", 60),
        61..=3_600 => ("hour", 3_600),
        _ => ("day", 86_400),
    };
    let most = (100_000 * u64::from(rate.packets) / seconds).max(1);
    format!(" -m limit --limit {}/{word} --limit-burst {}", rate.packets, u64::from(burst).min(most))
}

/// Under what the end of a step is counted and reported, as a rule is under `<program>:<index>`.
fn step_id(step: &StepName) -> String {
    match step {
        // A comment takes 255 bytes.
        StepName::Tier(name) => format!("tier:{}", plain(name)).chars().take(200).collect(),
        StepName::Profiles => "profiles".to_owned(),
    }
}

/// Text that needs no quoting: what else there is becomes an underscore.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || ".-_/:".contains(c) { c } else { '_' }).collect()
}

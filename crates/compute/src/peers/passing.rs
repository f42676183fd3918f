//! What passes to and from a peer: filters as configured, and around them what is safe without any.
//!
//! In: what configuration expects (a default route; from members of the cluster its pools, services and announced
//! prefixes). An address of our pools from anybody else would draw our own traffic away, so it passes only if a filter
//! says so. Out: our own, and what lies in pools: a host is no transit. A reflector also shows what it was told inside.

use super::World;
use lasthop_bgp::config::{
    Community, Lengths, Policy, PrefixMatch, PrefixOperator, RouteChange, RouteSource, Rule, Verdict,
};
use lasthop_model::{
    BgpFilter, Drain, FilterAction, FilterOperation, FilterRule, Key, Kind, PeerScope, RangeOperator, RouteCommunity,
};
use lasthop_net::{Family, Prefix};
use std::collections::{BTreeMap, BTreeSet};

/// What a peer is to us.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// A node of ours, or a reflector that was configured.
    Member,
    /// Anybody else.
    Stranger,
    /// A workload, which may announce what lies in these.
    Workload(Vec<Prefix>),
}

/// What policies depend on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Terms {
    pub(super) class: Class,
    pub(super) scope: Scope,
    /// Names of filters, in order.
    pub(super) filters: Vec<String>,
}

/// Whether a session leads into another AS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    Internal,
    External,
}

/// Policies, each made once, so that peers on the same terms share them.
#[derive(Default)]
pub(super) struct Passing(BTreeMap<Terms, [Policy; 2]>);

impl Passing {
    /// What is accepted from peers on these terms, and what is shown to them.
    pub(super) fn of(&mut self, world: &World<'_>, terms: Terms) -> [Policy; 2] {
        self.0.entry(terms).or_insert_with_key(|terms| [import(world, terms), export(world, terms)]).clone()
    }
}

fn rule(name: impl Into<String>, prefix: Option<PrefixMatch>, verdict: Verdict) -> Rule {
    Rule { name: name.into(), prefix, verdict: Some(verdict), ..Rule::default() }
}

fn exactly(prefix: Prefix) -> Option<PrefixMatch> {
    Some(PrefixMatch { prefix, operator: PrefixOperator::Equal, lengths: None })
}

fn inside(prefix: Prefix) -> Option<PrefixMatch> {
    Some(PrefixMatch { prefix, operator: PrefixOperator::In, lengths: None })
}

fn all(family: Family) -> Option<PrefixMatch> {
    inside(Prefix::default_route(family))
}

fn import(world: &World<'_>, terms: &Terms) -> Policy {
    let mut rules = Vec::new();
    if let Class::Workload(own) = &terms.class {
        let guard = rule("the workload may announce its own addresses only", None, Verdict::Reject);
        rules.push(Rule { outside: own.clone(), ..guard });
    }
    let (filtered, families) = world.filtered(terms, |filter| &filter.import);
    rules.extend(filtered);
    let pools = || world.snapshot.pools.values();
    match terms.class {
        Class::Workload(_) => rules.push(rule("its own", None, Verdict::Accept)),
        Class::Member => {
            rules.extend(pools().map(|pool| rule(format!("pool {}", pool.name), inside(pool.prefix), Verdict::Accept)));
            let configured = world.cluster.services.iter().copied();
            let configured = configured.chain(world.advertisements().iter().map(|advertised| advertised.prefix));
            rules
                .extend(configured.map(|prefix| rule(format!("configured {prefix}"), inside(prefix), Verdict::Accept)));
        }
        Class::Stranger => rules.extend(pools().map(|pool| {
            let name =
                format!("inside our pool {}, from a peer that is no member: a BGPFilter can accept it", pool.name);
            rule(name, inside(pool.prefix), Verdict::Reject)
        })),
    }
    for family in Family::ALL {
        rules.push(rule("default route", exactly(Prefix::default_route(family)), Verdict::Accept));
        // Who has no pools gets addresses from elsewhere, and knows none to expect.
        let unknown = terms.class == Class::Member && !pools().any(|pool| pool.prefix.family() == family);
        if families.contains(&family) || unknown {
            rules.push(rule("no filter says otherwise", all(family), Verdict::Accept));
        }
    }
    let nothing = "nothing configured expects it (no default route, no pool): a BGPFilter can accept it";
    rules.push(rule(nothing, None, Verdict::Reject));
    Policy::new(rules, Verdict::Reject)
}

fn export(world: &World<'_>, terms: &Terms) -> Policy {
    if world.me.drain == Drain::Withdrawn {
        let all = rule("this node is drained: 'lasthop node undrain' ends it", None, Verdict::Reject);
        return Policy::new(vec![all], Verdict::Reject);
    }
    let communities = world.advertisements().iter().map(|advertised| Rule {
        name: format!("communities of {}", advertised.prefix),
        prefix: inside(advertised.prefix),
        changes: advertised.communities.iter().map(|value| RouteChange::AddCommunity(community(*value))).collect(),
        ..Rule::default()
    });
    let mut rules: Vec<Rule> = communities.collect();
    rules.extend(world.filtered(terms, |filter| &filter.export).0);
    let pools = || world.snapshot.pools.values();
    rules.extend(
        pools()
            .filter(|pool| pool.bgp_export_disabled)
            .map(|pool| rule(format!("pool {} has disableBGPExport", pool.name), inside(pool.prefix), Verdict::Reject)),
    );
    let own = rule("our own", None, Verdict::Accept);
    rules.push(Rule { source: Some(RouteSource::Own), ..own });
    if world.me.cluster_id.is_some() {
        let reflected = rule("reflected", None, Verdict::Accept);
        rules.push(Rule { source: Some(RouteSource::Internal), ..reflected });
    }
    rules.extend(pools().map(|pool| rule(format!("pool {}", pool.name), inside(pool.prefix), Verdict::Accept)));
    rules.push(rule("neither ours nor of a pool: a host is no transit", None, Verdict::Reject));
    Policy::new(rules, Verdict::Reject)
}

fn community(value: RouteCommunity) -> Community {
    match value {
        RouteCommunity::Standard(value) => Community::Standard(value),
        RouteCommunity::Large(value) => Community::Large(value),
    }
}

/// LOCAL_PREF is this less the priority, which is the kernel's metric: the lower the better.
const TOP: u32 = 2_147_483_647;
/// The priority of a route of which nothing is said.
const NORMAL: u32 = 1024;
/// LOCAL_PREF of a route of which nothing is said (RFC 4271 leaves it open; this is everybody's).
const PLAIN: u32 = 100;

/// The rules of a filter as the speaker has them. What cannot be honoured is read in the stricter way.
fn compile(name: &str, rules: &[FilterRule], scope: Scope) -> Vec<Rule> {
    let of_scope = |rule: &&FilterRule| match rule.peers {
        None => true,
        Some(PeerScope::External) => scope == Scope::External,
        Some(PeerScope::Internal) => scope == Scope::Internal,
    };
    let honoured = |rule: &&FilterRule| rule.interface.is_none() || rule.action == FilterAction::Reject;
    rules.iter().filter(of_scope).filter(honoured).flat_map(|rule| compile_rule(name, rule)).collect()
}

fn compile_rule(name: &str, rule: &FilterRule) -> Vec<Rule> {
    let prefix = match &rule.range {
        None => all(rule.family),
        Some(range) => Some(PrefixMatch {
            prefix: range.prefix,
            operator: match range.operator {
                RangeOperator::Equal => PrefixOperator::Equal,
                RangeOperator::NotEqual => PrefixOperator::NotEqual,
                RangeOperator::In => PrefixOperator::In,
                RangeOperator::NotIn => PrefixOperator::NotIn,
            },
            lengths: range.lengths.map(|(min, max)| Lengths { min, max }),
        }),
    };
    let compiled = Rule {
        name: format!("BGPFilter/{name} {}", rule.path),
        prefix,
        outside: Vec::new(),
        source: rule.learned.then_some(RouteSource::Learned),
        communities: rule.communities.iter().map(|value| community(*value)).collect(),
        as_path: rule.as_path.clone(),
        local_pref: rule.priority.map(|priority| TOP - priority),
        changes: match rule.action {
            FilterAction::Accept => rule.operations.iter().map(change).collect(),
            FilterAction::Reject => Vec::new(),
        },
        verdict: Some(match rule.action {
            FilterAction::Accept => Verdict::Accept,
            FilterAction::Reject => Verdict::Reject,
        }),
    };
    let plain = (rule.priority == Some(NORMAL)).then(|| Rule { local_pref: Some(PLAIN), ..compiled.clone() });
    [compiled].into_iter().chain(plain).collect()
}

fn change(operation: &FilterOperation) -> RouteChange {
    match operation {
        FilterOperation::AddCommunity(value) => RouteChange::AddCommunity(community(*value)),
        FilterOperation::Prepend(asns) => RouteChange::Prepend(asns.clone()),
        FilterOperation::SetPriority(priority) => RouteChange::SetLocalPref(TOP.saturating_sub(*priority)),
    }
}

impl World<'_> {
    /// The rules of a peering's filters, and of which families they speak. A name without a filter counts as a filter
    /// without rules; one that cannot be read lets nothing pass.
    fn filtered(&self, terms: &Terms, rules: fn(&BgpFilter) -> &[FilterRule]) -> (Vec<Rule>, BTreeSet<Family>) {
        let (mut all, mut families) = (Vec::new(), BTreeSet::new());
        for name in &terms.filters {
            let key = Key { kind: Kind::BgpFilter, namespace: None, name: name.clone() };
            if self.snapshot.invalid.contains_key(&key) {
                all.push(rule(format!("{key} cannot be read"), None, Verdict::Reject));
            }
            let Some(filter) = self.snapshot.filters.get(name) else { continue };
            families.extend(rules(filter).iter().map(|rule| rule.family));
            all.extend(compile(name, rules(filter), terms.scope));
        }
        (all, families)
    }
}

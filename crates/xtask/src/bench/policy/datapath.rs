//! What a packet of an established flow costs, and the first packet of a new one: on our host, beside a host with the
//! single rule "established accept", and one with the rule-by-rule shape.

use super::super::forward::feed_nft;
use super::super::report::{Bar, Row};
use super::super::stats::{Figure, Samples};
use super::super::window::{Flow, Newcomers};
use super::chains;
use super::ground::{Ground, Place, program};
use super::world::World;
use crate::bench::Plan;
use anyhow::Result;
use lasthop_kernel::conntrack;
use lasthop_lab::netns;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// More rules than is promised for, so that both figures are of one host.
const MANY: World = World { endpoints: 1000, policies: 200, rules: 100, shared: false };
const FEW: World = World { endpoints: 10, ..MANY };

/// Costs of a packet in each place, and what two places have to do with each other, round by round.
#[derive(Default)]
struct Costs {
    places: [Samples; 5],
}

const DIRECT: usize = 0;
const SINGLE: usize = 1;
const BESIDE: usize = 2;
const OURS: usize = 3;
const OURS_FEW: usize = 4;

impl Costs {
    /// Takes in a round; each place goes first as often as any other.
    fn round(&mut self, round: usize, mut cost: impl FnMut(usize, usize) -> Result<f64>) -> Result<()> {
        let cpu = round % std::thread::available_parallelism().map_or(1, usize::from);
        for step in 0..self.places.len() {
            let at = (step + round) % self.places.len();
            let now = cost(at, cpu)?;
            self.places[at].add(now);
        }
        Ok(())
    }

    /// Median cost of a packet.
    fn of(&self, at: usize) -> f64 {
        self.places[at].median()
    }

    /// Round by round: `ours` as a share of `other`, after what `less` costs is taken off both.
    fn share(&self, ours: usize, other: usize, less: Option<usize>) -> Figure {
        let mut shares = Samples::default();
        for round in 0..self.places[ours].len() {
            let off = less.map_or(0.0, |at| self.places[at].at(round));
            shares.add((self.places[ours].at(round) - off) / (self.places[other].at(round) - off));
        }
        shares.middle()
    }
}

pub(super) fn rows(plan: &Plan) -> Result<Vec<Row>> {
    let ground = Ground::default();
    let places = [
        ground.wire(MANY.pair())?,
        ground.place("single", MANY.pair())?,
        ground.place("beside", MANY.pair())?,
        ground.place("ours", MANY.pair())?,
        ground.place("few", FEW.pair())?,
    ];
    feed_nft(&places[SINGLE].host, chains::SINGLE)?;
    feed_nft(&places[BESIDE].host, &chains::rule_by_rule(MANY))?;
    program(&places[OURS].host, MANY)?;
    program(&places[OURS_FEW].host, FEW)?;
    let mut rows = established(plan, &places)?;
    rows.extend(new_flows(plan, &places)?);
    Ok(rows)
}

fn ends(place: &Place) -> [(&str, std::net::Ipv4Addr); 2] {
    [(&place.workloads[0], place.addresses[0]), (&place.workloads[1], place.addresses[1])]
}

fn established(plan: &Plan, places: &[Place; 5]) -> Result<Vec<Row>> {
    let mut flows = Vec::new();
    for place in places {
        let [from, to] = ends(place);
        flows.push(Flow::open(from, to)?);
    }
    let mut costs = Costs::default();
    let window = Duration::from_millis(if plan.quick { 10 } else { 20 });
    for round in 0..plan.count(400, 40) {
        costs.round(round, |at, cpu| flows[at].cost(cpu, window))?;
    }
    let note = |at: usize| {
        let (total, other, wire) = (costs.of(OURS), costs.of(at), costs.of(DIRECT));
        format!("{total:.0} ns beside {other:.0} ns; own {:.0} beside {:.0} ns", total - wire, other - wire)
    };
    let row = |what: &str, figure, name: &str, at: usize| {
        Row::new(what, "", figure).beside(name, Figure::single(1.0)).note(note(at))
    };
    Ok(vec![
        row("established: a packet", costs.share(OURS, SINGLE, None), "(single rule)", SINGLE).bar(Bar::Ratio(1.15)),
        row("  its own cost", costs.share(OURS, SINGLE, Some(DIRECT)), "(single rule)", SINGLE),
        row("established: a packet", costs.share(OURS, BESIDE, None), "(rule by rule)", BESIDE),
        row("  its own cost", costs.share(OURS, BESIDE, Some(DIRECT)), "(rule by rule)", BESIDE).bar(Bar::Ratio(0.6)),
    ])
}

fn new_flows(plan: &Plan, places: &[Place; 5]) -> Result<Vec<Row>> {
    let mut senders = Vec::new();
    for place in places {
        feed_nft(&place.workloads[1], chains::SINK)?;
        let [from, to] = ends(place);
        senders.push(Newcomers::open(from, to)?);
    }
    let mut costs = Costs::default();
    for round in 0..plan.count(150, 20) {
        costs.round(round, |at, cpu| {
            let cost = senders[at].cost(cpu)?;
            let ended = BTreeSet::from([IpAddr::V4(places[at].addresses[0])]);
            netns::within(&places[at].host, || conntrack::delete_for(&ended))??;
            Ok(cost)
        })?;
    }
    let [single, beside, ours, few] = [SINGLE, BESIDE, OURS, OURS_FEW].map(|at| costs.of(at));
    let rate = |at: usize| {
        let Figure { value, low, high, n } = costs.places[at].middle();
        Figure { value: 1e9 / value, low: 1e9 / high, high: 1e9 / low, n }
    };
    let times = |figure: Figure| Figure {
        value: 1.0 / figure.value,
        low: 1.0 / figure.high,
        high: 1.0 / figure.low,
        n: figure.n,
    };
    let notes = format!("{ours:.0} ns beside {beside:.0} ns a packet; {single:.0} ns with the single rule");
    let own = format!("{:.0} ns beside {:.0} ns", ours - single, beside - single);
    Ok(vec![
        Row::new("new flows a second, 100 rules, the last matches", "/s", rate(OURS))
            .beside("(rule by rule)", rate(BESIDE))
            .bar(Bar::AtLeast(5.0))
            .note(notes),
        Row::new(
            "  beyond what connection tracking and forwarding cost all",
            "×",
            times(costs.share(OURS, BESIDE, Some(SINGLE))),
        )
        .note(own),
        Row::new("first packet, 1,000 endpoints beside 10", "", costs.share(OURS, OURS_FEW, None))
            .beside("(10 endpoints)", Figure::single(1.0))
            .bar(Bar::Ratio(1.05))
            .note(format!("{ours:.0} ns beside {few:.0} ns")),
    ])
}

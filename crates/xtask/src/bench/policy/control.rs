//! From an event to the kernel's acknowledgement, on a host with a thousand endpoints.
//!
//! The clock runs from the call of the engine until the driver has the last acknowledgement; time that others had the CPU
//! is taken off. Links of endpoints are absent but for the one that comes and goes, so that is the work: what the kernel
//! holds for a link, the `attach` bench measures.

use super::super::forward::bare_host;
use super::super::report::{Bar, Row};
use super::super::stats::Samples;
use super::super::window::on_cpu;
use super::ground::{Ground, Host};
use super::world::{self, MEMBERS, World};
use crate::bench::Plan;
use anyhow::Result;
use lasthop_compute::Event;
use lasthop_lab::netns;
use std::time::Duration;

const WORLD: World = World { endpoints: 1000, policies: 200, rules: 50, shared: true };

/// What is measured, in milliseconds.
#[derive(Default)]
struct Times {
    member: Samples,
    listed: Samples,
    endpoint: Samples,
    edit: Samples,
}

pub(super) fn rows(plan: &Plan) -> Result<Vec<Row>> {
    let ground = Ground::default();
    let mut cold = Samples::default();
    for round in 0..plan.count(5, 2) {
        let name = ground.namespace(&format!("cold{round}"))?;
        let events = WORLD.events()?;
        let took = netns::within(&name, || -> Result<Duration> {
            let mut host = Host::open()?;
            on_cpu(|| host.take(events))
        })??;
        cold.add_ms(took);
    }
    let host = ground.namespace("control")?;
    let workload = ground.namespace("controla")?;
    bare_host(&host, &world::link(WORLD.endpoints), world::address(WORLD.endpoints), &workload)?;
    let times = netns::within(&host, || changes(plan))??;
    let row = |what: &str, times: &Samples, bar| Row::new(what, "ms", times.p99()).bar(Bar::AtMost(bar));
    let median = |times: &Samples| format!("median {:.3} ms", times.median());
    Ok(vec![
        row("a member of a set of 10,000 in or out, p99", &times.member, 1.0).note(median(&times.member)),
        Row::new("  one of a network set's list of 10,000", "ms", times.listed.p99()).note(median(&times.listed)),
        row("an endpoint in, p99", &times.endpoint, 3.0).note(median(&times.endpoint)),
        row("a policy of 50 rules edited, 1,000 endpoints, p99", &times.edit, 10.0).note(median(&times.edit)),
        Row::new("cold start: 1,000 endpoints, 200 policies of 50 rules, 100,000 members", "ms", cold.middle())
            .bar(Bar::AtMost(1500.0)),
    ])
}

fn changes(plan: &Plan) -> Result<Times> {
    let mut host = Host::open()?;
    host.take(WORLD.events()?)?;
    let mut times = Times::default();
    let mut timed = |samples: &mut Samples, event: Event| -> Result<()> {
        host.listen();
        samples.add_ms(on_cpu(|| host.take([event]))?);
        Ok(())
    };
    let mut unmeasured = Samples::default();
    for round in 0..plan.count(1000, 100) {
        let event = world::remote_member(MEMBERS + round % 2000);
        let gone = world::gone(&event);
        timed(&mut times.member, event)?;
        timed(&mut times.member, gone)?;
    }
    let list: Vec<String> = world::members(1).map(|address| format!("{address}/32")).collect();
    for round in 0..plan.count(100, 10) {
        timed(&mut times.listed, world::network_set(1, &list[..MEMBERS - 1 - round % 2])?)?;
    }
    for _ in 0..plan.count(300, 30) {
        let event = WORLD.endpoint(WORLD.endpoints);
        let gone = world::gone(&event);
        timed(&mut times.endpoint, event)?;
        timed(&mut unmeasured, gone)?;
    }
    for round in 0..plan.count(200, 20) {
        timed(&mut times.edit, WORLD.policy(0, round + 1)?)?;
    }
    Ok(times)
}

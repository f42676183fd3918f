//! The computation alone: a cluster of a hundred thousand endpoints, a thousand events a second on one core.

use super::super::report::{Bar, Row};
use super::super::stats::{Figure, Samples};
use super::super::window::on_cpu;
use super::world::{NODE, endpoint, gone, put};
use crate::bench::Plan;
use anyhow::{Context, Result};
use lasthop_compute::{Engine, Event};
use serde_json::json;
use std::net::Ipv4Addr;
use std::time::Duration;

const ENDPOINTS: usize = 100_000;
/// Of these, on this host.
const LOCAL: usize = 100;
const POLICIES: usize = 5_000;
/// Workloads of which endpoints are replicas.
const APPS: usize = 1_000;
const ROLES: usize = 50;
const NAMESPACES: usize = 100;
/// Events in a batch: what a tenth of a second brings.
const BATCH: usize = 100;

pub(super) fn rows(plan: &Plan) -> Result<Vec<Row>> {
    let mut engine = Engine::new(NODE.parse().map_err(anyhow::Error::msg)?);
    for number in 0..NAMESPACES {
        engine.apply(namespace(number, 0)?);
    }
    for number in 0..POLICIES {
        engine.apply(policy(number, 0)?);
    }
    (0..LOCAL).for_each(|number| engine.apply(workload(number, NODE, 0)));
    engine.take_changes();
    let before = resident()?;
    for number in LOCAL..ENDPOINTS {
        engine.apply(remote(number, 0));
        if number % BATCH == 0 {
            engine.take_changes();
        }
    }
    engine.take_changes();
    let each = (resident()? - before) / (ENDPOINTS - LOCAL) as f64;
    let mut batches = Samples::default();
    let mut changed = 0;
    for round in 0..plan.count(1000, 100) {
        let batch: Vec<Event> = (0..BATCH).map(|at| event(round * BATCH + at)).collect::<Result<_>>()?;
        let took: Duration = on_cpu(|| {
            batch.into_iter().for_each(|event| engine.apply(event));
            changed += engine.take_changes().policy.members.len();
            Ok(())
        })?;
        batches.add_ms(took);
    }
    let share = batches.median() / 100.0;
    Ok(vec![
        Row::new("compute: 100 events of 1,000 a second, 100,000 endpoints, 5,000 policies, p99", "ms", batches.p99())
            .bar(Bar::AtMost(5.0))
            .note(format!(
                "median {:.2} ms, {:.1} % of a core; {changed} members moved",
                batches.median(),
                share * 100.0
            )),
        Row::new("  memory of a remote endpoint", "bytes", Figure::single(each)).bar(Bar::AtMost(1024.0)),
    ])
}

/// What happens: endpoints of other hosts come, go and get other labels; now and then a policy or a namespace changes.
fn event(number: usize) -> Result<Event> {
    // Spread over all, the same in every run.
    let which = LOCAL + number.wrapping_mul(7919) % (ENDPOINTS - LOCAL);
    Ok(match number % 100 {
        0 => namespace(which % NAMESPACES, number)?,
        at if at % 20 == 1 => policy(which % POLICIES, number)?,
        at if at % 4 == 2 => gone(&remote(which, 0)),
        _ => remote(which, number),
    })
}

fn remote(number: usize, edition: usize) -> Event {
    workload(number, &format!("h{}", number / 100), edition)
}

fn workload(number: usize, node: &str, edition: usize) -> Event {
    let app = number % APPS;
    let labels = [
        ("app", format!("a{app}")),
        ("role", format!("r{}", (app + edition) % ROLES)),
        ("env", ["production", "test", "staging", "play"][app % 4].to_owned()),
        ("pod-template-hash", format!("{:08x}", app * 7919)),
    ];
    let address = Ipv4Addr::from(0x0a80_0000 + number as u32);
    endpoint(node, number, address, labels)
}

fn namespace(number: usize, edition: usize) -> Result<Event> {
    put(&json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": format!("n{number}"), "labels": { "team": format!("t{}", edition % 7) } },
    }))
}

fn policy(number: usize, edition: usize) -> Result<Event> {
    let rule = |at: usize| {
        json!({
            "action": "Allow", "protocol": "TCP",
            "source": { "selector": format!("role == 'r{}'", (number + at) % ROLES) },
            "destination": { "ports": [8000 + at + edition % 100] },
        })
    };
    put(&json!({
        "apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy",
        "metadata": { "name": format!("p{number}") },
        "spec": {
            "selector": format!("app == 'a{}'", number % APPS), "types": ["Ingress"],
            "ingress": (0..10).map(rule).collect::<Vec<_>>(),
        },
    }))
}

/// Memory that this process has, in bytes.
fn resident() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: f64 = text.split_whitespace().nth(1).context("no statm")?.parse()?;
    Ok(pages * 4096.0)
}

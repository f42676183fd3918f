//! Many workloads deleted at once: until all is gone and the host's tables are as before.

use super::Plan;
use super::parked::{self, Links};
use super::report::{Bar, Row};
use super::site::{Site, until};
use super::stats::Samples;
use anyhow::{Context, Result, ensure};
use lasthop_lab::netns;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

const HOSTS: &str = "
peering: mesh
hosts:
- { name: one, addresses: [172.18.203.11] }
- { name: two, addresses: [172.18.203.12] }
";

/// What is deleted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By callers of the agent.
    Api,
    /// By `lasthop delete` of the resources.
    Store,
}

pub(super) fn run(plan: &Plan) -> Result<Vec<Row>> {
    let count = plan.count(500, 50);
    let site = Site::up(plan, HOSTS)?;
    parked::make_links(&site, "one", count)?;
    let before = Tables::of(&site, "one")?;
    let far_before = Tables::of(&site, "two")?;
    let mut rows = Vec::new();
    for (way, links, what) in [
        (Way::Api, Links::Adopted, "through the API, adopted links"),
        (Way::Api, Links::Made, "through the API, veths we made"),
        (Way::Store, Links::Adopted, "through the store, adopted links"),
        (Way::Store, Links::Made, "through the store, veths we made"),
    ] {
        let (mut here, mut there) = (Samples::default(), Samples::default());
        for _ in 0..plan.count(5, 1) {
            parked::attach(&site, "one", 0..count, links)?;
            let routes = || Tables::routes(&site.namespace("two"), "10.65.");
            until("the other host to have all routes", Duration::from_secs(30), || Ok(routes()? >= count))?;
            let begun = Instant::now();
            match way {
                Way::Api => parked::detach_all(&site, "one", 0..count)?,
                Way::Store => delete_from_store(&site, plan, count)?,
            }
            // What has to be right is compared whole; what is waited for is cheap to ask.
            until("this host to be rid of them", Duration::from_secs(60), || {
                Ok(Tables::routes(&site.namespace("one"), "10.65.")? <= before.routes.len()
                    && Tables::neighbours(&site.namespace("one"))? <= before.neighbours
                    && Tables::of(&site, "one")? == before)
            })?;
            here.add_ms(begun.elapsed());
            until("the other host to be rid of them", Duration::from_secs(60), || {
                Ok(Tables::of(&site, "two")?.routes == far_before.routes)
            })?;
            there.add_ms(begun.elapsed());
        }
        let bar = Bar::AtMost(1000.0);
        rows.push(
            Row::new(format!("{count} workloads deleted {what}: tables as before"), "ms", here.middle()).bar(bar),
        );
        rows.push(Row::new("  and gone from the other host", "ms", there.middle()));
    }
    Ok(rows)
}

/// `lasthop delete workloadendpoint p0 p1 …`, as an operator at the store would.
fn delete_from_store(site: &Site, plan: &Plan, count: usize) -> Result<()> {
    let mut delete = Command::new(&plan.program);
    delete.args(["delete", "workloadendpoint", "--namespace", "default", "--config"]);
    delete.arg(site.directory.config("store")).args((0..count).map(|number| format!("p{number}")));
    let output = netns::within(&site.namespace("store"), || delete.output())?.context("start lasthop")?;
    ensure!(output.status.success(), "lasthop delete: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A host's tables.
#[derive(Debug, PartialEq, Eq)]
struct Tables {
    routes: BTreeSet<String>,
    neighbours: usize,
    links: BTreeSet<String>,
    nft: String,
}

impl Tables {
    fn of(site: &Site, host: &str) -> Result<Self> {
        let namespace = site.namespace(host);
        let lines = |arguments: &[&str]| -> Result<Vec<String>> {
            let text = run_in(&namespace, "ip", arguments)?;
            Ok(text.lines().map(|line| line.trim().to_owned()).collect())
        };
        let links = lines(&["-o", "link", "show", "up"])?;
        let names = links.iter().filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned);
        let nft = run_in(&namespace, "nft", &["list", "table", "inet", "lasthop"])?;
        let without_counts = nft.lines().map(|line| line.split("counter packets").next().unwrap_or_default());
        Ok(Self {
            routes: lines(&["route", "show", "table", "main"])?.into_iter().collect(),
            neighbours: Self::neighbours(&namespace)?,
            links: names.filter(|name| !name.starts_with("lhp")).collect(),
            nft: without_counts.collect::<Vec<_>>().join("\n"),
        })
    }

    fn routes(namespace: &str, beginning: &str) -> Result<usize> {
        let routes = lasthop_lab::routes::read(namespace)?;
        Ok(routes.iter().filter(|route| route.prefix.to_string().starts_with(beginning)).count())
    }

    fn neighbours(namespace: &str) -> Result<usize> {
        Ok(run_in(namespace, "ip", &["neigh", "show", "nud", "permanent"])?.lines().count())
    }
}

fn run_in(namespace: &str, program: &str, arguments: &[&str]) -> Result<String> {
    let output = netns::within(namespace, || Command::new(program).args(arguments).output())?;
    let output = output.with_context(|| format!("cannot start {program}: is it installed?"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

//! How long until attach returns, and until another host gets its first answer from the workload.
//!
//! Two pairs of hosts side by side: one with our speaker, one with BIRD as the speaker of both (`speaker: external`).
//! Rounds alternate between them. The link is there before, with a workload behind it that answers; the other host
//! asks it every half millisecond.

use super::bird::{self, Bird};
use super::echo::Echo;
use super::parked::{self, Links, adopt, detach};
use super::report::{Bar, Row};
use super::site::{Site, until};
use super::stats::Samples;
use super::{Plan, site};
use anyhow::{Context, Result, anyhow};
use lasthop_agent::client::Client;
use lasthop_kernel::link::{self, Change, VethSpec};
use lasthop_kernel::netlink::{Protocol, Socket};
use lasthop_kernel::netns::{Inside, configure};
use lasthop_lab::state::write_json;
use lasthop_lab::{control, netns};
use nix::sys::signal::Signal;
use std::net::Ipv4Addr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

const HOSTS: &str = "
peering: mesh
hosts:
- { name: one, addresses: [172.18.203.11] }
- { name: two, addresses: [172.18.203.12] }
";
const ASK_EVERY: Duration = Duration::from_micros(500);
/// A round is undisturbed if agents and speakers waited for a CPU for less than this in all.
const QUIET: Duration = Duration::from_millis(1);
const MAC: &str = "02:00:00:00:00:09";
const LINK: &str = "lhnew";

/// One pair of hosts and what was measured on it.
struct Pair {
    site: Site,
    client: Client,
    returned: Samples,
    answered: Samples,
    /// Of the rounds in which nobody had to wait for a CPU for long.
    quiet_returned: Samples,
    quiet_answered: Samples,
    number: u32,
    /// All that an attach and its news pass through.
    processes: Vec<i32>,
    _birds: Vec<Bird>,
}

pub(super) fn run(plan: &Plan) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let (few, many) = (plan.count(100, 20), plan.count(1000, 100));
    let rounds = plan.count(300, 20);
    let mut ours = Pair::up(plan, Speaker::Lasthop, many)?;
    let mut birds = Pair::up(plan, Speaker::Bird, many)?;
    let mut attached = 0;
    for workloads in [few, many] {
        for pair in [&mut ours, &mut birds] {
            parked::attach(&pair.site, "one", attached..workloads, Links::Adopted)?;
            pair.returned = Samples::default();
            pair.answered = Samples::default();
            pair.quiet_returned = Samples::default();
            pair.quiet_answered = Samples::default();
        }
        attached = workloads;
        for _ in 0..rounds {
            ours.round()?;
            birds.round()?;
        }
        let what = |part: &str| format!("{part}, {workloads} workloads on the host");
        let beside = "with BIRD as speaker";
        rows.push(
            Row::new(what("attach returns, median"), "ms", ours.returned.middle())
                .beside(beside, birds.returned.middle()),
        );
        rows.push(
            Row::new(what("attach returns, p99"), "ms", ours.returned.p99())
                .beside(beside, birds.returned.p99())
                .bar(Bar::AtMost(5.0))
                .note(undisturbed(&ours.quiet_returned)),
        );
        rows.push(
            Row::new(what("first ping from another host, median"), "ms", ours.answered.middle())
                .beside(beside, birds.answered.middle()),
        );
        rows.push(
            Row::new(what("first ping from another host, p99"), "ms", ours.answered.p99())
                .beside(beside, birds.answered.p99())
                .bar(Bar::AtMost(20.0))
                .note(undisturbed(&ours.quiet_answered)),
        );
    }
    Ok(rows)
}

/// What the rounds say in which other programs did not take the CPU away.
fn undisturbed(samples: &Samples) -> String {
    if samples.len() == 0 {
        return "no undisturbed round".to_owned();
    }
    let (median, p99) = (samples.median(), samples.percentile(0.99));
    format!("undisturbed rounds: median {median:.2}, p99 {p99:.2} (n={})", samples.len())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaker {
    Lasthop,
    Bird,
}

impl Pair {
    fn up(plan: &Plan, speaker: Speaker, links: usize) -> Result<Self> {
        let site = Site::up(plan, HOSTS)?;
        let mut birds = Vec::new();
        if speaker == Speaker::Bird {
            let (one, two) = ("172.18.203.11", "172.18.203.12");
            birds.push(hand_over(&site, "one", (one, two))?);
            birds.push(hand_over(&site, "two", (two, one))?);
            birds.iter().try_for_each(|bird| bird.established("peer"))?;
        }
        parked::make_links(&site, "one", links)?;
        site.further("guest")?;
        let client = site.client("one")?;
        let mut processes: Vec<i32> = birds.iter().map(|bird| bird.record.pid).collect();
        let roles = if speaker == Speaker::Bird { ["agent"].as_slice() } else { ["agent", "bgp"].as_slice() };
        for (host, role) in ["one", "two"].into_iter().flat_map(|host| roles.iter().map(move |role| (host, role))) {
            processes.push(site.process(host, role)?.pid);
        }
        Ok(Self {
            processes,
            site,
            client,
            returned: Samples::default(),
            answered: Samples::default(),
            quiet_returned: Samples::default(),
            quiet_answered: Samples::default(),
            number: 0,
            _birds: birds,
        })
    }

    /// Makes a workload, attaches it, waits for its first answer, and takes it away again.
    fn round(&mut self) -> Result<()> {
        self.number += 1;
        let address = Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(10, 65, 128, 0)) + self.number);
        self.workload(address)?;
        let name = format!("new{}", self.number);
        let request = adopt(&name, LINK, address, Some(MAC.to_owned()));
        let (ready_in, ready) = mpsc::channel();
        let other = self.site.namespace("two");
        let (client, namespace) = (&mut self.client, self.site.namespace("one"));
        let before = waited(&self.processes)?;
        let (begun, returned, answered) = std::thread::scope(|scope| -> Result<_> {
            let asking = scope.spawn(|| netns::within(&other, || first_answer(address, &ready_in)));
            ready.recv().context("the asking thread ended")?;
            // Not in step with the asking: an attach begins at any moment of its half millisecond.
            std::thread::sleep(Duration::from_micros(u64::from(address.octets()[3]) * 7 % 50 * 10));
            let begun = Instant::now();
            let attached = client.attach(request)?;
            let returned = Instant::now();
            anyhow::ensure!(attached.pending.is_empty(), "attach left pending: {:?}", attached.pending);
            let answered = asking.join().map_err(|_| anyhow!("the asking thread panicked"))???;
            Ok((begun, returned, answered))
        })?;
        self.returned.add_ms(returned - begun);
        self.answered.add_ms(answered - begun);
        let waited = waited(&self.processes)?.saturating_sub(before);
        if waited < QUIET {
            self.quiet_returned.add_ms(returned - begun);
            self.quiet_answered.add_ms(answered - begun);
        }
        self.client.detach(detach(&name))?;
        let gone = netns::within(&namespace, || -> Result<bool> {
            Ok(link::delete(&mut Socket::open(Protocol::Route)?, &LINK.parse()?)?)
        })?;
        anyhow::ensure!(gone?, "the link {LINK} was gone already");
        until("the store to know of it", Duration::from_secs(10), || {
            Ok(self.site.status("one")?.store.unpublished == 0)
        })?;
        Ok(())
    }

    /// A link on the host with a workload behind it that is configured and up.
    fn workload(&self, address: Ipv4Addr) -> Result<()> {
        let guest = netns::open(&self.site.namespace("guest"))?;
        let mac = MAC.parse()?;
        netns::within(&self.site.namespace("one"), || -> Result<()> {
            let spec = VethSpec {
                name: LINK.parse()?,
                mac: None,
                netns: Some(&guest),
                peer_name: "eth0".parse()?,
                peer_mac: Some(mac),
                mtu: None,
            };
            let mut socket = Socket::open(Protocol::Route)?;
            link::create_veth(&mut socket, &spec)?;
            // Up before the far end is: that then has its carrier, and may send, at once. The other way round the
            // kernel lets it send only when it comes to it, and a first ARP request may be lost for a second.
            Ok(link::change(&mut socket, &LINK.parse()?, &Change::up())?)
        })??;
        let addresses = [address.into()].into();
        let inside = Inside { link: "eth0".parse()?, addresses, gateway_v6: None, mac: None, mtu: None };
        Ok(configure(&guest, &inside)?)
    }
}

/// How long processes have waited for a CPU that others had.
fn waited(processes: &[i32]) -> Result<Duration> {
    let mut nanoseconds = 0;
    for pid in processes {
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            // A thread may have ended since.
            let text = std::fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            nanoseconds += text.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Asks until there is an answer; when it came.
fn first_answer(address: Ipv4Addr, ready: &mpsc::Sender<()>) -> Result<Instant> {
    let echo = Echo::open(address, 0x6c68)?;
    let end = Instant::now() + Duration::from_secs(10);
    ready.send(())?;
    for number in 0.. {
        echo.ask(number);
        std::thread::sleep(ASK_EVERY);
        if echo.answer().is_some() {
            return Ok(Instant::now());
        }
        anyhow::ensure!(Instant::now() < end, "{address} did not answer within 10 s");
    }
    Err(anyhow!("no more numbers"))
}

/// Ends our speaker on a host and lets BIRD speak instead.
fn hand_over(site: &Site, host: &str, (own, peer): (&str, &str)) -> Result<Bird> {
    for role in ["bgp", "agent"] {
        control::kill(&site.directory, host, role, Signal::SIGKILL)?;
    }
    let file = site.directory.config(host);
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    config["speaker"] = "external".into();
    write_json(&file, &config)?;
    control::start(&site.directory, host, "agent")?;
    site::until("the agent", Duration::from_secs(20), || Ok(site.status(host).is_ok()))?;
    let ours = "krt_source = 76 && net ~ [ 10.65.0.0/16{32,32} ]";
    let kernel = format!(
        "protocol kernel {{ learn; persist; scan time 60; ipv4 {{ import where {ours}; export where source = RTS_BGP; }}; }}\n"
    );
    let direct = "protocol direct { ipv4 { import where net ~ [ 172.18.203.0/24 ]; }; interface \"eth0\"; }\n";
    let session = bird::session("peer", (own, peer), "import all; export where source = RTS_INHERIT; next hop self;");
    Bird::start(site, host, &(bird::base(own) + direct + &kernel + &session))
}

//! Routes from a BGP peer until they are in the kernel: our speaker and agent, and BIRD, fed by the same BIRD.
//!
//! The feeder holds both sessions all the time; static routes that only one of them is shown are switched on and off.
//! The clock starts when the feeder is told to, and stops at the kernel's announcement of the last route.

use super::Plan;
use super::bird::{self, Bird};
use super::monitor::Monitor;
use super::report::{Bar, Row};
use super::site::{Site, until};
use super::stats::Samples;
use anyhow::Result;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// How many routes there are, and how many of them change their next hop.
pub(super) const ALL: usize = 10_000;
const CHANGED: usize = 1_000;
const LIMIT: Duration = Duration::from_secs(30);

/// One host of ours that peers with the feeder alone.
const HOSTS: &str = "
peering: custom
hosts: [{ name: one, addresses: [172.18.203.11] }]
";
/// The feeder is no node of ours, so what it says is taken because a filter says so.
const PEER: &str = "
apiVersion: projectcalico.org/v3
kind: BGPFilter
metadata: { name: all }
spec: { importV4: [{ action: Accept }] }
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: { name: feeder }
spec: { peerIP: 172.18.203.60, asNumber: 64512, filters: [all] }
";

/// A host of ours, BIRD as another host, and the BIRD that feeds both.
pub(super) struct Fed {
    pub(super) site: Site,
    feeder: Bird,
    rival: Bird,
}

/// Who receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiver {
    Ours,
    Bird,
}

impl Receiver {
    const BOTH: [Self; 2] = [Self::Ours, Self::Bird];

    /// The name of the feeder's session.
    fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Bird => "rival",
        }
    }

    /// The part whose namespace it is in.
    fn part(self) -> &'static str {
        match self {
            Self::Ours => "one",
            Self::Bird => "rival",
        }
    }
}

impl Fed {
    pub(super) fn up(plan: &Plan) -> Result<Self> {
        let site = Site::up(plan, HOSTS)?;
        site.on_fabric("feeder", "172.18.203.60/24")?;
        site.on_fabric("rival", "172.18.203.61/24")?;
        let (own, one, other) = ("172.18.203.60", "172.18.203.11", "172.18.203.61");
        let mut config = bird::base(own);
        for (receiver, address) in Receiver::BOTH.into_iter().zip([one, other]) {
            let name = receiver.name();
            statics(&mut config, &format!("{name}_all"), ALL, 200);
            statics(&mut config, &format!("{name}_changed"), CHANGED, 250);
            let export = format!(
                "import none; export filter {{ \
                 if proto = \"{name}_all\" then {{ bgp_next_hop = 172.18.203.70; accept; }} \
                 if proto = \"{name}_changed\" then {{ bgp_next_hop = 172.18.203.71; accept; }} reject; }};"
            );
            config += &bird::session(name, (own, address), &export);
        }
        let feeder = Bird::start(&site, "feeder", &config)?;
        let config = bird::base(other)
            + "protocol direct { ipv4; }\n"
            + "protocol kernel { persist; scan time 600; ipv4 { import none; export where source = RTS_BGP; }; }\n"
            + &bird::session("feeder", (other, own), "import all; export none;");
        let rival = Bird::start(&site, "rival", &config)?;
        site.apply(plan, PEER)?;
        Receiver::BOTH.iter().try_for_each(|receiver| feeder.established(receiver.name()))?;
        until("our session", LIMIT, || Ok(site.status("one")?.speaker.sessions.ready == 1))?;
        Ok(Self { site, feeder, rival })
    }

    /// Switches routes on, for good.
    pub(super) fn feed(&self, receiver: Receiver) -> Result<()> {
        let monitor = Monitor::of_routes(&self.site.namespace(receiver.part()))?;
        self.feeder.ask(&format!("enable {}_all", receiver.name()))?;
        monitor.routes(libc::RTM_NEWROUTE, ALL, LIMIT).map(drop)
    }

    /// Routes within 10.66.0.0/16 that a receiver's kernel has.
    fn in_kernel(&self, receiver: Receiver) -> Result<usize> {
        let routes = lasthop_lab::routes::read(&self.site.namespace(receiver.part()))?;
        Ok(routes.iter().filter(|route| route.prefix.to_string().starts_with("10.66.")).count())
    }

    /// CPU seconds of a receiver's processes so far.
    fn worked(&self, receiver: Receiver) -> Result<f64> {
        let processes = match receiver {
            Receiver::Ours => vec![self.site.process("one", "agent")?.pid, self.site.process("one", "bgp")?.pid],
            Receiver::Bird => vec![self.rival.record.pid],
        };
        processes.into_iter().map(super::footprint::cpu).sum()
    }

    fn round(&self, receiver: Receiver, times: &mut Times) -> Result<()> {
        let name = receiver.name();
        let monitor = Monitor::of_routes(&self.site.namespace(receiver.part()))?;
        let (begun, worked) = (Instant::now(), self.worked(receiver)?);
        self.feeder.ask(&format!("enable {name}_all"))?;
        let (first, last) = monitor.routes(libc::RTM_NEWROUTE, ALL, LIMIT)?;
        times.loaded.add_ms(last - begun);
        times.loading.add_ms(last - first);
        anyhow::ensure!(self.in_kernel(receiver)? == ALL, "{name}: not all routes are in the kernel");
        std::thread::sleep(Duration::from_millis(300));
        times.worked.add((self.worked(receiver)? - worked) * 1e3);

        monitor.clear();
        let begun = Instant::now();
        self.feeder.ask(&format!("enable {name}_changed"))?;
        let (first, last) = monitor.routes(libc::RTM_NEWROUTE, CHANGED, LIMIT)?;
        times.changed.add_ms(last - begun);
        times.changing.add_ms(last - first);
        std::thread::sleep(Duration::from_millis(300));

        monitor.clear();
        let begun = Instant::now();
        for part in ["all", "changed"] {
            self.feeder.ask(&format!("disable {name}_{part}"))?;
        }
        let (_, last) = monitor.routes(libc::RTM_DELROUTE, ALL, LIMIT)?;
        times.gone.add_ms(last - begun);
        std::thread::sleep(Duration::from_millis(300));
        Ok(())
    }
}

/// A static protocol, switched off, with host routes from 10.66.0.0 on.
fn statics(config: &mut String, name: &str, count: usize, preference: u32) {
    let _ = writeln!(config, "protocol static {name} {{ disabled; ipv4 {{ preference {preference}; }};");
    for number in 0..count {
        let _ = writeln!(config, "route 10.66.{}.{}/32 blackhole;", number / 256, number % 256);
    }
    config.push_str("}\n");
}

#[derive(Default)]
struct Times {
    loaded: Samples,
    loading: Samples,
    /// CPU time, which others' use of the machine changes least.
    worked: Samples,
    changed: Samples,
    changing: Samples,
    gone: Samples,
}

pub(super) fn run(plan: &Plan) -> Result<Vec<Row>> {
    let fed = Fed::up(plan)?;
    let (mut ours, mut bird) = (Times::default(), Times::default());
    for round in 0..plan.count(9, 2) {
        let mut order = Receiver::BOTH;
        if round % 2 == 1 {
            order.reverse();
        }
        for receiver in order {
            let times = if receiver == Receiver::Ours { &mut ours } else { &mut bird };
            fed.round(receiver, times)?;
        }
    }
    let row = |what: String, ours: &Samples, bird: &Samples| {
        Row::new(what, "ms", ours.middle()).beside("BIRD", bird.middle())
    };
    Ok(vec![
        row(format!("{ALL} routes from a BGP peer into the kernel"), &ours.loaded, &bird.loaded).bar(Bar::Ratio(0.5)),
        row("  of it, from the first to the last route".to_owned(), &ours.loading, &bird.loading),
        row("  CPU time of the receiver for it".to_owned(), &ours.worked, &bird.worked),
        row(format!("{CHANGED} of {ALL} change their next hop"), &ours.changed, &bird.changed).bar(Bar::AtMost(20.0)),
        row("  of it, from the first to the last route".to_owned(), &ours.changing, &bird.changing),
        row(format!("{ALL} routes withdrawn, gone from the kernel"), &ours.gone, &bird.gone),
    ])
}

//! What happens, and how much may be lost by it.

use super::network::{Edges, Network};
use super::peers::{self, Kind};
use super::report::Bound;
use anyhow::Result;
use nix::sys::signal::Signal;
use std::time::Duration;

/// Something that happens to the network.
pub(super) struct Event {
    pub(super) name: &'static str,
    /// In which network.
    pub(super) edges: Edges,
    pub(super) happens: fn(&Network) -> Result<()>,
    pub(super) bound: fn(Kind) -> Bound,
    /// Another network is made afterwards.
    pub(super) leaves_it_broken: bool,
}

/// How long a host goes without what was ended.
const DOWN: Duration = Duration::from_millis(500);
/// How long a cable is out.
const UNPLUGGED: Duration = Duration::from_secs(3);
/// Longer than the hold time with BIRD and FRR, and than that with ourselves.
/// How long a speaker is away that comes back; its restart time is 120 s.
const AWAY: Duration = Duration::from_secs(30);
const HOLE: Duration = Duration::from_secs(14);
const LONG_HOLE: Duration = Duration::from_secs(95);

const ALL: [&str; 2] = ["bgp", "agent"];

fn nothing(_: Kind) -> Bound {
    Bound::Nothing
}

const fn event(name: &'static str, edges: Edges, happens: fn(&Network) -> Result<()>) -> Event {
    Event { name, edges, happens, bound: nothing, leaves_it_broken: false }
}

pub(super) const EVENTS: &[Event] = &[
    event("kill -9 of a host's agent", Edges::One, |network| restarted(network, &["agent"], Signal::SIGKILL)),
    event("kill -9 of a host's speaker", Edges::One, |network| restarted(network, &["bgp"], Signal::SIGKILL)),
    event("SIGTERM to both, and a start", Edges::One, |network| restarted(network, &ALL, Signal::SIGTERM)),
    event("upgrade: another program in its place, and a restart", Edges::One, |network| {
        network.replace_program()?;
        restarted(network, &ALL, Signal::SIGTERM)
    }),
    event("kill -9 of both, twice within 2 s", Edges::One, |network| {
        network.end("one", &ALL, Signal::SIGKILL)?;
        network.again("one", &ALL)?;
        std::thread::sleep(Duration::from_secs(1));
        restarted(network, &ALL, Signal::SIGKILL)
    }),
    event("kill -9 of the reflector's speaker, and a start", Edges::One, |network| {
        peers::speaker_dies(network, &network.edges[0])?;
        std::thread::sleep(DOWN);
        peers::speaker_starts(network, &network.edges[0])?;
        network.settled()
    }),
    event("kill -9 of both speakers of two hosts, 3 s apart", Edges::One, |network| {
        network.end("one", &["bgp"], Signal::SIGKILL)?;
        std::thread::sleep(DOWN);
        network.again("one", &["bgp"])?;
        std::thread::sleep(Duration::from_secs(3) - DOWN);
        network.end("two", &["bgp"], Signal::SIGKILL)?;
        std::thread::sleep(DOWN);
        network.again("two", &["bgp"])?;
        network.settled()
    }),
    Event {
        bound: |_| Bound::Outage { out: UNPLUGGED, more: Duration::from_secs(1) },
        ..event("a host's link is down for 3 s", Edges::One, |network| {
            network.inside("fabric", &["ip", "link", "set", "host0", "down"])?;
            std::thread::sleep(UNPLUGGED);
            network.inside("fabric", &["ip", "link", "set", "host0", "up"])?;
            network.settled()
        })
    },
    event("the only reflector's speaker is away for 30 s", Edges::One, |network| {
        peers::speaker_dies(network, &network.edges[0])?;
        std::thread::sleep(AWAY);
        peers::speaker_starts(network, &network.edges[0])?;
        network.settled()
    }),
    Event {
        // BIRD 2.0 does not know RFC 8538: when its hold timer is over, so are the routes.
        bound: |kind| match kind {
            Kind::Bird => Bound::Outage { out: HOLE, more: Duration::from_secs(5) },
            Kind::Ourselves | Kind::Frr => Bound::Nothing,
        },
        ..event("the only reflector no longer hears a host (TCP one way)", Edges::One, deaf)
    },
    event("one of two reflectors no longer hears a host (TCP one way)", Edges::Two, deaf),
    event("the link of one of two reflectors is down for 3 s", Edges::Two, |network| {
        let edge = network.edges[0];
        network.inside(edge.name, &["ip", "link", "set", "eth0", "down"])?;
        std::thread::sleep(UNPLUGGED);
        network.inside(edge.name, &["ip", "link", "set", "eth0", "up"])?;
        network.settled()
    }),
    Event {
        leaves_it_broken: true,
        ..event("one of two reflectors dies for good", Edges::Two, |network| {
            let edge = network.edges[0];
            let roles: &[&str] = match network.kind {
                Kind::Ourselves => &ALL,
                Kind::Bird => &["bird"],
                Kind::Frr => &["bgpd", "zebra"],
            };
            network.end(edge.name, roles, Signal::SIGKILL)?;
            network.inside(edge.name, &["ip", "link", "set", "eth0", "down"])?;
            // What was stale goes when its restart time is over.
            std::thread::sleep(Duration::from_secs(130));
            Ok(())
        })
    },
];

/// What the first host says over TCP is lost on its way to the first reflector for longer than the hold time; the other
/// way is open.
fn deaf(network: &Network) -> Result<()> {
    let edge = network.edges[0];
    let rule = ["-s", super::network::HOSTS[0].1, "-p", "tcp", "-j", "DROP"];
    network.inside(edge.name, &[&["iptables", "-I", "INPUT"][..], &rule].concat())?;
    std::thread::sleep(if network.kind == Kind::Ourselves { LONG_HOLE } else { HOLE });
    network.inside(edge.name, &[&["iptables", "-D", "INPUT"][..], &rule].concat())?;
    network.settled()
}

/// Ends processes of the first host, and starts them again.
fn restarted(network: &Network, roles: &[&str], signal: Signal) -> Result<()> {
    network.end("one", roles, signal)?;
    std::thread::sleep(DOWN);
    network.again("one", roles)?;
    network.settled()
}

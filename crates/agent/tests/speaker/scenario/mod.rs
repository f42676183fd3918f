//! Scenarios, written once and run against real daemons. Each is a test named by its number and the daemon:
//! `scenario::s01_one_session::bird`. `cargo xtask interop` runs them all and writes what passed to `docs/interop.md`.
//!
//! What is told apart here: *session* (how it comes up, why it does not, how it ends), *routes* (what goes over it),
//! *reflection*, *restart* (what stays while either end is away), and *raw* (octets that no daemon would send).

mod reflection;
mod restart;
mod routes;
mod session;
mod soak;

use crate::bird::{hosts, speaker};
use crate::daemon::{Kind, Neighbour, Peer, Setup, US};
use crate::support::{Agent, Speaker, peer};
use lasthop_bgp::config::PeerConfig;
use lasthop_testkit::netns::Host;

/// Our AS, and that of a daemon which is a stranger.
const OUR_AS: u32 = 64512;
const THEIR_AS: u32 = 64513;
/// The daemon's address.
const THEM: &str = "10.99.0.2";
/// What the daemon announces, and what we do.
const THEIRS: [&str; 2] = ["203.0.113.0/24", "2001:db8:1::/48"];
const OURS: [&str; 2] = ["10.65.0.0/26", "fd00:65::/64"];

/// One test of one scenario with one daemon.
macro_rules! with {
    (bird $run:path) => {
        #[test]
        fn bird() {
            $run(Kind::Bird);
        }
    };
    (frr $run:path) => {
        #[test]
        fn frr() {
            $run(Kind::Frr);
        }
    };
    (gobgp $run:path) => {
        #[test]
        fn gobgp() {
            $run(Kind::GoBgp);
        }
    };
    (openbgpd $run:path) => {
        #[test]
        fn openbgpd() {
            $run(Kind::OpenBgpd);
        }
    };
    (exabgp $run:path) => {
        #[test]
        fn exabgp() {
            $run(Kind::ExaBgp);
        }
    };
}

/// The table of scenarios: number and name, what runs it, the daemons, what it follows, and why a daemon is not there.
macro_rules! scenarios {
    ($($name:ident $run:path, [$($daemon:ident)*], $reference:literal, $note:literal;)*) => {
        $(mod $name {
            use super::*;
            $(with!($daemon $run);)*
        })*

        /// For the table in the documentation: `name|daemons|reference|note`.
        const LIST: &[[&str; 4]] = &[
            $([stringify!($name), concat!($(stringify!($daemon), " "),*), $reference, $note],)*
        ];
    };
}

scenarios! {
    s01_one_session session::one_session, [bird frr gobgp openbgpd exabgp], "RFC 4271, 5492, 4760, 2918, 6793", "";
    s02_no_transit_inside_an_as session::no_transit, [bird frr gobgp openbgpd], "RFC 4271 9.2.1",
        "ExaBGP: no part of the scenario";
    s03_who_connects session::who_connects, [bird frr gobgp openbgpd exabgp], "RFC 4271 8.1.1",
        "other ports: with BIRD, `either_side_may_be_the_one_that_connects_to_any_port`";
    s04_wrong_as session::wrong_as, [bird frr gobgp openbgpd], "RFC 4271 6.2", "";
    s14_silence session::silence, [bird frr gobgp openbgpd], "RFC 4271 6.5, 8.2.2", "";
    s18_down_with_a_text session::down_with_a_text, [bird frr gobgp openbgpd], "RFC 4486, 9003",
        "FRR 8.4 names the kind of shutdown and not the text; GoBGP 3.10 logs the text undecoded, inside a Hard Reset (RFC 8538)";
    s19_password session::password, [bird frr gobgp openbgpd], "RFC 2385", "";
    s24_long_messages session::long_messages, [bird frr gobgp openbgpd], "RFC 8654",
        "GoBGP 3.10 and OpenBGPD 7.7 do not offer them, and are sent nothing longer than 4,096 octets";
    s27_roles session::roles, [bird frr openbgpd], "RFC 9234", "GoBGP 3.10 and ExaBGP 4.2 have none";
    s28_ipv6_transport session::ipv6_transport, [bird frr gobgp openbgpd], "RFC 2545",
        "OpenBGPD 7.7 announces no IPv4 routes over IPv6; ours arrive. Link-local: BIRD and FRR, `unnumbered_with_bird_and_with_frr_ipv4_goes_over_the_link`";
    r01_attributes_outside routes::attributes_outside, [bird frr gobgp openbgpd exabgp], "RFC 4271 5.1", "";
    r01_attributes_inside routes::attributes_inside, [bird frr gobgp openbgpd exabgp], "RFC 4271 5.1", "";
    r02_a_thousand_changes routes::a_thousand_changes, [bird frr gobgp openbgpd exabgp], "RFC 4271 9.2.1.1", "";
    r03_long_as_numbers routes::long_as_numbers, [bird frr gobgp openbgpd exabgp], "RFC 6793",
        "only ExaBGP can be told to do without 4-octet AS numbers towards a peer that has one";
    r08_communities routes::communities, [bird frr gobgp openbgpd exabgp], "RFC 1997, 8092", "";
    r12_said_again routes::said_again, [bird frr gobgp openbgpd], "RFC 2918, 7313", "ExaBGP does not ask for it";
    r13_too_many_prefixes routes::too_many_prefixes, [bird frr gobgp openbgpd exabgp], "RFC 4486", "";
    r14_several_paths routes::several_paths, [bird frr gobgp openbgpd], "RFC 7911",
        "FRR takes them always. The other way: with BIRD, `bird_and_we_tell_each_other_several_paths_of_a_prefix`";
    r16_without_a_policy routes::without_a_policy, [bird frr gobgp openbgpd exabgp], "RFC 8212", "";
    r17_policy_changes routes::policy_changes, [bird frr gobgp openbgpd exabgp], "", "";
    rr1_reflected reflection::reflected, [bird frr gobgp openbgpd], "RFC 4456 6, 8", "";
    rr1_client reflection::client, [bird frr gobgp openbgpd], "RFC 4456 6, 8", "";
    rr5_three_levels reflection::three_levels, [bird frr openbgpd], "RFC 4456",
        "GoBGP 3.10 gives ORIGINATOR_ID and CLUSTER_LIST only to what it tells its clients, so a reflector above it loses both";
    rr7_nothing_of_it_outside reflection::nothing_outside, [bird frr gobgp openbgpd exabgp], "RFC 4456 8", "";
    g01_we_are_killed restart::we_are_killed, [bird frr gobgp openbgpd], "RFC 4724", "ExaBGP has no table";
    g02_it_is_killed restart::it_is_killed, [bird frr gobgp], "RFC 4724",
        "OpenBGPD 7.7 and ExaBGP keep nothing over a restart of their own, and do not say that they do";
    g03_it_stays_away restart::it_stays_away, [bird frr gobgp], "RFC 4724", "as for G2";
    g06_notified restart::notified, [frr gobgp], "RFC 8538", "BIRD 2.0 and OpenBGPD 7.7 do not know it";
    g09_empty_tables restart::empty_tables, [bird frr gobgp openbgpd exabgp], "RFC 4724 2", "";
}

/// Prints the table for `cargo xtask interop`.
#[test]
#[ignore = "prints the table of scenarios for the documentation"]
fn table() {
    for line in LIST {
        println!("scenario|{}", line.join("|"));
    }
}

/// A daemon and we, on one link.
struct Scene {
    ours: Host,
    theirs: Host,
    speaker: Speaker,
    agent: Agent,
    peer: Peer,
}

impl Scene {
    fn new(kind: Kind, setup: &Setup, config: PeerConfig) -> Self {
        let [ours, theirs] = hosts();
        let peer = kind.start(&theirs, setup);
        let (speaker, mut agent) = speaker(&ours, US, OUR_AS, vec![config]);
        agent.own = OURS.map(|prefix| prefix.parse().unwrap()).into();
        Self { ours, theirs, speaker, agent, peer }
    }

    /// Its session with us is up, and both have what the other announces.
    fn settled(&mut self) {
        self.established();
        for prefix in OURS {
            self.peer.has(&mut self.agent, prefix);
        }
        self.agent.learned(THEIRS[0], &[THEM]);
    }

    fn established(&mut self) -> crate::daemon::Session {
        self.peer.established(&mut self.agent, US, THEM)
    }

    fn has(&mut self, prefix: &str) -> crate::daemon::Seen {
        self.peer.has(&mut self.agent, prefix)
    }

    /// Waits until what the daemon says contains one of these, in any case.
    fn says(&mut self, any: &[&str]) {
        let what = format!("it says one of {any:?}");
        self.peer.until(&mut self.agent, &what, |daemon| {
            let words = daemon.words().to_lowercase();
            any.iter().any(|text| words.contains(&text.to_lowercase())).then_some(())
        });
    }

    /// What we say of our peer.
    fn report(&mut self) -> serde_json::Value {
        self.agent.ask(lasthop_agent::speaker::Question::Peers)[0].clone()
    }

    fn last_error(&self) -> String {
        self.agent.states[0].last_error.clone().unwrap_or_default()
    }
}

/// A daemon of another AS with a route of each family, and what we are told of it.
fn outside() -> (Setup, PeerConfig) {
    (told(THEIR_AS), peer(US, THEM, THEIR_AS))
}

/// A daemon of our own AS.
fn inside() -> (Setup, PeerConfig) {
    (told(OUR_AS), peer(US, THEM, OUR_AS))
}

fn told(asn: u32) -> Setup {
    let setup = Setup::new(2, asn).with(Neighbour::new(US, OUR_AS));
    THEIRS.into_iter().fold(setup, Setup::route)
}

impl Setup {
    /// The same with something changed about its (one) neighbour.
    fn but(mut self, change: impl FnOnce(&mut Neighbour)) -> Self {
        change(&mut self.neighbours[0]);
        self
    }
}

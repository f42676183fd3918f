//! Never taken away before it is withdrawn: a change that takes addresses from an endpoint is kept here until the speaker
//! has told its peers, for [`PATIENCE`] at most. Meanwhile the endpoint stays in force as it was, and the loop does its
//! other work; who asked for the change is answered after it. Changes that wait at the same time are carried out in one
//! cycle, since the kernel takes about as long to part with one link as with fifty; none waits for others for longer than
//! [`GATHER`].
//!
//! What is kept is the event, not the kernel's objects: an event carries its whole value and the last of a key counts, so
//! that compute needs no word for "going". A change of settings or pools does not wait: it is withdrawn, then carried out.

use crate::run::{Agent, Look, endpoint_of};
use crate::voice::Heard;
use lasthop_compute::{Event, Finding, Route};
use lasthop_model::{EndpointKey, Kind, Resource};
use lasthop_net::{IfName, Prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use tokio::time::{Duration, Instant, timeout};

/// How long the removal of a route waits for a speaker that hangs, or whose line is cut. One that is not running is not
/// waited for: while it is dead, nobody can tell its peers.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// How long a change whose withdrawal is confirmed waits for others that are on their way.
const GATHER: Duration = Duration::from_millis(20);

/// Changes that wait for their withdrawal, by endpoint.
pub(crate) type Departures = BTreeMap<EndpointKey, Departure>;

/// Withdrawals that are confirmed but not yet acted on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Confirmed {
    /// Up to this one.
    number: u64,
    /// They wait for others until then.
    until: Instant,
}

/// A change that waits for its withdrawal.
#[derive(Debug)]
pub(crate) struct Departure {
    event: Event,
    /// What it takes away.
    prefixes: BTreeSet<Prefix>,
    /// The withdrawal's number, once it is sent.
    number: Option<u64>,
    until: Instant,
}

impl Departure {
    fn is_confirmed(&self, number: u64) -> bool {
        self.number.is_some_and(|own| own <= number)
    }
}

impl Agent {
    /// Takes in a change of what is known, now or once it may be.
    pub(crate) fn consider(&mut self, event: Event) {
        let Some(key) = endpoint(&event) else { return self.engine.apply(event) };
        let prefixes = self.losing(&key, &event);
        let earlier = self.departures.remove(&key);
        if let (Some(earlier), Look::At(changes)) = (&earlier, &mut self.look) {
            // Withdrawn for a change that has been taken back.
            changes.advertise.extend(earlier.prefixes.difference(&prefixes));
        }
        if prefixes.is_empty() {
            return self.engine.apply(event);
        }
        let until = earlier.map_or_else(|| Instant::now() + PATIENCE, |earlier| earlier.until);
        self.departures.insert(key, Departure { event, prefixes, number: None, until });
    }

    /// The addresses that an event takes from its endpoint, and that peers may believe to be here.
    fn losing(&self, key: &EndpointKey, event: &Event) -> BTreeSet<Prefix> {
        let kept = match event {
            Event::Put(_, Resource::WorkloadEndpoint(endpoint)) if endpoint.node == self.config.node => {
                Some(&endpoint.addresses)
            }
            _ => None,
        };
        let desired = self.engine.desired();
        let Some(before) = self.engine.snapshot().endpoints.get(key) else { return BTreeSet::new() };
        let waits = |prefix: &Prefix| self.departures.get(key).is_some_and(|d| d.prefixes.contains(prefix));
        let ours = |prefix: &Prefix| {
            matches!(desired.routes.get(prefix), Some(Route::Direct { link }) if *link == before.link)
                && self.programmed.contains(prefix)
                && desired.advertise.contains(prefix)
        };
        // The next in line has the address without a gap.
        let inherited = |address: &IpAddr| {
            let from_us = |finding: &Finding| matches!(finding, Finding::AddressTaken { address: a, by } if a == address && by == key);
            desired.findings.values().any(from_us)
        };
        let lost = before.addresses.iter().filter(|address| !kept.is_some_and(|kept| kept.contains(address)));
        let lost = lost.filter(|address| !inherited(address)).map(|address| Prefix::host(*address));
        lost.filter(|prefix| ours(prefix) && (waits(prefix) || self.voice.may_have(prefix))).collect()
    }

    /// Has the speaker withdraw what is to go: what changes wait for, and what a change of settings took away.
    pub(crate) fn withdraw(&mut self, changed: &BTreeSet<Prefix>) {
        let wanted = &self.engine.desired().advertise;
        let advertised = self.voice.advertised();
        let gone = changed.iter().filter(|p| !wanted.contains(p) && advertised.contains(p));
        let waiting = self.departures.values().filter(|departure| departure.number.is_none());
        let prefixes: Vec<Prefix> = gone.chain(waiting.flat_map(|departure| &departure.prefixes)).copied().collect();
        if prefixes.is_empty() {
            return;
        }
        let number = self.voice.withdraw(prefixes);
        for departure in self.departures.values_mut() {
            departure.number.get_or_insert(number);
        }
    }

    /// Carries out what waited for the withdrawals up to this one, unless others are on their way: then soon.
    pub(crate) fn withdrawn(&mut self, number: u64) {
        let until = self.confirmed.map_or_else(|| Instant::now() + GATHER, |confirmed| confirmed.until);
        let number = self.confirmed.map_or(number, |confirmed| confirmed.number.max(number));
        self.confirmed = Some(Confirmed { number, until });
        if self.departures.values().all(|departure| departure.is_confirmed(number)) {
            self.carry_out_confirmed();
        }
    }

    fn carry_out_confirmed(&mut self) {
        if let Some(Confirmed { number, .. }) = self.confirmed.take() {
            self.carry_out(|departure| departure.is_confirmed(number));
        }
    }

    /// Carries out what has waited long enough.
    pub(crate) fn give_up_waiting(&mut self) {
        let now = Instant::now();
        if self.confirmed.is_some_and(|confirmed| confirmed.until <= now) {
            self.carry_out_confirmed();
        }
        let count = self.carry_out(|departure| departure.until <= now);
        if count > 0 {
            tracing::warn!(count, "the speaker did not confirm withdrawals in time; the routes go all the same");
        }
    }

    /// When [`Self::give_up_waiting`] is next to be called.
    pub(crate) fn patience_ends(&self) -> Option<Instant> {
        let gathered = self.confirmed.map(|confirmed| confirmed.until);
        self.departures.values().map(|departure| departure.until).chain(gathered).min()
    }

    fn carry_out(&mut self, is_due: impl Fn(&Departure) -> bool) -> usize {
        let due: Vec<EndpointKey> = self.departures.iter().filter(|(_, d)| is_due(d)).map(|(k, _)| k.clone()).collect();
        for key in &due {
            if let Some(departure) = self.departures.remove(key) {
                self.engine.apply(departure.event);
            }
        }
        due.len()
    }

    /// Whether a link is in use only until its endpoint's withdrawal.
    pub(crate) fn is_departing(&self, link: &IfName) -> bool {
        self.engine.desired().links.get(link).is_some_and(|link| self.departures.contains_key(&link.endpoint))
    }

    /// What is withdrawn though it is in force yet.
    pub(crate) fn departing(&self) -> BTreeSet<Prefix> {
        self.departures.values().flat_map(|departure| &departure.prefixes).copied().collect()
    }

    /// Withdraws everything, and waits for the speaker to have said so. The agent does nothing else: it ends.
    pub(crate) async fn withdraw_all(&mut self) {
        let all: Vec<Prefix> = self.programmed.iter().filter(|prefix| self.voice.may_have(prefix)).copied().collect();
        if all.is_empty() {
            return;
        }
        let number = self.voice.withdraw(all);
        let confirmed =
            async { while !matches!(self.voice.hear().await, Heard::Withdrawn(confirmed) if confirmed >= number) {} };
        if timeout(PATIENCE, confirmed).await.is_err() {
            tracing::warn!("the speaker did not confirm the last withdrawal in time");
        }
    }
}

/// The endpoint that an event is about.
fn endpoint(event: &Event) -> Option<EndpointKey> {
    match event {
        Event::Put(key, _) | Event::Gone(key) | Event::Invalid { key, .. } if key.kind == Kind::WorkloadEndpoint => {
            Some(endpoint_of(key))
        }
        _ => None,
    }
}

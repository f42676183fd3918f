//! The speaker: peers, RIBs and the glue between them.

use crate::api::{ConnId, Input, Origin, Output, Start, StopMode};
use crate::config::{PeerConfig, SpeakerConfig};
use crate::report::{PathReport, PeerStatus, WhyReport};
use lasthop_net::Prefix;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Instant;

/// A BGP speaker: bytes and time go in, bytes, learned routes and deadlines come out.
#[derive(Debug)]
pub struct Speaker {
    config: SpeakerConfig,
    outputs: VecDeque<Output>,
}

impl Speaker {
    /// A speaker without peers or routes.
    #[must_use]
    pub fn new(config: SpeakerConfig, _start: Start, _now: Instant) -> Self {
        Self { config, outputs: VecDeque::new() }
    }

    /// Changes who we are. A new AS or identifier resets the sessions; nothing else does.
    pub fn configure(&mut self, _now: Instant, config: SpeakerConfig) {
        self.config = config;
    }

    /// Adds a peer, or changes it. The session is reset only if the change cannot take effect without that
    /// (AS, families, our address).
    pub fn set_peer(&mut self, _now: Instant, _peer: PeerConfig) {}

    /// Removes a peer with all it told us.
    pub fn remove_peer(&mut self, _now: Instant, _peer: IpAddr) {}

    /// Announces an own route, or changes how.
    pub fn advertise(&mut self, _now: Instant, _prefix: Prefix, _origin: Origin) {}

    /// Takes an own route back.
    pub fn withdraw(&mut self, _now: Instant, _prefix: Prefix) {}

    /// All own routes are known: End-of-RIB may go out.
    pub fn own_routes_complete(&mut self, _now: Instant) {}

    /// Takes one input.
    pub fn handle(&mut self, _now: Instant, _input: Input) {}

    /// Takes received octets.
    pub fn receive(&mut self, _now: Instant, _conn: ConnId, _bytes: &[u8]) {}

    /// When [`Input::Timeout`] is due.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        None
    }

    /// The next thing to do. Call until `None` after every other call.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// All peers, by address.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        Vec::new()
    }

    /// All paths, or those to one prefix.
    #[must_use]
    pub fn paths(&self, _filter: Option<Prefix>) -> Vec<PathReport> {
        Vec::new()
    }

    /// Everything about one prefix.
    #[must_use]
    pub fn why(&self, prefix: Prefix) -> WhyReport {
        WhyReport { prefix, paths: Vec::new(), advertised: Vec::new(), next_hops: Vec::new() }
    }

    /// Ends all sessions, for good.
    pub fn stop(&mut self, _now: Instant, _mode: StopMode) {}
}

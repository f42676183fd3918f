//! An operator's questions, answered as JSON. The speaker's reports know nothing of serde or of the wall clock; the
//! structs here are what the JSON looks like.

use super::protocol::{FRAME_LIMIT, PeerState, Question};
use lasthop_bgp::{
    NegotiatedReport, PathReport, PathSource, PathVerdict, PeerStatus, RestartStatus, Speaker, WhyReport,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The same moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    instant: Instant,
    wall: SystemTime,
}

impl Now {
    pub(super) fn read() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }

    /// A moment on both clocks.
    pub(super) fn at(instant: Instant, wall: SystemTime) -> Self {
        Self { instant, wall }
    }

    /// Seconds since 1970 of a moment that has been.
    fn since(self, then: Instant) -> u64 {
        let wall = self.wall.checked_sub(self.instant.saturating_duration_since(then)).unwrap_or(UNIX_EPOCH);
        wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Peer {
    address: IpAddr,
    asn: u32,
    local_asn: u32,
    state: String,
    /// Seconds since 1970.
    since: u64,
    state_seconds: u64,
    last_error: Option<String>,
    local_address: Option<IpAddr>,
    prefixes_in: usize,
    prefixes_out: usize,
    prefixes_refused: usize,
    prefixes_stale: usize,
    restart: Restart,
    /// What BFD says of it.
    bfd: Option<String>,
    /// What an operator should know of.
    notes: Vec<String>,
    negotiated: Option<Negotiated>,
    counters: Counters,
    /// How often its sessions ended in which way.
    endings: Vec<Ending>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Ending {
    /// `us`, `peer` or `connection`.
    by: String,
    reason: &'static str,
    times: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Restart {
    state: String,
    /// Until stale routes are dropped.
    seconds_left: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Negotiated {
    router_id: Ipv4Addr,
    families: Vec<String>,
    hold_seconds: u64,
    capabilities: Vec<String>,
    graceful_restart: Option<GracefulRestart>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GracefulRestart {
    restart_seconds: u64,
    forwarding_kept: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Counters {
    messages_in: u64,
    messages_out: u64,
    updates_in: u64,
    updates_out: u64,
    treated_as_withdraw: u64,
    attributes_discarded: u64,
    established: u64,
    lost: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Path {
    prefix: String,
    /// `own route`, or the peer's address.
    from: String,
    next_hop: Option<IpAddr>,
    attributes: BTreeMap<&'static str, String>,
    stale: bool,
    used: bool,
    verdict: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Why {
    prefix: String,
    paths: Vec<Path>,
    advertised: Vec<Advertised>,
    next_hops: Vec<IpAddr>,
    /// The longest other prefix with a path that covers it.
    covered_by: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Advertised {
    peer: IpAddr,
    /// What is announced to it.
    next_hop: Option<IpAddr>,
    /// Why nothing is.
    reason: Option<String>,
}

/// Why nothing comes from a peer that is connected, as far as the driver can tell.
pub(super) type Suspicion<'a> = &'a dyn Fn(IpAddr) -> Option<String>;

fn peers(speaker: &Speaker, suspicion: Suspicion<'_>) -> Vec<PeerStatus> {
    let mut peers = speaker.peers();
    for peer in peers.iter_mut().filter(|peer| peer.state == lasthop_bgp::PeerState::OpenSent) {
        if let Some(words) = suspicion(peer.address) {
            peer.last_error = Some(words);
        }
    }
    peers
}

/// Answers a question in one message.
///
/// # Errors
/// In words, if the answer is too long.
pub(super) fn answer(speaker: &Speaker, question: Question, about: (Now, Suspicion<'_>)) -> Result<String, String> {
    let json = whole_answer(speaker, question, about)?;
    if json.len() > FRAME_LIMIT - 64 {
        return Err(format!("the answer has {} MiB, too many for one message: ask for one prefix", json.len() >> 20));
    }
    Ok(json)
}

/// Answers a question, however long the answer is.
///
/// # Errors
/// In words, if it cannot be written as JSON.
pub(super) fn whole_answer(
    speaker: &Speaker,
    question: Question,
    (now, suspicion): (Now, Suspicion<'_>),
) -> Result<String, String> {
    let json = match question {
        Question::Peers => {
            json(&peers(speaker, suspicion).into_iter().map(|peer| Peer::new(peer, now)).collect::<Vec<_>>())
        }
        Question::Paths(prefix) => json(&speaker.paths(prefix).into_iter().map(Path::from).collect::<Vec<_>>()),
        Question::Why(prefix) => json(&Why::from(speaker.why(prefix))),
        // The driver's.
        Question::Events(_) | Question::Dump(_) | Question::Record(_) => Err("not a question to the tables".to_owned()),
    }?;
    Ok(json)
}

fn json(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string(value).map_err(|error| error.to_string())
}

/// Every peer in one line.
pub(super) fn states(speaker: &Speaker, (now, suspicion): (Now, Suspicion<'_>)) -> Vec<PeerState> {
    let line = |peer: PeerStatus| PeerState {
        address: peer.address,
        state: peer.state.to_string(),
        since: now.since(peer.since),
        last_error: peer.last_error,
        prefixes_in: peer.prefixes_in as u64,
        prefixes_out: peer.prefixes_out as u64,
    };
    peers(speaker, suspicion).into_iter().map(line).collect()
}

impl Peer {
    fn new(peer: PeerStatus, now: Now) -> Self {
        let left = |until: Instant| until.saturating_duration_since(now.instant).as_secs();
        Self {
            address: peer.address,
            asn: peer.asn.0,
            local_asn: peer.local_asn.0,
            state: peer.state.to_string(),
            since: now.since(peer.since),
            state_seconds: now.instant.saturating_duration_since(peer.since).as_secs(),
            last_error: peer.last_error,
            local_address: peer.local_address,
            prefixes_in: peer.prefixes_in,
            prefixes_out: peer.prefixes_out,
            prefixes_refused: peer.prefixes_refused,
            prefixes_stale: peer.prefixes_stale,
            restart: Restart {
                state: peer.restart.to_string(),
                seconds_left: match peer.restart {
                    RestartStatus::PeerAway { until } | RestartStatus::LongLived { until } => Some(left(until)),
                    _ => None,
                },
            },
            bfd: peer.bfd.map(|state| state.to_string()),
            notes: peer.notes,
            negotiated: peer.negotiated.map(Negotiated::from),
            endings: peer
                .endings
                .into_iter()
                .map(|(ending, times)| Ending { by: ending.by.to_string(), reason: ending.reason, times })
                .collect(),
            counters: Counters {
                messages_in: peer.counters.messages_in,
                messages_out: peer.counters.messages_out,
                updates_in: peer.counters.updates_in,
                updates_out: peer.counters.updates_out,
                treated_as_withdraw: peer.counters.treated_as_withdraw,
                attributes_discarded: peer.counters.attributes_discarded,
                established: peer.counters.established,
                lost: peer.counters.lost,
            },
        }
    }
}

impl From<NegotiatedReport> for Negotiated {
    fn from(report: NegotiatedReport) -> Self {
        let words = |families: Vec<lasthop_net::Family>| families.iter().map(ToString::to_string).collect();
        Self {
            router_id: report.router_id,
            families: words(report.families),
            hold_seconds: report.hold_time.as_secs(),
            capabilities: report.capabilities,
            graceful_restart: report.graceful_restart.map(|(time, families)| GracefulRestart {
                restart_seconds: Duration::as_secs(&time),
                forwarding_kept: words(families),
            }),
        }
    }
}

impl From<PathReport> for Path {
    fn from(report: PathReport) -> Self {
        Self {
            prefix: report.prefix.to_string(),
            from: report.from.to_string(),
            next_hop: (report.from != PathSource::Local).then_some(report.next_hop),
            attributes: report.attributes.into_iter().collect(),
            stale: report.stale,
            used: matches!(report.verdict, PathVerdict::Best | PathVerdict::Multipath),
            verdict: report.verdict.to_string(),
        }
    }
}

impl From<WhyReport> for Why {
    fn from(report: WhyReport) -> Self {
        Self {
            prefix: report.prefix.to_string(),
            paths: report.paths.into_iter().map(Path::from).collect(),
            advertised: report
                .advertised
                .into_iter()
                .map(|line| {
                    let (next_hop, reason) = match line.outcome {
                        Ok(next_hop) => (Some(next_hop), None),
                        Err(reason) => (None, Some(reason.to_string())),
                    };
                    Advertised { peer: line.peer, next_hop, reason }
                })
                .collect(),
            next_hops: report.next_hops,
            covered_by: report.covered_by.map(|prefix| prefix.to_string()),
        }
    }
}

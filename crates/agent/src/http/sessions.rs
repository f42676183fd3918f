//! The speaker's sessions as metrics: how each stands, what went over it, how it ended.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Deserialize;

/// A session, as far as it is told.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Session {
    address: String,
    asn: u32,
    state: String,
    since: u64,
    prefixes_in: u64,
    prefixes_out: u64,
    prefixes_refused: u64,
    prefixes_stale: u64,
    counters: Counters,
    endings: Vec<Ending>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Counters {
    messages_in: u64,
    messages_out: u64,
    updates_in: u64,
    updates_out: u64,
    treated_as_withdraw: u64,
    attributes_discarded: u64,
}

#[derive(Debug, Deserialize)]
struct Ending {
    by: String,
    reason: String,
    times: u64,
}

type Label = (&'static str, String);

/// Registers all; nothing where there are no sessions.
pub(super) fn register(registry: &mut Registry, sessions: &[Session]) {
    if !sessions.is_empty() {
        states(registry, sessions);
        counters(registry, sessions);
    }
}

fn states(registry: &mut Registry, sessions: &[Session]) {
    let up: Family<[Label; 2], Gauge> = Family::default();
    let state: Family<[Label; 2], Gauge> = Family::default();
    let since: Family<[Label; 1], Gauge> = Family::default();
    let prefixes: Family<[Label; 2], Gauge> = Family::default();
    for session in sessions {
        let peer = || ("peer", session.address.clone());
        let asn = ("asn", session.asn.to_string());
        up.get_or_create(&[peer(), asn]).set(i64::from(session.state == "Established"));
        state.get_or_create(&[peer(), ("state", session.state.clone())]).set(1);
        since.get_or_create(&[peer()]).set(i64::try_from(session.since).unwrap_or(i64::MAX));
        for (kind, count) in [
            ("in", session.prefixes_in),
            ("out", session.prefixes_out),
            ("refused", session.prefixes_refused),
            ("stale", session.prefixes_stale),
        ] {
            let kind = ("kind", kind.to_owned());
            prefixes.get_or_create(&[peer(), kind]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
    registry.register("bgp_session_up", "1 while the BGP session is established", up);
    registry.register("bgp_session_state", "1 for the state that the BGP session is in", state);
    registry.register("bgp_session_since", "When the BGP session came up or went down, in seconds since 1970", since);
    let help =
        "Prefixes told by the peer (in), told to it (out), refused from it, kept from before its restart (stale)";
    registry.register("bgp_prefixes", help, prefixes);
}

fn counters(registry: &mut Registry, sessions: &[Session]) {
    let messages: Family<[Label; 2], Counter> = Family::default();
    let updates: Family<[Label; 2], Counter> = Family::default();
    let treated: Family<[Label; 1], Counter> = Family::default();
    let discarded: Family<[Label; 1], Counter> = Family::default();
    let endings: Family<[Label; 3], Counter> = Family::default();
    for session in sessions {
        let peer = || ("peer", session.address.clone());
        let counted = &session.counters;
        for (direction, all, of_routes) in
            [("in", counted.messages_in, counted.updates_in), ("out", counted.messages_out, counted.updates_out)]
        {
            let labels = [peer(), ("direction", direction.to_owned())];
            messages.get_or_create(&labels).inc_by(all);
            updates.get_or_create(&labels).inc_by(of_routes);
        }
        treated.get_or_create(&[peer()]).inc_by(counted.treated_as_withdraw);
        discarded.get_or_create(&[peer()]).inc_by(counted.attributes_discarded);
        for ending in &session.endings {
            let labels = [peer(), ("by", ending.by.clone()), ("reason", ending.reason.clone())];
            endings.get_or_create(&labels).inc_by(ending.times);
        }
    }
    registry.register("bgp_messages", "BGP messages of all kinds", messages);
    registry.register("bgp_updates", "BGP UPDATE messages", updates);
    let help = "UPDATE messages whose routes were treated as withdrawn (RFC 7606)";
    registry.register("bgp_treated_as_withdraw", help, treated);
    registry.register("bgp_attributes_discarded", "Attributes discarded (RFC 7606)", discarded);
    registry.register("bgp_session_endings", "Times that an established session ended, by whom and for what", endings);
}

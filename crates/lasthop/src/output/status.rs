//! A host on one screen.

use super::{Cell, Now, Paint, Sheet, Tone, ago, span};
use lasthop_agent::api::{Count, PeerLine, SpeakerStatus, Status, Workload};
use std::collections::BTreeMap;
use std::time::Duration;

/// How many repairs are shown; the rest is counted.
const REPAIRS_SHOWN: usize = 5;

/// How many links that are not up are named; the rest is counted.
const LINKS_SHOWN: usize = 3;

/// Draws the screen: a verdict, a line for each part, then what is not as it ought to be.
pub(crate) fn status(status: &Status, workloads: &[Workload], now: Now, paint: Paint) -> String {
    let mut text = String::new();
    let wrong = verdict(status);
    let verdict = match wrong.is_empty() {
        true => paint.paint(Tone::Good, "ok"),
        false => format!("{}: {}", paint.paint(Tone::Bad, "degraded"), wrong.join(", ")),
    };
    let uptime = span(Duration::from_secs(status.uptime_s));
    text.push_str(&format!("{}  {verdict}\n", paint.paint(Tone::Strong, &status.node)));
    text.push_str(&format!("agent {}, up {uptime}, {} kernel writes since start\n\n", status.version, status.writes));

    let mut parts = Sheet::new(&["PART", "STATE", "DETAIL"]);
    let store = &status.store;
    let mut detail = format!("{}, revision {}", store.endpoint, store.revision);
    if store.unpublished > 0 {
        detail.push_str(&format!(", {} endpoints not yet published", store.unpublished));
    }
    if let Some(error) = &store.error {
        detail.push_str(&format!(", last error: {error}"));
    }
    parts.row(vec!["store".into(), state(&store.state), detail.into()]);
    parts.row(vec!["speaker".into(), state(&status.speaker.state), speaker(&status.speaker).into()]);
    parts.row(counted("workloads", status.workloads));
    parts.row(links(workloads));
    parts.row(counted("direct routes", status.direct_routes));
    parts.row(counted("learned routes", status.learned_routes));
    text.push_str(&parts.draw(paint, 0));

    if !status.speaker.peers.is_empty() {
        section(&mut text, paint, "BGP sessions", &peers(&status.speaker.peers));
    }
    section(&mut text, paint, "Not in force", &reasons(&["OBJECT", "WHY"], &status.pending));
    section(&mut text, paint, "Yields to another program", &reasons(&["OBJECT", "WHY"], &status.yielding));
    section(&mut text, paint, "Findings", &reasons(&["OBJECT", "WHY"], &status.findings));
    let mut repaired = Sheet::new(&["WHEN", "OBJECT", "WHAT WAS DONE"]);
    for drift in status.drift.iter().rev().take(REPAIRS_SHOWN) {
        repaired.row(vec![ago(now, drift.at).into(), drift.object.as_str().into(), drift.action.as_str().into()]);
    }
    section(&mut text, paint, &format!("Drift repaired ({})", status.drift_repaired), &repaired);
    let mut drops = Sheet::new(&["REASON", "PACKETS"]);
    for (reason, packets) in status.drops.iter().filter(|(_, packets)| **packets > 0) {
        drops.row(vec![reason.as_str().into(), packets.to_string().into()]);
    }
    section(&mut text, paint, "Packets dropped by the guard", &drops);
    text
}

/// What is wrong with the host, in words.
fn verdict(status: &Status) -> Vec<String> {
    let mut wrong = Vec::new();
    if status.store.state != "in-sync" {
        wrong.push(format!("store {}", status.store.state));
    }
    let speaker = &status.speaker;
    if speaker.state == "connecting" {
        wrong.push("speaker not connected".to_owned());
    }
    let missing = |count: Count| count.total.saturating_sub(count.ready);
    let mut count = |number: usize, one: &str, rest: &str| {
        if number > 0 {
            let plural = if number == 1 { "" } else { "s" };
            wrong.push(format!("{number} {one}{plural}{rest}"));
        }
    };
    count(missing(speaker.sessions), "session", " down");
    count(missing(status.workloads), "workload", " not in force");
    count(missing(status.learned_routes), "learned route", " not in the kernel");
    count(status.findings.len(), "finding", "");
    wrong
}

fn state(word: &str) -> Cell {
    let tone = match word {
        "in-sync" | "connected" | "external" => Tone::Good,
        "connecting" => Tone::Wait,
        _ => Tone::Bad,
    };
    Cell::new(tone, word)
}

fn speaker(speaker: &SpeakerStatus) -> String {
    if speaker.state == "external" {
        return "another speaker on this host distributes the direct routes".to_owned();
    }
    let Count { ready, total } = speaker.sessions;
    let sync = if speaker.in_sync { "learned paths complete" } else { "learned paths not yet complete" };
    format!("{ready} of {total} sessions established, {sync}")
}

fn counted(what: &str, count: Count) -> Vec<Cell> {
    let tone = if count.ready == count.total { Tone::Good } else { Tone::Wait };
    vec![what.into(), Cell::new(tone, format!("{}/{}", count.ready, count.total)), "in force".into()]
}

/// How many workload links are up, and which are not.
fn links(workloads: &[Workload]) -> Vec<Cell> {
    let states: BTreeMap<&str, &str> =
        workloads.iter().map(|workload| (workload.link.as_str(), workload.link_state.as_str())).collect();
    let others: Vec<_> = states.iter().filter(|(_, state)| **state != "up").collect();
    let tone = if others.is_empty() { Tone::Good } else { Tone::Bad };
    let mut detail = "up".to_owned();
    for (link, state) in others.iter().take(LINKS_SHOWN) {
        detail.push_str(&format!(", {link} {state}"));
    }
    if others.len() > LINKS_SHOWN {
        detail.push_str(&format!(", {} more not up", others.len() - LINKS_SHOWN));
    }
    let count = format!("{}/{}", states.len() - others.len(), states.len());
    vec!["links".into(), Cell::new(tone, count), detail.into()]
}

fn peers(peers: &[PeerLine]) -> Sheet {
    let mut sheet = Sheet::new(&["PEER", "STATE", "BECAUSE OF", "LAST ERROR"]);
    for peer in peers {
        let tone = if peer.state.eq_ignore_ascii_case("established") { Tone::Good } else { Tone::Bad };
        let error = peer.error.as_deref().unwrap_or_default();
        let state = Cell::new(tone, peer.state.as_str());
        sheet.row(vec![peer.address.to_string().into(), state, peer.because.as_str().into(), error.into()]);
    }
    sheet
}

fn reasons(headers: &[&'static str], reasons: &BTreeMap<String, String>) -> Sheet {
    let mut sheet = Sheet::new(headers);
    for (object, why) in reasons {
        sheet.row(vec![object.as_str().into(), why.as_str().into()]);
    }
    sheet
}

/// A heading and its table, if there is anything in it.
fn section(text: &mut String, paint: Paint, heading: &str, sheet: &Sheet) {
    if !sheet.is_empty() {
        text.push_str(&format!("\n{}\n{}", paint.paint(Tone::Strong, heading), sheet.draw(paint, 2)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lasthop_agent::api::{Drift, StoreStatus};

    fn healthy() -> Status {
        let count = |ready, total| Count { ready, total };
        Status {
            node: "compute-1".into(),
            version: "0.1.0".into(),
            uptime_s: 192,
            store: StoreStatus {
                endpoint: "172.18.203.3:7470".into(),
                state: "in-sync".into(),
                revision: 42,
                error: None,
                unpublished: 0,
            },
            speaker: SpeakerStatus {
                state: "connected".into(),
                sessions: count(1, 1),
                in_sync: true,
                peers: vec![PeerLine {
                    address: "172.18.203.2".parse().unwrap(),
                    because: "reflector".into(),
                    state: "Established".into(),
                    error: None,
                }],
            },
            workloads: count(2, 2),
            direct_routes: count(2, 2),
            learned_routes: count(3, 3),
            writes: 31,
            drift: vec![],
            drift_repaired: 0,
            refusals: 0,
            findings: BTreeMap::new(),
            pending: BTreeMap::new(),
            yielding: BTreeMap::new(),
            drops: BTreeMap::from([("spoofed".to_owned(), 0)]),
        }
    }

    fn workload(number: usize, state: &str) -> Workload {
        Workload {
            endpoint: format!("default/vm{number}"),
            link: format!("tap{number}"),
            link_state: state.to_owned(),
            addresses: [].into(),
            mac: None,
            labels: BTreeMap::new(),
            source: "store".into(),
            programmed: [].into(),
            pending: BTreeMap::new(),
        }
    }

    #[test]
    fn a_healthy_host_is_one_short_screen() {
        let expected = "\
compute-1  ok
agent 0.1.0, up 3m12s, 31 kernel writes since start

PART            STATE      DETAIL
store           in-sync    172.18.203.3:7470, revision 42
speaker         connected  1 of 1 sessions established, learned paths complete
workloads       2/2        in force
links           2/2        up
direct routes   2/2        in force
learned routes  3/3        in force

BGP sessions
  PEER          STATE        BECAUSE OF  LAST ERROR
  172.18.203.2  Established  reflector   -
";
        assert_eq!(status(&healthy(), &[workload(0, "up"), workload(1, "up")], Now(1000), Paint::OFF), expected);
    }

    #[test]
    fn what_is_wrong_is_said_in_words() {
        let mut host = healthy();
        host.store.state = "from snapshot".into();
        host.store.error = Some("connection refused".into());
        host.speaker.sessions.ready = 0;
        host.speaker.peers[0].state = "Active".into();
        host.speaker.peers[0].error = Some("peer's AS is 64513, expected 64512".into());
        host.workloads.ready = 1;
        host.findings.insert("default/vm2".into(), "address 10.65.0.24 is taken by default/vm1".into());
        host.yielding.insert("route 10.65.0.0/16".into(), "a foreign route (kernel) is in place".into());
        host.pending.insert("route 10.65.0.24/32".into(), "link tapa429fb36-04 is absent".into());
        for number in 0..7 {
            let action = "put back".to_owned();
            host.drift_repaired += 1;
            host.drift.push(Drift { at: 900 + number, object: format!("route 10.65.0.{number}/32"), action });
        }
        host.drops.insert("spoofed".into(), 3);
        let expected = "\
compute-1  degraded: store from snapshot, 1 session down, 1 workload not in force, 1 finding
agent 0.1.0, up 3m12s, 31 kernel writes since start

PART            STATE          DETAIL
store           from snapshot  172.18.203.3:7470, revision 42, last error: connection refused
speaker         connected      0 of 1 sessions established, learned paths complete
workloads       1/2            in force
links           1/6            up, tap1 down, tap2 down, tap3 down, 2 more not up
direct routes   2/2            in force
learned routes  3/3            in force

BGP sessions
  PEER          STATE   BECAUSE OF  LAST ERROR
  172.18.203.2  Active  reflector   peer's AS is 64513, expected 64512

Not in force
  OBJECT               WHY
  route 10.65.0.24/32  link tapa429fb36-04 is absent

Yields to another program
  OBJECT              WHY
  route 10.65.0.0/16  a foreign route (kernel) is in place

Findings
  OBJECT       WHY
  default/vm2  address 10.65.0.24 is taken by default/vm1
";
        let states = ["up", "down", "down", "down", "absent", "absent"];
        let workloads: Vec<_> = states.iter().enumerate().map(|(number, state)| workload(number, state)).collect();
        let text = status(&host, &workloads, Now(1000), Paint::OFF);
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("\nDrift repaired (7)\n"), "{text}");
        assert_eq!(text.matches("put back").count(), REPAIRS_SHOWN, "the newest are shown: {text}");
        assert!(text.contains("1m34s ago  route 10.65.0.6/32  put back"), "{text}");
        assert!(text.ends_with("Packets dropped by the guard\n  REASON   PACKETS\n  spoofed  3\n"), "{text}");
    }
}

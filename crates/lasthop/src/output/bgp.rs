//! What the speaker answers: peers, paths, why a path.

use super::{Cell, Format, Paint, Sheet, Tone, list, span};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// A peer, as far as it is shown.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Peer {
    address: String,
    asn: u32,
    local_asn: u32,
    state: String,
    state_seconds: u64,
    last_error: Option<String>,
    local_address: Option<String>,
    prefixes_in: u64,
    prefixes_out: u64,
    prefixes_refused: u64,
    restart: Restart,
    negotiated: Option<Negotiated>,
    #[serde(default)]
    notes: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Restart {
    state: String,
    seconds_left: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Negotiated {
    hold_seconds: u64,
    families: Vec<String>,
}

/// A path, as far as it is shown.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Path {
    prefix: String,
    from: String,
    next_hop: Option<String>,
    attributes: BTreeMap<String, String>,
    stale: bool,
    used: bool,
    verdict: String,
}

/// Everything about one prefix.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Why {
    prefix: String,
    paths: Vec<Path>,
    advertised: Vec<Advertised>,
    next_hops: Vec<String>,
    #[serde(default)]
    covered_by: Option<String>,
    #[serde(default)]
    kernel: Option<Kernel>,
}

/// What became of it in the kernel.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kernel {
    in_kernel: bool,
    kind: Option<String>,
    to: Vec<String>,
    reason: Option<String>,
}

/// Something that happened.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Event {
    /// Milliseconds since 1970.
    time: u64,
    kind: String,
    peer: Option<String>,
    state: Option<String>,
    error: Option<String>,
    prefix: Option<String>,
    #[serde(default)]
    next_hops: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Advertised {
    peer: String,
    next_hop: Option<String>,
    reason: Option<String>,
}

/// Draws the peers.
pub(crate) fn peers(peers: &[Peer], format: Format, paint: Paint) -> String {
    if peers.is_empty() {
        return "no peers: no other Node and no BGPPeer asks for a session here\n".to_owned();
    }
    let wide = format == Format::Wide;
    let mut headers = vec!["PEER", "AS", "STATE", "SINCE", "IN", "OUT", "REFUSED", "RESTART"];
    if wide {
        headers.extend(["LOCAL", "LOCAL AS", "HOLD", "FAMILIES"]);
    }
    headers.push("LAST ERROR");
    let mut sheet = Sheet::new(&headers);
    for peer in peers {
        let tone = if peer.state == "Established" { Tone::Good } else { Tone::Bad };
        let mut row: Vec<Cell> = vec![
            peer.address.as_str().into(),
            peer.asn.to_string().into(),
            Cell::new(tone, peer.state.as_str()),
            span(Duration::from_secs(peer.state_seconds)).into(),
            peer.prefixes_in.to_string().into(),
            peer.prefixes_out.to_string().into(),
            peer.prefixes_refused.to_string().into(),
            restart(&peer.restart).into(),
        ];
        if wide {
            row.push(peer.local_address.as_deref().unwrap_or_default().into());
            row.push(peer.local_asn.to_string().into());
            let negotiated = peer.negotiated.as_ref();
            row.push(negotiated.map(|n| span(Duration::from_secs(n.hold_seconds))).unwrap_or_default().into());
            row.push(negotiated.map(|n| list(&n.families)).unwrap_or_default().into());
        }
        row.push(peer.last_error.as_deref().unwrap_or_default().into());
        sheet.row(row);
    }
    let mut text = sheet.draw(paint, 0);
    for (peer, note) in peers.iter().flat_map(|peer| peer.notes.iter().map(move |note| (peer, note))) {
        text.push_str(&format!("{}: {note}\n", peer.address));
    }
    text
}

/// Where graceful restart stands; nothing where nothing is going on.
fn restart(restart: &Restart) -> String {
    let left = restart.seconds_left.map(|left| format!(" for {}", span(Duration::from_secs(left)))).unwrap_or_default();
    if restart.state == "none" { String::new() } else { format!("{}{left}", restart.state) }
}

/// Draws paths: those in use are marked.
pub(crate) fn paths(paths: &[Path], format: Format, paint: Paint) -> String {
    if paths.is_empty() {
        return "no paths\n".to_owned();
    }
    let mut headers = vec!["USED", "PREFIX", "FROM", "NEXT HOP", "BEST, OR WHY NOT"];
    if format == Format::Wide {
        headers.push("ATTRIBUTES");
    }
    let mut sheet = Sheet::new(&headers);
    for path in paths {
        let mut row = vec![used(path), path.prefix.as_str().into()];
        row.extend(origin(path));
        if format == Format::Wide {
            row.push(attributes(path).into());
        }
        sheet.row(row);
    }
    sheet.draw(paint, 0)
}

fn used(path: &Path) -> Cell {
    if path.used { Cell::new(Tone::Good, "yes") } else { "no".into() }
}

fn origin(path: &Path) -> [Cell; 3] {
    let stale = if path.stale { " (stale: kept from before the peer's restart)" } else { "" };
    [
        path.from.as_str().into(),
        path.next_hop.as_deref().unwrap_or_default().into(),
        format!("{}{stale}", path.verdict).into(),
    ]
}

fn attributes(path: &Path) -> String {
    let texts = path.attributes.iter().map(|(name, value)| format!("{name} {value}"));
    texts.collect::<Vec<_>>().join(", ")
}

/// A line on what became of a prefix in the kernel.
fn in_kernel(kernel: &Kernel) -> String {
    let reason = kernel.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    match (&kernel.kind, kernel.in_kernel) {
        (None, _) => format!("no route in the kernel{reason}\n"),
        (Some(kind), true) if kernel.to.is_empty() => format!("in the kernel as {kind}{reason}\n"),
        (Some(kind), true) => format!("in the kernel as {kind} to {}{reason}\n", list(&kernel.to)),
        (Some(_), false) => format!("not in the kernel{reason}\n"),
    }
}

/// One line on something that happened.
pub(crate) fn event(event: &Event, paint: Paint) -> String {
    let day = event.time / 1000 % 86_400;
    let clock = format!("{:02}:{:02}:{:02}.{:03}Z", day / 3600, day / 60 % 60, day % 60, event.time % 1000);
    let prefix = event.prefix.as_deref().unwrap_or_default();
    let what = match event.kind.as_str() {
        "session" => {
            let state = event.state.as_deref().unwrap_or_default();
            let tone = if state == "Established" { Tone::Good } else { Tone::Bad };
            let error = event.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
            format!("{} {}{error}", event.peer.as_deref().unwrap_or_default(), paint.paint(tone, state))
        }
        "learned" => format!("{prefix} goes to {}", list(&event.next_hops)),
        "lost" => format!("{prefix} is no longer learned"),
        kind => format!("{prefix} {kind}"),
    };
    format!("{clock}  {what}\n")
}

/// Tells why a prefix goes where it goes, and who is told of it.
pub(crate) fn why(why: &Why, paint: Paint) -> String {
    let to = match (why.next_hops.is_empty(), why.paths.iter().any(|path| path.used)) {
        (false, _) => format!("goes to {}", list(&why.next_hops)),
        (true, true) => "is this host's own".to_owned(),
        (true, false) if why.paths.is_empty() => {
            "is not known: no peer advertises it, and it is none of our own".into()
        }
        (true, false) => "has no usable path".to_owned(),
    };
    let mut text = format!("{} {to}\n", paint.paint(Tone::Strong, &why.prefix));
    if let Some(wider) = why.covered_by.as_ref().filter(|_| !why.paths.iter().any(|path| path.used)) {
        text.push_str(&format!("what is sent there follows {wider}, which covers it\n"));
    }
    if let Some(kernel) = &why.kernel {
        text.push_str(&in_kernel(kernel));
    }
    let mut sheet = Sheet::new(&["USED", "FROM", "NEXT HOP", "BEST, OR WHY NOT", "ATTRIBUTES"]);
    for path in &why.paths {
        let mut row = vec![used(path)];
        row.extend(origin(path));
        row.push(attributes(path).into());
        sheet.row(row);
    }
    if !sheet.is_empty() {
        text.push_str(&format!("\n{}\n{}", paint.paint(Tone::Strong, "Paths"), sheet.draw(paint, 2)));
    }
    let mut sheet = Sheet::new(&["PEER", "ADVERTISED", "NEXT HOP", "WHY NOT"]);
    for line in &why.advertised {
        let told = if line.next_hop.is_some() { Cell::new(Tone::Good, "yes") } else { "no".into() };
        let next_hop = line.next_hop.as_deref().unwrap_or_default();
        let reason = line.reason.as_deref().unwrap_or_default();
        sheet.row(vec![line.peer.as_str().into(), told, next_hop.into(), reason.into()]);
    }
    if !sheet.is_empty() {
        text.push_str(&format!("\n{}\n{}", paint.paint(Tone::Strong, "Advertised to"), sheet.draw(paint, 2)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn path(from: &str, next_hop: Value, used: bool, verdict: &str) -> Value {
        json!({"prefix": "10.65.0.21/32", "from": from, "nextHop": next_hop, "stale": false, "used": used,
               "attributes": {"AS_PATH": "64513", "LOCAL_PREF": "100"}, "verdict": verdict})
    }

    #[test]
    fn peers_say_state_and_error() {
        let peer = |address: &str, state: &str, error: Value| {
            json!({"address": address, "asn": 64512, "localAsn": 64512, "state": state, "since": 0, "stateSeconds": 192,
                   "lastError": error, "localAddress": "172.18.203.10", "prefixesIn": 3, "prefixesOut": 1,
                   "prefixesRefused": 0, "prefixesStale": 0, "restart": {"state": "none", "secondsLeft": null},
                   "negotiated": {"routerId": "1.1.1.1", "families": ["IPv4", "IPv6"], "holdSeconds": 90,
                                  "capabilities": [], "gracefulRestart": null}, "counters": {}})
        };
        let mut all = json!([
            peer("172.18.203.2", "Established", Value::Null),
            peer("172.18.203.9", "Active", json!("its AS is 64513, expected 64512")),
        ]);
        all[1]["notes"] = json!(["no import policy: nothing is accepted from it (RFC 8212)"]);
        all[1]["restart"] = json!({"state": "peer away, its routes kept", "secondsLeft": 5});
        let all: Vec<Peer> = serde_json::from_value(all).unwrap();
        let table = "\
PEER          AS     STATE        SINCE  IN  OUT  REFUSED  RESTART                            LAST ERROR
172.18.203.2  64512  Established  3m12s  3   1    0        -                                  -
172.18.203.9  64512  Active       3m12s  3   1    0        peer away, its routes kept for 5s  its AS is 64513, expected 64512
172.18.203.9: no import policy: nothing is accepted from it (RFC 8212)
";
        assert_eq!(peers(&all, Format::Table, Paint::OFF), table);
        let wide = peers(&all[..1], Format::Wide, Paint::OFF);
        assert!(wide.contains("172.18.203.10  64512     1m30s  IPv4,IPv6  -"), "{wide}");
    }

    #[test]
    fn why_tells_paths_and_audience() {
        let report = json!({
            "prefix": "10.65.0.21/32", "nextHops": ["172.18.203.126"],
            "paths": [
                path("172.18.203.2", json!("172.18.203.126"), true, "best"),
                path("own route", Value::Null, false, "AS_PATH length 2 is longer than 1"),
            ],
            "advertised": [
                {"peer": "172.18.203.2", "nextHop": null, "reason": "the best path was learned from this peer"},
                {"peer": "172.18.203.3", "nextHop": "172.18.203.10", "reason": null},
            ],
        });
        let report: Why = serde_json::from_value(report).unwrap();
        let expected = "\
10.65.0.21/32 goes to 172.18.203.126

Paths
  USED  FROM          NEXT HOP        BEST, OR WHY NOT                   ATTRIBUTES
  yes   172.18.203.2  172.18.203.126  best                               AS_PATH 64513, LOCAL_PREF 100
  no    own route     -               AS_PATH length 2 is longer than 1  AS_PATH 64513, LOCAL_PREF 100

Advertised to
  PEER          ADVERTISED  NEXT HOP       WHY NOT
  172.18.203.2  no          -              the best path was learned from this peer
  172.18.203.3  yes         172.18.203.10  -
";
        assert_eq!(why(&report, Paint::OFF), expected);
        let table = paths(&report.paths, Format::Table, Paint::OFF);
        assert!(
            table.starts_with("USED  PREFIX         FROM          NEXT HOP        BEST, OR WHY NOT\nyes   10.65"),
            "{table}"
        );
        let mut covered = json!({"prefix": "10.65.0.21/32", "nextHops": [], "paths": [], "advertised": [],
                                 "coveredBy": "10.65.0.0/26"});
        covered["kernel"] = json!({"inKernel": false, "kind": "direct", "to": ["lh1"], "reason": "the link is absent"});
        let covered: Why = serde_json::from_value(covered).unwrap();
        assert_eq!(
            why(&covered, Paint::OFF),
            "10.65.0.21/32 is not known: no peer advertises it, and it is none of our own\n\
             what is sent there follows 10.65.0.0/26, which covers it\n\
             not in the kernel: the link is absent\n"
        );
        let unknown = json!({"prefix": "10.1.0.0/16", "nextHops": [], "paths": [], "advertised": []});
        let unknown: Why = serde_json::from_value(unknown).unwrap();
        assert_eq!(
            why(&unknown, Paint::OFF),
            "10.1.0.0/16 is not known: no peer advertises it, and it is none of our own\n"
        );
    }

    #[test]
    fn events_are_told_in_a_line() {
        let at = 86_400_000 * 3 + 3_723_004;
        for (told, line) in [
            (
                json!({"time": at, "kind": "session", "peer": "10.0.0.2", "asn": 1, "state": "Idle", "error": "why"}),
                "01:02:03.004Z  10.0.0.2 Idle: why\n",
            ),
            (
                json!({"time": at, "kind": "learned", "prefix": "10.1.0.0/16", "nextHops": ["10.0.0.2", "10.0.0.3"]}),
                "01:02:03.004Z  10.1.0.0/16 goes to 10.0.0.2,10.0.0.3\n",
            ),
            (json!({"time": at, "kind": "lost", "prefix": "::/0"}), "01:02:03.004Z  ::/0 is no longer learned\n"),
            (json!({"time": at, "kind": "withdrawn", "prefix": "::/0"}), "01:02:03.004Z  ::/0 withdrawn\n"),
        ] {
            assert_eq!(event(&serde_json::from_value(told).unwrap(), Paint::OFF), line);
        }
    }
}

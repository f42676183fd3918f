//! `/metrics`, `/health` and `/ready`: what the loop says of itself, asked through the same door as any caller.
//!
//! No lock and no counter outside the loop: a scrape is a status request, rendered.

mod sessions;

use crate::api::{Answer, Request, Status};
use crate::socket::Call;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::de::DeserializeOwned;
use sessions::Session;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

/// How long the loop may take to say how it is before it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(2);

/// What [`metrics`] writes. Prometheus takes nothing that does not say what it is.
const METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until the loop is gone.
pub(crate) async fn serve(listener: TcpListener, calls: mpsc::Sender<Call>) {
    while !calls.is_closed() {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let calls = calls.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| answer(request, calls.clone()));
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(hyper_util::rt::TokioTimer::new()).header_read_timeout(PATIENCE);
            if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "an HTTP connection ended");
            }
        });
    }
}

async fn answer(
    request: hyper::Request<Incoming>,
    calls: mpsc::Sender<Call>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let path = request.uri().path();
    let (code, text) = match (request.method(), path) {
        (&Method::GET, "/metrics" | "/health" | "/ready") => match ask(&calls, Request::Status).await {
            None => (StatusCode::SERVICE_UNAVAILABLE, "the agent's loop does not answer\n".to_owned()),
            Some(status) => match path {
                // Without a speaker, or with one that is busy, the rest is still told.
                "/metrics" => {
                    let sessions: Vec<Session> = ask(&calls, Request::BgpPeers).await.unwrap_or_default();
                    (StatusCode::OK, metrics(&status, &sessions))
                }
                "/health" => (StatusCode::OK, "alive\n".to_owned()),
                _ => readiness(&status),
            },
        },
        (&Method::GET, _) => (StatusCode::NOT_FOUND, "try /metrics, /health or /ready\n".to_owned()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n".to_owned()),
    };
    let kind = if code == StatusCode::OK && path == "/metrics" { METRICS } else { "text/plain; charset=utf-8" };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

async fn ask<T: DeserializeOwned>(calls: &mpsc::Sender<Call>, request: Request) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    let ask = async {
        calls.send(Call { request, reply }).await.ok()?;
        answer.await.ok()
    };
    match tokio::time::timeout(PATIENCE, ask).await {
        Ok(Some(Answer::Ok(value))) => serde_json::from_value(value).ok(),
        _ => None,
    }
}

/// Ready: in sync with the store (or living on its snapshot), the speaker there, nothing of ours missing in the kernel.
fn readiness(status: &Status) -> (StatusCode, String) {
    let mut missing = Vec::new();
    if status.store.state == "connecting" {
        missing.push(format!("the store at {} has not been in sync yet", status.store.endpoint));
    }
    if status.speaker.state == "connecting" {
        missing.push("the BGP speaker is not connected".to_owned());
    }
    if status.direct_routes.ready < status.direct_routes.total {
        let lack = status.direct_routes.total - status.direct_routes.ready;
        missing.push(format!("{lack} direct routes are not in the kernel"));
    }
    if missing.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", missing.join("\n")))
    }
}

/// The status as OpenMetrics text: states are gauges, what only grows is a counter.
fn metrics(status: &Status, sessions: &[Session]) -> String {
    let mut registry = Registry::with_prefix("lasthop");
    let mut gauge = |name: &str, help: &str, value: usize| {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    gauge("workloads", "Workloads of this host", status.workloads.total);
    gauge("workloads_ready", "Workloads wholly in force", status.workloads.ready);
    gauge("direct_routes", "Direct routes wanted", status.direct_routes.total);
    gauge("direct_routes_programmed", "Direct routes in the kernel", status.direct_routes.ready);
    gauge("learned_routes", "Learned routes wanted", status.learned_routes.total);
    gauge("learned_routes_programmed", "Learned routes in the kernel", status.learned_routes.ready);
    gauge("bgp_sessions", "BGP sessions configured", status.speaker.sessions.total);
    gauge("bgp_sessions_established", "BGP sessions established", status.speaker.sessions.ready);
    gauge("findings", "Objects that are not in force", status.findings.len());
    gauge("pending", "Kernel objects that are not as they ought to be", status.pending.len());
    gauge("yielding", "Routes that yield to another program's", status.yielding.len());
    gauge("store_in_sync", "1 while the store's watch is in sync", usize::from(status.store.state == "in-sync"));
    gauge("speaker_connected", "1 while the speaker is connected", usize::from(status.speaker.state == "connected"));
    let mut counter = |name: &str, help: &str, value: u64| {
        let counter: Counter = Counter::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    };
    counter("kernel_writes", "Kernel objects written since the agent started", status.writes);
    counter("kernel_refusals", "Writes that the kernel refused since the agent started", status.refusals);
    counter("drift_repaired", "Changes by other programs put right since the agent started", status.drift_repaired);
    let drops: Family<[(&str, String); 1], Counter> = Family::default();
    for (reason, packets) in &status.drops {
        drops.get_or_create(&[("reason", reason.clone())]).inc_by(*packets);
    }
    registry.register("dropped_packets", "Packets that the guard dropped since its table was made", drops);
    sessions::register(&mut registry, sessions);
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => text,
        Err(error) => format!("# {error}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A metric family as a scraper sees it: its type, and its samples by name and labels.
    #[derive(Debug, Default, PartialEq)]
    struct Scraped {
        kind: String,
        samples: BTreeMap<String, f64>,
    }

    /// Reads OpenMetrics 1.0 text as strictly as a scraper may.
    fn parse(text: &str) -> BTreeMap<String, Scraped> {
        let body = text.strip_suffix("# EOF\n").expect("it ends with '# EOF'");
        let mut families: BTreeMap<String, Scraped> = BTreeMap::new();
        let (mut family, mut helped) = (String::new(), false);
        for line in body.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words[..] {
                ["#", "HELP", name, help] => {
                    assert!(!families.contains_key(name), "a family is told once: {line}");
                    assert!(help.len() > 5, "{line}");
                    (family, helped) = (name.to_owned(), true);
                    families.insert(family.clone(), Scraped::default());
                }
                ["#", "TYPE", name, kind] => {
                    assert!(helped && name == family, "HELP and TYPE stand together: {line}");
                    assert!(["gauge", "counter"].contains(&kind), "{line}");
                    families.get_mut(name).unwrap().kind = kind.to_owned();
                }
                ["#", ..] => panic!("an unknown comment: {line}"),
                _ => {
                    let (series, value) = line.rsplit_once(' ').expect("a name and a value");
                    let name = series.split('{').next().unwrap();
                    let scraped = families.get_mut(&family).expect("a family before its samples");
                    let suffix = if scraped.kind == "counter" { "_total" } else { "" };
                    assert_eq!(name, format!("{family}{suffix}"), "{line}");
                    assert!(name.starts_with("lasthop_"), "{line}");
                    let value: f64 = value.parse().unwrap();
                    assert!(value >= 0.0 && value.fract() == 0.0, "{line}");
                    assert_eq!(scraped.samples.insert(series.to_owned(), value), None, "a series is told once: {line}");
                }
            }
        }
        families
    }

    #[test]
    fn what_grows_is_a_counter_and_a_state_is_a_gauge() {
        let count = crate::api::Count { ready: 1, total: 2 };
        let status = Status {
            node: "h1".into(),
            version: "0".into(),
            uptime_s: 0,
            store: crate::api::StoreStatus {
                endpoint: "here".into(),
                state: "in-sync".into(),
                revision: 1,
                error: None,
                unpublished: 0,
            },
            speaker: crate::api::SpeakerStatus {
                state: "connected".into(),
                sessions: count,
                in_sync: true,
                peers: vec![],
            },
            workloads: count,
            direct_routes: count,
            learned_routes: count,
            writes: 31,
            drift: vec![],
            drift_repaired: 250,
            refusals: 4,
            findings: BTreeMap::new(),
            pending: BTreeMap::new(),
            yielding: BTreeMap::from([("route 10.65.0.0/16".into(), "why".into())]),
            drops: BTreeMap::from([("spoofed".into(), 7), ("odd \"one\"".into(), 0)]),
        };
        let sessions = serde_json::json!([{
            "address": "10.0.0.2", "asn": 64513, "state": "Established", "since": 1_700_000_000,
            "prefixesIn": 3, "prefixesOut": 2, "prefixesRefused": 1, "prefixesStale": 0,
            "counters": {"messagesIn": 9, "messagesOut": 8, "updatesIn": 4, "updatesOut": 3,
                         "treatedAsWithdraw": 1, "attributesDiscarded": 0},
            "endings": [{"by": "us", "reason": "hold timer expired", "times": 2}],
        }]);
        let sessions: Vec<Session> = serde_json::from_value(sessions).unwrap();
        let families = parse(&metrics(&status, &sessions));
        let of = |kind: &str| {
            let of_kind = families.iter().filter(|(_, family)| family.kind == kind);
            of_kind.flat_map(|(_, family)| family.samples.clone()).collect::<BTreeMap<String, f64>>()
        };
        let counters = [
            ("lasthop_bgp_attributes_discarded_total{peer=\"10.0.0.2\"}", 0.0),
            ("lasthop_bgp_messages_total{peer=\"10.0.0.2\",direction=\"in\"}", 9.0),
            ("lasthop_bgp_messages_total{peer=\"10.0.0.2\",direction=\"out\"}", 8.0),
            ("lasthop_bgp_session_endings_total{peer=\"10.0.0.2\",by=\"us\",reason=\"hold timer expired\"}", 2.0),
            ("lasthop_bgp_treated_as_withdraw_total{peer=\"10.0.0.2\"}", 1.0),
            ("lasthop_bgp_updates_total{peer=\"10.0.0.2\",direction=\"in\"}", 4.0),
            ("lasthop_bgp_updates_total{peer=\"10.0.0.2\",direction=\"out\"}", 3.0),
            ("lasthop_drift_repaired_total", 250.0),
            ("lasthop_dropped_packets_total{reason=\"odd \\\"one\\\"\"}", 0.0),
            ("lasthop_dropped_packets_total{reason=\"spoofed\"}", 7.0),
            ("lasthop_kernel_refusals_total", 4.0),
            ("lasthop_kernel_writes_total", 31.0),
        ];
        assert_eq!(of("counter"), counters.map(|(name, value)| (name.to_owned(), value)).into());
        let gauges = of("gauge");
        for (name, value) in [
            ("workloads", 2.0),
            ("workloads_ready", 1.0),
            ("yielding", 1.0),
            ("pending", 0.0),
            ("bgp_prefixes{peer=\"10.0.0.2\",kind=\"refused\"}", 1.0),
            ("bgp_session_up{peer=\"10.0.0.2\",asn=\"64513\"}", 1.0),
        ] {
            assert_eq!(gauges.get(&format!("lasthop_{name}")), Some(&value), "{name}");
        }
        assert_eq!(families.len(), 26);
    }
}

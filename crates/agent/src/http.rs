//! `/metrics`, `/health` and `/ready`: what the loop says of itself, asked through the same door as any caller.
//!
//! No lock and no counter outside the loop: a scrape is a status request, rendered.

use crate::api::{Answer, Request, Status};
use crate::socket::Call;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
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
        (&Method::GET, "/metrics" | "/health" | "/ready") => match status(&calls).await {
            None => (StatusCode::SERVICE_UNAVAILABLE, "the agent's loop does not answer\n".to_owned()),
            Some(status) => match path {
                "/metrics" => (StatusCode::OK, metrics(&status)),
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

async fn status(calls: &mpsc::Sender<Call>) -> Option<Status> {
    let (reply, answer) = oneshot::channel();
    let ask = async {
        calls.send(Call { request: Request::Status, reply }).await.ok()?;
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

/// The status as Prometheus text.
fn metrics(status: &Status) -> String {
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
    gauge("drift_repaired", "Foreign changes put right (as far as remembered)", status.drift.len());
    gauge("store_in_sync", "1 while the store's watch is in sync", usize::from(status.store.state == "in-sync"));
    gauge("speaker_connected", "1 while the speaker is connected", usize::from(status.speaker.state == "connected"));
    gauge("kernel_writes", "Kernel objects written since start", usize::try_from(status.writes).unwrap_or(usize::MAX));
    let drops: Family<[(&str, String); 1], Gauge> = Family::default();
    for (reason, packets) in &status.drops {
        let value = i64::try_from(*packets).unwrap_or(i64::MAX);
        drops.get_or_create(&[("reason", reason.clone())]).set(value);
    }
    registry.register("dropped_packets", "Packets the guard dropped", drops);
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => text,
        Err(error) => format!("# {error}\n"),
    }
}

//! Prints what a store costs on this machine: `cargo run --release -p lasthop-store --example figures`.
//!
//! Writes are durable. A change is timed from before its write until the last of all watchers has it.

use lasthop_model::{Key, Kind};
use lasthop_store::certs::{self, Role};
use lasthop_store::server::{Listen, serve};
use lasthop_store::{Embedded, Expect, Options, Remote, Store, Target, Timing, Watch, WatchEvent, tls};
use serde_json::{Value, json};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

fn key(n: usize) -> Key {
    Key { kind: Kind::WorkloadEndpoint, namespace: Some("default".into()), name: format!("workload-{n}") }
}

fn document(n: usize) -> Value {
    let address = format!("10.65.{}.{}/32", n / 250 % 250, n % 250 + 1);
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint",
        "metadata": {"name": format!("workload-{n}"), "namespace": "default", "labels": {"app": "web", "tier": "front"}},
        "spec": {"orchestrator": "lasthop", "node": "compute-1", "workload": format!("workload-{n}"),
                 "endpoint": "eth0", "interfaceName": format!("lh{n:08}"), "ipNetworks": [address],
                 "mac": "ee:ee:ee:ee:ee:ee", "profiles": ["default"]},
    })
}

fn report(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: f64| {
        let index = (times.len() as f64 * part) as usize;
        times.get(index.min(times.len().saturating_sub(1))).map_or(0.0, |t| t.as_secs_f64() * 1e3)
    };
    println!("{what:<56} p50 {:>8.3} ms   p99 {:>8.3} ms", at(0.5), at(0.99));
}

fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default().trim().to_owned()
}

async fn writes(store: &Arc<dyn Store>, from: &str) -> Outcome {
    let mut times = Vec::new();
    for n in 0..500 {
        let start = Instant::now();
        store.create(key(n), document(n)).await?;
        times.push(start.elapsed());
    }
    report(&format!("{from}: one writer, create"), times);
    let start = Instant::now();
    let mut writers = JoinSet::new();
    for writer in 0..64 {
        let store = Arc::clone(store);
        writers.spawn(async move {
            let mut times = Vec::new();
            for n in 0..50 {
                let n = 1000 + writer * 50 + n;
                let start = Instant::now();
                store.create(key(n), document(n)).await?;
                times.push(start.elapsed());
            }
            Ok::<_, lasthop_store::Error>(times)
        });
    }
    let mut times = Vec::new();
    while let Some(done) = writers.join_next().await {
        times.extend(done??);
    }
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    report(&format!("{from}: 64 writers, {rate:.0} creates/s"), times);
    let mut times = Vec::new();
    for n in 0..500 {
        let start = Instant::now();
        store.get(&key(n)).await?;
        times.push(start.elapsed());
    }
    report(&format!("{from}: get"), times);
    let start = Instant::now();
    let listed = store.list(None).await?.items.len();
    report(&format!("{from}: list {listed}"), vec![start.elapsed()]);
    Ok(())
}

async fn synced(store: &dyn Store) -> Outcome<Watch> {
    let mut watch = store.watch(None).await?;
    while !matches!(watch.next().await?, WatchEvent::InSync(_)) {}
    Ok(watch)
}

async fn fan_out(writer: &Arc<dyn Store>, watches: Vec<Watch>, what: &str) -> Outcome {
    let count = watches.len();
    let (seen, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    for mut watch in watches {
        let seen = seen.clone();
        tasks.spawn(async move {
            while let Ok(event) = watch.next().await {
                if seen.send(event.revision()).is_err() {
                    return;
                }
            }
        });
    }
    let mut times = Vec::new();
    for n in 0..100 {
        let mut changed = document(n);
        changed["metadata"]["labels"]["round"] = json!(format!("{count}-{}-{n}", what.replace(' ', "-")));
        let start = Instant::now();
        writer.update(key(n), changed, Expect::Any).await?;
        for _ in 0..count {
            arrivals.recv().await;
        }
        times.push(start.elapsed());
    }
    report(&format!("{count} {what}: write until all have it"), times);
    Ok(())
}

async fn measure(directory: &Path) -> Outcome {
    let store: Arc<dyn Store> = Arc::new(Embedded::open(&directory.join("store.redb"), Options::v3())?);
    writes(&store, "embedded").await?;
    for count in [1, 100] {
        let mut watches = Vec::new();
        for _ in 0..count {
            watches.push(synced(&*store).await?);
        }
        fan_out(&store, watches, "local watchers").await?;
    }
    let files = certs::issue(directory, Role::Server, "bench")?;
    let listen = Listen::Tcp { address: "127.0.0.1:0".parse()?, tls: tls::server_config(&files)? };
    let server = serve(Arc::clone(&store), vec![listen], Timing::default()).await?;
    let address = server.addresses().first().ok_or("no address")?.to_string();
    let tls = tls::client_config(&certs::issue(directory, Role::Admin, "bench")?)?;
    let target = Target::Tcp { server: address, tls };
    let remote: Arc<dyn Store> = Arc::new(Remote::new(target.clone(), Timing::default()));
    for n in 0..4200 {
        let _ = store.delete(&key(n), Expect::Any).await;
    }
    writes(&remote, "remote (TLS, same process)").await?;
    let before = resident();
    for count in [1, 100, 300] {
        let (mut clients, mut watches) = (Vec::new(), Vec::new());
        let start = Instant::now();
        for _ in 0..count {
            let client = Remote::new(target.clone(), Timing::default());
            watches.push(synced(&client).await?);
            clients.push(client);
        }
        println!("{count} clients connected and in sync, one after the other: {:.2?}", start.elapsed());
        fan_out(&store, watches, "TLS watchers").await?;
        println!("resident: {before} before, {} with {count} TLS clients and their server's ends", resident());
    }
    Ok(())
}

fn main() -> Outcome {
    let directory = tempfile::tempdir()?;
    certs::init(directory.path())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
    runtime.block_on(measure(directory.path()))
}

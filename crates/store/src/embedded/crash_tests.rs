//! `kill -9` of a process that writes: what was acknowledged is there, and nothing is half there.

use super::*;
use crate::WatchEvent;
use crate::suite::{Replica, n, options, pool};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};
use std::time::Duration;

const PATH: &str = "LASTHOP_STORE_CRASH_TEST";
const WRITERS: u64 = 4;
const ROUNDS: u64 = 60;

fn document(n: u64) -> Value {
    json!({"spec": {"n": n, "copies": vec![n; 100]}})
}

/// Not a test by itself: the process that is killed. Writes, and says what was acknowledged.
#[test]
fn writer_process() {
    let Ok(path) = std::env::var(PATH) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(Embedded::open(Path::new(&path), options()).unwrap());
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let store = Arc::clone(&store);
            tasks.spawn(async move {
                let key = pool(&format!("w{writer}"));
                let mut next = store.get(&key).await.map_or(1, |stored| n(&stored) + 1);
                loop {
                    let stored = match store.update(key.clone(), document(next), Expect::Any).await {
                        Err(Error::NotFound(key)) => store.create(key, document(next)).await.unwrap(),
                        other => other.unwrap(),
                    };
                    // One write of a short line: whole or not at all in the pipe.
                    let line = format!("ack {writer} {next} {}\n", stored.revision);
                    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                    next += 1;
                    let passing = pool(&format!("t{writer}-{}", next % 3));
                    if store.create(passing.clone(), document(next)).await.is_err() {
                        store.delete(&passing, Expect::Any).await.unwrap();
                    }
                }
            });
        }
        tasks.join_all().await;
    });
}

#[test]
fn a_killed_writer_loses_nothing_that_was_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut acknowledged: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "embedded::crash_tests::writer_process", "--nocapture", "--test-threads=1"])
            .env(PATH, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = child.stdout.take().unwrap();
        // Some are killed while they open the file, most while they write.
        let mut text = Vec::new();
        let mut first = [0; 1024];
        if round % 8 != 7 {
            while !text.windows(4).any(|w| w == b"ack ") {
                let read = output.read(&mut first).unwrap();
                assert!(read > 0, "the writer ended by itself: {}", String::from_utf8_lossy(&text));
                text.extend(&first[..read]);
            }
        }
        std::thread::sleep(Duration::from_micros(u64::try_from(crate::random() % 25_000).unwrap()));
        child.kill().unwrap();
        child.wait().unwrap();
        output.read_to_end(&mut text).unwrap();
        for line in String::from_utf8(text).unwrap().split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            let Some(ack) = line.find("ack ") else { continue };
            let numbers: Vec<u64> = line[ack + 4..].split_whitespace().map(|n| n.parse().unwrap()).collect();
            acknowledged.insert(numbers[0], (numbers[1], numbers[2]));
        }
        runtime.block_on(check(&path, &mut acknowledged));
    }
    let written: u64 = acknowledged.values().map(|(n, _)| n).sum();
    assert_eq!(acknowledged.len() as u64, WRITERS);
    assert!(written > ROUNDS * WRITERS, "only {written} writes in {ROUNDS} rounds");
}

/// What is found counts as acknowledged from then on: a store that was read must not fall back either.
async fn check(path: &Path, acknowledged: &mut BTreeMap<u64, (u64, u64)>) {
    let store = Embedded::open(path, options()).unwrap();
    for (writer, (last, revision)) in acknowledged.iter_mut() {
        let stored = store.get(&pool(&format!("w{writer}"))).await.unwrap();
        // At most the one write that was under way has come on top.
        assert!(
            (*last..=*last + 1).contains(&n(&stored)),
            "writer {writer}: {} stored, {last} acknowledged",
            n(&stored)
        );
        assert!(stored.revision >= Revision(*revision) && store.status().revision >= stored.revision);
        (*last, *revision) = (n(&stored), stored.revision.0);
    }
    let listing = store.list(None).await.unwrap();
    for stored in &listing.items {
        assert_eq!(stored.document["spec"]["copies"], json!(vec![n(stored); 100]), "{}", stored.key);
    }
    // The log agrees with the objects.
    let mut replica = Replica::default();
    let mut watch = store.watch(Some(Revision(0))).await.unwrap();
    loop {
        let event = watch.next().await.unwrap();
        let done = matches!(event, WatchEvent::InSync(_));
        replica.take(event);
        if done {
            break;
        }
    }
    replica.equals(&store).await;
}

//! The suite over a remote store, by TCP and by unix socket, and what only a remote one meets: servers that restart,
//! connections that are cut or go deaf, slow readers.

use super::*;
use crate::WatchEvent;
use crate::certs::Role;
use crate::site::{Mode, Proxy, QUICK, Site};
use crate::suite::{Replica, next, options, pool, spec};
use std::time::Instant as Clock;

crate::suite::suite!(async {
    let site = Site::new(options()).await;
    let store = site.admin();
    (site, store)
});

mod by_unix_socket {
    use super::*;

    crate::suite::suite!(async {
        let site = Site::new(options()).await;
        let target = Target::Unix(site.path("store.sock"));
        let store: Arc<dyn Store> = Arc::new(Remote::new(target, QUICK));
        (site, store)
    });
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let start = Clock::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn is_down(remote: &Remote) -> bool {
    matches!(remote.status().reach, Reach::Disconnected { .. })
}

#[tokio::test]
async fn a_watch_resumes_after_the_server_restarted_and_tells_nothing_twice() {
    let mut site = Site::new(options()).await;
    let remote = site.remote(Role::Admin, "root");
    remote.create(pool("a"), spec(1)).await.unwrap();
    let mut watch = remote.watch(None).await.unwrap();
    let mut replica = Replica::default();
    replica.until(&mut watch, |r| r.synced).await;
    for round in 0..3 {
        site.stop().await;
        let direct = Embedded::open(&site.path("store.redb"), options()).unwrap();
        direct.create(pool(&format!("r{round}")), spec(round)).await.unwrap();
        direct.update(pool("a"), spec(round + 10), Expect::Any).await.unwrap();
        drop(direct);
        site.start().await;
        let newest = site.store.as_ref().unwrap().status().revision;
        replica.until(&mut watch, |r| r.revision == newest).await;
        remote.connected(Duration::from_secs(5)).await.unwrap();
        replica.equals(&remote).await;
    }
    // One listing, two changes a round.
    assert_eq!(replica.events, 1 + 3 * 2);
}

use crate::Embedded;

#[tokio::test]
async fn another_store_at_the_same_place_makes_a_watch_list_again() {
    let mut site = Site::new(options()).await;
    let remote = site.remote(Role::Admin, "root");
    let mut watch = remote.watch(None).await.unwrap();
    assert_eq!(next(&mut watch).await, WatchEvent::InSync(Revision(0)));
    site.stop().await;
    std::fs::remove_file(site.path("store.redb")).unwrap();
    site.start().await;
    let error = watch.next().await.unwrap_err();
    assert!(matches!(error, Error::TooOld { .. }), "{error}");
    let mut watch = remote.watch(None).await.unwrap();
    assert_eq!(next(&mut watch).await, WatchEvent::InSync(Revision(0)));
}

#[tokio::test]
async fn a_watch_that_was_away_too_long_is_told_to_list_again() {
    let site = Site::new(Options { history: 4, ..options() }).await;
    let proxy = Proxy::new(site.address).await;
    let remote = site.admin_through(&proxy);
    let mut watch = remote.watch(None).await.unwrap();
    assert_eq!(next(&mut watch).await, WatchEvent::InSync(Revision(0)));
    proxy.set(Mode::Cut);
    until("cut", || is_down(&remote)).await;
    let store = site.store.as_ref().unwrap();
    for i in 0..20 {
        store.create(pool("a"), spec(i)).await.unwrap();
        store.delete(&pool("a"), Expect::Any).await.unwrap();
    }
    proxy.set(Mode::Forward);
    let error = watch.next().await.unwrap_err();
    assert!(matches!(error, Error::TooOld { from: Revision(0), newest: Revision(40), .. }), "{error}");
}

use crate::Options;

#[tokio::test]
async fn no_change_is_lost_over_a_connection_that_is_cut_all_the_time() {
    let site = Site::new(options()).await;
    let proxy = Proxy::new(site.address).await;
    let remote = site.admin_through(&proxy);
    let store = Arc::clone(site.store.as_ref().unwrap());
    // Large enough that listings are cut in the middle as well.
    for i in 0..300u64 {
        store
            .create(pool(&format!("p{i}")), serde_json::json!({"spec": {"n": i, "x": "x".repeat(3000)}}))
            .await
            .unwrap();
    }
    let writing = async {
        for round in 0..400u64 {
            let key = pool(&format!("p{}", round * 7 % 300));
            if store.delete(&key, Expect::Any).await.is_err() {
                store.create(key, spec(round)).await.unwrap();
            }
            if round % 20 == 0 {
                proxy.set(Mode::Cut);
                tokio::time::sleep(Duration::from_millis(3)).await;
                proxy.set(Mode::Forward);
                tokio::time::sleep(Duration::from_millis(round % 7 * 10)).await;
            }
        }
        store.status().revision
    };
    let mut replica = Replica::default();
    let reading = async {
        let mut watch = loop {
            match remote.watch(None).await {
                Ok(watch) => break watch,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        loop {
            // Put and Deleted of a cut listing have no order; only what comes after in-sync has.
            match next(&mut watch).await {
                WatchEvent::Deleted { key, .. } if !replica.synced => drop(replica.resources.remove(&key)),
                event => replica.take(event),
            }
            if replica.revision == Revision(700) {
                break;
            }
        }
    };
    let (newest, ()) = tokio::join!(writing, reading);
    assert_eq!(newest, Revision(700));
    replica.equals(&*store).await;
    assert!(*proxy.accepted.borrow() >= 5, "{}", *proxy.accepted.borrow());
}

#[tokio::test]
async fn a_dead_feed_is_noticed_by_both_sides_and_resumed() {
    assert!(Timing::default().silence + Timing::default().pauses.0 < Duration::from_secs(10));
    let site = Site::new(options()).await;
    let proxy = Proxy::new(site.address).await;
    let remote = site.admin_through(&proxy);
    let mut watch = remote.watch(None).await.unwrap();
    assert_eq!(next(&mut watch).await, WatchEvent::InSync(Revision(0)));
    // Idle connections live on beats alone.
    tokio::time::sleep(QUICK.silence * 2).await;
    assert!(!is_down(&remote) && *proxy.accepted.borrow() == 1);
    assert_eq!(site.server.as_ref().unwrap().clients().len(), 1);
    proxy.set(Mode::Deaf);
    let start = Clock::now();
    until("client notices", || is_down(&remote)).await;
    until("server notices", || site.server.as_ref().unwrap().clients().is_empty()).await;
    let took = start.elapsed();
    assert!(took < QUICK.silence + QUICK.beat * 5, "{took:?}");
    let Reach::Disconnected { reason, .. } = remote.status().reach else { panic!() };
    assert!(reason.contains("nothing was heard"), "{reason}");
    let made = site.store.as_ref().unwrap().create(pool("a"), spec(1)).await.unwrap();
    proxy.set(Mode::Forward);
    assert_eq!(next(&mut watch).await, WatchEvent::Put(made));
}

#[tokio::test]
async fn without_a_server_requests_fail_at_once_and_tries_are_apart() {
    let mut site = Site::new(options()).await;
    let proxy = Proxy::new(site.address).await;
    let remote = site.admin_through(&proxy);
    remote.create(pool("a"), spec(1)).await.unwrap();
    site.stop().await;
    until("down", || is_down(&remote)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (start, tries) = (Clock::now(), *proxy.accepted.borrow());
    let mut failed = 0;
    while start.elapsed() < Duration::from_secs(1) {
        let asked = Clock::now();
        let error = remote.get(&pool("a")).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { retry: Some(_), .. }), "{error}");
        assert!(error.to_string().contains(&proxy.address.to_string()), "{error}");
        assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
        failed += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let tries = *proxy.accepted.borrow() - tries;
    // Pauses are 100 to 200 ms now.
    assert!(failed > 20 && (3..=11).contains(&tries), "{failed} requests, {tries} tries");
    assert!(remote.watch(None).await.is_err() && remote.create(pool("b"), spec(1)).await.is_err());
    site.start().await;
    remote.connected(Duration::from_secs(5)).await.unwrap();
    remote.get(&pool("a")).await.unwrap();
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_told_as_uncertain() {
    let site = Site::new(options()).await;
    let proxy = Proxy::new(site.address).await;
    let remote = site.admin_through(&proxy);
    remote.list(None).await.unwrap();
    proxy.set(Mode::Deaf);
    let start = Clock::now();
    let error = remote.create(pool("a"), spec(1)).await.unwrap_err();
    assert!(matches!(&error, Error::Uncertain { key, .. } if *key == pool("a")), "{error}");
    assert!(start.elapsed() < QUICK.silence * 3);
    let read = remote.get(&pool("a")).await.unwrap_err();
    assert!(matches!(read, Error::Unavailable { .. }), "{read}");
}

#[tokio::test]
async fn a_reader_that_sleeps_delays_nobody_and_costs_a_window() {
    let site = Site::new(options()).await;
    let remote = Arc::new(site.remote(Role::Admin, "root"));
    let mut sleeping = remote.watch(None).await.unwrap();
    let mut awake = remote.watch(None).await.unwrap();
    let mut replica = Replica::default();
    let document = |n: u64| serde_json::json!({"spec": {"n": n, "x": "x".repeat(20_000)}});
    let mut longest = Duration::ZERO;
    for i in 0..400u64 {
        let asked = Clock::now();
        remote.create(pool(&format!("p{i}")), document(i)).await.unwrap();
        longest = longest.max(asked.elapsed());
    }
    replica.until(&mut awake, |r| r.revision == Revision(400)).await;
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    assert!(!is_down(&remote));
    // 8 MB were written; what waits for the sleeper is what its credit allowed.
    let mut held = 0;
    while let Some(event) = sleeping.ready() {
        held += match event {
            WatchEvent::Put(stored) => stored.document.to_string().len(),
            _ => 0,
        };
    }
    assert!(held < 4_000_000, "{held}");
    let mut late = Replica { revision: Revision(0), synced: true, ..Replica::default() };
    while late.revision < Revision(400) {
        late.take(next(&mut sleeping).await);
    }
}

#[tokio::test]
async fn a_dropped_watch_ends_on_the_server_too() {
    let site = Site::new(options()).await;
    let remote = site.remote(Role::Admin, "root");
    // A connection has at most sixteen at once.
    for _ in 0..60 {
        let mut watch = loop {
            match remote.watch(None).await {
                Ok(watch) => break watch,
                Err(error) => {
                    assert!(error.to_string().contains("16 watches"), "{error}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        assert_eq!(next(&mut watch).await, WatchEvent::InSync(Revision(0)));
    }
    let kept: Vec<_> = futures(&remote).await;
    assert!(kept.len() <= 16, "{}", kept.len());
}

async fn futures(remote: &Remote) -> Vec<Watch> {
    let mut kept = Vec::new();
    for _ in 0..20 {
        kept.extend(remote.watch(None).await);
    }
    kept
}

//! Who gets in, who may write what, and what hostile bytes do: nothing.

use super::*;
use crate::certs::{self, Role};
use crate::site::{QUICK, Site};
use crate::suite::{endpoint, options, pool, spec};
use crate::wire::frame::{FrameReader, frame};
use crate::wire::message::{FromClient, FromServer};
use crate::{Error, Expect, Reach, Remote, Target, tls};
use lasthop_model::{Key, Kind};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn node(name: &str) -> Key {
    Key { kind: Kind::Node, namespace: None, name: name.into() }
}

fn report(name: &str) -> Key {
    Key { kind: Kind::RolloutReport, namespace: None, name: name.into() }
}

fn on(node: &str) -> Value {
    json!({"spec": {"node": node}})
}

#[tokio::test]
async fn a_node_writes_its_own_and_reads_all() {
    let site = Site::new(options()).await;
    let admin = site.admin();
    let one = site.remote(Role::Node, "one");
    for (key, document) in [(node("two"), spec(1)), (endpoint("theirs"), on("two")), (pool("p"), spec(1))] {
        admin.create(key, document).await.unwrap();
    }
    admin.create(report("r.a.one"), on("a.one")).await.unwrap();
    one.create(report("r.one"), on("one")).await.unwrap();
    one.create(node("one"), spec(1)).await.unwrap();
    one.update(node("one"), spec(2), Expect::Any).await.unwrap();
    let mine = one.create(endpoint("mine"), on("one")).await.unwrap();
    one.update(endpoint("mine"), json!({"spec": {"node": "one", "x": 1}}), Expect::Revision(mine.revision))
        .await
        .unwrap();
    assert_eq!(one.list(None).await.unwrap(), admin.list(None).await.unwrap());
    let before = admin.list(None).await.unwrap();
    let theirs = admin.get(&endpoint("theirs")).await.unwrap();
    let any = Expect::Any;
    let exactly = Expect::Revision(theirs.revision);
    for (what, refused) in [
        ("another node", one.update(node("two"), spec(9), any).await),
        ("another node made", one.create(node("three"), spec(9)).await),
        ("another node deleted", one.delete(&node("two"), any).await),
        ("an endpoint elsewhere", one.create(endpoint("new"), on("two")).await),
        ("an endpoint nowhere", one.create(endpoint("new"), json!({"spec": {}})).await),
        ("an endpoint that is no text", one.create(endpoint("new"), json!({"spec": {"node": ["one"]}})).await),
        ("theirs taken", one.update(endpoint("theirs"), on("one"), any).await),
        ("theirs taken exactly", one.update(endpoint("theirs"), on("one"), exactly).await),
        ("theirs deleted", one.delete(&endpoint("theirs"), any).await),
        ("theirs deleted exactly", one.delete(&endpoint("theirs"), exactly).await),
        ("mine given away", one.update(endpoint("mine"), on("two"), any).await),
        ("a report of another", one.create(report("s.two"), on("two")).await),
        ("a report under another's name", one.create(report("s.two"), on("one")).await),
        ("a report that speaks for another", one.create(report("s.one"), on("two")).await),
        ("my report given away", one.update(report("r.one"), on("two"), any).await),
        ("a report of a namesake", one.create(report("s.a.one"), on("a.one")).await),
        ("a namesake's report taken", one.update(report("r.a.one"), on("one"), any).await),
        ("a namesake's report deleted", one.delete(&report("r.a.one"), any).await),
        ("a pool", one.create(pool("q"), spec(1)).await),
        ("a pool changed", one.update(pool("p"), spec(9), any).await),
        ("a pool deleted", one.delete(&pool("p"), any).await),
    ] {
        let error = refused.map(|_| what).unwrap_err();
        assert!(matches!(error, Error::Denied(_)), "{what}: {error}");
        let line = error.to_string();
        assert!(line.starts_with("denied: node:one may not write ") && !line.contains('\n'), "{line}");
    }
    assert_eq!(admin.list(None).await.unwrap(), before, "something was written");
    assert_eq!(one.delete(&endpoint("none"), any).await, Err(Error::NotFound(endpoint("none"))));
    one.delete(&endpoint("mine"), any).await.unwrap();
    one.delete(&node("one"), any).await.unwrap();
}

#[tokio::test]
async fn what_moves_between_judgement_and_write_is_judged_again() {
    let site = Site::new(options()).await;
    let store = Arc::clone(site.store.as_ref().unwrap());
    let one = Arc::new(site.remote(Role::Node, "one"));
    let admin_moves = async {
        for i in 0..200u64 {
            let to = if i % 2 == 0 { "two" } else { "one" };
            store
                .update(endpoint("e"), json!({"spec": {"node": to, "by": "admin", "i": i}}), Expect::Any)
                .await
                .unwrap();
        }
    };
    store.create(endpoint("e"), on("one")).await.unwrap();
    let mut watch = store.watch(None).await.unwrap();
    let node_writes = async {
        for i in 0..200u64 {
            let _ = one.update(endpoint("e"), json!({"spec": {"node": "one", "by": "one", "i": i}}), Expect::Any).await;
        }
    };
    tokio::join!(admin_moves, node_writes);
    // The node's write never follows a state in which the endpoint was elsewhere.
    let mut before = json!({"node": "one"});
    let mut wrote = 0;
    let mut reached = crate::Revision(0);
    while reached < store.status().revision {
        let event = crate::suite::next(&mut watch).await;
        reached = event.revision();
        let crate::WatchEvent::Put(stored) = event else { continue };
        let after = stored.document["spec"].clone();
        if after["by"] == "one" {
            assert_eq!(before["node"], "one", "{before} became {after}");
            wrote += 1;
        }
        before = after;
    }
    assert!(wrote > 0);
}

async fn reason(remote: &Remote) -> String {
    let error = remote.connected(Duration::from_millis(1500)).await.unwrap_err();
    assert!(matches!(remote.status().reach, Reach::Disconnected { .. }));
    error.to_string()
}

#[tokio::test]
async fn strangers_do_not_get_past_the_handshake() {
    let site = Site::new(options()).await;
    let other = tempfile::tempdir().unwrap();
    certs::init(other.path()).unwrap();
    let ours = site.path("ca.pem");
    let server = site.address.to_string();
    // A certificate of another authority, and a server's certificate used by a client.
    let foreign = certs::Files { ca: ours.clone(), ..certs::issue(other.path(), Role::Admin, "eve").unwrap() };
    for (files, word) in [(foreign, "UnknownCA"), (site.files(Role::Server, "a"), "alert")] {
        let tls = tls::client_config(&files).unwrap();
        let remote = Remote::new(Target::Tcp { server: server.clone(), tls }, QUICK);
        let told = reason(&remote).await;
        assert!(told.contains(word), "{told}");
        assert!(remote.get(&pool("a")).await.is_err());
    }
    // None at all.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let files = site.files(Role::Admin, "root");
    let mut roots = rustls::RootCertStore::empty();
    let pem = std::fs::read(&files.ca).unwrap();
    use rustls::pki_types::pem::PemObject as _;
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
    let anonymous = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let remote = Remote::new(Target::Tcp { server: server.clone(), tls: Arc::new(anonymous) }, QUICK);
    let told = reason(&remote).await;
    assert!(told.contains("CertificateRequired"), "{told}");
    // No TLS at all, and nothing at all.
    let mut plain = tokio::net::TcpStream::connect(site.address).await.unwrap();
    let hello = FromClient::Hello { protocol: 1, version: String::new() };
    plain.write_all(&frame(&hello)).await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(answer.len() < 64, "{answer:?}");
    assert!(site.server.as_ref().unwrap().clients().is_empty());
    site.admin().list(None).await.unwrap();
}

#[tokio::test]
async fn a_client_does_not_believe_a_false_server() {
    // A node that plays the server, and a server of another authority.
    let site = Site::new(options()).await;
    let other = tempfile::tempdir().unwrap();
    certs::init(other.path()).unwrap();
    let foreign = certs::issue(other.path(), Role::Server, "a").unwrap();
    for files in [site.files(Role::Node, "one"), certs::Files { ca: site.path("ca.pem"), ..foreign }] {
        let store = Arc::clone(site.store.as_ref().unwrap()) as Arc<dyn Store>;
        let tls = tls::server_config(&files).unwrap();
        let listen = Listen::Tcp { address: "127.0.0.1:0".parse().unwrap(), tls };
        let server = serve(store, vec![listen], QUICK).await.unwrap();
        let Target::Tcp { tls, .. } = site.target(Role::Admin, "root") else { panic!() };
        let target = Target::Tcp { server: server.addresses()[0].to_string(), tls };
        let told = reason(&Remote::new(target, QUICK)).await;
        assert!(told.contains("certificate"), "{told}");
    }
}

#[tokio::test]
async fn hostile_bytes_end_their_connection_and_nothing_else() {
    let site = Site::new(options()).await;
    let good = frame(&FromClient::Hello { protocol: 1, version: "x".into() });
    let ask = |text: &str| [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat();
    let huge = vec![0xff; 8];
    let deep = ask(&"[".repeat(3000));
    let long_hello = ask(&format!("{{\"hello\":{{\"protocol\":1,\"version\":\"{}\"}}}}", "x".repeat(5000)));
    let truncated = good[..good.len() - 3].to_vec();
    let deep_document = ask(&format!(
        "{{\"ask\":{{\"id\":1,\"ask\":{{\"create\":{{\"key\":{{\"kind\":\"IPPool\",\"name\":\"a\"}},\"document\":{}}}}}}}}}",
        "[".repeat(100_000)
    ));
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("huge length", huge.clone()),
        ("deep hello", deep.clone()),
        ("long hello", long_hello),
        ("truncated hello", truncated),
        ("no hello", ask("{\"beat\":{}}")),
        ("other protocol", frame(&FromClient::Hello { protocol: 2, version: "9".into() })),
        ("not text", ask("\u{fffd}\u{0}")),
        ("huge length after hello", [good.clone(), huge].concat()),
        ("deep after hello", [good.clone(), deep].concat()),
        ("deep document", [good.clone(), deep_document].concat()),
        ("unknown question", [good.clone(), ask("{\"ask\":{\"id\":1,\"ask\":{\"drop\":{}}}}")].concat()),
        ("hello twice", [good.clone(), good.clone()].concat()),
        ("negative number", [good.clone(), ask("{\"cancel\":{\"id\":-1}}")].concat()),
        ("empty frames", vec![0; 400]),
    ];
    for (what, bytes) in cases {
        let mut stream = UnixStream::connect(site.path("store.sock")).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(8), stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "{what}: the connection stays");
        let text = String::from_utf8_lossy(&answer).into_owned();
        if what == "other protocol" {
            assert!(text.contains("the client (version 9) protocol 2"), "{text}");
        }
        assert!(!text.contains("\"stored\""), "{what}: {text}");
    }
    // Harmless nonsense: credit and cancel of nothing, kinds of a later version.
    let stream = UnixStream::connect(site.path("store.sock")).await.unwrap();
    let (input, mut output) = stream.into_split();
    let key = "{\"kind\":\"Later\",\"name\":\"a\"}";
    let asks = [
        good,
        ask("{\"credit\":{\"id\":7,\"bytes\":18446744073709551615}}"),
        ask("{\"cancel\":{\"id\":7}}"),
        ask(&format!("{{\"ask\":{{\"id\":1,\"ask\":{{\"get\":{{\"key\":{key}}}}}}}}}")),
        ask("{\"ask\":{\"id\":2,\"ask\":{\"list\":{\"kind\":\"Later\"}}}}"),
        ask("{\"ask\":{\"id\":3,\"ask\":{\"list\":{\"kind\":null}}}}"),
    ];
    output.write_all(&asks.concat()).await.unwrap();
    let mut input = FrameReader::new(input, 10_000, Duration::from_secs(5));
    let mut seen = Vec::new();
    while seen.len() < 3 {
        match input.next::<FromServer>().await.unwrap().0 {
            FromServer::Failed { id, error } => {
                let line = Error::from(error).to_string();
                assert!(line.contains("'Later' is not known"), "{line}");
                seen.push(id);
            }
            FromServer::Page { id, .. } => seen.push(id),
            _ => {}
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3]);
    site.admin().list(None).await.unwrap();
}

#[tokio::test]
async fn a_client_that_says_nothing_or_takes_nothing_is_cut() {
    let site = Site::new(options()).await;
    let clients = || site.server.as_ref().unwrap().clients().len();
    let store = site.store.as_ref().unwrap();
    for i in 0..100u64 {
        store.create(pool(&format!("p{i}")), json!({"spec": {"x": "x".repeat(20_000)}})).await.unwrap();
    }
    let mut silent = UnixStream::connect(site.path("store.sock")).await.unwrap();
    let mut full = UnixStream::connect(site.path("store.sock")).await.unwrap();
    let hello = frame(&FromClient::Hello { protocol: 1, version: "x".into() });
    full.write_all(&hello).await.unwrap();
    // Listings that are never read, with beats that keep coming.
    for id in 0..10 {
        let ask = crate::wire::message::Ask::List { kind: None };
        full.write_all(&frame(&FromClient::Ask { id, ask })).await.unwrap();
    }
    let start = std::time::Instant::now();
    while start.elapsed() < QUICK.silence * 6 && (clients() > 0 || start.elapsed() < QUICK.silence / 2) {
        let _ = full.write_all(&frame(&FromClient::Beat {})).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(clients(), 0);
    let mut rest = Vec::new();
    tokio::time::timeout(Duration::from_secs(5), silent.read_to_end(&mut rest)).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_unix_socket_is_for_root_and_its_group() {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    let site = Site::new(options()).await;
    let path = site.path("group.sock");
    let store = Arc::clone(site.store.as_ref().unwrap()) as Arc<dyn Store>;
    let listen = || vec![Listen::Unix { path: path.clone(), group: Some(54_321) }];
    let server = serve(Arc::clone(&store), listen(), QUICK).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    std::fs::set_permissions(site.directory.path(), Permissions::from_mode(0o755)).unwrap();
    let root = Remote::new(Target::Unix(path.clone()), QUICK);
    root.create(pool("by-root"), spec(1)).await.unwrap();
    assert_eq!(server.clients()[0].identity, Identity::Admin("root".into()));
    // A user of the group reads, and does not write; another one does not get in.
    let create = crate::wire::message::Ask::Create { key: (&pool("x")).into(), document: spec(1) };
    let list = crate::wire::message::Ask::List { kind: None };
    let hello = FromClient::Hello { protocol: 1, version: "x".into() };
    let said = [hello, FromClient::Ask { id: 1, ask: create }, FromClient::Ask { id: 2, ask: list }];
    let bytes: Vec<u8> = said.iter().flat_map(frame).collect();
    for (group, expected) in [(54_321, "reader:uid-65534 may not write"), (54_322, "Permission denied")] {
        let bytes = bytes.clone();
        let path = path.clone();
        let output = tokio::task::spawn_blocking(move || {
            let mut child = std::process::Command::new("nc")
                .args(["-U", "-N", "-w", "2"])
                .arg(path)
                .uid(65_534)
                .gid(group)
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .expect("nc (netcat-openbsd) is needed");
            let mut input = child.stdin.take().unwrap();
            let _ = std::io::Write::write_all(&mut input, &bytes);
            std::thread::sleep(Duration::from_millis(500));
            drop(input);
            child.wait_with_output().unwrap()
        });
        let output = output.await.unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(text.contains(expected), "{group}: {text}");
        assert_eq!(text.contains("by-root"), group == 54_321, "{group}: {text}");
    }
    // One server at a time; what a dead one left is replaced; nothing else is.
    let error = serve(Arc::clone(&store), listen(), QUICK).await.unwrap_err().to_string();
    assert!(error.contains("another server does"), "{error}");
    drop(server);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    drop(serve(Arc::clone(&store), listen(), QUICK).await.unwrap());
    std::fs::write(&path, "precious").unwrap();
    let error = serve(store, listen(), QUICK).await.unwrap_err().to_string();
    assert!(error.contains("no socket") && std::fs::read(&path).unwrap() == b"precious", "{error}");
}

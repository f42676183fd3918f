use super::*;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("/etc/lasthop/lasthop.yaml")).map_err(|error| error.to_string())
}

#[test]
fn an_empty_file_is_a_configuration() {
    for text in ["", "# nothing\n", "node: n1", "---\n{node: n1}\n"] {
        let config = parse(text).unwrap();
        assert_eq!(config.run_directory, Path::new("/run/lasthop"), "{text:?}");
        assert_eq!(config.store, StoreConfig::Embedded);
        assert_eq!(config.agent_socket(), Path::new("/run/lasthop/agent.sock"));
    }
    assert_eq!(parse("node: no").unwrap().node.as_str(), "no", "YAML 1.2 knows true and false only");
    assert_eq!(parse("node: n1").unwrap(), Config::new("n1".parse().unwrap()));
}

#[test]
fn every_key_is_taken() {
    let config = parse(
        "node: compute-1
runDirectory: /run/x
stateDirectory: state
store: { server: '172.18.203.3:7470', ca: ca.pem, certificate: /c/cert.pem, key: /c/key.pem }
server: { listen: '[::]:7470', ca: a, certificate: b, key: c }
speaker: external
bmp: { station: '172.18.203.9:11019' }
listen: { metrics: '127.0.0.1:9091' }
group: ops
log: { format: json, level: debug }
",
    )
    .unwrap();
    let directory = Path::new("/etc/lasthop");
    let tls = |ca: &str, certificate: &str, key: &str| TlsFiles {
        ca: directory.join(ca),
        certificate: directory.join(certificate),
        key: directory.join(key),
    };
    let expected = Config {
        node: "compute-1".parse().unwrap(),
        run_directory: "/run/x".into(),
        state_directory: "/etc/lasthop/state".into(),
        secret_directory: "/etc/lasthop/secrets".into(),
        store: StoreConfig::Server {
            address: "172.18.203.3:7470".into(),
            tls: tls("ca.pem", "/c/cert.pem", "/c/key.pem"),
        },
        server: Some(ServerConfig { listen: "[::]:7470".parse().unwrap(), tls: tls("a", "b", "c") }),
        speaker: SpeakerChoice::External,
        bmp: Some(BmpConfig::new("172.18.203.9:11019".parse().unwrap())),
        metrics: Some("127.0.0.1:9091".parse().unwrap()),
        group: Some("ops".into()),
        log: LogConfig { format: LogFormat::Json, level: LogLevel::Debug },
    };
    assert_eq!(config, expected);
}

#[test]
fn every_mistake_is_one_line_that_names_the_key_and_the_fix() {
    let tls = "ca: a, certificate: b, key: c";
    let cases = [
        ("noed: x".into(), "noed: unknown key: did you mean 'node'?"),
        ("rundirectory: /x".into(), "rundirectory: unknown key: did you mean 'runDirectory'?"),
        ("storage_backend_url: x".into(), "the keys here are node, runDirectory"),
        ("store: { sever: 'a:1' }".into(), "store.sever: unknown key: did you mean 'server'?"),
        ("log: { lvel: info }".into(), "log.lvel: unknown key: did you mean 'level'?"),
        ("listen: { metric: 'x' }".into(), "listen.metric: unknown key: did you mean 'metrics'?"),
        ("node: Compute_1".into(), "node: 'Compute_1' is not a valid name"),
        ("node: 17".into(), "node: expected a text, found a number; put it in quotes"),
        ("node: ''".into(), "node: is empty"),
        ("node: [a]".into(), "node: expected a text, found a list"),
        ("- a".into(), "expected a mapping of keys (node, "),
        ("just text".into(), "expected a mapping of keys (node, "),
        ("store: true".into(), "store: expected a mapping of keys (embedded, "),
        ("store: { embedded: 1 }".into(), "store.embedded: expected true or false, found a number"),
        ("store: { embedded: false }".into(), "store.embedded: is false, so 'server' must say"),
        ("store: { ca: x }".into(), "store.ca: is for a store elsewhere: add 'server: HOST:PORT'"),
        (format!("store: {{ embedded: true, server: 'a:1', {tls} }}"), "store.server: excludes 'embedded: true'"),
        (format!("store: {{ server: 'a', {tls} }}"), "store.server: 'a' is not HOST:PORT"),
        (format!("store: {{ server: 'a:0', {tls} }}"), "store.server: 'a:0' is not HOST:PORT"),
        (format!("store: {{ server: 'fd00::3:7470', {tls} }}"), "store.server: 'fd00::3:7470' is not HOST:PORT"),
        (format!("store: {{ server: 'http://a:1', {tls} }}"), "store.server: 'http://a:1' is not HOST:PORT"),
        ("store: { server: 'a:1', ca: x, key: x }".into(), "store.certificate: is missing: name the PEM file"),
        ("server: { listen: '0.0.0.0' }".into(), "server.listen: '0.0.0.0' is not ADDRESS:PORT"),
        (format!("server: {{ {tls} }}"), "server.listen: is missing"),
        ("server: { listen: '0.0.0.0:7470' }".into(), "server.ca: is missing"),
        ("speaker: bird".into(), "speaker: 'bird' is not one of lasthop, external"),
        ("listen: { metrics: 9091 }".into(), "listen.metrics: expected a text, found a number"),
        ("log: { level: chatty }".into(), "log.level: 'chatty' is not one of error, warn, info, debug, trace"),
        ("log: { format: xml }".into(), "log.format: 'xml' is not one of human, json"),
        (format!("runDirectory: /{}", "x".repeat(100)), "runDirectory: too long for a unix socket"),
        ("node: a\nnode: b".into(), "not valid YAML: "),
        ("node: [a".into(), "not valid YAML: "),
        ("node:\n\t- a".into(), "not valid YAML: "),
    ];
    for (text, expected) in cases {
        let text: String = text;
        let error = parse(&text).expect_err(&text);
        assert!(error.starts_with("/etc/lasthop/lasthop.yaml: "), "{text:?} gave {error:?}");
        assert!(error.contains(expected), "{text:?} gave {error:?}, expected {expected:?}");
        assert!(!error.contains('\n'), "{text:?} gave {error:?}");
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Config::load(Path::new("/nonexistent/lasthop.yaml")).unwrap_err().to_string();
    assert!(error.starts_with("cannot read the configuration /nonexistent/lasthop.yaml: No such file"), "{error}");
    assert!(error.contains("--config"), "{error}");
}

#[test]
fn a_server_is_named_by_address_or_name() {
    for good in ["172.18.203.3:7470", "[fd00::3]:7470", "store.example:7470", "store:1"] {
        section::host_and_port(good).unwrap();
    }
    for bad in ["", ":", "a:", ":1", "[fd00::3:7470", "[x]:1", "a b:1", "a:65536", "a:-1"] {
        section::host_and_port(bad).expect_err(bad);
    }
}

#[test]
fn the_example_that_we_ship_is_the_default() {
    let text = include_str!("../../../../dist/lasthop.yaml");
    let shown = parse(text).unwrap();
    assert_eq!(shown, Config::new(shown.node.clone()));
    // What is commented out is right too.
    let keys = [
        "# node:",
        "# store:",
        "#   server:",
        "#   ca:",
        "#   certificate:",
        "#   key:",
        "# server:",
        "#   listen:",
        "# listen:",
        "# group:",
    ];
    let lines = text
        .lines()
        .filter(|line| !line.starts_with("store:"))
        .map(|line| if keys.iter().any(|key| line.starts_with(key)) { &line[2..] } else { line });
    let all = parse(&lines.collect::<Vec<_>>().join("\n")).unwrap();
    assert!(all.server.is_some() && all.metrics.is_some() && all.group.is_some());
    assert!(matches!(all.store, StoreConfig::Server { .. }));
}

//! Ways to break a session, and the one line that an operator reads for each. Peers are BIRD, or octets on a socket where
//! no daemon does such a thing.

use crate::bird::{hosts, speaker};
use crate::support::{Agent, LIMIT, bird_routes, bird_session, peer};
use lasthop_agent::speaker::Question;
use lasthop_bgp::config::{Admin, Auth, Bfd, LimitAction, PeerConfig, PrefixLimit, Role, RoleMode, Secret, Ttl};
use lasthop_net::Family;
use lasthop_testkit::bird::{Bird, base};
use lasthop_testkit::netns::{Frames, Host, Net};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

const OURS: &str = "10.99.0.1";
const THEIRS: &str = "10.99.0.2";

/// The peer of every test: AS 64513, to our 64512.
fn them() -> PeerConfig {
    peer(OURS, THEIRS, 64513)
}

/// BIRD as that peer.
fn bird(host: &Host, options: &str) -> Bird {
    Bird::start(host, &(base(THEIRS) + &bird_session("peer", (THEIRS, 64513), (OURS, 64512), options))).unwrap()
}

/// Waits for the line; it begins like this, and may go on with what becomes of tries since then.
fn reads(agent: &mut Agent, line: &str) {
    agent.wait(line, LIMIT, |agent| {
        agent.states.first().and_then(|state| state.last_error.as_deref()).is_some_and(|error| error.starts_with(line))
    });
    let told = agent.ask(Question::Peers);
    assert!(told[0]["lastError"].as_str().is_some_and(|error| error.starts_with(line)), "{told}");
    assert_ne!(told[0]["state"], "Established", "{told}");
    println!("{}", told[0]["lastError"]);
}

/// Waits for words anywhere in the line.
fn says(agent: &mut Agent, words: &str) {
    agent.wait(words, LIMIT, |agent| {
        agent.states.first().and_then(|state| state.last_error.as_deref()).is_some_and(|error| error.contains(words))
    });
    println!("{:?}", agent.states[0].last_error);
}

/// An OPEN of AS 64513 with these capabilities.
fn open(hold: u16, id: &str, capabilities: &[u8]) -> Vec<u8> {
    let mut body = vec![4];
    body.extend(64513u16.to_be_bytes());
    body.extend(hold.to_be_bytes());
    body.extend(id.parse::<Ipv4Addr>().unwrap().octets());
    if capabilities.is_empty() {
        body.push(0);
    } else {
        let length = u8::try_from(capabilities.len()).unwrap();
        body.extend([length + 2, 2, length]);
        body.extend(capabilities);
    }
    message(1, &body)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![0xff; 16];
    message.extend(u16::try_from(19 + body.len()).unwrap().to_be_bytes());
    message.push(kind);
    message.extend(body);
    message
}

/// A peer that waits for our connection, takes our OPEN, says all this, and listens to the end.
fn raw(host: &Host, says: Vec<u8>) {
    let listener = host.enter(|| TcpListener::bind((THEIRS, 179))).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream: TcpStream = stream.unwrap();
            // What we are told is none of its concern, and it may be cut off at any point.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(&says);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
}

#[test]
fn the_peer_is_of_another_as() {
    let [a, b] = hosts();
    let session = bird_session("peer", (THEIRS, 64599), (OURS, 64512), "");
    let _bird = Bird::start(&b, &(base(THEIRS) + &session)).unwrap();
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![them()]);
    reads(
        &mut agent,
        "we ended it: it is AS 64599, and AS 64513 is configured for it [NOTIFICATION 2/2 (bad peer AS)]",
    );
}

#[test]
fn the_peer_expects_another_as_of_us() {
    let [a, b] = hosts();
    let session = bird_session("peer", (THEIRS, 64513), (OURS, 64599), "");
    let _bird = Bird::start(&b, &(base(THEIRS) + &session)).unwrap();
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![them()]);
    reads(&mut agent, "the peer ended it: it expects another AS of us than 64512 [NOTIFICATION 2/2 (bad peer AS)]");
}

/// A password on one side or both.
fn passwords(ours: Option<&str>, theirs: Option<&str>) -> (Vec<Host>, Bird, crate::support::Speaker, Agent) {
    let [a, b] = hosts();
    let options = theirs.map(|password| format!("password \"{password}\";")).unwrap_or_default();
    let bird = bird(&b, &options);
    let auth = ours.map(|password| Auth::Md5(Secret::new(password)));
    let (speaker, agent) = speaker(&a, OURS, 64512, vec![PeerConfig { auth, ..them() }]);
    (vec![a, b], bird, speaker, agent)
}

#[test]
fn the_password_differs() {
    let (_hosts, _bird, _speaker, mut agent) = passwords(Some("ours"), Some("theirs"));
    reads(&mut agent, "no answer from port 179 within 5 s; likely its password differs from ours (the kernel dropped ");
}

#[test]
fn the_peer_has_no_password() {
    let (_hosts, _bird, _speaker, mut agent) = passwords(Some("ours"), None);
    reads(
        &mut agent,
        "no answer from port 179 within 5 s; likely it has no password for us, and we have one for it (the kernel dropped ",
    );
}

#[test]
fn only_the_peer_has_a_password() {
    let (_hosts, _bird, _speaker, mut agent) = passwords(None, Some("theirs"));
    reads(
        &mut agent,
        "no answer from port 179 within 5 s; likely it has a password for us, and we have none for it (the kernel dropped ",
    );
}

#[test]
fn the_peer_has_no_password_and_waits_for_us() {
    let [a, b] = hosts();
    let _bird = bird(&b, "passive yes;");
    let auth = Some(Auth::Md5(Secret::new("ours")));
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![PeerConfig { auth, ..them() }]);
    // Nothing arrives that could be counted.
    reads(
        &mut agent,
        "no answer from port 179 within 5 s; likely its password is missing or another one, or a firewall drops us",
    );
}

#[test]
fn the_peer_does_not_do_ttl_security() {
    let [a, b] = hosts();
    let _bird = bird(&b, "");
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![PeerConfig { ttl: Ttl::Security(1), ..them() }]);
    // BIRD listens with TTL 255, so TCP comes up; what it sends then has less.
    reads(
        &mut agent,
        "connected, but its OPEN does not come; likely it is further away than our link, or does not send with TTL 255",
    );
}

#[test]
fn the_peer_is_further_away_than_its_ttl() {
    let net = Net::new().unwrap();
    let a = net.host("a", &["10.99.1.1/24"]).unwrap();
    let router = net.host("r", &["10.99.1.254/24"]).unwrap();
    let _b = net.host("b", &["10.99.2.2/24"]).unwrap();
    router.ip("address add 10.99.2.254/24 dev eth0").unwrap();
    router.run("sysctl", &["-qw", "net.ipv4.ip_forward=1"]).unwrap();
    router.run("sysctl", &["-qw", "net.ipv4.conf.all.send_redirects=0"]).unwrap();
    router.run("sysctl", &["-qw", "net.ipv4.conf.eth0.send_redirects=0"]).unwrap();
    a.ip("route add 10.99.2.0/24 via 10.99.1.254").unwrap();
    let far = PeerConfig { ttl: Ttl::Hops(1), ..peer("10.99.1.1", "10.99.2.2", 64513) };
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![far]);
    reads(&mut agent, "unreachable: nobody answers at 10.99.2.2, or it is more than 1 hop away");
}

#[test]
fn nothing_listens_there() {
    let [a, _b] = hosts();
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![them()]);
    reads(&mut agent, "connection refused: 10.99.0.2 is there, but no BGP speaker accepts us on its port 179");
}

#[test]
fn nobody_is_there_and_no_way_leads_there() {
    let [a, _b] = hosts();
    let nobody = peer(OURS, "10.99.0.77", 64513);
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![nobody]);
    reads(&mut agent, "unreachable: nobody answers at 10.99.0.77");
    agent.set_peers(vec![peer(OURS, "192.0.2.1", 64513)]);
    reads(&mut agent, "unreachable: this host has no route to 192.0.2.1");
}

#[test]
fn the_peer_does_not_know_us() {
    let [a, b] = hosts();
    let session = bird_session("another", (THEIRS, 64513), ("10.99.0.9", 64512), "");
    let _bird = Bird::start(&b, &(base(THEIRS) + &session)).unwrap();
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![them()]);
    reads(&mut agent, "connection lost before the session was up: ");
    says(&mut agent, "does it have us as a peer, and is it enabled?");
}

#[test]
fn the_peer_kept_another_connection() {
    let [a, b] = hosts();
    raw(&b, [open(90, THEIRS, &[]), message(3, &[6, 7])].concat());
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![them()]);
    reads(
        &mut agent,
        "the peer ended it: it kept another connection to us [NOTIFICATION 6/7 (connection collision resolution)]",
    );
}

#[test]
fn the_hold_timer_expires_and_what_follows_is_told_with_it() {
    let [a, b] = hosts();
    let _bird = bird(&b, "hold time 3;");
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![them()]);
    agent.established(THEIRS);
    b.frames(Frames::Lost).unwrap();
    reads(&mut agent, "we ended it: hold timer: nothing heard for 3 s [NOTIFICATION 4/0 (hold timer expired)]");
    says(&mut agent, "; since then ");
    let told = agent.ask(Question::Peers);
    assert_eq!(told[0]["endings"][0]["reason"], "hold timer expired", "{told}");
    assert_eq!(told[0]["endings"][0]["by"], "us", "{told}");
}

#[test]
fn it_announces_too_many_prefixes() {
    let [a, b] = hosts();
    let routes = bird_routes("route 10.65.2.0/24 unreachable; route 10.65.3.0/24 unreachable;", "");
    let session = bird_session("peer", (THEIRS, 64513), (OURS, 64512), "");
    let _bird = Bird::start(&b, &(base(THEIRS) + &routes + &session)).unwrap();
    let limit = PrefixLimit { max: 1, warn_percent: 75, action: LimitAction::Close(None) };
    let limited = PeerConfig { limits: [(Family::V4, limit)].into(), ..them() };
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![limited]);
    reads(
        &mut agent,
        "we ended it: it announces 2 prefixes of IPv4, and may announce 1 [NOTIFICATION 6/1 (maximum number of prefixes reached)]",
    );
}

#[test]
fn we_announce_too_many_prefixes() {
    let [a, b] = hosts();
    let session = bird_session("peer", (THEIRS, 64513), (OURS, 64512), "")
        .replace("ipv4 {", "ipv4 { receive limit 1 action disable;");
    let _bird = Bird::start(&b, &(base(THEIRS) + &session)).unwrap();
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![them()]);
    agent.own = ["10.65.0.0/26", "10.65.1.0/26"].map(|text| text.parse().unwrap()).into();
    reads(&mut agent, "the peer ended it: we announce more prefixes than it takes");
}

#[test]
fn the_identifiers_are_equal() {
    let [a, b] = hosts();
    let session = bird_session("peer", (THEIRS, 64512), (OURS, 64512), "");
    let _bird = Bird::start(&b, &(base(OURS) + &session)).unwrap();
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![peer(OURS, THEIRS, 64512)]);
    // Whoever reads the other's OPEN first says so.
    says(&mut agent, "identifier 10.99.0.1");
    says(&mut agent, "[NOTIFICATION 2/3 (bad BGP identifier)]");
}

#[test]
fn the_hold_time_cannot_be() {
    let [a, b] = hosts();
    raw(&b, open(2, THEIRS, &[]));
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![them()]);
    reads(
        &mut agent,
        "we ended it: hold time 2 s: it must be 0 or at least 3 [NOTIFICATION 2/6 (unacceptable hold time)]",
    );
}

#[test]
fn there_is_no_family_in_common() {
    let [a, b] = hosts();
    // Multiprotocol: IPv6 unicast.
    raw(&b, open(90, THEIRS, &[1, 4, 0, 2, 0, 1]));
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![PeerConfig { families: [Family::V4].into(), ..them() }]);
    reads(
        &mut agent,
        "we ended it: no address family in common: ours IPv4, its IPv6 [NOTIFICATION 2/7 (unsupported capability)]",
    );
}

#[test]
fn the_peers_operator_shuts_it_down() {
    let [a, b] = hosts();
    let bird = bird(&b, "");
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![them()]);
    agent.established(THEIRS);
    bird.ask("disable peer \"rack move, back at 6\"").unwrap();
    reads(&mut agent, "the peer ended it: its operator shut the session down: 'rack move, back at 6' [NOTIFICATION 6/");
    says(&mut agent, "6/2 (administrative shutdown)]");
}

#[test]
fn our_operator_shuts_it_down() {
    let [a, b] = hosts();
    let _bird = bird(&b, "");
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![them()]);
    agent.established(THEIRS);
    agent.set_peers(vec![PeerConfig { admin: Admin::Down("new line card".to_owned()), ..them() }]);
    reads(&mut agent, "shut down by our operator: 'new line card'");
}

#[test]
fn the_peer_is_told_to_forget_us() {
    let [a, b] = hosts();
    let bird = bird(&b, "");
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![them()]);
    agent.established(THEIRS);
    let other = bird_session("another", (THEIRS, 64513), ("10.99.0.9", 64512), "");
    bird.configure(&(base(THEIRS) + &other)).unwrap();
    reads(&mut agent, "the peer ended it: it has us as a peer no longer [NOTIFICATION 6/");
}

#[test]
fn bfd_hears_nothing() {
    let [a, b] = hosts();
    let bfd = "protocol bfd { interface \"*\" { interval 50 ms; multiplier 3; }; }\n";
    let session = bird_session("peer", (THEIRS, 64513), (OURS, 64512), "bfd on;");
    let _bird = Bird::start(&b, &(base(THEIRS) + bfd + &session)).unwrap();
    let fast = Duration::from_millis(50);
    let bfd = Some(Bfd { transmit: fast, receive: fast, ..Bfd::default() });
    let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![PeerConfig { bfd, ..them() }]);
    agent.established(THEIRS);
    let end = std::time::Instant::now() + LIMIT;
    while agent.ask(Question::Peers)[0]["bfd"] != "Up" && std::time::Instant::now() < end {
        agent.listen_for(Duration::from_millis(100));
    }
    b.frames(Frames::Lost).unwrap();
    reads(&mut agent, "we ended it: BFD: ");
    says(&mut agent, "[NOTIFICATION 6/10 (BFD down)]");
}

#[test]
fn the_roles_do_not_go_together() {
    for (capability, line) in [
        // RFC 9234: role 0, provider.
        (&[9, 1, 0][..], "we ended it: its role is provider; to ours, provider, it must be customer"),
        (&[], "we ended it: it names no role; to ours, provider, it must be customer"),
    ] {
        let [a, b] = hosts();
        raw(&b, open(90, THEIRS, &[&[1, 4, 0, 1, 0, 1], capability].concat()));
        let config = PeerConfig { role: Some(Role::Provider), role_mode: RoleMode::Strict, ..them() };
        let (_speaker, mut agent) = speaker(&a, OURS, 64512, vec![config]);
        reads(&mut agent, &format!("{line} [NOTIFICATION 2/11 (role mismatch)]"));
    }
}

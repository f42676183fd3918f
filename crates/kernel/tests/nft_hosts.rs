//! Host endpoints with real connections of both families: input and output with failsafes, forwarding, before the destination is
//! translated, untracked, and the wildcard with its exceptions.

mod netns;

use lasthop_compute::{EndpointToHost, Guard, Nat, Source};
use lasthop_kernel::nft::{Nft, PolicyScope, allow_all};
use lasthop_kernel::reconcile::Scope;
use lasthop_model::Kind;
use lasthop_net::{Family, IfName, Prefix};
use lasthop_policy::ir::{
    Action, Direction, End, Failsafe, Force, HostPolicy, Interface, InterfacePolicy, Key, Owner, PortRange, Ports,
    Program, Rule, Side, Stack, StackId, Step, StepName, TierDefault,
};
use netns::Netns;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

fn name(text: &str) -> IfName {
    text.parse().expect("a name")
}

/// A host, a workload of it and a neighbour outside.
struct Net {
    host: Netns,
    workload: Netns,
    outside: Netns,
    _listeners: Vec<TcpListener>,
}

const HOST: [&str; 2] = ["172.31.0.1", "fd00:172::1"];
const OUTSIDE: [&str; 2] = ["172.31.0.2", "fd00:172::2"];
const PORTS: [u16; 3] = [22, 80, 81];

impl Net {
    fn new() -> Self {
        let [host, workload, outside] = ["hep", "w", "x"].map(Netns::new);
        host.sh(&format!(
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0
             ip link add lhw type veth peer name eth0 netns {w}; ip link set lhw address ee:ee:ee:ee:ee:ee up
             ip link add eth0 type veth peer name eth0 netns {x}; ip link set eth0 up
             ip addr add 172.31.0.1/24 dev eth0; ip -6 addr add fd00:172::1/64 dev eth0 nodad
             ip addr add 169.254.1.1/32 dev lhw; ip -6 addr add fe80::1/64 dev lhw nodad
             ip route add 10.65.0.2 dev lhw; ip -6 route add fd00:65::2 dev lhw",
            w = workload.name,
            x = outside.name
        ));
        workload.sh(
            "sysctl -qw net.ipv6.conf.eth0.accept_dad=0; ip link set eth0 up; ip addr add 10.65.0.2/32 dev eth0; ip -6 addr add fd00:65::2/128 dev eth0 nodad
             ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1; ip -6 route add default via fe80::1 dev eth0",
        );
        outside.sh(
            "sysctl -qw net.ipv6.conf.eth0.accept_dad=0; ip link set eth0 up; ip addr add 172.31.0.2/24 dev eth0; ip -6 addr add fd00:172::2/64 dev eth0 nodad
             ip route add 10.65.0.0/16 via 172.31.0.1; ip -6 route add fd00:65::/32 via fd00:172::1",
        );
        let listen = |port: &u16| TcpListener::bind(("::", *port)).expect("a port");
        let mut listeners = host.enter(|| PORTS.iter().map(listen).collect::<Vec<_>>());
        listeners.extend(outside.enter(|| PORTS.iter().map(listen).collect::<Vec<_>>()));
        listeners.extend(workload.enter(|| PORTS.iter().map(listen).collect::<Vec<_>>()));
        Self { host, workload, outside, _listeners: listeners }
    }

    fn open(&self) -> Nft {
        self.host.enter(|| Nft::open().expect("sockets"))
    }

    /// Puts policy for the host's interfaces in force; workloads may do everything.
    fn put(&self, nft: &mut Nft, interfaces: HostPolicy) {
        let policy = HostPolicy {
            workloads: allow_all([&name("lhw")]).workloads,
            stacks: interfaces.stacks.clone().into_iter().chain(allow_all([&name("lhw")]).stacks).collect(),
            ..interfaces
        };
        ready(nft);
        let outcome = nft.sync_policy(&policy, PolicyScope::All);
        assert!(outcome.failed.is_empty(), "{outcome:?}");
        self.host.sh("conntrack -F");
        ready(nft);
        assert_eq!(nft.sync_policy(&policy, PolicyScope::All).writes, 0);
    }
}

fn ready(nft: &mut Nft) -> usize {
    let guard = Guard { link_prefixes: BTreeSet::from(["lh".to_owned()]), endpoint_to_host: EndpointToHost::Accept };
    nft.read_back().expect("read back");
    let report = nft.sync_skeleton(&guard, &Nat::default()).expect("the skeleton");
    let any = Family::ALL.map(|family| Source { link: name("lhw"), prefix: Prefix::default_route(family) });
    report.changes.len() + nft.sync_sources(&any.into(), Scope::All).writes
}

/// To which of the ports connections come about; the same for both families.
fn connects(from: &Netns, to: [&str; 2]) -> BTreeSet<u16> {
    let ports = |to: &str| -> BTreeSet<u16> {
        let connect = |port: &u16| {
            let to = SocketAddr::new(to.parse().expect("an address"), *port);
            TcpStream::connect_timeout(&to, Duration::from_millis(300)).is_ok()
        };
        from.enter(|| PORTS.into_iter().filter(connect).collect())
    };
    let [v4, v6] = to.map(ports);
    assert_eq!(v4, v6, "{} to {to:?}", from.name);
    v4
}

/// A stack that decides about one TCP port, and ends in `end`.
fn stack(
    policy: &mut HostPolicy,
    action: Action,
    (source, destination): (Option<u16>, Option<u16>),
    end: End,
) -> StackId {
    let side = |port: Option<u16>| Side {
        ports: port.map(|port| Ports { ranges: vec![PortRange::one(port)], sets: BTreeSet::new() }),
        ..Side::default()
    };
    let rule = Rule {
        action,
        family: None,
        protocol: Some(6),
        not_protocol: None,
        icmp: None,
        not_icmp: None,
        source: side(source),
        destination: side(destination),
    };
    let key = Key { kind: Kind::GlobalNetworkPolicy, namespace: None, name: format!("host{}", policy.programs.len()) };
    let program = Program {
        owner: Owner::Policy { tier: "default".into(), key },
        direction: Direction::Ingress,
        force: Force::Enforced,
        rules: vec![rule],
    };
    let otherwise = if end == End::Deny { TierDefault::Deny } else { TierDefault::Pass };
    let step = Step { name: StepName::Tier("default".into()), programs: vec![program.id()], otherwise };
    let stack = Stack { steps: vec![step], end };
    policy.programs.insert(program.id(), Arc::new(program));
    let id = stack.id();
    policy.stacks.insert(id, Arc::new(stack));
    id
}

fn set<const N: usize>(ports: [u16; N]) -> BTreeSet<u16> {
    ports.into()
}

fn failsafes(policy: &mut HostPolicy) {
    let all = Family::ALL.map(|family| Failsafe { protocol: 6, net: Prefix::default_route(family), port: 22 });
    policy.failsafe_in = all.into();
    policy.failsafe_out = all.into();
}

fn on(interface: Interface, policy: InterfacePolicy) -> BTreeMap<Interface, InterfacePolicy> {
    BTreeMap::from([(interface, policy)])
}

fn eth0() -> Interface {
    Interface::Named(name("eth0"))
}

#[test]
fn input_and_output_with_failsafes() {
    let net = Net::new();
    let mut nft = net.open();
    let mut policy = HostPolicy::default();
    failsafes(&mut policy);
    let only80 = stack(&mut policy, Action::Allow, (None, Some(80)), End::Deny);
    for interface in [eth0(), Interface::Any] {
        policy.interfaces = on(interface, InterfacePolicy { input: Some(only80), ..InterfacePolicy::default() });
        net.put(&mut nft, policy.clone());
        assert_eq!(connects(&net.outside, HOST), set([22, 80]));
        assert_eq!(connects(&net.host, OUTSIDE), set([22, 80, 81]), "answers come in");
        assert_eq!(
            connects(&net.outside, ["10.65.0.2", "fd00:65::2"]),
            set([22, 80, 81]),
            "forwarding is another matter"
        );
        assert_eq!(connects(&net.workload, HOST), set([22, 80, 81]), "a workload's own policy, and the action");
        assert_eq!(connects(&net.host, ["127.0.0.1", "::1"]), set([22, 80, 81]), "loopback");
    }
    policy.interfaces.insert(eth0(), InterfacePolicy::default());
    net.put(&mut nft, policy.clone());
    assert_eq!(connects(&net.outside, HOST), set([22, 80, 81]), "its own endpoint says nothing");
    policy.interfaces = on(eth0(), InterfacePolicy { output: Some(only80), ..InterfacePolicy::default() });
    net.put(&mut nft, policy.clone());
    assert_eq!(connects(&net.host, OUTSIDE), set([22, 80]));
    assert_eq!(connects(&net.outside, HOST), set([22, 80, 81]));
    assert_eq!(
        connects(&net.host, ["10.65.0.2", "fd00:65::2"]),
        set([22, 80, 81]),
        "the host reaches its own workloads"
    );
    // A new run that does not know policy yet leaves what is there; one that knows it has nothing to write.
    let mut again = net.open();
    assert_eq!(ready(&mut again), 0);
    assert_eq!(connects(&net.host, OUTSIDE), set([22, 80]));
}

#[test]
fn forwarding_through_host_endpoints() {
    let net = Net::new();
    let mut nft = net.open();
    let mut policy = HostPolicy::default();
    failsafes(&mut policy);
    let not80 = stack(&mut policy, Action::Deny, (None, Some(80)), End::GoOn);
    for interface in [eth0(), Interface::Any] {
        let out = InterfacePolicy { forward_out: Some(not80), ..InterfacePolicy::default() };
        policy.interfaces = on(interface.clone(), out);
        net.put(&mut nft, policy.clone());
        assert_eq!(connects(&net.workload, OUTSIDE), set([22, 81]), "{interface:?}");
        let inward = if interface == Interface::Any { set([22, 81]) } else { set([22, 80, 81]) };
        assert_eq!(connects(&net.outside, ["10.65.0.2", "fd00:65::2"]), inward, "{interface:?}");
        assert_eq!(connects(&net.outside, HOST), set([22, 80, 81]));
        let within = InterfacePolicy { forward_in: Some(not80), ..InterfacePolicy::default() };
        policy.interfaces = on(interface.clone(), within);
        net.put(&mut nft, policy.clone());
        assert_eq!(connects(&net.outside, ["10.65.0.2", "fd00:65::2"]), set([22, 81]), "{interface:?}");
    }
}

#[test]
fn what_is_allowed_early_meets_no_later_host_policy() {
    let net = Net::new();
    let mut nft = net.open();
    let mut policy = HostPolicy::default();
    failsafes(&mut policy);
    let only81 = stack(&mut policy, Action::Allow, (None, Some(81)), End::Deny);
    let early = stack(&mut policy, Action::Allow, (None, Some(80)), End::GoOn);
    let answers = stack(&mut policy, Action::Allow, (Some(80), None), End::GoOn);
    let base = InterfacePolicy { input: Some(only81), ..InterfacePolicy::default() };
    policy.interfaces = on(eth0(), InterfacePolicy { before_dnat: Some(early), ..base });
    net.put(&mut nft, policy.clone());
    assert_eq!(connects(&net.outside, HOST), set([22, 80, 81]));
    let untracked = InterfacePolicy { untracked_in: Some(early), untracked_out: Some(answers), ..base };
    policy.interfaces = on(eth0(), untracked);
    net.put(&mut nft, policy.clone());
    assert_eq!(connects(&net.outside, HOST), set([22, 80, 81]));
    let tracked = net.host.sh("conntrack -L 2>/dev/null; conntrack -L -f ipv6 2>/dev/null");
    assert!(!tracked.contains("dport=80 ") && tracked.contains("dport=81 "), "{tracked}");
    // What is denied early is gone.
    let not81 = stack(&mut policy, Action::Deny, (None, Some(81)), End::GoOn);
    for early in [
        InterfacePolicy { before_dnat: Some(not81), ..InterfacePolicy::default() },
        InterfacePolicy { untracked_in: Some(not81), ..InterfacePolicy::default() },
    ] {
        policy.interfaces = on(eth0(), early);
        net.put(&mut nft, policy.clone());
        assert_eq!(connects(&net.outside, HOST), set([22, 80]));
    }
}

#[test]
fn what_is_allowed_early_meets_no_forward_policy_where_it_goes_out() {
    let net = Net::new();
    let mut nft = net.open();
    let mut policy = HostPolicy::default();
    let early = stack(&mut policy, Action::Allow, (None, Some(80)), End::GoOn);
    let not80 = stack(&mut policy, Action::Deny, (None, Some(80)), End::GoOn);
    let wild = InterfacePolicy { forward_out: Some(not80), ..InterfacePolicy::default() };
    for (near, open) in [
        (InterfacePolicy::default(), set([22, 81])),
        (InterfacePolicy { before_dnat: Some(early), ..InterfacePolicy::default() }, set([22, 80, 81])),
    ] {
        policy.interfaces = BTreeMap::from([(eth0(), near), (Interface::Any, wild)]);
        net.put(&mut nft, policy.clone());
        assert_eq!(connects(&net.outside, ["10.65.0.2", "fd00:65::2"]), open, "{near:?}");
    }
}

#[test]
fn a_failsafe_port_stays_tracked_and_meets_forward_policy() {
    let net = Net::new();
    let mut nft = net.open();
    let mut policy = HostPolicy::default();
    failsafes(&mut policy);
    let not22 = stack(&mut policy, Action::Deny, (None, Some(22)), End::GoOn);
    for early in [
        InterfacePolicy { before_dnat: Some(not22), ..InterfacePolicy::default() },
        InterfacePolicy { untracked_in: Some(not22), ..InterfacePolicy::default() },
    ] {
        policy.interfaces = on(eth0(), InterfacePolicy { forward_in: Some(not22), ..early });
        net.put(&mut nft, policy.clone());
        assert_eq!(connects(&net.outside, HOST), set([22, 80, 81]), "{early:?}");
        let tracked = net.host.sh("conntrack -L 2>/dev/null");
        assert!(tracked.contains("dport=22 "), "{tracked}");
        assert_eq!(connects(&net.outside, ["10.65.0.2", "fd00:65::2"]), set([80, 81]), "{early:?}");
    }
}

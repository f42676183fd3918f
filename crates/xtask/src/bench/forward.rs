//! What a forwarded packet costs on our host, beside the bare kernel with the same skeleton written by hand.
//!
//! Two workloads on one host, 64-byte UDP, an established flow, everything on one CPU ([`super::window`]). The bare
//! host has the same links, routes, neighbours and settings, made with `ip`, and the table below, made with `nft`;
//! our responder is what it has not. The own cost of a path is its cost without that of a veth between the two
//! workloads, which both have in common.

use super::Plan;
use super::report::{Bar, Row};
use super::site::Site;
use super::stats::{Figure, Samples};
use super::window::Flow;
use anyhow::{Context, Result, ensure};
use lasthop_lab::netns;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

const HOST: &str = "
peering: mesh
hosts: [{ name: one, addresses: [172.18.203.11] }]
workloads:
- { name: w1, host: one, addresses: [10.65.0.21], link: lhw1 }
- { name: w2, host: one, addresses: [10.65.0.22], link: lhw2 }
";

/// The skeleton as one would write it by hand, with both workloads allowed.
const TABLE: &str = r#"
table inet bare {
    map may_send { type ifname : verdict; elements = { "lhw1" : return, "lhw2" : return }; }
    map may_receive { type ifname : verdict; elements = { "lhw1" : accept, "lhw2" : accept }; }
    set own4 { type ifname . ipv4_addr; elements = { "lhw1" . 10.65.0.21, "lhw2" . 10.65.0.22 }; }
    set own6 { type ifname . ipv6_addr; }
    set wider4 { type ifname . ipv4_addr; flags interval; }
    set wider6 { type ifname . ipv6_addr; flags interval; }
    set never4 { type ipv4_addr; flags interval; elements = { 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, 224.0.0.0/3 }; }
    set never6 { type ipv6_addr; flags interval; elements = { ::/127, fe80::/10, ff00::/8 }; }
    set pool4 { type ipv4_addr; flags interval; elements = { 10.65.0.0/16 }; }
    set pool6 { type ipv6_addr; flags interval; }
    chain options {
        ip option lsrr exists counter drop
        ip option ssrr exists counter drop
        exthdr rt exists counter drop
    }
    chain on_link {
        ip6 hoplimit 255 icmpv6 type { 133, 135, 136 } accept
        ip6 hoplimit 1 icmpv6 type { 131, 132, 143 } accept
    }
    chain source {
        meta nfproto ipv4 @nh,0,8 != 0x45 jump options
        ip6 nexthdr != tcp ip6 nexthdr != udp ip6 nexthdr != icmpv6 jump options
        iifname . ip saddr @own4 accept
        iifname . ip6 saddr @own6 accept
        iifname . ip saddr @wider4 accept
        iifname . ip6 saddr @wider6 accept
        meta l4proto icmpv6 ip6 saddr fe80::/10 jump on_link
        meta l4proto icmpv6 ip6 saddr :: jump on_link
        counter drop
    }
    chain send {
        ct state invalid counter drop
        ip daddr @never4 counter drop
        ip saddr @never4 counter drop
        ip6 daddr @never6 counter drop
        ip6 saddr @never6 counter drop
        iifname vmap @may_send
        counter drop
    }
    chain receive {
        ct state invalid counter drop
        oifname vmap @may_receive
        counter drop
    }
    chain host {
        ct state established,related accept
        ct state invalid counter drop
        ip6 hoplimit 255 icmpv6 type { 135, 136 } accept
        counter drop
    }
    chain prerouting {
        type filter hook prerouting priority -450; policy accept;
        iifname "lh*" goto source
        iifname "tap*" goto source
    }
    chain forward {
        type filter hook forward priority 0; policy accept;
        ct state established,related accept
        iifname "lh*" jump send
        iifname "tap*" jump send
        oifname "lh*" jump receive
        oifname "tap*" jump receive
    }
    chain input {
        type filter hook input priority 0; policy accept;
        iifname "lh*" jump host
        iifname "tap*" jump host
    }
    chain postrouting {
        type nat hook postrouting priority 100; policy accept;
        oifname "lh*" accept
        oifname "tap*" accept
        ip saddr @pool4 ip daddr != @pool4 masquerade
        ip6 saddr @pool6 ip6 daddr != @pool6 masquerade
    }
}
"#;

const ONE: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 21);
const TWO: Ipv4Addr = Ipv4Addr::new(10, 65, 0, 22);
/// Our responder and fixed MAC answer for the gateway; the bare host has both written down.
const HOST_MAC: &str = "ee:ee:ee:ee:ee:ee";

pub(super) fn run(plan: &Plan) -> Result<Vec<Row>> {
    let site = Site::up(plan, HOST)?;
    for (host, address, workloads) in
        [("bare", "172.18.203.21/24", ["b1", "b2"]), ("open", "172.18.203.22/24", ["o1", "o2"])]
    {
        let name = site.on_fabric(host, address)?;
        ip(&name, "route add default via 172.18.203.1\nroute add unreachable 10.65.0.0/16\n")?;
        for (part, (link, address)) in workloads.into_iter().zip([("lhw1", ONE), ("lhw2", TWO)]) {
            bare_host(&name, link, address, &site.further(part)?)?;
        }
    }
    feed_nft(&site.namespace("bare"), TABLE)?;
    direct([&site.further("d1")?, &site.further("d2")?], [ONE, TWO])?;
    let flow = |from: &str, to: &str| Flow::open((&site.namespace(from), ONE), (&site.namespace(to), TWO));
    let flows = [flow("d1", "d2")?, flow("o1", "o2")?, flow("b1", "b2")?, flow("w1", "w2")?];
    let mut costs: [Samples; 4] = Default::default();
    let (mut beside_bare, mut beside_open) = (Samples::default(), Samples::default());
    let window = Duration::from_millis(if plan.quick { 10 } else { 20 });
    for round in 0..plan.count(600, 100) {
        let cpu = round % std::thread::available_parallelism().map_or(1, usize::from);
        let mut now = [0.0; 4];
        for step in 0..flows.len() {
            // Each goes first as often as any other.
            let at = (step + round) % flows.len();
            now[at] = flows[at].cost(cpu, window)?;
            costs[at].add(now[at]);
        }
        let [direct, open, bare, ours] = now;
        beside_bare.add((ours - direct) / (bare - direct));
        beside_open.add((ours - direct) / (open - direct));
    }
    let [direct, open, bare, ours] = costs;
    let own = |path: &Samples| {
        let Figure { value, low, high, n } = path.middle();
        let common = direct.median();
        Figure { value: value - common, low: low - common, high: high - common, n }
    };
    let (own_ours, own_bare, own_open) = (own(&ours).value, own(&bare).value, own(&open).value);
    Ok(vec![
        Row::new("a forwarded packet's own cost", "", beside_bare.middle())
            .beside("(same skeleton by hand)", Figure::single(1.0))
            .bar(Bar::Ratio(1.02))
            .note(format!("{own_ours:.0} ns beside {own_bare:.0} ns")),
        Row::new("  beside no firewall and no connection tracking", "", beside_open.middle())
            .beside("(forwarding alone)", Figure::single(1.0))
            .note(format!("{own_ours:.0} ns beside {own_open:.0} ns")),
        Row::new("  veth between the workloads, in all of them", "ns", direct.middle()),
    ])
}

/// A host by hand: a link to a workload, wired as ours, and no table.
pub(super) fn bare_host(name: &str, link: &str, address: Ipv4Addr, workload: &str) -> Result<()> {
    let keys = [("proxy_arp", 1), ("rp_filter", 1), ("send_redirects", 0), ("accept_redirects", 0), ("forwarding", 1)];
    let settings = keys.map(|(key, value)| format!("net.ipv4.conf.{link}.{key}={value}"));
    sysctl(name, &["net.ipv4.ip_forward=1".to_owned(), "net.ipv4.conf.all.accept_source_route=0".to_owned()])?;
    let [_, _, third, fourth] = address.octets();
    let mac = format!("02:00:0a:41:{third:02x}:{fourth:02x}");
    ip(
        name,
        &format!(
            "link add {link} address {HOST_MAC} type veth peer name eth0 address {mac} netns {workload}\n\
             link set {link} up\n\
             neigh add {address} lladdr {mac} dev {link} nud permanent\n\
             route add {address}/32 dev {link} scope link\n"
        ),
    )?;
    sysctl(name, &settings)?;
    ip(
        workload,
        &format!(
            "link set eth0 up\naddr add {address}/32 dev eth0\n\
             route add 169.254.1.1 dev eth0 scope link\nroute add default via 169.254.1.1 dev eth0\n\
             neigh add 169.254.1.1 lladdr {HOST_MAC} dev eth0 nud permanent\n"
        ),
    )
}

/// A veth between two workloads.
pub(super) fn direct([one, two]: [&str; 2], [first, second]: [Ipv4Addr; 2]) -> Result<()> {
    let wire = format!("link add eth0 type veth peer name eth0 netns {two}\nlink set eth0 up\n");
    ip(one, &format!("{wire}addr add {first}/16 dev eth0\n"))?;
    ip(two, &format!("link set eth0 up\naddr add {second}/16 dev eth0\n"))
}

/// Gives `nft` a text to load.
pub(super) fn feed_nft(namespace: &str, text: &str) -> Result<()> {
    feed(namespace, Command::new("nft").args(["-f", "-"]), text)
}

fn ip(namespace: &str, batch: &str) -> Result<()> {
    feed(namespace, Command::new("ip").args(["-batch", "-"]), batch)
}

fn sysctl(namespace: &str, settings: &[String]) -> Result<()> {
    feed(namespace, Command::new("sysctl").args(["-q", "-w"]).args(settings), "")
}

/// Runs a program inside a namespace with a text to read.
fn feed(namespace: &str, command: &mut Command, text: &str) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let command = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = netns::within(namespace, || command.spawn())?;
    let mut child = child.with_context(|| format!("cannot start {program}: is it installed?"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "{program} in {namespace}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

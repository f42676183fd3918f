//! A host of a case: a network namespace with a TUN for each link, and policy put in force by our own drivers.

use super::wire;
use super::{Case, policy::UPLINK};
use anyhow::{Context, Result, ensure};
use lasthop_compute::{Guard, Nat, Source};
use lasthop_kernel::iptables::{Backend, Config, Iptables};
use lasthop_kernel::netlink::{Message, Protocol, Socket};
use lasthop_kernel::netns::{self, Netns};
use lasthop_kernel::nft::{Nft, PolicyScope};
use lasthop_kernel::reconcile::Scope;
use lasthop_model::{EndpointToHost, NodeName};
use lasthop_net::Prefix;
use lasthop_policy::ir::HostPolicy;
use lasthop_policy::journey::{Party, Site};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Nodes of this process so far.
static NODES: AtomicU32 = AtomicU32::new(0);
/// Names of workload links begin with this.
const PREFIX: &str = "lh";
/// `NFNL_SUBSYS_CTNETLINK << 8 |` `IPCTNL_MSG_CT_DELETE`: without a tuple all of the namespace's.
const FORGET: u16 = 1 << 8 | 2;
/// The host's own firewall: no answers to what nobody expects, so that probes alone make connections.
const OWN_TABLE: &str = "table inet probes
delete table inet probes
table inet probes {
  chain quiet {
    type filter hook output priority -500
    tcp flags & rst == rst drop
    icmp type destination-unreachable drop
    icmpv6 type destination-unreachable drop
  }
  chain translate { type nat hook prerouting priority -100; }
  chain rest { type filter hook input priority 500; }
}
";

/// What renders policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dataplane {
    /// nftables.
    Nft,
    /// iptables.
    Iptables(Backend),
}

/// What puts policy in force in one namespace.
enum Driver {
    Nft(Box<Nft>),
    /// And the suffix of its programs.
    Iptables(Box<Iptables>, &'static str),
}

/// From one address and port to another.
pub(super) struct Translation {
    pub(super) protocol: u8,
    pub(super) from: (IpAddr, u16),
    pub(super) to: (IpAddr, u16),
}

/// A host.
pub(super) struct Node {
    name: String,
    netns: Netns,
    driver: Driver,
    /// Files of TUNs, by interface.
    links: BTreeMap<String, File>,
    /// Raw sockets that get what reaches the host itself, by family and protocol.
    inbox: BTreeMap<(libc::c_int, u8), OwnedFd>,
    /// Raw sockets that send whole packets, IPv4's and IPv6's.
    outbox: [OwnedFd; 2],
    tracking: Socket,
    /// Takes addresses and routes of the last case away.
    undo: Vec<String>,
    /// The host's own firewall drops what iptables' INPUT leaves.
    drops_rest: bool,
}

impl Node {
    pub(super) fn new(dataplane: Dataplane) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "this engine makes network namespaces: run it as root");
        let name = format!("lhc{}-{}", std::process::id(), NODES.fetch_add(1, Ordering::Relaxed));
        let netns = netns::create(&name)?;
        let made = netns.run(|| -> Result<_> {
            for (key, value) in SETTINGS {
                std::fs::write(format!("/proc/sys/net/{key}"), value).with_context(|| format!("sysctl {key}"))?;
            }
            let driver = match dataplane {
                Dataplane::Nft => Driver::Nft(Box::new(Nft::open()?)),
                Dataplane::Iptables(backend) => {
                    let suffix = match backend {
                        Backend::Auto => "",
                        Backend::Legacy => "-legacy",
                        Backend::Nft => "-nft",
                    };
                    Driver::Iptables(Box::new(Iptables::new(Config::find(backend)?)), suffix)
                }
            };
            let outbox = [wire::raw(libc::AF_INET, libc::IPPROTO_RAW)?, wire::raw(libc::AF_INET6, libc::IPPROTO_RAW)?];
            run("ip", &["link", "set", "lo", "up"], "")?;
            run("nft", &["-f", "-"], OWN_TABLE)?;
            Ok((driver, outbox, Socket::open(Protocol::Netfilter)?))
        });
        let (driver, outbox, tracking) = match made.map_err(anyhow::Error::from).and_then(|made| made) {
            Ok(made) => made,
            Err(error) => {
                let _ = netns::delete(&name);
                return Err(error);
            }
        };
        let (links, inbox) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { name, netns, driver, links, inbox, outbox, tracking, undo: Vec::new(), drops_rest: false })
    }

    /// Becomes this host of a case.
    pub(super) fn become_host(&mut self, case: &Case, node: &NodeName, policy: &HostPolicy) -> Result<()> {
        let site = &case.sites[node];
        let mut layout = Layout::default();
        layout.of_case(case, node, site);
        let mut batch: Vec<String> = std::mem::take(&mut self.undo);
        batch.reverse();
        let netns = &self.netns;
        for link in std::iter::once(UPLINK).chain(layout.links.iter().map(String::as_str)) {
            if !self.links.contains_key(link) {
                self.links.insert(link.to_owned(), netns.run(|| wire::tun(link))??);
                batch.push(format!("link set {link} up"));
            }
        }
        for (address, nodad) in layout.local.iter().map(|a| (a, if a.is_ipv6() { " nodad" } else { "" })) {
            batch.push(format!("addr add {} dev {UPLINK}{nodad}", Prefix::host(*address)));
            self.undo.push(format!("addr del {} dev {UPLINK}", Prefix::host(*address)));
        }
        let defaults = ["0.0.0.0/0", "::/0"].map(|all| (all.to_owned(), UPLINK.to_owned()));
        let routed = layout.routes.iter().map(|(address, link)| (Prefix::host(*address).to_string(), link.clone()));
        for (prefix, link) in defaults.into_iter().chain(routed) {
            batch.push(format!("route replace {prefix} dev {link}"));
            self.undo.push(format!("route del {prefix} dev {link}"));
        }
        let rest_drops = !case.host_accepts;
        let returns = site.endpoint_to_host == EndpointToHost::Return;
        let guard =
            Guard { link_prefixes: BTreeSet::from([PREFIX.to_owned()]), endpoint_to_host: site.endpoint_to_host };
        let (driver, drops_rest) = (&mut self.driver, &mut self.drops_rest);
        netns.run(|| -> Result<()> {
            run("ip", &["-batch", "-"], &(batch.join("\n") + "\n"))?;
            enforce(driver, &guard, &layout.sources, policy)?;
            match driver {
                Driver::Nft(_) => {
                    // `accept` is the last word of one base chain only: what it let pass cannot be told from what was left.
                    let drop = rest_drops && returns;
                    let rule = format!("add rule inet probes rest iifname \"{PREFIX}*\" drop\n");
                    let text = format!("flush chain inet probes rest\n{}", if drop { rule.as_str() } else { "" });
                    if std::mem::replace(drops_rest, drop) == drop { Ok(()) } else { run("nft", &["-f", "-"], &text) }
                }
                Driver::Iptables(..) if rest_drops == *drops_rest => Ok(()),
                Driver::Iptables(_, suffix) => {
                    *drops_rest = rest_drops;
                    let action = if rest_drops { "-A" } else { "-D" };
                    let links = format!("{PREFIX}+");
                    let rule = ["-w", action, "INPUT", "-i", &links, "-j", "DROP"];
                    ["iptables", "ip6tables"].iter().try_for_each(|name| run(&format!("{name}{suffix}"), &rule, ""))
                }
            }
        })??;
        self.links.values().for_each(wire::drain);
        self.inbox.values().for_each(wire::drain);
        Ok(())
    }

    /// Translates one destination to another, or none.
    pub(super) fn translate(&self, rule: Option<Translation>) -> Result<()> {
        let mut text = "flush chain inet probes translate\n".to_owned();
        if let Some(Translation { protocol, from: (from, port), to: (to, to_port) }) = rule {
            let (family, to) = if to.is_ipv4() { ("ip", to.to_string()) } else { ("ip6", format!("[{to}]")) };
            text += &format!(
                "add rule inet probes translate {family} daddr {from} meta l4proto {protocol} th dport {port} \
                 dnat {family} to {to}:{to_port}\n"
            );
        }
        self.netns.run(|| run("nft", &["-f", "-"], &text))?
    }

    /// Ends all connections.
    pub(super) fn forget(&mut self) -> Result<()> {
        let request = Message::new(FORGET, 0).fixed(&[0; 4]);
        self.tracking.batch(&[request], "forget all connections").into_iter().try_for_each(|result| Ok(result?))
    }

    /// A packet comes in by a link.
    pub(super) fn receive(&self, link: &str, packet: &[u8]) -> Result<()> {
        let mut file = self.link(link)?;
        file.write_all(packet).with_context(|| format!("cannot write to {link}"))
    }

    /// The packet with this cookie, if it has gone out by a link.
    pub(super) fn sent(&self, link: &str, cookie: u32) -> Result<Option<Vec<u8>>> {
        Ok(wire::find(self.link(link)?, cookie))
    }

    fn link(&self, link: &str) -> Result<&File> {
        self.links.get(link).with_context(|| format!("there is no link {link}"))
    }

    /// Sends a packet as the host itself.
    pub(super) fn send(&self, destination: IpAddr, packet: &[u8]) {
        wire::send(&self.outbox[usize::from(destination.is_ipv6())], destination, packet);
    }

    /// Listens for packets of a protocol to the host itself.
    pub(super) fn listen(&mut self, family: libc::c_int, protocol: u8) -> Result<()> {
        if !self.inbox.contains_key(&(family, protocol)) {
            let socket = self.netns.run(|| wire::raw(family, protocol.into()))??;
            self.inbox.insert((family, protocol), socket);
        }
        Ok(())
    }

    /// Whether the packet with this cookie has reached the host itself.
    pub(super) fn got(&self, family: libc::c_int, protocol: u8, cookie: u32) -> bool {
        self.inbox.get(&(family, protocol)).is_some_and(|socket| wire::find(socket, cookie).is_some())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Err(error) = netns::delete(&self.name) {
            eprintln!("namespace {} stays: {error}", self.name);
        }
    }
}

/// Packets are forwarded wherever they seem to come from, and nothing but probes is sent.
const SETTINGS: [(&str, &str); 11] = [
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/accept_local", "1"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv6/conf/default/addr_gen_mode", "1"),
];

/// Links, addresses and routes of a host.
#[derive(Default)]
struct Layout {
    links: BTreeSet<String>,
    local: BTreeSet<IpAddr>,
    routes: BTreeMap<IpAddr, String>,
    sources: BTreeSet<Source>,
}

impl Layout {
    fn of_case(&mut self, case: &Case, node: &NodeName, site: &Site) {
        self.local.extend(site.interfaces.values().flatten());
        let here = case.world.workloads.values().filter(|endpoint| endpoint.node == *node);
        for endpoint in here {
            self.links.insert(endpoint.link.to_string());
            let party = Party::Workload(endpoint.key.clone());
            let own = || endpoint.addresses.iter().copied();
            let from = case.probes.iter().filter(|probe| probe.from == party).map(|probe| probe.packet.source);
            let to = case.probes.iter().filter(|probe| probe.to == party).map(|probe| probe.packet.destination);
            let source = |address| Source { link: endpoint.link.clone(), prefix: Prefix::host(address) };
            self.sources.extend(own().chain(from).filter(is_unicast).map(source));
            self.routes.extend(own().chain(to).filter(is_unicast).map(|address| (address, endpoint.link.to_string())));
        }
        let to_host = case.probes.iter().filter(|probe| probe.to == Party::Host(node.clone()));
        self.local.extend(to_host.map(|probe| probe.packet.destination));
        self.local.retain(is_unicast);
    }
}

/// Whether a router has to do with packets from and to this address.
pub(super) fn is_unicast(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.octets()[0] == 0 || v4.is_loopback() || v4.octets()[0] >= 224),
        IpAddr::V6(v6) => !(v6.is_multicast() || v6.is_unspecified() || v6.is_loopback() || v6.is_unicast_link_local()),
    }
}

fn enforce(driver: &mut Driver, guard: &Guard, sources: &BTreeSet<Source>, policy: &HostPolicy) -> Result<()> {
    let nat = Nat::default();
    let (failed, sources) = match driver {
        Driver::Nft(nft) => {
            nft.sync_skeleton(guard, &nat)?;
            let sources = nft.sync_sources(sources, Scope::All);
            let outcome = nft.sync_policy(policy, PolicyScope::All);
            (outcome.failed.iter().map(|(key, error)| format!("{key:?}: {error}")).collect::<Vec<_>>(), sources)
        }
        Driver::Iptables(iptables, _) => {
            iptables.read_back()?;
            iptables.sync_skeleton(guard, &nat)?;
            let sources = iptables.sync_sources(sources, Scope::All);
            let outcome = iptables.sync_policy(policy, PolicyScope::All);
            (outcome.failed.iter().map(|(key, error)| format!("{key:?}: {error}")).collect(), sources)
        }
    };
    ensure!(failed.is_empty(), "policy was refused: {}", failed.join("; "));
    ensure!(sources.failed.is_empty(), "sources were refused: {:?}", sources.failed);
    Ok(())
}

/// Runs a program in the calling thread's network namespace.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let path = ["/usr/sbin", "/sbin", "/usr/bin"].map(|folder| Path::new(folder).join(program));
    let path = path.iter().find(|path| path.exists()).with_context(|| format!("{program} is not installed"))?;
    let mut child = Command::new(path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{program} cannot be started"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {said}\n{input}", arguments.join(" "));
    Ok(())
}

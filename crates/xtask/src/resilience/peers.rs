//! What stands at the edge: our own agent and speaker, BIRD, or FRR; each with graceful restart, each a reflector of the
//! two hosts, each with what it learns in its kernel.

use super::network::{HOSTS, Network};
use anyhow::{Context, Result};
use lasthop_lab::links::{End, Inside, veth};
use nix::sys::signal::Signal;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// Whose speaker it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ourselves,
    Bird,
    Frr,
}

/// One speaker at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) name: &'static str,
    pub(super) address: &'static str,
}

impl Edge {
    pub(super) const FIRST: Self = Self { name: "edge", address: "172.18.203.2" };
    pub(super) const SECOND: Self = Self { name: "edge2", address: "172.18.203.3" };
}

/// The hold time of BIRD and FRR in seconds, and so of the sessions with them.
const HOLD: u32 = 9;

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Ourselves, Self::Bird, Self::Frr];

    /// On the command line.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Ourselves => "ourselves",
            Self::Bird => "bird",
            Self::Frr => "frr",
        }
    }

    /// In the table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ourselves => "ourselves",
            Self::Bird => "BIRD",
            Self::Frr => "FRR",
        }
    }

    /// The processes at the edge that speak BGP.
    fn speaker(self) -> &'static str {
        match self {
            Self::Ourselves => "bgp",
            Self::Bird => "bird",
            Self::Frr => "bgpd",
        }
    }
}

/// The lab before the edge is there, or with it if it is ours.
pub(super) fn topology(kind: Kind, edges: &[Edge]) -> String {
    let ours = kind == Kind::Ourselves;
    let mut hosts: String =
        HOSTS.iter().map(|(name, address)| format!("- {{ name: {name}, addresses: [{address}] }}\n")).collect();
    for edge in edges.iter().filter(|_| ours) {
        let _ = writeln!(hosts, "- {{ name: {}, addresses: [{}], reflector: true }}", edge.name, edge.address);
    }
    let peering = if ours { "reflector" } else { "custom" };
    format!(
        "fabric: {{ subnets: [172.18.203.0/24], gateway: [172.18.203.1], internet: [198.51.100.1], \
         store: [172.18.203.4] }}\npools: [{{ name: workloads, cidr: 10.65.0.0/16 }}]\npeering: {peering}\n\
         hosts:\n{hosts}"
    )
}

/// Makes what the lab did not: the namespace, the daemon, and the hosts' side of its sessions.
pub(super) fn prepare(network: &Network, edge: &Edge) -> Result<()> {
    if network.kind == Kind::Ourselves {
        // A reflector is no way anywhere unless it says so: this one is.
        return network.apply(&format!(
            "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{ name: node.{} }}\n\
             spec: {{ programClusterRoutes: Enabled }}\n",
            edge.name
        ));
    }
    network.further(edge.name)?;
    let (inner, fabric) = (network.namespace(edge.name), network.namespace("fabric"));
    veth(&End { namespace: &inner, name: "eth0", mac: None }, &End { namespace: &fabric, name: edge.name, mac: None })?;
    Inside::run(&fabric, |inside| inside.plug(edge.name, "br0"))?;
    Inside::run(&inner, |inside| {
        inside.address("eth0", format!("{}/24", edge.address).parse().map_err(anyhow::Error::msg)?)?;
        inside.up("eth0")
    })?;
    network.inside(edge.name, &["sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
    let peers = HOSTS.iter().map(|(host, _)| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {{ name: {host}-{} }}\n\
             spec: {{ node: {host}, peerIP: {}, asNumber: 64512 }}\n---\n",
            edge.name, edge.address
        )
    });
    network.apply(&peers.collect::<String>())?;
    if network.kind == Kind::Frr {
        let (directory, _) = files(network, edge)?;
        let zebra = daemon("zebra", &directory);
        std::fs::write(directory.join("zebra.conf"), "")?;
        // zebra stays: it is what keeps the kernel's routes while bgpd is away.
        network.start(edge.name, "zebra", &[zebra, vec!["-K".to_owned(), "60".to_owned()]].concat())?;
        wait_for(&directory.join("zserv.api"))?;
    }
    speaker_starts(network, edge)
}

/// Kills the edge's speaker, and nothing else of it.
pub(super) fn speaker_dies(network: &Network, edge: &Edge) -> Result<()> {
    network.end(edge.name, &[network.kind.speaker()], Signal::SIGKILL)
}

/// Starts the edge's speaker, as one that was there before.
pub(super) fn speaker_starts(network: &Network, edge: &Edge) -> Result<()> {
    let (directory, config) = match network.kind {
        Kind::Ourselves => return network.again(edge.name, &["bgp"]),
        _ => files(network, edge)?,
    };
    let path = |name: &str| directory.join(name).display().to_string();
    let command = if network.kind == Kind::Bird {
        let words = ["/usr/sbin/bird", "-f", "-R", "-c", &config.display().to_string(), "-s", &path("bird.ctl")];
        words.map(str::to_owned).to_vec()
    } else {
        daemon("bgpd", &directory)
    };
    network.start(edge.name, network.kind.speaker(), &command).map(drop)
}

/// The command line of one of FRR's daemons.
fn daemon(name: &str, directory: &std::path::Path) -> Vec<String> {
    let path = |name: &str| directory.join(name).display().to_string();
    let words = [
        &format!("/usr/lib/frr/{name}"),
        "-P",
        "0",
        "-z",
        &path("zserv.api"),
        "-f",
        &path(&format!("{name}.conf")),
        "-i",
        &path(&format!("{name}.pid")),
        "--vty_socket",
        &directory.display().to_string(),
    ];
    words.map(str::to_owned).to_vec()
}

fn wait_for(file: &std::path::Path) -> Result<()> {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !file.exists() {
        anyhow::ensure!(std::time::Instant::now() < end, "there is no {} after 10 s", file.display());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Ok(())
}

/// The edge's directory, and its configuration in it.
fn files(network: &Network, edge: &Edge) -> Result<(PathBuf, PathBuf)> {
    let directory = network.directory.root().join("edges").join(edge.name);
    std::fs::create_dir_all(&directory)?;
    // FRR's daemons give up root.
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o777)).context("permissions")?;
    let (name, text) = if network.kind == Kind::Bird { ("bird.conf", bird(edge)) } else { ("bgpd.conf", frr(edge)) };
    let file = directory.join(name);
    std::fs::write(&file, text)?;
    Ok((directory, file))
}

fn bird(edge: &Edge) -> String {
    let mut text = format!(
        "log stderr all;\nrouter id {};\nprotocol device {{ }}\n\
         protocol kernel {{ persist; graceful restart; scan time 60; ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n",
        edge.address
    );
    for (name, address) in HOSTS {
        let _ = writeln!(
            text,
            "protocol bgp {name} {{ local {} as 64512; neighbor {address} as 64512; direct; rr client; hold time {HOLD};\n\
             rr cluster id {}; graceful restart on; connect delay time 1; connect retry time 1; error wait time 1, 2;\n\
             ipv4 {{ import all; export all; next hop keep; }}; }}",
            edge.address, edge.address
        );
    }
    text
}

fn frr(edge: &Edge) -> String {
    let mut text = format!(
        "router bgp 64512\n bgp router-id {0}\n bgp cluster-id {0}\n no bgp default ipv4-unicast\n\
         bgp graceful-restart preserve-fw-state\n bgp graceful-restart\n",
        edge.address
    );
    for (_, address) in HOSTS {
        let _ = writeln!(text, " neighbor {address} remote-as 64512\n neighbor {address} timers {} {HOLD}", HOLD / 3);
        let _ = writeln!(text, " neighbor {address} timers connect 1\n neighbor {address} advertisement-interval 0");
    }
    text.push_str(" address-family ipv4 unicast\n");
    for (_, address) in HOSTS {
        let _ = writeln!(text, "  neighbor {address} activate\n  neighbor {address} route-reflector-client");
    }
    text + " exit-address-family\nexit\n"
}

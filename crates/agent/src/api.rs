//! The agent's API: one JSON object per line each way on a unix socket.
//!
//! A request carries the version it speaks ([`VERSION`]); an answer is `{"ok": …}` or
//! `{"error": {"code", "message"}}`. The CLI, the lab and the CNI plugin are callers of the same API.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The version of this API.
pub const VERSION: u32 = 1;

/// The longest request or answer line, in bytes.
pub const LINE_LIMIT: usize = 64 << 20;

/// A request line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Envelope {
    /// The version the caller speaks.
    pub v: u32,
    /// What is asked.
    #[serde(flatten)]
    pub request: Request,
}

/// What is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Connect a workload. Idempotent; answers [`Attached`] once the kernel has acknowledged everything.
    Attach(Box<Attach>),
    /// Disconnect a workload. Idempotent; answers [`Detached`].
    Detach(Detach),
    /// All workloads of this host: answers a list of [`Workload`].
    Workloads,
    /// The host on one screen: answers [`Status`].
    Status,
    /// The routes of this host, wanted and present: answers a list of [`RouteState`].
    Routes,
    /// The rules that are in force on this host, and what they have counted: answers a list of [`RuleState`].
    PolicyRules,
    /// The speaker's peers, as its own JSON.
    BgpPeers,
    /// The speaker's paths, all or of one prefix, as its own JSON.
    BgpPaths {
        /// Only this one.
        prefix: Option<String>,
    },
    /// Why a prefix's paths won or lost, and why they are (not) advertised, as the speaker's own JSON.
    BgpWhy {
        /// The prefix.
        prefix: String,
    },
    /// What became of a prefix in this host's kernel: answers [`Installed`].
    RouteOf {
        /// The prefix.
        prefix: String,
    },
    /// What happened in the speaker after the event of this number, as its own JSON; answered when something has.
    BgpEvents {
        /// What the last answer said is next.
        after: Option<u64>,
    },
    /// The speaker's tables, written to a file of its host as MRT: answers how many octets it has.
    BgpDump {
        /// The file, with its whole path.
        file: String,
    },
    /// What goes into the speaker is recorded in a file of its host from now on: answers whether it is.
    BgpRecord(crate::speaker::Recording),
    /// The recording ends: answers whether there was one.
    BgpStopRecording,
    /// Stop the agent and take away all that it made in the kernel.
    RemoveAll,
}

/// Connect a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// Namespace of the endpoint's resource.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Name of the endpoint's resource.
    pub name: String,
    /// The link.
    pub link: LinkRequest,
    /// The workload's addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The workload's MAC address: set on a veth we make; for an adopted link what the guest has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// MTU of a veth we make; default is the fabric's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Prefixes it may use as source beside its addresses.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub allowed_sources: BTreeSet<String>,
    /// Its profiles, exactly these; not given, that of its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profiles: Option<Vec<String>>,
    /// Its service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// The ports that it gives names, for rules to speak of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NamedPort>,
}

/// A port that a workload gives a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Its number.
    pub port: u16,
}

impl Attach {
    /// A workload of the default namespace, with nothing but these.
    #[must_use]
    pub fn new(name: &str, link: LinkRequest, addresses: BTreeSet<IpAddr>) -> Self {
        Self {
            namespace: default_namespace(),
            name: name.to_owned(),
            link,
            addresses,
            mac: None,
            mtu: None,
            labels: BTreeMap::new(),
            allowed_sources: BTreeSet::new(),
            profiles: None,
            service_account: None,
            ports: Vec::new(),
        }
    }
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// Which link connects the workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkRequest {
    /// A TAP or veth end that is there already, or will be.
    Adopt {
        /// Its name on the host.
        ifname: String,
    },
    /// A veth that the agent makes.
    Veth {
        /// The workload's network namespace.
        netns: Netns,
        /// Name inside the workload.
        #[serde(default = "default_inside")]
        ifname: String,
        /// Name on the host; default is made from namespace and name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host_ifname: Option<String>,
    },
}

fn default_inside() -> String {
    "eth0".to_owned()
}

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Netns {
    /// A file, such as `/var/run/netns/x`.
    Path(String),
    /// A name under `/run/netns`.
    Name(String),
    /// That of a process.
    Pid(u32),
}

/// Disconnect a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detach {
    /// Namespace of the endpoint's resource.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// Name of the endpoint's resource.
    pub name: String,
}

/// A workload is connected, in the kernel's own word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The host's link.
    pub link: String,
    /// Its index, if it is there already.
    pub ifindex: Option<u32>,
    /// The MAC address that answers as next hop.
    pub host_mac: Option<String>,
    /// The workload's MAC address, if known.
    pub workload_mac: Option<String>,
    /// MTU of the link.
    pub mtu: Option<u32>,
    /// The workload's addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The next hop for IPv4.
    pub gateway_v4: Option<Ipv4Addr>,
    /// The next hop for IPv6: the host side's link-local address.
    pub gateway_v6: Option<Ipv6Addr>,
    /// Routes that the kernel has acknowledged.
    pub programmed: BTreeSet<String>,
    /// What is recorded but not yet in the kernel, and why (an adopted link that is not there yet).
    pub pending: BTreeMap<String, String>,
    /// How long it took, in microseconds.
    pub elapsed_us: u64,
}

/// A workload is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detached {
    /// Whether there was one.
    pub existed: bool,
    /// How long it took, in microseconds.
    pub elapsed_us: u64,
}

/// A workload of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// `namespace/name`.
    pub endpoint: String,
    /// The host's link.
    pub link: String,
    /// `up`, `down`, `absent`.
    pub link_state: String,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Its MAC address, if known.
    pub mac: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Where the record is: `attached here`, `store`.
    pub source: String,
    /// Routes that the kernel has acknowledged.
    pub programmed: BTreeSet<String>,
    /// What is not in force, and why.
    pub pending: BTreeMap<String, String>,
}

/// A host on one screen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// The node.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// The store.
    pub store: StoreStatus,
    /// The speaker.
    pub speaker: SpeakerStatus,
    /// Workloads, and how many are wholly in force.
    pub workloads: Count,
    /// Direct routes.
    pub direct_routes: Count,
    /// Learned routes.
    pub learned_routes: Count,
    /// Kernel writes since start.
    pub writes: u64,
    /// What others changed and we put right: newest last.
    pub drift: Vec<Drift>,
    /// How often that was since the start: [`Self::drift`] has the last ones only.
    #[serde(default)]
    pub drift_repaired: u64,
    /// How often the kernel refused a write since the start.
    #[serde(default)]
    pub refusals: u64,
    /// Objects that are not in force, and why.
    pub findings: BTreeMap<String, String>,
    /// Kernel objects that are not as they ought to be, and why.
    pub pending: BTreeMap<String, String>,
    /// Routes of ours that yield to another program's, by design, and to whose.
    #[serde(default)]
    pub yielding: BTreeMap<String, String>,
    /// Packets the guard dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// The store as the agent sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Where it is.
    pub endpoint: String,
    /// `in-sync`, `connecting`, `from snapshot`.
    pub state: String,
    /// Revision of what we hold.
    pub revision: u64,
    /// Last error, in words.
    pub error: Option<String>,
    /// Endpoints attached here that the store does not hold yet.
    pub unpublished: usize,
}

/// The speaker as the agent sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SpeakerStatus {
    /// `connected`, `connecting`, `external`.
    pub state: String,
    /// Sessions established, of all configured.
    pub sessions: Count,
    /// Whether learned paths are complete since its start.
    pub in_sync: bool,
    /// Each peer: address, state, since when, last error.
    pub peers: Vec<PeerLine>,
}

/// A peer in one line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerLine {
    /// Its address.
    pub address: IpAddr,
    /// `mesh`, or the name of the BGPPeer.
    pub because: String,
    /// Its state.
    pub state: String,
    /// Last error in words.
    pub error: Option<String>,
}

/// What became of a prefix in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Installed {
    /// Whether a route of ours for it is in the kernel.
    pub in_kernel: bool,
    /// `direct`, `remote`, `unreachable`; none if no route is wanted.
    pub kind: Option<String>,
    /// The link, or the next hops.
    pub to: Vec<String>,
    /// Why it is not there, or not as the speaker would have it.
    pub reason: Option<String>,
}

/// So many of so many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// As they ought to be.
    pub ready: usize,
    /// All.
    pub total: usize,
}

/// Something that another program changed, and what we did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Drift {
    /// Seconds since 1970.
    pub at: u64,
    /// The object.
    pub object: String,
    /// What was done.
    pub action: String,
}

/// A route of this host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RouteState {
    /// The prefix.
    pub prefix: String,
    /// `direct`, `remote`, `unreachable`.
    pub kind: String,
    /// The link, for a direct one.
    pub link: Option<String>,
    /// Next hops, for a remote one.
    pub next_hops: Vec<IpAddr>,
    /// Why it is wanted: the endpoint, `BGP`, the pool.
    pub because: String,
    /// Whether the kernel has it.
    pub in_kernel: bool,
    /// Why not.
    pub pending: Option<String>,
    /// What other program's route it yields to.
    #[serde(default)]
    pub yields: Option<String>,
    /// Whether it is advertised.
    pub advertised: bool,
}

/// An answer line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// What was asked for.
    Ok(serde_json::Value),
    /// What went wrong.
    Error(Refusal),
}

/// Why a request was refused: one line that names the thing and the fix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// What kind of refusal.
    pub code: Code,
    /// The line.
    pub message: String,
}

/// What kind of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The request is wrong in itself.
    Invalid,
    /// Something else has the name, the link or the address.
    Conflict,
    /// The thing does not exist.
    NotFound,
    /// The kernel refused.
    Kernel,
    /// Not now: the agent or its speaker is starting.
    Unavailable,
    /// The caller speaks another version.
    Version,
}

/// A rule that is in force on this host, and what it has counted since it was last written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleState {
    /// What the kernel calls it: `<program>:<index>`, as in packets that it denies.
    pub id: String,
    /// Whose it is: `NetworkPolicy/default/web`, `Profile/kns.default`.
    pub owner: String,
    /// Its tier, if it is a policy's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// `ingress` or `egress`.
    pub direction: String,
    /// Its index in the resource's list.
    pub index: usize,
    /// `Allow`, `Deny`, `Pass` or `Log`.
    pub action: String,
    /// Whether it is only counted.
    pub staged: bool,
    /// Packets: the first ones of connections, and those of none.
    pub packets: u64,
    /// Bytes of those.
    pub bytes: u64,
}

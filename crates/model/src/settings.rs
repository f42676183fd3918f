//! The agent's settings (`FelixConfiguration`): the fields that the data path reads.

use lasthop_net::{Metric, Prefix};
use std::collections::BTreeSet;
use std::time::Duration;

/// What one host's agent is told: `default`, overlaid by the resource for its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Name prefixes of workload links; what carries one and is not a known endpoint passes nothing.
    pub interface_prefixes: Vec<String>,
    /// What traffic from a workload to its own host meets.
    pub endpoint_to_host: EndpointToHost,
    /// Whether learned routes go into the kernel; a pure route reflector says no.
    pub program_routes: ProgramRoutes,
    /// Metric of direct and learned routes.
    pub metric: Metric,
    /// Whether `allowed_sources` of endpoints are honoured (`workloadSourceSpoofing: Any`).
    pub source_spoofing: SourceSpoofing,
    /// Time between two full read-backs.
    pub refresh: Duration,
    /// Whether the host side of every workload link has the same MAC.
    pub host_mac: HostMac,
    /// What carries policy in the kernel.
    pub dataplane: Dataplane,
    /// Which iptables, where that carries it.
    pub iptables_backend: IptablesBackend,
    /// What becomes of denied packets.
    pub deny_action: DenyAction,
    /// Ports of the host that no policy closes, for packets to it.
    pub failsafe_in: BTreeSet<FailsafePort>,
    /// Ports that no policy closes, for packets from the host.
    pub failsafe_out: BTreeSet<FailsafePort>,
    /// What stands before the lines of logged packets: `%t` is the policy's tier, `%k` its kind in short, `%n` its name,
    /// `%p` its name with its namespace.
    pub log_prefix: String,
    /// How many packets are logged at most; `None` is all.
    pub log_rate: Option<Rate>,
    /// How many are logged at once before the rate counts.
    pub log_burst: u32,
    /// Whose connections are ended.
    pub revoke: Revoke,
}

/// What carries policy (`nftablesMode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dataplane {
    /// nftables.
    #[default]
    Auto,
    /// nftables.
    Nftables,
    /// iptables and ipset.
    Iptables,
}

/// `iptablesBackend`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IptablesBackend {
    /// The one that the host uses already.
    #[default]
    Auto,
    /// The older one.
    Legacy,
    /// The one over nftables.
    Nft,
}

/// `nftablesFilterDenyAction`, or else `iptablesFilterDenyAction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DenyAction {
    /// Silence.
    #[default]
    Drop,
    /// An ICMP error, or a TCP reset.
    Reject,
}

/// A port that no host endpoint's policy closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FailsafePort {
    /// Protocol number.
    pub protocol: u8,
    /// Destination port.
    pub port: u16,
    /// The other side is in here; `None` is anywhere.
    pub net: Option<Prefix>,
}

/// So many in so long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Packets.
    pub packets: u32,
    /// In this time: a second, a minute, an hour or a day.
    pub per: Duration,
}

/// Whose established connections are ended (`revokeConnections`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Revoke {
    /// Those of endpoints that go, or lose an address. A policy counts for new connections only.
    #[default]
    RemovedEndpoints,
    /// Also those that a change of policy denies, and no others.
    DeniedFlows,
}

/// SSH, DHCP, BGP, etcd, the stores' and Kubernetes' ports: what a host is reached and run by.
const FAILSAFE_IN: [(u8, u16); 10] = [
    (TCP, 22),
    (UDP, 68),
    (TCP, 179),
    (TCP, 2379),
    (TCP, 2380),
    (TCP, 5473),
    (TCP, 6443),
    (TCP, 6666),
    (TCP, 6667),
    (TCP, STORE),
];

/// The same from the host, with DNS in place of SSH.
const FAILSAFE_OUT: [(u8, u16); 10] = [
    (UDP, 53),
    (UDP, 67),
    (TCP, 179),
    (TCP, 2379),
    (TCP, 2380),
    (TCP, 5473),
    (TCP, 6443),
    (TCP, 6666),
    (TCP, 6667),
    (TCP, STORE),
];

const TCP: u8 = 6;
const UDP: u8 = 17;

/// The usual port of `lasthop server`.
const STORE: u16 = 7470;

fn anywhere(ports: [(u8, u16); 10]) -> BTreeSet<FailsafePort> {
    ports.into_iter().map(|(protocol, port)| FailsafePort { protocol, port, net: None }).collect()
}

/// `defaultEndpointToHostAction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointToHost {
    /// Dropped, but for neighbour discovery.
    #[default]
    Drop,
    /// Accepted.
    Accept,
    /// Left to the host's other rules.
    Return,
}

/// `programClusterRoutes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgramRoutes {
    /// Learned routes go into the kernel.
    #[default]
    Enabled,
    /// They do not.
    Disabled,
}

/// `workloadSourceSpoofing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceSpoofing {
    /// Only a workload's own addresses are allowed as source.
    #[default]
    Disabled,
    /// Also the prefixes its endpoint lists.
    Any,
}

/// The MAC address of the host's side of workload links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HostMac {
    /// `ee:ee:ee:ee:ee:ee` on veths that we make; others keep theirs.
    #[default]
    FixedOnOurs,
    /// `ee:ee:ee:ee:ee:ee` on every workload link.
    FixedOnAll,
    /// Left as the kernel or the hypervisor chose it.
    Kept,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interface_prefixes: vec!["lh".into(), "tap".into()],
            endpoint_to_host: EndpointToHost::default(),
            program_routes: ProgramRoutes::default(),
            metric: Metric(0),
            source_spoofing: SourceSpoofing::default(),
            refresh: Duration::from_secs(90),
            host_mac: HostMac::default(),
            dataplane: Dataplane::default(),
            iptables_backend: IptablesBackend::default(),
            deny_action: DenyAction::default(),
            failsafe_in: anywhere(FAILSAFE_IN),
            failsafe_out: anywhere(FAILSAFE_OUT),
            log_prefix: "lasthop %p".to_owned(),
            log_rate: None,
            log_burst: 5,
            revoke: Revoke::default(),
        }
    }
}

/// The fields that one resource sets; the rest is left to what lies below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// See [`Settings::interface_prefixes`].
    pub interface_prefixes: Option<Vec<String>>,
    /// See [`Settings::endpoint_to_host`].
    pub endpoint_to_host: Option<EndpointToHost>,
    /// See [`Settings::program_routes`].
    pub program_routes: Option<ProgramRoutes>,
    /// See [`Settings::metric`].
    pub metric: Option<Metric>,
    /// See [`Settings::source_spoofing`].
    pub source_spoofing: Option<SourceSpoofing>,
    /// See [`Settings::refresh`].
    pub refresh: Option<Duration>,
    /// See [`Settings::host_mac`].
    pub host_mac: Option<HostMac>,
    /// See [`Settings::dataplane`].
    pub dataplane: Option<Dataplane>,
    /// See [`Settings::iptables_backend`].
    pub iptables_backend: Option<IptablesBackend>,
    /// See [`Settings::deny_action`].
    pub deny_action: Option<DenyAction>,
    /// See [`Settings::failsafe_in`].
    pub failsafe_in: Option<BTreeSet<FailsafePort>>,
    /// See [`Settings::failsafe_out`].
    pub failsafe_out: Option<BTreeSet<FailsafePort>>,
    /// See [`Settings::log_prefix`].
    pub log_prefix: Option<String>,
    /// See [`Settings::log_rate`].
    pub log_rate: Option<Rate>,
    /// See [`Settings::log_burst`].
    pub log_burst: Option<u32>,
    /// See [`Settings::revoke`].
    pub revoke: Option<Revoke>,
}

impl Overlay {
    /// Puts the fields that are set here over those of `settings`.
    pub fn lay_over(&self, settings: &mut Settings) {
        fn put<T: Clone>(to: &mut T, from: Option<&T>) {
            if let Some(value) = from {
                to.clone_from(value);
            }
        }
        put(&mut settings.interface_prefixes, self.interface_prefixes.as_ref());
        put(&mut settings.endpoint_to_host, self.endpoint_to_host.as_ref());
        put(&mut settings.program_routes, self.program_routes.as_ref());
        put(&mut settings.metric, self.metric.as_ref());
        put(&mut settings.source_spoofing, self.source_spoofing.as_ref());
        put(&mut settings.refresh, self.refresh.as_ref());
        put(&mut settings.host_mac, self.host_mac.as_ref());
        put(&mut settings.dataplane, self.dataplane.as_ref());
        put(&mut settings.iptables_backend, self.iptables_backend.as_ref());
        put(&mut settings.deny_action, self.deny_action.as_ref());
        put(&mut settings.failsafe_in, self.failsafe_in.as_ref());
        put(&mut settings.failsafe_out, self.failsafe_out.as_ref());
        put(&mut settings.log_prefix, self.log_prefix.as_ref());
        settings.log_rate = self.log_rate.or(settings.log_rate);
        put(&mut settings.log_burst, self.log_burst.as_ref());
        put(&mut settings.revoke, self.revoke.as_ref());
    }
}

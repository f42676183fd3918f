//! The agent's settings (`FelixConfiguration`): the fields that the data path reads.

use lasthop_net::Metric;
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
    }
}

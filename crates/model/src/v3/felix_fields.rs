//! Every field of `FelixConfiguration.spec`, by name and type: first those in force, then those that are
//! accepted without effect, grouped by what they are about.

use super::bgp::PRIORITY;
use super::shape::{Checker, Field, Shape, field, idle};
use super::spot::Spot;
use super::text;

/// A truth value.
const T: Shape = Shape::Truth;
/// A count.
const N: Shape = Shape::Integer(0, 2_147_483_647);
/// A port, or 0.
const PORT: Shape = Shape::Integer(0, 65535);
/// A port, or a range of ports.
const PORTS: Shape = Shape::Scalar(text::ports, "a port, or a range such as 20000:29999");
/// A duration.
const D: Shape = Shape::Checked(text::duration);
/// Any text.
const S: Shape = Shape::Text;
/// A regular expression over link names.
const PATTERN: Shape = Shape::Checked(text::regex);
const ON_OFF: Shape = Shape::OneOf(&["Enabled", "Disabled"]);
const LEVEL: Shape = Shape::AnyCase(&["Trace", "Debug", "Info", "Warning", "Error", "Fatal"]);
const ALLOW_ACTION: Shape = Shape::AnyCase(&["Accept", "Return"]);
const DENY_ACTION: Shape = Shape::AnyCase(&["Drop", "Reject"]);
const PREFIXES: Shape = Shape::List(4096, &Shape::Checked(text::prefix));
const MARK: Shape = Shape::Integer(0, 0xffff_ffff);

const FAILSAFE_PORTS: Shape = Shape::List(
    1024,
    &Shape::Table(&[
        field("protocol", Shape::AnyCase(&["TCP", "UDP", "SCTP"])).required(),
        field("port", PORT).required(),
        field("net", Shape::Checked(text::prefix)),
    ]),
);

const TIMEOUT_OVERRIDES: Shape =
    Shape::List(1024, &Shape::Table(&[field("name", Shape::Text).required(), field("timeout", D).required()]));

/// Tables 253 to 255 are the kernel's own.
const TABLE_RANGE: Shape =
    Shape::Table(&[field("min", Shape::Integer(1, 250)).required(), field("max", Shape::Integer(1, 250)).required()]);

const TABLE_RANGES: Shape = Shape::List(
    1024,
    &Shape::Table(&[
        field("min", Shape::Integer(1, 0xffff_ffff)).required(),
        field("max", Shape::Integer(1, 0xffff_ffff)).required(),
    ]),
);

const CONNTRACK_TIMEOUTS: Shape = Shape::Table(&[
    field("creationGracePeriod", S),
    field("tcpSynSent", S),
    field("tcpEstablished", S),
    field("tcpFinsSeen", S),
    field("tcpResetSeen", S),
    field("udpTimeout", S),
    field("genericTimeout", S),
    field("icmpTimeout", S),
]);

pub(super) static SPEC: &[Field] = &[
    // In force.
    field("interfacePrefix", Shape::Checked(text::link_prefixes)),
    field("defaultEndpointToHostAction", Shape::AnyCase(&["Drop", "Accept", "Return"])),
    field("programClusterRoutes", Shape::OneOf(&["Enabled", "Disabled", "EnabledNoEncapOnly", "EnabledIPIPOnly"])),
    field("workloadSourceSpoofing", Shape::AnyCase(&["Disabled", "Any"])),
    field("routeRefreshInterval", D),
    field("ipv4NormalRoutePriority", PRIORITY),
    field("ipv6NormalRoutePriority", PRIORITY),
    field("routeMetric", Shape::Integer(0, 0xffff_ffff)),
    field("hostMAC", Shape::OneOf(&["Fixed", "FixedOnAll", "Kept"])),
    field("nodeSelector", Shape::Checked(text::selector)),
    field("nftablesMode", Shape::OneOf(&["Auto", "Enabled", "Disabled"])),
    field("iptablesBackend", Shape::AnyCase(&["Auto", "Legacy", "NFT"])),
    field("iptablesFilterDenyAction", DENY_ACTION),
    field("nftablesFilterDenyAction", DENY_ACTION),
    field("failsafeInboundHostPorts", FAILSAFE_PORTS),
    field("failsafeOutboundHostPorts", FAILSAFE_PORTS),
    field("logPrefix", Shape::Checked(text::log_prefix)),
    field("logActionRateLimit", Shape::Checked(text::rate)),
    field("logActionRateLimitBurst", Shape::Integer(0, 9999)),
    field("revokeConnections", Shape::OneOf(&["RemovedEndpoints", "DeniedFlows"])),
    // Process.
    idle("featureDetectOverride", S).moot(),
    idle("featureGates", Shape::Free).moot(),
    idle("goGCThreshold", Shape::Integer(-1, 1_000_000)).moot(),
    idle("goMaxProcs", Shape::Integer(-1, 65535)).moot(),
    idle("goMemoryLimitMB", Shape::Integer(-1, i64::MAX)).moot(),
    idle("healthEnabled", T),
    idle("healthHost", Shape::Checked(text::host)),
    idle("healthPort", PORT),
    idle("healthTimeoutOverrides", TIMEOUT_OVERRIDES),
    idle("logDebugFilenameRegex", PATTERN).moot(),
    idle("logFilePath", S).moot(),
    idle("logSeverityFile", LEVEL).moot(),
    idle("logSeverityScreen", LEVEL),
    idle("logSeveritySys", LEVEL).moot(),
    idle("prometheusGoMetricsEnabled", T).moot(),
    idle("prometheusMetricsCAFile", S),
    idle("prometheusMetricsCertFile", S),
    idle("prometheusMetricsClientAuth", S),
    idle("prometheusMetricsEnabled", T),
    idle("prometheusMetricsHost", Shape::Checked(text::host)),
    idle("prometheusMetricsKeyFile", S),
    idle("prometheusMetricsPort", PORT),
    idle("prometheusProcessMetricsEnabled", T),
    idle("prometheusWireGuardMetricsEnabled", T),
    idle("debugCPUProfilePath", S).moot(),
    idle("debugDisableLogDropping", T).moot(),
    idle("debugHost", Shape::Checked(text::host)).moot(),
    idle("debugMemoryProfilePath", S).moot(),
    idle("debugPanicAfter", D).moot(),
    idle("debugPort", PORT).moot(),
    idle("debugSimulateCalcGraphHangAfter", D).moot(),
    idle("debugSimulateDataRace", T).moot(),
    idle("debugSimulateDataplaneApplyDelay", D).moot(),
    idle("debugSimulateDataplaneHangAfter", D).moot(),
    idle("usageReportingEnabled", T).moot(),
    idle("usageReportingInitialDelay", D).moot(),
    idle("usageReportingInterval", D).moot(),
    // Data path, whatever renders it.
    idle("allowIPIPPacketsFromWorkloads", T),
    idle("allowVXLANPacketsFromWorkloads", T),
    idle("awsSrcDstCheck", Shape::OneOf(&["DoNothing", "Enable", "Disable"])),
    idle("cgroupV2Path", S),
    idle("chainInsertMode", Shape::AnyCase(&["Insert", "Append"])),
    idle("dataplaneDriver", S).moot(),
    idle("dataplaneWatchdogTimeout", D),
    idle("deviceRouteProtocol", Shape::Integer(0, 255)),
    idle("deviceRouteSourceAddress", Shape::Checked(text::ipv4)),
    idle("deviceRouteSourceAddressIPv6", Shape::Checked(text::ipv6)),
    idle("disableConntrackInvalidCheck", T),
    idle("endpointStatusPathPrefix", S),
    idle("externalNodesList", PREFIXES),
    idle("floatingIPs", ON_OFF),
    idle("interfaceExclude", S),
    idle("interfaceRefreshInterval", D).moot(),
    idle("ipForwarding", ON_OFF),
    idle("ipv4ElevatedRoutePriority", PRIORITY),
    idle("ipv6ElevatedRoutePriority", PRIORITY),
    idle("ipv6Support", T),
    idle("istioAmbientMode", ON_OFF),
    idle("istioDSCPMark", Shape::Free),
    idle("kubeNodePortRanges", Shape::List(7, &PORTS)),
    idle("liveMigrationRouteConvergenceTime", D),
    idle("localSubnetL2Reachability", S),
    idle("localSubnetL2ReachabilityRefreshInterval", D),
    idle("maxIpsetSize", N),
    idle("mtuIfacePattern", PATTERN),
    idle("natOutgoingAddress", Shape::Checked(text::ipv4)),
    idle("natOutgoingExclusions", Shape::OneOf(&["IPPoolsOnly", "IPPoolsAndHostIPs"])),
    idle("natPortRange", PORTS),
    idle("netlinkTimeout", D),
    idle("policySyncPathPrefix", S),
    idle("removeExternalRoutes", T),
    idle("requireMTUFile", T),
    idle("routeSource", Shape::AnyCase(&["WorkloadIPs", "CalicoIPAM"])),
    idle("routeSyncDisabled", T),
    idle("routeTableRange", TABLE_RANGE),
    idle("routeTableRanges", TABLE_RANGES),
    idle("serviceLoopPrevention", Shape::AnyCase(&["Drop", "Reject", "Disabled"])),
    idle("sidecarAccelerationEnabled", T),
    idle("useInternalDataplaneDriver", T).moot(),
    idle("windowsManageFirewallRules", ON_OFF).moot(),
    idle("windowsNetworkName", S).moot(),
    // iptables.
    idle("ipsetsRefreshInterval", D),
    idle("iptablesFilterAllowAction", ALLOW_ACTION),
    idle("iptablesLockFilePath", S),
    idle("iptablesLockProbeInterval", D),
    idle("iptablesLockTimeout", D),
    idle("iptablesMangleAllowAction", ALLOW_ACTION),
    idle("iptablesMarkMask", MARK),
    idle("iptablesNATOutgoingInterfaceFilter", S),
    idle("iptablesPostWriteCheckInterval", D),
    idle("iptablesRefreshInterval", D),
    idle("genericXDPEnabled", T),
    idle("xdpEnabled", T),
    idle("xdpRefreshInterval", D),
    // nftables.
    idle("nftablesFilterAllowAction", ALLOW_ACTION),
    idle("nftablesFlowTableDataIfacePattern", PATTERN),
    idle("nftablesFlowTableOffload", S),
    idle("nftablesMangleAllowAction", ALLOW_ACTION),
    idle("nftablesMarkMask", MARK),
    idle("nftablesRefreshInterval", D),
    // eBPF.
    idle("bpfAttachType", Shape::AnyCase(&["TC", "TCX", "Netkit"])),
    idle("bpfCTLBLogFilter", S),
    idle("bpfConnectTimeLoadBalancing", Shape::OneOf(&["TCP", "Enabled", "Disabled"])),
    idle("bpfConnectTimeLoadBalancingEnabled", T),
    idle("bpfConntrackLogLevel", Shape::AnyCase(&["Off", "Debug"])),
    idle("bpfConntrackMode", Shape::OneOf(&["Auto", "Userspace", "BPFProgram"])),
    idle("bpfConntrackTimeouts", CONNTRACK_TIMEOUTS),
    idle("bpfDSROptoutCIDRs", PREFIXES),
    idle("bpfDataIfacePattern", PATTERN),
    idle("bpfDisableGROForIfaces", S),
    idle("bpfDisableUnprivileged", T),
    idle("bpfEnabled", T),
    idle("bpfEnforceRPF", Shape::AnyCase(&["Disabled", "Strict", "Loose"])),
    idle("bpfExcludeCIDRsFromNAT", PREFIXES),
    idle("bpfExportBufferSizeMB", N),
    idle("bpfExtToServiceConnmark", MARK),
    idle("bpfExternalServiceMode", Shape::AnyCase(&["Tunnel", "DSR"])),
    idle("bpfForceTrackPacketsFromIfaces", Shape::List(1024, &S)),
    idle("bpfHostConntrackBypass", T),
    idle("bpfHostNetworkedNATWithoutCTLB", ON_OFF),
    idle("bpfIPFragTimeout", Shape::Free),
    idle("bpfIPFragmentReassemblyEnabled", T),
    idle("bpfJITHardening", Shape::OneOf(&["Auto", "Strict"])),
    idle("bpfKubeProxyEndpointSlicesEnabled", T),
    idle("bpfKubeProxyHealthzPort", PORT),
    idle("bpfKubeProxyIptablesCleanupEnabled", T),
    idle("bpfKubeProxyMinSyncPeriod", D),
    idle("bpfL3IfacePattern", PATTERN),
    idle("bpfLogFilters", Shape::Map(text::anything, &S)),
    idle("bpfLogLevel", Shape::AnyCase(&["Off", "Info", "Debug"])),
    idle("bpfMaglevMaxEndpointsPerService", N),
    idle("bpfMaglevMaxServices", N),
    idle("bpfMapSizeConntrack", N),
    idle("bpfMapSizeConntrackCleanupQueue", N),
    idle("bpfMapSizeConntrackScaling", Shape::AnyCase(&["Disabled", "DoubleIfFull"])),
    idle("bpfMapSizeIPSets", N),
    idle("bpfMapSizeIfState", N),
    idle("bpfMapSizeNATAffinity", N),
    idle("bpfMapSizeNATBackend", N),
    idle("bpfMapSizeNATFrontend", N),
    idle("bpfMapSizePerCpuConntrack", N),
    idle("bpfMapSizeRoute", N),
    idle("bpfOverlayHostSourceIP", S),
    idle("bpfPSNATPorts", PORTS),
    idle("bpfPolicyDebugEnabled", T),
    idle("bpfProfiling", ON_OFF),
    idle("bpfRedirectToPeer", Shape::OneOf(&["Enabled", "Disabled", "L2Only"])),
    // OpenStack.
    idle("endpointReportingDelay", D),
    idle("endpointReportingEnabled", T),
    idle("metadataAddr", Shape::Checked(text::host)),
    idle("metadataPort", PORT),
    idle("openstackRegion", Shape::Checked(text::region)),
    idle("reportingInterval", D),
    idle("reportingTTL", D),
    // Tunnels and encryption.
    idle("ipipEnabled", T),
    idle("ipipMTU", N),
    idle("vxlanEnabled", T),
    idle("vxlanMTU", N),
    idle("vxlanMTUV6", N),
    idle("vxlanPort", PORT),
    idle("vxlanVNI", Shape::Integer(0, 0x00ff_ffff)),
    idle("wireguardEnabled", T),
    idle("wireguardEnabledV6", T),
    idle("wireguardHostEncryptionEnabled", T),
    idle("wireguardInterfaceName", Shape::Checked(text::link)),
    idle("wireguardInterfaceNameV6", Shape::Checked(text::link)),
    idle("wireguardKeepAlive", D),
    idle("wireguardListeningPort", Shape::Integer(1, 65535)),
    idle("wireguardListeningPortV6", Shape::Integer(1, 65535)),
    idle("wireguardMTU", N),
    idle("wireguardMTUV6", N),
    idle("wireguardRoutingRulePriority", Shape::Integer(1, 32765)),
    idle("wireguardThreadingEnabled", T),
    // Flow logs.
    idle("flowLogsCollectorDebugTrace", T),
    idle("flowLogsFlushInterval", D),
    idle("flowLogsGoldmaneServer", S),
    idle("flowLogsLocalReporter", ON_OFF),
    idle("flowLogsPolicyEvaluationMode", Shape::OneOf(&["None", "Continuous"])),
];

/// All tables of all ranges together.
const TABLES_LIMIT: u64 = 0xffff;

/// What the table cannot say.
pub(super) fn check(checker: &mut Checker, spec: &Spot<'_>) {
    let one = spec.get("routeTableRange");
    let many = spec.items("routeTableRanges");
    if let (Some(one), false) = (&one, many.is_empty()) {
        let reason = "is the older form of spec.routeTableRanges; remove one of them";
        checker.add(&one.path, Some(one.value), reason);
    }
    let mut tables: u64 = 0;
    for range in one.iter().chain(&many) {
        let (Some(min), Some(max)) = (range.number::<u32>("min"), range.number::<u32>("max")) else { continue };
        if min > max {
            let reason = format!("{min} is greater than max ({max}); swap them");
            checker.add(&range.path_of("min"), range.value.get("min"), reason);
        } else {
            tables = tables.saturating_add(u64::from(max - min) + 1);
        }
    }
    if tables > TABLES_LIMIT {
        let reason = format!("are {tables} tables in all; at most {TABLES_LIMIT} are allowed");
        checker.add(&spec.path_of("routeTableRanges"), None, reason);
    }
}

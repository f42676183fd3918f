//! What a lab consists of, as a user writes it: fabric, hosts, workloads, peering.
//!
//! A topology is data only; [`crate::build`] decides what it means in namespaces and links, and
//! [`crate::documents`] what it means in resources.

mod defaults;

use lasthop_agent::names::digest;
use lasthop_net::{Family, IfName, Mac, Prefix};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::str::FromStr;

/// A whole network.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Topology {
    /// What connects the hosts; what is not written is as in the reference network.
    #[serde(default)]
    pub fabric: Fabric,
    /// The AS of all hosts.
    #[serde(default = "default_asn")]
    pub as_number: u32,
    /// Who peers with whom.
    #[serde(default)]
    pub peering: Peering,
    /// The ranges of workload addresses; none written: those of the reference network.
    #[serde(default)]
    pub pools: Vec<Pool>,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The workloads.
    #[serde(default)]
    pub workloads: Vec<Workload>,
    /// Further resources, put into the store as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub documents: Vec<serde_json::Value>,
}

/// The subnet that connects the hosts, and what is on it beside them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fabric {
    /// One subnet for each family in use; default is that of the reference network for each family that hosts have.
    #[serde(default, deserialize_with = "parsed_list", serialize_with = "shown_list")]
    pub subnets: Vec<Prefix>,
    /// The hosts' default gateway, one address for each subnet; default is the first of each.
    #[serde(default)]
    pub gateway: Vec<IpAddr>,
    /// Name of the gateway.
    #[serde(default = "default_gateway_name")]
    pub gateway_name: String,
    /// The "Internet" behind the gateway, an address for each subnet; default is that of the reference network.
    #[serde(default)]
    pub internet: Vec<IpAddr>,
    /// Where the store is served, an address for each subnet; default is the third of each.
    #[serde(default)]
    pub store: Vec<IpAddr>,
}

/// Who peers with whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Peering {
    /// Every host with every other.
    #[default]
    Mesh,
    /// Every host with the reflectors alone.
    Reflector,
    /// As `documents` says.
    Custom,
}

/// A range of workload addresses.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pool {
    /// Name of the resource.
    pub name: String,
    /// The range.
    #[serde(deserialize_with = "parsed", serialize_with = "shown")]
    pub cidr: Prefix,
    /// Whether traffic to outside is masqueraded.
    #[serde(default = "yes")]
    pub nat_outgoing: bool,
}

/// A host.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its addresses on the fabric, one for each subnet.
    pub addresses: Vec<IpAddr>,
    /// Whether it is a route reflector; one that forwards nothing.
    #[serde(default)]
    pub reflector: bool,
    /// Links beside `eth0`, such as the leg of a DHCP service.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<ExtraLink>,
    /// Labels of its Node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A link of a host beside `eth0`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtraLink {
    /// Its name.
    #[serde(deserialize_with = "parsed", serialize_with = "shown")]
    pub name: IfName,
    /// Its addresses.
    #[serde(default, deserialize_with = "parsed_list", serialize_with = "shown_list")]
    pub addresses: Vec<Interface>,
}

/// A workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Workload {
    /// Its name.
    pub name: String,
    /// The host it is on.
    pub host: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What it is behind.
    #[serde(default)]
    pub kind: WorkloadKind,
    /// Name of the host's link; default is made from the workload's name.
    #[serde(default, deserialize_with = "parsed_option", serialize_with = "shown_option")]
    pub link: Option<IfName>,
    /// Its MAC address; default is made from its first address.
    #[serde(default, deserialize_with = "parsed_option", serialize_with = "shown_option")]
    pub mac: Option<Mac>,
}

/// What a workload is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadKind {
    /// A veth that the agent makes.
    #[default]
    Veth,
    /// A TAP, held by a small process that plays the hypervisor.
    Tap,
    /// A TAP, held by QEMU with a real guest kernel.
    Vm,
}

/// An address with the length of the subnet it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The address.
    pub address: IpAddr,
    /// Prefix length of its subnet.
    pub len: u8,
}

impl FromStr for Interface {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let prefix: Prefix = text.parse().map_err(|e: lasthop_net::ParsePrefixError| e.to_string())?;
        let address =
            text.split('/').next().unwrap_or_default().parse().map_err(|_| format!("'{text}' is no address"))?;
        Ok(Self { address, len: prefix.len() })
    }
}

impl std::fmt::Display for Interface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

/// Why a topology cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// The text does not parse.
    #[error("{source_name}: {message}")]
    Parse {
        /// Where the text is from.
        source_name: String,
        /// What is wrong, and where.
        message: String,
    },
    /// It parses but makes no network.
    #[error("topology: {0}")]
    Meaning(String),
}

fn default_asn() -> u32 {
    64512
}

fn default_gateway_name() -> String {
    "gateway".to_owned()
}

fn yes() -> bool {
    true
}

fn parsed<'de, D: Deserializer<'de>, T: FromStr<Err: std::fmt::Display>>(from: D) -> Result<T, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

fn parsed_option<'de, D: Deserializer<'de>, T: FromStr<Err: std::fmt::Display>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    Option::<String>::deserialize(from)?.map(|text| text.parse().map_err(serde::de::Error::custom)).transpose()
}

fn parsed_list<'de, D: Deserializer<'de>, T: FromStr<Err: std::fmt::Display>>(from: D) -> Result<Vec<T>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

fn shown<S: serde::Serializer, T: std::fmt::Display>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

fn shown_option<S: serde::Serializer, T: std::fmt::Display>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
    value.as_ref().map(ToString::to_string).serialize(to)
}

fn shown_list<S: serde::Serializer, T: std::fmt::Display>(values: &[T], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(values.iter().map(ToString::to_string))
}

impl Workload {
    /// The name of the host's TAP: as written, or made from the workload's name.
    #[must_use]
    pub fn tap_name(&self) -> String {
        let made = || format!("tap{:011x}", digest(&self.name) >> 20);
        self.link.as_ref().map_or_else(made, ToString::to_string)
    }

    /// The name of the host's link, as far as the lab chooses it: the agent names the veths that it makes.
    fn chosen_link(&self) -> Option<String> {
        match self.kind {
            WorkloadKind::Veth => self.link.as_ref().map(ToString::to_string),
            WorkloadKind::Tap | WorkloadKind::Vm => Some(self.tap_name()),
        }
    }

    /// The workload's MAC address: locally administered, made from its first address unless given.
    #[must_use]
    pub fn mac_address(&self) -> Mac {
        self.mac.unwrap_or_else(|| {
            let [.., a, b, c, d] = match self.addresses.first() {
                Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped().octets(),
                Some(IpAddr::V6(v6)) => v6.octets(),
                None => [0; 16],
            };
            Mac([0x02, 0x00, a, b, c, d])
        })
    }
}

impl Topology {
    /// Reads a topology from YAML.
    ///
    /// # Errors
    /// If it does not parse, has keys that do not exist, or makes no network.
    pub fn parse(source_name: &str, text: &str) -> Result<Self, TopologyError> {
        let mut topology: Self = serde_saphyr::from_str(text).map_err(|error| TopologyError::Parse {
            source_name: source_name.to_owned(),
            message: with_suggestion(&error.without_snippet().to_string()),
        })?;
        topology.complete();
        topology.check()?;
        Ok(topology)
    }

    /// The host of a name.
    #[must_use]
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == name)
    }

    /// The workload of a name.
    #[must_use]
    pub fn workload(&self, name: &str) -> Option<&Workload> {
        self.workloads.iter().find(|workload| workload.name == name)
    }

    /// The fabric's subnet of a family.
    #[must_use]
    pub fn subnet(&self, family: Family) -> Option<Prefix> {
        self.fabric.subnets.iter().copied().find(|subnet| subnet.family() == family)
    }

    /// Checks that the parts fit together.
    ///
    /// # Errors
    /// Names the first thing that does not fit, and the fix.
    pub fn check(&self) -> Result<(), TopologyError> {
        self.check_fabric()?;
        let mut seen = Seen::default();
        for (what, name) in [("gateway", self.fabric.gateway_name.as_str()), ("store", "store"), ("fabric", "fabric")] {
            seen.name(what, name)?;
        }
        let Fabric { gateway, store, internet, .. } = &self.fabric;
        for (who, addresses) in [("fabric.gateway", gateway), ("fabric.store", store), ("fabric.internet", internet)] {
            for address in addresses {
                seen.address(who, *address)?;
            }
        }
        if self.hosts.is_empty() {
            return wrong("there are no hosts: write at least one under 'hosts'");
        }
        for host in &self.hosts {
            seen.name("host", &host.name)?;
            self.check_on_fabric(&format!("host '{}'", host.name), &host.addresses)?;
            for address in &host.addresses {
                seen.address(&host.name, *address)?;
            }
        }
        if self.peering == Peering::Reflector && !self.hosts.iter().any(|host| host.reflector) {
            return wrong(
                "peering is 'reflector' but no host has 'reflector: true': mark one, or write 'peering: mesh'",
            );
        }
        let mut links = BTreeSet::new();
        for workload in &self.workloads {
            seen.name("workload", &workload.name)?;
            self.check_workload(workload)?;
            for address in &workload.addresses {
                seen.address(&workload.name, *address)?;
            }
            if let Some(link) = workload.chosen_link()
                && !links.insert((workload.host.as_str(), link.clone()))
            {
                let host = &workload.host;
                return wrong(format!(
                    "two workloads of host '{host}' have the link '{link}': give one another 'link'"
                ));
            }
        }
        Ok(())
    }

    fn check_fabric(&self) -> Result<(), TopologyError> {
        let mut families = BTreeSet::new();
        if self.fabric.subnets.is_empty() || !self.fabric.subnets.iter().all(|s| families.insert(s.family())) {
            return wrong("'fabric.subnets' must have one subnet for each family in use, e.g. [172.18.203.0/24]");
        }
        self.check_on_fabric("'fabric.gateway'", &self.fabric.gateway)?;
        self.check_on_fabric("'fabric.store'", &self.fabric.store)
    }

    fn check_on_fabric(&self, what: &str, addresses: &[IpAddr]) -> Result<(), TopologyError> {
        for address in addresses {
            if !self.fabric.subnets.iter().any(|subnet| subnet.contains(*address)) {
                return wrong(format!("{what} has the address {address}, which is in no subnet of the fabric"));
            }
        }
        match self.fabric.subnets.iter().find(|subnet| !addresses.iter().any(|a| subnet.contains(*a))) {
            Some(subnet) => {
                wrong(format!("{what} has no address in {subnet}: give it one for each subnet of the fabric"))
            }
            None => Ok(()),
        }
    }

    fn check_workload(&self, workload: &Workload) -> Result<(), TopologyError> {
        let Workload { name, host, addresses, .. } = workload;
        match self.host(host) {
            None => {
                return wrong(format!(
                    "workload '{name}' is on host '{host}', which does not exist{}",
                    self.nearest_host(host)
                ));
            }
            Some(at) if at.reflector => {
                return wrong(format!(
                    "workload '{name}' is on '{host}', a reflector that forwards nothing: choose another host"
                ));
            }
            Some(_) => {}
        }
        if addresses.is_empty() {
            return wrong(format!("workload '{name}' has no address: write e.g. addresses: [10.65.0.21]"));
        }
        for address in addresses {
            if !self.pools.iter().any(|pool| pool.cidr.contains(*address)) {
                return wrong(format!(
                    "workload '{name}' has the address {address}, which is in no pool: add a pool or change it"
                ));
            }
            if self.subnet(Family::of(*address)).is_none() {
                let family = Family::of(*address);
                return wrong(format!(
                    "workload '{name}' has the {family} address {address}, but the fabric has no {family} subnet"
                ));
            }
        }
        Ok(())
    }

    fn nearest_host(&self, name: &str) -> String {
        suggestion(name, self.hosts.iter().map(|host| host.name.as_str()))
    }
}

#[derive(Default)]
struct Seen {
    names: BTreeSet<String>,
    addresses: BTreeMap<IpAddr, String>,
}

impl Seen {
    fn name(&mut self, what: &str, name: &str) -> Result<(), TopologyError> {
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let fits = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !fits || name.len() > 40 || !edge(name.as_bytes().first()) || !edge(name.as_bytes().last()) {
            return wrong(format!("'{name}' is no name for a {what}: use up to 40 lower-case letters, digits and '-'"));
        }
        if self.names.insert(name.to_owned()) {
            Ok(())
        } else {
            wrong(format!("the name '{name}' is used twice: every host and workload needs its own"))
        }
    }

    fn address(&mut self, who: &str, address: IpAddr) -> Result<(), TopologyError> {
        match self.addresses.insert(address, who.to_owned()) {
            Some(other) => wrong(format!("'{who}' and '{other}' both have the address {address}")),
            None => Ok(()),
        }
    }
}

fn wrong<T>(message: impl Into<String>) -> Result<T, TopologyError> {
    Err(TopologyError::Meaning(message.into()))
}

/// `: did you mean 'x'?` if one of the words is near.
#[must_use]
pub fn suggestion<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    let near = known.map(|k| (strsim::damerau_levenshtein(word, k), k)).min();
    match near {
        Some((distance, k)) if distance <= 1 + word.len() / 4 => format!(": did you mean '{k}'?"),
        _ => String::new(),
    }
}

/// Adds the nearest known key to serde's words about an unknown one.
fn with_suggestion(message: &str) -> String {
    let first = message.lines().next().unwrap_or_default();
    let Some((before, rest)) = first.split_once("unknown field `") else { return message.to_owned() };
    let Some((field, known)) = rest.split_once('`') else { return message.to_owned() };
    let known = known.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    format!("{before}there is no key '{field}' here{}", suggestion(field, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "
fabric: { subnets: [172.31.0.0/24], gateway: [172.31.0.1], internet: [198.51.100.1], store: [172.31.0.3] }
pools: [{ name: main, cidr: 10.65.0.0/16 }]
hosts: [{ name: h1, addresses: [172.31.0.10] }, { name: h2, addresses: [172.31.0.11] }]
workloads: [{ name: w1, host: h1, addresses: [10.65.0.2] }]
";

    #[test]
    fn a_small_topology_parses_with_defaults() {
        let topology = Topology::parse("test", SMALL).unwrap();
        assert_eq!(topology.peering, Peering::Mesh);
        assert_eq!(topology.as_number, 64512);
        let w1 = topology.workload("w1").unwrap();
        assert_eq!(w1.mac_address().to_string(), "02:00:0a:41:00:02");
        assert_eq!(w1.chosen_link(), None, "the agent names its veths");
        let tap = Workload { kind: WorkloadKind::Tap, ..w1.clone() }.tap_name();
        assert!(tap.starts_with("tap") && tap.len() == 14, "{tap}");
    }

    #[test]
    fn hosts_and_workloads_alone_make_a_network() {
        let of = |line: &str| Topology::parse("test", line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let reference = crate::builtin::builtin("reference").unwrap().unwrap();
        let dual = crate::builtin::builtin("dual").unwrap().unwrap();
        let minimal = "hosts: [{ name: h1, addresses: [172.18.203.10] }]\n\
                       workloads: [{ name: w1, host: h1, addresses: [10.65.0.2] }]";
        let both = "hosts: [{ name: h1, addresses: [172.18.203.10, 'fd00:18:203::10'] }]\n\
                    workloads: [{ name: w1, host: h1, addresses: [10.65.0.2, 'fd00:65::2'] }]";
        for (text, like) in [(minimal, &reference), (both, &dual)] {
            let made = of(text);
            let shown = |t: &Topology| serde_json::to_value((&t.fabric, &t.pools, t.as_number)).unwrap();
            assert_eq!(shown(&made), shown(like), "{text}");
        }
        let own = of(
            "fabric: { subnets: [192.0.2.0/24], store: [192.0.2.9] }\nhosts: [{ name: h1, addresses: [192.0.2.10] }]",
        );
        let addresses = [&own.fabric.gateway, &own.fabric.internet, &own.fabric.store].map(|list| list[0].to_string());
        assert_eq!(addresses, ["192.0.2.1", "198.51.100.1", "192.0.2.9"]);
        let taken = Topology::parse("test", "hosts: [{ name: h1, addresses: [172.18.203.3] }]").unwrap_err();
        assert!(taken.to_string().contains("'h1' and 'fabric.store' both have the address 172.18.203.3"), "{taken}");
    }

    #[test]
    fn what_is_wrong_is_named_with_the_fix() {
        for (from, to, expect) in [
            ("hosts:", "hots:", "there is no key 'hots' here: did you mean 'hosts'?"),
            ("host: h1", "host: h3", "workload 'w1' is on host 'h3', which does not exist: did you mean 'h1'?"),
            ("[10.65.0.2]", "[10.66.0.2]", "10.66.0.2, which is in no pool"),
            ("[172.31.0.11]", "[172.31.0.10]", "'h2' and 'h1' both have the address 172.31.0.10"),
            ("[172.31.0.11]", "[172.32.0.10]", "172.32.0.10, which is in no subnet of the fabric"),
            ("[172.31.0.11]", "[]", "host 'h2' has no address in 172.31.0.0/24"),
            ("name: w1", "name: h1", "the name 'h1' is used twice"),
            ("name: w1", "name: W_1", "'W_1' is no name for a workload"),
            ("name: h2", "name: store", "the name 'store' is used twice"),
            ("host: h1", "host: h1, mac: '02:00'", "'02:00' is not a MAC address"),
            ("host: h1", "host: h1, kind: vet", "vet"),
            ("10.65.0.0/16", "10.65.0.0/33", "'10.65.0.0/33' has no valid prefix length"),
        ] {
            let text = SMALL.replacen(from, to, 1);
            let error = Topology::parse("test", &text).unwrap_err().to_string();
            assert!(error.contains(expect), "{to}: {error}");
        }
    }

    #[test]
    fn a_topology_survives_being_written_and_read() {
        let topology = Topology::parse("test", SMALL).unwrap();
        let json = serde_json::to_string(&topology).unwrap();
        let again: Topology = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), json);
    }
}

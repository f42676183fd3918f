//! Cases about verdicts: endpoints, resources, and probes with what ought to become of them.

use super::{Outcome, list, text};
use anyhow::Context;
use lasthop_model::policy::{EndpointSlice, Labelled, NamedPort};
use lasthop_model::{EndpointKey, EndpointToHost, Key, Kind, Labels, NodeName, Resource, WorkloadEndpoint};
use lasthop_net::Prefix;
use lasthop_policy::World;
use lasthop_policy::decide::{Packet, Transport};
use lasthop_policy::ir::Failsafe;
use lasthop_policy::journey::{Party, Site};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The interface of every host to the outside.
pub(super) const UPLINK: &str = "eth0";
/// A source port that no rule names.
const EPHEMERAL: u16 = 49_999;

/// One case.
#[derive(Debug)]
pub struct Case {
    /// Its id.
    pub id: String,
    /// What it shows.
    pub title: String,
    /// All resources.
    pub world: World,
    /// Hosts.
    pub sites: BTreeMap<NodeName, Site>,
    /// Who is who, and which addresses they have.
    pub parties: BTreeMap<String, (Party, Vec<IpAddr>)>,
    /// What the rest of a host's firewall does with packets to the host.
    pub host_accepts: bool,
    /// What is tried.
    pub probes: Vec<Probe>,
}

/// One packet, and what ought to become of it.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Who sends it.
    pub from: Party,
    /// Whom it reaches.
    pub to: Party,
    /// The first packet, as it arrives.
    pub packet: Packet,
    /// Destination before translation.
    pub before_dnat: Option<(IpAddr, u16)>,
    /// Whether it arrives.
    pub expected: bool,
    /// What the source's own policy says.
    pub egress: Option<bool>,
    /// What the destination's own policy says.
    pub ingress: Option<bool>,
    /// In words.
    pub name: String,
}

/// What became of a probe.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// Whether it arrived; `None` if the engine cannot try such a packet.
    pub arrives: Option<bool>,
    /// What the source's own policy said, if the engine knows.
    pub egress: Option<bool>,
    /// What the destination's own policy said, if the engine knows.
    pub ingress: Option<bool>,
    /// Why, in words.
    pub why: String,
}

/// What judges probes.
pub trait Engine {
    /// Judges all probes of a case, in order.
    ///
    /// # Errors
    /// If the case cannot be set up.
    fn judge(&mut self, case: &Case) -> anyhow::Result<Vec<Answer>>;
}

/// Runs the cases of a file whose id begins with `only`. A case that cannot be set up has failed.
pub fn run(file: &Value, only: &str, engine: &mut dyn Engine) -> Outcome {
    let mut outcome = Outcome::default();
    for case in cases(file) {
        let case = match case {
            Ok(case) if case.id.starts_with(only) => case,
            Ok(_) => continue,
            Err(error) => {
                outcome.failed.push(format!("{error:#}"));
                continue;
            }
        };
        let answers = match engine.judge(&case) {
            Ok(answers) => answers,
            Err(error) => {
                outcome.failed.push(format!("{}: cannot be set up: {error:#}", case.id));
                continue;
            }
        };
        if !answers.is_empty() && answers.iter().all(|answer| answer.arrives.is_none()) {
            outcome.unjudged += 1;
            outcome.untried.extend(answers.iter().map(|answer| format!("{}: {}", case.id, answer.why)));
            continue;
        }
        let pairs = case.probes.iter().zip(&answers);
        let complaints = pairs.flat_map(|(probe, answer)| complaints(&case, probe, answer)).collect();
        outcome.note(complaints);
        let untried = case.probes.iter().zip(&answers).filter(|(_, answer)| answer.arrives.is_none());
        outcome.untried.extend(untried.map(|(probe, answer)| format!("{}: {}: {}", case.id, probe.name, answer.why)));
    }
    outcome
}

fn complaints(case: &Case, probe: &Probe, answer: &Answer) -> Vec<String> {
    let word = |allowed: bool| if allowed { "allow" } else { "deny" };
    let differ = |what: &str, expected: Option<bool>, actual: Option<bool>| {
        let (expected, actual) = (expected?, actual?);
        (expected != actual).then(|| {
            let (expected, actual, why) = (word(expected), word(actual), &answer.why);
            format!("{}: {}: {what} expected {expected}, was {actual}: {why} [{}]", case.id, probe.name, case.title)
        })
    };
    let checks = [
        differ("verdict", Some(probe.expected), answer.arrives),
        differ("egress", probe.egress, answer.egress),
        differ("ingress", probe.ingress, answer.ingress),
    ];
    checks.into_iter().flatten().collect()
}

/// The cases of a file; one that cannot be read says so.
pub fn cases(file: &Value) -> impl Iterator<Item = anyhow::Result<Case>> {
    list(file, "cases").iter().map(move |case| {
        let topology = case["topology"].as_str().map(|name| &file["topologies"][name]);
        read(case, topology).with_context(|| format!("case {}", text(case, "id")))
    })
}

fn read(case: &Value, topology: Option<&Value>) -> anyhow::Result<Case> {
    let mut reading = Reading { world: World::default(), sites: BTreeMap::new(), parties: BTreeMap::new() };
    let of = |name: &str| -> Vec<Value> { topology.into_iter().chain([case]).map(|from| from[name].clone()).collect() };
    for namespaces in of("namespaces") {
        for (name, labels) in namespaces.as_object().into_iter().flatten() {
            let mut labels = self::labels(labels);
            labels.entry("kubernetes.io/metadata.name".to_owned()).or_insert_with(|| name.clone());
            reading.put(Resource::Labelled(Labelled { key: key(Kind::Namespace, None, name), labels }));
        }
    }
    for account in list(case, "serviceAccounts") {
        let key = key(Kind::ServiceAccount, Some(text(account, "namespace")), text(account, "name"));
        reading.put(Resource::Labelled(Labelled { key, labels: labels(&account["labels"]) }));
    }
    for endpoints in of("endpoints") {
        for (index, endpoint) in endpoints.as_array().into_iter().flatten().enumerate() {
            reading.endpoint(index, endpoint)?;
        }
    }
    for service in list(case, "services") {
        reading.service(service)?;
    }
    for resource in list(case, "resources") {
        let parsed = Resource::parse(resource).map_err(|invalid| anyhow::anyhow!("{invalid}"))?;
        reading.put(parsed);
    }
    let config = &case["config"];
    reading.configure(config)?;
    let Reading { world, sites, parties } = reading;
    let mut read = Case {
        id: text(case, "id").to_owned(),
        title: text(case, "title").to_owned(),
        world,
        sites,
        parties,
        host_accepts: text(config, "hostInputPolicy") != "DROP",
        probes: Vec::new(),
    };
    for probe in list(case, "probes") {
        let probe = self::probe(&read, probe).with_context(|| format!("probe {probe}"))?;
        read.probes.push(probe);
    }
    Ok(read)
}

struct Reading {
    world: World,
    sites: BTreeMap<NodeName, Site>,
    parties: BTreeMap<String, (Party, Vec<IpAddr>)>,
}

impl Reading {
    fn put(&mut self, resource: Resource) {
        self.world.put(&resource.key(), resource);
    }

    fn site(&mut self, node: &NodeName) -> anyhow::Result<&mut Site> {
        let uplink = UPLINK.parse()?;
        let site = Site {
            interfaces: BTreeMap::from([(UPLINK.parse()?, BTreeSet::new())]),
            uplink,
            endpoint_to_host: EndpointToHost::Drop,
            failsafe_in: failsafes(FAILSAFE_IN),
            failsafe_out: failsafes(FAILSAFE_OUT),
        };
        Ok(self.sites.entry(node.clone()).or_insert(site))
    }

    fn endpoint(&mut self, index: usize, endpoint: &Value) -> anyhow::Result<()> {
        let name = text(endpoint, "name");
        let addresses: Vec<IpAddr> = parse_all(list(endpoint, "ips"))?;
        let node = || text(endpoint, "node").parse::<NodeName>().context("node");
        let party = match endpoint["kind"].as_str() {
            Some("external") => Party::Outside,
            Some("host") => {
                let node = node()?;
                let uplink = self.site(&node)?.interfaces.values_mut().next();
                uplink.into_iter().for_each(|all| all.extend(addresses.iter().copied()));
                Party::Host(node)
            }
            _ => {
                let node = node()?;
                self.site(&node)?;
                let namespace = endpoint["namespace"].as_str().unwrap_or("default").to_owned();
                let key = EndpointKey { namespace, name: name.rsplit('/').next().unwrap_or(name).to_owned() };
                let workload = WorkloadEndpoint {
                    key: key.clone(),
                    node,
                    link: format!("lh{index}").parse()?,
                    mac: None,
                    addresses: addresses.iter().copied().collect(),
                    allowed_sources: BTreeSet::new(),
                    labels: labels(&endpoint["labels"]),
                    profiles: endpoint["profiles"].as_array().map(|names| texts(names)),
                    service_account: endpoint["serviceAccount"].as_str().map(str::to_owned),
                    orchestrator: None,
                    ports: list(endpoint, "ports").iter().map(named_port).collect::<anyhow::Result<_>>()?,
                };
                self.put(Resource::WorkloadEndpoint(workload));
                Party::Workload(key)
            }
        };
        self.parties.insert(name.to_owned(), (party, addresses));
        Ok(())
    }

    fn service(&mut self, service: &Value) -> anyhow::Result<()> {
        let (namespace, name) = (text(service, "namespace"), text(service, "name"));
        for (index, endpoint) in list(service, "endpoints").iter().enumerate() {
            let port = |port: &Value| Ok((protocol(&port["protocol"])?, number(&port["port"])?));
            self.put(Resource::EndpointSlice(EndpointSlice {
                key: key(Kind::EndpointSlice, Some(namespace), &format!("{name}-{index}")),
                service: name.to_owned(),
                addresses: BTreeSet::from([text(endpoint, "ip").parse()?]),
                ports: list(endpoint, "ports").iter().map(port).collect::<anyhow::Result<_>>()?,
            }));
        }
        Ok(())
    }

    fn configure(&mut self, config: &Value) -> anyhow::Result<()> {
        let action = match text(config, "defaultEndpointToHostAction") {
            "Accept" => EndpointToHost::Accept,
            "Return" => EndpointToHost::Return,
            _ => EndpointToHost::Drop,
        };
        for site in self.sites.values_mut() {
            site.endpoint_to_host = action;
            for (name, ports) in
                [("failsafeInbound", &mut site.failsafe_in), ("failsafeOutbound", &mut site.failsafe_out)]
            {
                if let Some(given) = config[name].as_array() {
                    *ports =
                        given.iter().map(failsafe).collect::<anyhow::Result<Vec<_>>>()?.into_iter().flatten().collect();
                }
            }
        }
        Ok(())
    }
}

fn probe(case: &Case, probe: &Value) -> anyhow::Result<Probe> {
    let party = |name: &str| case.parties.get(name).with_context(|| format!("nobody is called '{name}'"));
    let (from, sources) = party(text(probe, "from"))?;
    let (to, destinations) = party(text(probe, "to"))?;
    let v6 = probe["ipv"].as_u64() == Some(6);
    let pick = |given: &Value, of: &[IpAddr]| match given.as_str() {
        Some(address) => address.parse().context("address"),
        None => of.iter().copied().find(|address| address.is_ipv6() == v6).context("no address of the family"),
    };
    let source = pick(&probe["src_ip"], sources)?;
    let destination = pick(&probe["dst_ip"], destinations)?;
    let protocol = match (&probe["proto"], source) {
        (Value::String(name), IpAddr::V6(_)) if name.eq_ignore_ascii_case("icmp") => 58,
        (given, _) => self::protocol(given)?,
    };
    let port = probe["port"].as_u64().map_or(Ok(0), |port| u16::try_from(port).context("port"))?;
    let source_port = probe["src_port"].as_u64().map_or(Ok(EPHEMERAL), |port| u16::try_from(port).context("port"))?;
    let mut transport = Transport::of(protocol, source_port, port);
    if let Transport::Icmp { kind, code, .. } = &mut transport {
        *kind = if protocol == 58 { 128 } else { 8 };
        if probe["icmp"].is_object() {
            *kind = u8::try_from(probe["icmp"]["type"].as_u64().unwrap_or(8))?;
            *code = u8::try_from(probe["icmp"]["code"].as_u64().unwrap_or(0))?;
        }
    }
    let before = &probe["pre_dnat"];
    let before_dnat = match before["ip"].as_str() {
        Some(address) => Some((address.parse()?, number(&before["port"])?)),
        None => None,
    };
    let verdict = |name: &str| probe[name].as_str().map(|word| word == "allow");
    Ok(Probe {
        from: from.clone(),
        to: to.clone(),
        packet: Packet { source, destination, transport },
        before_dnat,
        expected: verdict("expected").context("no expected verdict")?,
        egress: verdict("egress"),
        ingress: verdict("ingress"),
        name: format!("{} → {}, {transport}", text(probe, "from"), text(probe, "to")),
    })
}

const FAILSAFE_IN: &[(u8, u16)] =
    &[(6, 22), (17, 68), (6, 179), (6, 2379), (6, 2380), (6, 5473), (6, 6443), (6, 6666), (6, 6667)];
const FAILSAFE_OUT: &[(u8, u16)] =
    &[(17, 53), (17, 67), (6, 179), (6, 2379), (6, 2380), (6, 5473), (6, 6443), (6, 6666), (6, 6667)];

fn failsafes(ports: &[(u8, u16)]) -> BTreeSet<Failsafe> {
    ports.iter().flat_map(|(protocol, port)| both(*protocol, None, *port)).collect()
}

fn both(protocol: u8, net: Option<Prefix>, port: u16) -> Vec<Failsafe> {
    let families = lasthop_net::Family::ALL.map(Prefix::default_route);
    let nets = net.map_or_else(|| families.to_vec(), |net| vec![net]);
    nets.into_iter().map(|net| Failsafe { protocol, net, port }).collect()
}

/// `{protocol, port, net}`, or `protocol:port`, or `protocol:net:port`.
fn failsafe(given: &Value) -> anyhow::Result<Vec<Failsafe>> {
    if let Some(text) = given.as_str() {
        let (head, port) = text.rsplit_once(':').context("failsafe port")?;
        let (protocol, net) = head.split_once(':').map_or((head, None), |(protocol, net)| (protocol, Some(net)));
        let net = net.map(|net| net.trim_matches(['[', ']']).parse()).transpose()?;
        return Ok(both(self::protocol(&Value::from(protocol))?, net, port.parse()?));
    }
    let net = given["net"].as_str().map(str::parse).transpose()?;
    Ok(both(protocol(&given["protocol"])?, net, number(&given["port"])?))
}

fn named_port(port: &Value) -> anyhow::Result<NamedPort> {
    let name = text(port, "name").to_owned();
    Ok(NamedPort { name, protocol: protocol(&port["protocol"])?, port: number(&port["port"])? })
}

fn protocol(given: &Value) -> anyhow::Result<u8> {
    if let Some(number) = given.as_u64() {
        return Ok(u8::try_from(number)?);
    }
    Ok(match given.as_str().unwrap_or("TCP").to_ascii_uppercase().as_str() {
        "TCP" => 6,
        "UDP" => 17,
        "SCTP" => 132,
        "UDPLITE" => 136,
        "ICMP" => 1,
        "ICMPV6" => 58,
        other => other.parse().with_context(|| format!("protocol '{other}'"))?,
    })
}

fn number(given: &Value) -> anyhow::Result<u16> {
    Ok(u16::try_from(given.as_u64().context("a port is missing")?)?)
}

fn labels(given: &Value) -> Labels {
    let pairs = given.as_object().into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn texts(given: &[Value]) -> Vec<String> {
    given.iter().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

fn parse_all(given: &[Value]) -> anyhow::Result<Vec<IpAddr>> {
    given.iter().map(|text| Ok(text.as_str().unwrap_or_default().parse()?)).collect()
}

fn key(kind: Kind, namespace: Option<&str>, name: &str) -> Key {
    Key { kind, namespace: namespace.map(str::to_owned), name: name.to_owned() }
}

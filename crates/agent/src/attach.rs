//! Attach and detach: local transactions that end with the kernel's own acknowledgement.
//!
//! Attach: link (made, or adopted as it is) → record → policy and sources → neighbour → link up → route →
//! acknowledged → advertised → answered. Detach the other way round. Several callers at once share one pass.

use crate::api::{self, Answer, Attach, Attached, Code, Detached, LinkRequest, Refusal, Request};
use crate::document::Document;
use crate::names::{link_name, workload_mac};
use crate::records::{Intent, Maker, Record};
use crate::run::{Agent, Known, endpoint_key};
use crate::socket::Call;
use lasthop_compute::{Event, FIXED_HOST_MAC, Route};
use lasthop_kernel::link::{self, LinkState, VethSpec};
use lasthop_kernel::netlink::{Protocol, Socket};
use lasthop_kernel::netns::{self, GATEWAY_V4, Inside, Netns, NetnsRef};
use lasthop_model::{EndpointKey, HostMac, Resource, WorkloadEndpoint};
use lasthop_net::{Family, IfName, Prefix};
use serde_json::{Value, json};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};

/// How many callers share one pass at most.
const TOGETHER: usize = 256;

/// A caller whose workload is on its way.
pub(crate) struct Waiting {
    key: EndpointKey,
    reply: oneshot::Sender<Answer>,
    since: Instant,
    what: What,
}

enum What {
    /// Its record is written and its link is there, or to come.
    Attached(Box<WorkloadEndpoint>),
    Detached(Detached),
    Refused(Refusal),
}

fn refuse(code: Code, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into() }
}

impl Agent {
    /// Takes in what a caller wants; other callers that wait to attach or detach are served in the same pass, after
    /// which [`Self::answer_callers`] answers them.
    pub(crate) async fn answer(&mut self, call: Call, more: &mut mpsc::Receiver<Call>) {
        let mut taken = 0;
        let mut next = Some(call);
        while let Some(call) = next.take() {
            let since = Instant::now();
            let (key, what) = match call.request {
                Request::Attach(attach) => {
                    let key = EndpointKey { namespace: attach.namespace.clone(), name: attach.name.clone() };
                    (
                        key,
                        self.prepare(&attach).map_or_else(What::Refused, |endpoint| What::Attached(Box::new(endpoint))),
                    )
                }
                Request::Detach(detach) => {
                    let key = EndpointKey { namespace: detach.namespace, name: detach.name };
                    let what = self.remove(&key).map_or_else(What::Refused, What::Detached);
                    (key, what)
                }
                question => {
                    self.reply(question, call.reply).await;
                    next = more.try_recv().ok().filter(|_| taken < TOGETHER);
                    continue;
                }
            };
            self.callers.push(Waiting { key, reply: call.reply, since, what });
            taken += 1;
            if taken < TOGETHER {
                next = more.try_recv().ok();
            }
        }
    }

    /// Answers the callers whose change has been carried out.
    pub(crate) fn answer_callers(&mut self) {
        if self.hold_until.is_some() {
            return; // Right after a start the kernel is left as it is until the store has answered, or does not.
        }
        let callers = std::mem::take(&mut self.callers).into_iter();
        let (later, now) = callers.partition(|caller| self.departures.contains_key(&caller.key));
        self.callers = later;
        for Waiting { reply, since, what, .. } in now {
            let elapsed_us = || u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
            let answer = match what {
                What::Refused(refusal) => Err(refusal),
                What::Detached(detached) => to_value(&Detached { elapsed_us: elapsed_us(), ..detached }),
                What::Attached(endpoint) => self
                    .finish(&endpoint)
                    .and_then(|attached| to_value(&Attached { elapsed_us: elapsed_us(), ..attached })),
            };
            let _ = reply.send(answer.map_or_else(Answer::Error, Answer::Ok));
        }
    }

    /// Checks an attach, records it, makes its link, and tells the engine.
    fn prepare(&mut self, attach: &Attach) -> Result<WorkloadEndpoint, Refusal> {
        let key = EndpointKey { namespace: attach.namespace.clone(), name: attach.name.clone() };
        let document = self.document(attach, &key);
        let endpoint = match Resource::parse(&document) {
            Ok(Resource::WorkloadEndpoint(endpoint)) => endpoint,
            Ok(_) => return Err(refuse(Code::Invalid, "an attach makes a WorkloadEndpoint")),
            Err(invalid) => return Err(refuse(Code::Invalid, invalid.to_string())),
        };
        if endpoint.addresses.is_empty() {
            return Err(refuse(Code::Invalid, format!("workload {key} has no address: give at least one")));
        }
        self.check_free(&endpoint)?;
        let maker = match &attach.link {
            LinkRequest::Veth { .. } => Maker::Us,
            LinkRequest::Adopt { .. } => Maker::Other,
        };
        let record = Record::attached(&endpoint, Document::from(&document), maker);
        let before = self.records.get(&key).cloned();
        let known = before.as_ref().is_some_and(|before| before.intent == record.intent);
        self.check_link(attach, &endpoint, before.as_ref())?;
        // Before the link: an agent that dies over it knows whose it is.
        self.records.put(if known { before.clone().unwrap_or(record.clone()) } else { record.clone() }).map_err(
            |error| {
                refuse(
                    Code::Kernel,
                    format!("cannot record workload {key} under {}: {error}", self.config.state_directory.display()),
                )
            },
        )?;
        // The workload's side comes before anything is announced, too.
        let made = self.link(attach, &endpoint).and_then(|inside| self.configure(&endpoint, inside));
        if let Err(refusal) = made {
            match before {
                Some(before) => self.record(before),
                None => {
                    self.leaving.extend((maker == Maker::Us).then(|| (endpoint.link.clone(), None)));
                    self.unrecord(&key);
                }
            }
            return Err(refusal);
        }
        if !known {
            let former = former_link(before.as_ref()).filter(|link| *link != endpoint.link);
            self.leaving.extend(former.map(|link| (link, None)));
            self.say(&record);
        }
        self.leaving.remove(&endpoint.link);
        self.consider(Event::Put(endpoint_key(&key), Resource::WorkloadEndpoint(endpoint.clone())));
        Ok(endpoint)
    }

    /// The resource that an attach stands for.
    fn document(&self, attach: &Attach, key: &EndpointKey) -> Value {
        let link = match &attach.link {
            LinkRequest::Adopt { ifname } => ifname.clone(),
            LinkRequest::Veth { host_ifname: Some(name), .. } => name.clone(),
            LinkRequest::Veth { .. } => link_name(&self.engine.settings().interface_prefixes, key),
        };
        let inside = match &attach.link {
            LinkRequest::Adopt { .. } => "eth0",
            LinkRequest::Veth { ifname, .. } => ifname,
        };
        let networks: Vec<String> = attach.addresses.iter().map(|a| Prefix::host(*a).to_string()).collect();
        let mut spec = json!({
            "node": self.config.node.as_str(),
            "orchestrator": "lasthop",
            "workload": key.name,
            "endpoint": inside,
            "interfaceName": link,
            "ipNetworks": networks,
        });
        let mac = match (&attach.mac, &attach.link) {
            (Some(mac), _) => Some(mac.clone()),
            (None, LinkRequest::Veth { .. }) => Some(workload_mac(key).to_string()),
            (None, LinkRequest::Adopt { .. }) => None,
        };
        if let Some(mac) = mac {
            spec["mac"] = json!(mac);
        }
        if !attach.allowed_sources.is_empty() {
            spec["allowSpoofedSourcePrefixes"] = json!(attach.allowed_sources);
        }
        if let Some(profiles) = &attach.profiles {
            spec["profiles"] = json!(profiles);
        }
        if let Some(account) = &attach.service_account {
            spec["serviceAccountName"] = json!(account);
        }
        if !attach.ports.is_empty() {
            spec["ports"] = json!(attach.ports);
        }
        json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "WorkloadEndpoint",
            "metadata": {"name": key.name, "namespace": key.namespace, "labels": attach.labels},
            "spec": spec,
        })
    }

    /// Refuses what the engine would resolve silently: a link or an address that another endpoint has.
    fn check_free(&self, endpoint: &WorkloadEndpoint) -> Result<(), Refusal> {
        let prefixes = &self.engine.settings().interface_prefixes;
        if !prefixes.iter().any(|prefix| endpoint.link.as_str().starts_with(prefix.as_str())) {
            let message = format!(
                "interface {} has none of the guarded name prefixes ({}): rename it, or set interfacePrefix in FelixConfiguration",
                endpoint.link,
                prefixes.join(", ")
            );
            return Err(refuse(Code::Invalid, message));
        }
        let desired = self.engine.desired();
        let owner = |link: &IfName| desired.links.get(link).map(|l| &l.endpoint).filter(|by| **by != endpoint.key);
        if let Some(by) = owner(&endpoint.link) {
            let message =
                format!("interface {} belongs to workload {by}: delete that first, or use another", endpoint.link);
            return Err(refuse(Code::Conflict, message));
        }
        for &address in &endpoint.addresses {
            if let Some(Route::Direct { link }) = desired.routes.get(&Prefix::host(address))
                && let Some(by) = owner(link)
            {
                let message =
                    format!("{address} belongs to workload {by} on this host: delete that first, or use another");
                return Err(refuse(Code::Conflict, message));
            }
        }
        Ok(())
    }

    /// Refuses to make a veth where somebody else's link has its name.
    fn check_link(
        &mut self,
        attach: &Attach,
        endpoint: &WorkloadEndpoint,
        before: Option<&Record>,
    ) -> Result<(), Refusal> {
        let LinkRequest::Veth { .. } = &attach.link else { return Ok(()) };
        let usual = link_name(&self.engine.settings().interface_prefixes, &endpoint.key);
        match link::get(&mut self.socket, &endpoint.link) {
            Ok(Some(present)) if !made(&present, &endpoint.key, (before, &usual)) => {
                let message =
                    format!("interface {} is there already and not ours: remove it, or name another", present.name);
                Err(refuse(Code::Kernel, message))
            }
            Ok(_) => Ok(()),
            Err(error) => Err(refuse(Code::Kernel, error.to_string())),
        }
    }

    /// Makes the veth of an attach, down; or takes an adopted link as it is, there or not.
    fn link(&mut self, attach: &Attach, endpoint: &WorkloadEndpoint) -> Result<Option<(Netns, IfName)>, Refusal> {
        let LinkRequest::Veth { netns, ifname, .. } = &attach.link else { return Ok(None) };
        let inside: IfName = ifname.parse().map_err(|error| refuse(Code::Invalid, format!("{error}")))?;
        let netns = open(netns)?;
        let spec = VethSpec {
            name: endpoint.link.clone(),
            mac: (self.engine.settings().host_mac != HostMac::Kept).then_some(FIXED_HOST_MAC),
            netns: Some(&netns),
            peer_name: inside.clone(),
            peer_mac: endpoint.mac,
            mtu: attach.mtu,
        };
        self.ensure_veth(&spec).map_err(|error| refuse(Code::Kernel, error.to_string()))?;
        Ok(Some((netns, inside)))
    }

    /// Makes a veth, unless this endpoint has it already; one of its former life is made anew.
    fn ensure_veth(&mut self, spec: &VethSpec<'_>) -> Result<(), lasthop_kernel::Error> {
        if let Some(present) = link::get(&mut self.socket, &spec.name)? {
            if self.is_whole(&present, spec)? {
                return Ok(());
            }
            link::delete(&mut self.socket, &spec.name)?;
        }
        link::create_veth(&mut self.socket, spec)
    }

    /// Whether a veth's other end is where it should be.
    fn is_whole(&self, present: &LinkState, spec: &VethSpec<'_>) -> Result<bool, lasthop_kernel::Error> {
        let Some(netns) = spec.netns else { return Ok(true) };
        let far = netns.run(|| {
            let mut socket = Socket::open(Protocol::Route)?;
            link::get(&mut socket, &spec.peer_name)
        })??;
        Ok(far.is_some_and(|far| far.peer == Some(present.index) && present.peer == Some(far.index)))
    }

    /// Gives the workload's side of a veth that we made its addresses and routes.
    fn configure(&mut self, endpoint: &WorkloadEndpoint, inside: Option<(Netns, IfName)>) -> Result<(), Refusal> {
        let Some((netns, link)) = inside else { return Ok(()) };
        let kernel = |error: lasthop_kernel::Error| refuse(Code::Kernel, error.to_string());
        let host = link::get(&mut self.socket, &endpoint.link).map_err(kernel)?;
        let gateway_v6 = host.and_then(|host| host.mac).map(netns::gateway_v6);
        let inside = Inside { link, addresses: endpoint.addresses.clone(), gateway_v6, mac: None, mtu: None };
        netns::configure(&netns, &inside).map_err(kernel)
    }

    /// Says what the kernel has acknowledged.
    fn finish(&mut self, endpoint: &WorkloadEndpoint) -> Result<Attached, Refusal> {
        let kernel = |error: lasthop_kernel::Error| refuse(Code::Kernel, error.to_string());
        let host = link::get(&mut self.socket, &endpoint.link).map_err(kernel)?;
        let host_mac = host.as_ref().and_then(|link| link.mac);
        let has = |family| endpoint.addresses.iter().any(|a| Family::of(*a) == family);
        let gateway_v4 = has(Family::V4).then_some(GATEWAY_V4);
        let gateway_v6 = host_mac.filter(|_| has(Family::V6)).map(netns::gateway_v6);
        let routes: Vec<Prefix> = endpoint.addresses.iter().map(|a| Prefix::host(*a)).collect();
        let pending = routes.iter().filter(|p| !self.programmed.contains(p)).map(|prefix| {
            let name = format!("route {prefix}");
            let why = match self.known {
                Known::Nothing => "waits for the store, which has not been in sync yet".to_owned(),
                _ => self.pending.get(&name).cloned().unwrap_or_else(|| "not acknowledged".to_owned()),
            };
            (name, why)
        });
        Ok(Attached {
            link: endpoint.link.to_string(),
            ifindex: host.as_ref().map(|link| link.index.0),
            host_mac: host_mac.map(|mac| mac.to_string()),
            workload_mac: endpoint.mac.map(|mac| mac.to_string()),
            mtu: host.as_ref().map(|link| link.mtu),
            addresses: endpoint.addresses.clone(),
            gateway_v4,
            gateway_v6,
            programmed: routes.iter().filter(|p| self.programmed.contains(p)).map(ToString::to_string).collect(),
            pending: pending.collect(),
            elapsed_us: 0,
        })
    }

    /// Forgets a workload; its routes, then its link go in the next pass.
    fn remove(&mut self, key: &EndpointKey) -> Result<Detached, Refusal> {
        let going =
            self.records.get(key).is_some_and(|r| r.intent == Intent::Detached) && self.departures.contains_key(key);
        let Some(endpoint) = self.engine.snapshot().endpoints.get(key).filter(|_| !going) else {
            return Ok(Detached { existed: false, elapsed_us: 0 });
        };
        let link = endpoint.link.clone();
        let going = former_link(self.records.get(key)).filter(|made| *made == link);
        let record = Record::detached(key, going.as_ref());
        self.records
            .put(record.clone())
            .map_err(|error| refuse(Code::Kernel, format!("cannot record the removal of workload {key}: {error}")))?;
        self.leaving.extend(going.map(|link| (link, None)));
        self.say(&record);
        self.consider(Event::Gone(endpoint_key(key)));
        Ok(Detached { existed: true, elapsed_us: 0 })
    }
}

/// The link that we made for an endpoint, as recorded.
fn former_link(record: Option<&Record>) -> Option<IfName> {
    match &record?.intent {
        Intent::Attached { document, maker: Maker::Us } => {
            document.value()["spec"]["interfaceName"].as_str()?.parse().ok()
        }
        _ => None,
    }
}

/// Whether we made this link for this endpoint, by its record and the name that we would give. The alias alone does
/// not say: adopted links have one, too. Without alias and record, a link of the name that only we give is ours.
fn made(present: &LinkState, key: &EndpointKey, (before, usual): (Option<&Record>, &str)) -> bool {
    match before.map(|record| &record.intent) {
        Some(Intent::Attached { .. }) => former_link(before).as_ref() == Some(&present.name),
        Some(Intent::Detached) | None => match &present.alias {
            Some(alias) => *alias == format!("{}{key}", link::ALIAS_PREFIX),
            None => present.name.as_str() == usual,
        },
    }
}

pub(crate) fn to_value<T: serde::Serialize>(value: &T) -> Result<Value, Refusal> {
    serde_json::to_value(value)
        .map_err(|error| refuse(Code::Unavailable, format!("the answer cannot be written: {error}")))
}

fn open(netns: &api::Netns) -> Result<Netns, Refusal> {
    let reference = match netns {
        api::Netns::Path(path) => NetnsRef::Path(path.into()),
        api::Netns::Name(name) => NetnsRef::Name(name.clone()),
        api::Netns::Pid(pid) => NetnsRef::Pid(*pid),
    };
    Netns::open(&reference).map_err(|error| {
        let fix = "'ip netns list' names those there are; make it first, or give a path or the pid of a process in it";
        refuse(Code::NotFound, format!("{error}: {fix}"))
    })
}

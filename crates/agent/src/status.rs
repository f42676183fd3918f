//! What the agent says of itself: one screen, the workloads, the routes and the reasons.

use crate::api::{
    Answer, Code, Count, Installed, PeerLine, Refusal, Request, RouteState, RuleState, SpeakerStatus, Status,
    StoreStatus, Workload,
};
use crate::attach::to_value;
use crate::records::{Intent, Published};
use crate::run::{Agent, Known};
use crate::voice::{self, Question};
use lasthop_compute::Route;
use lasthop_kernel::nft::Decider;
use lasthop_model::EndpointKey;
use lasthop_net::{IfName, Prefix};
use lasthop_policy::ir::{Force, Owner};
use lasthop_store::Reach;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::oneshot;

impl Agent {
    /// Answers a question. What only the speaker knows is asked of it, and answered when it answers.
    pub(crate) async fn reply(&mut self, request: Request, reply: oneshot::Sender<Answer>) {
        let question = match &request {
            Request::BgpPeers => Some(Ok(Question::Peers)),
            Request::BgpPaths { prefix } => Some(prefix.as_deref().map(parse).transpose().map(Question::Paths)),
            Request::BgpWhy { prefix } => Some(parse(prefix).map(Question::Why)),
            Request::BgpEvents { after } => Some(Ok(Question::Events(*after))),
            Request::BgpRecord(recording) => Some(Ok(Question::Record(Some(recording.clone())))),
            Request::BgpStopRecording => Some(Ok(Question::Record(None))),
            Request::BgpDump { file } => Some(Ok(Question::Dump(file.clone()))),
            _ => None,
        };
        match question {
            Some(Ok(question)) => voice::ask(&mut self.voice, question, reply),
            Some(Err(refusal)) => drop(reply.send(Answer::Error(refusal))),
            None => {
                let answer = self.know(request).await;
                let _ = reply.send(answer.map_or_else(Answer::Error, Answer::Ok));
            }
        }
    }

    async fn know(&mut self, request: Request) -> Result<serde_json::Value, Refusal> {
        match request {
            Request::Status => to_value(&self.status()),
            Request::Workloads => to_value(&self.workloads()),
            Request::Routes => to_value(&self.routes()),
            Request::RouteOf { prefix } => to_value(&self.installed(parse(&prefix)?)),
            Request::PolicyRules => to_value(&self.policy_rules()),
            Request::RemoveAll => {
                self.remove_all().await?;
                Ok(serde_json::Value::Null)
            }
            other => Err(Refusal { code: Code::Invalid, message: format!("{other:?} is not a question") }),
        }
    }

    fn policy_rules(&self) -> Vec<RuleState> {
        let counted = self.kernel.policy_counters();
        let mut rules = Vec::new();
        for (id, program) in &self.engine.desired().policy.programs {
            let tier = match &program.owner {
                Owner::Policy { tier, .. } => Some(tier.clone()),
                Owner::Profile(_) | Owner::MissingProfile(_) | Owner::Unusable { .. } => None,
            };
            for (index, rule) in program.rules.iter().enumerate() {
                let decider = Decider::Rule(*id, index);
                let (packets, bytes) = counted.get(&decider).copied().unwrap_or_default();
                rules.push(RuleState {
                    id: decider.to_string(),
                    owner: program.owner.to_string(),
                    tier: tier.clone(),
                    direction: program.direction.to_string(),
                    index,
                    action: format!("{:?}", rule.action),
                    staged: program.force == Force::Staged,
                    packets,
                    bytes,
                });
            }
        }
        rules.sort_by(|a, b| {
            (&a.tier, &a.owner, &a.direction, a.index).cmp(&(&b.tier, &b.owner, &b.direction, b.index))
        });
        rules
    }

    fn workloads(&self) -> Vec<Workload> {
        self.engine.snapshot().endpoints.keys().filter_map(|key| self.workload(key)).collect()
    }

    fn workload(&self, key: &EndpointKey) -> Option<Workload> {
        let endpoint = self.engine.snapshot().endpoints.get(key)?;
        let link = self.kernel.link(&endpoint.link);
        let routes: BTreeSet<Prefix> = endpoint.addresses.iter().map(|a| Prefix::host(*a)).collect();
        let about = format!("WorkloadEndpoint/{key}");
        let findings =
            self.engine.desired().findings.iter().filter(|(name, _)| {
                name.strip_prefix(&about).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
            });
        let mut pending: BTreeMap<String, String> =
            findings.map(|(name, finding)| (name.clone(), finding.to_string())).collect();
        for prefix in &routes {
            let name = format!("route {prefix}");
            pending.extend(self.pending.get(&name).map(|why| (name, why.clone())));
        }
        pending.extend(self.unpublishable.get(key).map(|why| ("store".to_owned(), why.clone())));
        Some(Workload {
            endpoint: key.to_string(),
            link: endpoint.link.to_string(),
            link_state: match link {
                None => "absent",
                Some(link) if link.is_running() => "up",
                Some(_) => "down",
            }
            .to_owned(),
            addresses: endpoint.addresses.clone(),
            mac: endpoint.mac.map(|mac| mac.to_string()),
            labels: endpoint.labels.clone(),
            source: if self.records.get(key).is_some() { "attached here" } else { "store" }.to_owned(),
            programmed: routes.iter().filter(|p| self.has_direct(p)).map(ToString::to_string).collect(),
            pending,
        })
    }

    fn has_direct(&self, prefix: &Prefix) -> bool {
        self.programmed.contains(prefix)
            && matches!(self.engine.desired().routes.get(prefix), Some(Route::Direct { .. }))
    }

    fn status(&mut self) -> Status {
        let desired = self.engine.desired();
        let count = |wanted: fn(&Route) -> bool| {
            let ours = |prefix: &Prefix| !self.yielding.contains_key(prefix);
            let of_kind = desired.routes.iter().filter(|(prefix, route)| wanted(route) && ours(prefix));
            of_kind.fold(Count::default(), |count, (prefix, _)| Count {
                ready: count.ready + usize::from(self.programmed.contains(prefix)),
                total: count.total + 1,
            })
        };
        let workloads = self.workloads();
        let mut findings: BTreeMap<String, String> =
            desired.findings.iter().map(|(name, finding)| (name.clone(), finding.to_string())).collect();
        for (key, reason) in &self.unpublishable {
            findings.insert(format!("WorkloadEndpoint/{key} in the store"), reason.clone());
        }
        Status {
            node: self.config.node.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: self.started.elapsed().as_secs(),
            store: self.store_status(),
            speaker: self.speaker_status(),
            workloads: Count {
                ready: workloads.iter().filter(|w| w.pending.is_empty()).count(),
                total: workloads.len(),
            },
            direct_routes: count(|route| matches!(route, Route::Direct { .. })),
            learned_routes: count(|route| matches!(route, Route::Remote { .. })),
            writes: self.writes,
            drift: self.drift.iter().cloned().collect(),
            drift_repaired: self.drift_repaired,
            refusals: self.refusals,
            findings,
            pending: self.pending.clone(),
            yielding: self.yielding.iter().map(|(prefix, to)| (format!("route {prefix}"), to.to_string())).collect(),
            drops: self.kernel.drops(),
        }
    }

    fn store_status(&self) -> StoreStatus {
        let status = self.store.status();
        let (endpoint, reached, error) = match status.reach {
            Reach::Local => (self.config.store_file().display().to_string(), true, None),
            Reach::Connected { server, .. } => (server, true, None),
            Reach::Disconnected { server, reason, .. } => (server, false, Some(reason)),
        };
        let state = match self.known {
            Known::Store if reached => "in-sync",
            Known::Store | Known::Snapshot => "from snapshot",
            Known::Nothing => "connecting",
        };
        let unpublished = self.records.iter().filter(|record| record.published == Published::No).count();
        let revision = self.snapshot.revision.0.max(status.revision.0);
        StoreStatus { endpoint, state: state.to_owned(), revision, error, unpublished }
    }

    fn speaker_status(&self) -> SpeakerStatus {
        let intents = self.engine.desired().bgp.as_ref().map(|bgp| &bgp.peers);
        let states = self.voice.peers();
        let peers: Vec<PeerLine> = intents
            .into_iter()
            .flatten()
            .map(|(address, intent)| {
                let state = states.get(address);
                PeerLine {
                    address: *address,
                    because: intent.because.clone(),
                    state: state.map_or("unknown", |peer| peer.state.as_str()).to_owned(),
                    error: state.and_then(|peer| peer.error.clone()),
                }
            })
            .collect();
        SpeakerStatus {
            state: self.voice.state().to_owned(),
            sessions: Count {
                ready: peers.iter().filter(|peer| peer.state == "Established").count(),
                total: peers.len(),
            },
            in_sync: self.stale.is_empty() && self.voice.is_in_sync(),
            peers,
        }
    }

    fn routes(&self) -> Vec<RouteState> {
        let desired = self.engine.desired();
        let state = |(prefix, route): (&Prefix, &Route)| {
            let (kind, link, next_hops, because) = match route {
                Route::Direct { link } => ("direct", Some(link), Vec::new(), self.owner(link)),
                Route::Remote { next_hops } => {
                    ("remote", None, next_hops.iter().copied().collect(), "learned by BGP".to_owned())
                }
                Route::Unreachable => ("unreachable", None, Vec::new(), self.pool(prefix)),
            };
            RouteState {
                prefix: prefix.to_string(),
                kind: kind.to_owned(),
                link: link.map(ToString::to_string),
                next_hops,
                because,
                in_kernel: self.programmed.contains(prefix),
                pending: self.pending.get(&format!("route {prefix}")).cloned(),
                yields: self.yielding.get(prefix).map(ToString::to_string),
                advertised: self.voice.advertised().contains(prefix),
            }
        };
        desired.routes.iter().map(state).collect()
    }

    /// What became of a prefix in the kernel, and why.
    fn installed(&self, prefix: Prefix) -> Installed {
        let route = self.engine.desired().routes.get(&prefix);
        let (kind, to, because) = match route {
            None => (None, Vec::new(), Some("no path to it is used, and no workload here has it".to_owned())),
            Some(Route::Direct { link }) => {
                let own = format!("it is this host's own ({})", self.owner(link));
                (Some("direct"), vec![link.to_string()], Some(own))
            }
            Some(Route::Remote { next_hops }) => {
                (Some("remote"), next_hops.iter().map(ToString::to_string).collect(), None)
            }
            Some(Route::Unreachable) => (Some("unreachable"), Vec::new(), Some(self.pool(&prefix))),
        };
        let yields = self.yielding.get(&prefix).map(|to| format!("it yields to another program's route: {to}"));
        let pending = self.pending.get(&format!("route {prefix}")).cloned();
        Installed {
            in_kernel: self.programmed.contains(&prefix) && yields.is_none(),
            kind: kind.map(str::to_owned),
            to,
            reason: yields.or(pending).or(because),
        }
    }

    fn owner(&self, link: &IfName) -> String {
        self.engine.desired().links.get(link).map_or_else(String::new, |l| format!("workload {}", l.endpoint))
    }

    fn pool(&self, prefix: &Prefix) -> String {
        let pool = self.engine.snapshot().pools.values().find(|pool| pool.prefix == *prefix);
        pool.map_or_else(String::new, |pool| format!("rest of pool {}", pool.name))
    }

    /// Takes away all that we made in the kernel, and ends.
    async fn remove_all(&mut self) -> Result<(), Refusal> {
        self.withdraw_all().await;
        let ours = self.records.iter().filter_map(|record| match record.intent {
            Intent::Attached { maker: crate::records::Maker::Us, .. } => Some(record.key()),
            _ => None,
        });
        let endpoints = &self.engine.snapshot().endpoints;
        let links: Vec<IfName> = ours.filter_map(|key| endpoints.get(&key).map(|e| e.link.clone())).collect();
        let mut left = self.kernel.remove_all().err().unwrap_or_default();
        for link in links {
            let deleted = lasthop_kernel::link::delete(&mut self.socket, &link);
            left.extend(deleted.err().map(|error| error.to_string()));
        }
        if !left.is_empty() {
            let message = format!("not all could be taken away: {}", left.join("; "));
            return Err(Refusal { code: Code::Kernel, message });
        }
        self.stop();
        Ok(())
    }
}

fn parse(text: &str) -> Result<Prefix, Refusal> {
    text.parse().map_err(|error| Refusal { code: Code::Invalid, message: format!("{error}") })
}

//! The loop: one task owns all state, every input comes through one `select!`, and after each batch of inputs
//! one ordered [`apply`](crate::apply) makes the kernel and the speaker agree with what compute says.
//!
//! ```text
//! store ──▶ feed ──┐                    ┌──▶ kernel (nft, sysctls, neighbours, links, routes)
//! agent.sock ──────┼──▶ Engine ─ apply ─┤                │ acknowledged
//! speaker ─────────┤                    └──▶ speaker ◀───┘
//! kernel events ───┘
//! ```

use crate::api::Drift;
use crate::attach::Waiting;
use crate::config::{Config, SpeakerChoice};
use crate::document::Document;
use crate::feed::{self, Update, Word};
use crate::lock::{self, Lock};
use crate::records::{Intent, Maker, Published, Record, Records};
use crate::rollouts::{self, Instead, Rollouts};
use crate::secrets::Secrets;
use crate::snapshot::{News, Saved, Snapshot};
use crate::socket::{self, Call};
use crate::voice::{Heard, Voice};
use crate::withdraw::{Confirmed, Departures};
use crate::{http, readable, stores};
use anyhow::Context;
use lasthop_compute::{Changes, Engine, Event};
use lasthop_kernel::netlink::{Protocol, Socket};
use lasthop_kernel::reconcile::Foreign;
use lasthop_kernel::{Dataplane, Kernel, KernelConfig};
use lasthop_model::policy::Policy;
use lasthop_model::{EndpointKey, Key, Kind, Resource};
use lasthop_net::{IfName, NextHops, Prefix};
use lasthop_store::{Revision, Store};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// How long a change may wait for its snapshot on disk.
const SAVE_AFTER: Duration = Duration::from_millis(50);
/// How long after a start a store that does not answer is waited for: what the kernel holds may be newer than the snapshot.
const STORE_PATIENCE: Duration = Duration::from_secs(2);
/// How often what the kernel refused is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How many repaired foreign changes are remembered.
pub(crate) const DRIFT_KEPT: usize = 100;
/// How often other tasks get their turn at the end.
const LAST_TURNS: usize = 8;
/// How many inputs one batch takes in before it is applied.
const BATCH: usize = 4096;

/// All that one host's agent knows and holds.
pub(crate) struct Agent {
    pub(crate) config: Config,
    pub(crate) started: Instant,
    pub(crate) engine: Engine,
    pub(crate) kernel: Kernel,
    /// For links that are made and deleted on request.
    pub(crate) socket: Socket,
    pub(crate) voice: Voice,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) records: Records,
    pub(crate) snapshot: Snapshot,
    pub(crate) words: mpsc::UnboundedSender<(EndpointKey, Word)>,
    /// What this host says of rollouts, by the name of the report.
    pub(crate) reports: mpsc::UnboundedSender<(String, Option<Value>)>,
    pub(crate) rollouts: Rollouts,
    pub(crate) secrets: Secrets,
    pub(crate) known: Known,
    /// Changes that wait for their withdrawal.
    pub(crate) departures: Departures,
    /// Withdrawals that are confirmed but not yet acted on.
    pub(crate) confirmed: Option<Confirmed>,
    /// Callers whose workloads are on their way.
    pub(crate) callers: Vec<Waiting>,
    /// Prefixes whose route the kernel has acknowledged.
    pub(crate) programmed: BTreeSet<Prefix>,
    /// Learned routes of the time before the speaker (re)started, until it has told all it knows.
    pub(crate) stale: BTreeSet<Prefix>,
    /// Links that we made and that go once their routes are gone; and whose record goes with them.
    pub(crate) leaving: BTreeMap<IfName, Option<EndpointKey>>,
    /// What the store refuses of what this host says.
    pub(crate) unpublishable: BTreeMap<EndpointKey, String>,
    /// What is not as it ought to be in the kernel, and why.
    pub(crate) pending: BTreeMap<String, String>,
    /// Routes that yield to another program's, and to whose.
    pub(crate) yielding: BTreeMap<Prefix, Foreign>,
    pub(crate) drift: VecDeque<Drift>,
    pub(crate) drift_repaired: u64,
    pub(crate) writes: u64,
    pub(crate) refusals: u64,
    /// Keys to look at in the next cycle, beside what the engine names.
    pub(crate) look: Look,
    pub(crate) stopping: bool,
    /// What carries guard and policy.
    pub(crate) dataplane: Dataplane,
    /// Until then the kernel is left as it is found, but for the guard: the store may know better than the snapshot.
    pub(crate) hold_until: Option<tokio::time::Instant>,
    /// Since the host's own interfaces were last looked at.
    pub(crate) links_changed: bool,
}

/// What this host goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nothing is known yet: the kernel is only guarded, nothing is taken away.
    Nothing,
    /// The last snapshot is what we go by.
    Snapshot,
    /// The store has told everything.
    Store,
}

/// Whether an endpoint is not this host's any more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaves {
    Yes,
    No,
}

/// What the next cycle looks at.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one of it")]
pub(crate) enum Look {
    /// What changed, and these.
    At(Changes),
    /// Everything, as remembered.
    Everything,
    /// Everything, after reading the kernel back.
    Again,
}

impl Default for Look {
    fn default() -> Self {
        Self::At(Changes::default())
    }
}

/// Runs the agent of this host until it is told to stop.
///
/// # Errors
/// If it cannot start: no right to configure the network, no store, a socket in use.
pub fn run(config: Config) -> anyhow::Result<()> {
    crate::memory::one_heap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async move { start(config).await?.serve().await })
}

/// Where the loop's inputs come from.
struct Inputs {
    updates: mpsc::Receiver<Update>,
    calls: mpsc::Receiver<Call>,
    kernel: AsyncFd<std::os::fd::OwnedFd>,
    /// Serves this host's own store to its other programs, as long as the loop runs.
    _server: Option<lasthop_store::server::Server>,
    /// Keeps a second agent away, as long as the loop runs.
    _lock: Lock,
    _claim: UnixListener,
}

/// Makes sure that no other agent runs with this run directory.
fn only_one(directory: &Path) -> anyhow::Result<Lock> {
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the run directory {}", directory.display()))?;
    let path = directory.join("agent.lock");
    let lock = lock::take(&path).with_context(|| format!("cannot lock {}", path.display()))?;
    lock.with_context(|| {
        format!("another agent runs with {}: stop it, or use another runDirectory and stateDirectory", path.display())
    })
}

struct Started {
    agent: Agent,
    inputs: Inputs,
}

async fn start(config: Config) -> anyhow::Result<Started> {
    let kernel = Kernel::open(&KernelConfig { settings_record: Some(config.run_directory.join("settings")) })?;
    let lock = only_one(&config.run_directory)?;
    let claim = lock::claim_namespace().context("cannot claim the network namespace")?;
    let claim = claim.context("another agent configures this network namespace, with other directories: stop it")?;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.state_directory)
        .with_context(|| format!("cannot make the state directory {}", config.state_directory.display()))?;
    let records = Records::open(&config.state_directory)
        .with_context(|| format!("cannot read the attachments under {}", config.state_directory.display()))?;
    let snapshot = Snapshot::open(&config.state_directory);
    let path = config.agent_socket();
    let listener = socket::listen(&path, config.group.as_deref())
        .with_context(|| format!("cannot open the agent's socket {}", path.display()))?;
    let (calls_in, calls) = mpsc::channel(1024);
    if let Some(address) = config.metrics {
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} for metrics: is another program there?"))?;
        tokio::spawn(http::serve(listener, calls_in.clone()));
    }
    tokio::spawn(socket::serve(listener, calls_in));
    let stores::Opened { store, server } = stores::open(&config).await?;
    let (updates_in, updates) = mpsc::channel(1024);
    let (words, said) = mpsc::unbounded_channel();
    let from = snapshot.is_known().then_some(snapshot.revision);
    tokio::spawn(feed::follow(store.clone(), from, updates_in.clone()));
    tokio::spawn(feed::publish(store.clone(), config.node.clone(), said, updates_in));
    let (reports, reported) = mpsc::unbounded_channel();
    tokio::spawn(feed::report(store.clone(), reported));
    let voice = match config.speaker {
        SpeakerChoice::Lasthop => Voice::connect(config.speaker_socket()),
        SpeakerChoice::External => Voice::silent(),
    };
    let kernel_events = readable::register(kernel.events()?)?;
    let agent = Agent {
        started: Instant::now(),
        engine: Engine::new(config.node.clone()),
        config,
        kernel,
        socket: Socket::open(Protocol::Route)?,
        voice,
        store,
        records,
        snapshot,
        words,
        reports,
        rollouts: Rollouts::default(),
        secrets: Secrets::default(),
        known: Known::Nothing,
        departures: Departures::new(),
        confirmed: None,
        callers: Vec::new(),
        programmed: BTreeSet::new(),
        stale: BTreeSet::new(),
        leaving: BTreeMap::new(),
        unpublishable: BTreeMap::new(),
        pending: BTreeMap::new(),
        yielding: BTreeMap::new(),
        drift: VecDeque::new(),
        drift_repaired: 0,
        writes: 0,
        refusals: 0,
        look: Look::Again,
        stopping: false,
        dataplane: Dataplane::default(),
        hold_until: None,
        links_changed: true,
    };
    Ok(Started {
        agent,
        inputs: Inputs { updates, calls, kernel: kernel_events, _server: server, _lock: lock, _claim: claim },
    })
}

impl Started {
    async fn serve(self) -> anyhow::Result<()> {
        let Self { mut agent, mut inputs } = self;
        agent.recall();
        agent.cycle();
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut refresh = tokio::time::Instant::now() + agent.engine.settings().refresh;
        let mut save = None;
        while !agent.stopping {
            let patience = agent.patience_ends();
            tokio::select! {
                biased;
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                Some(call) = inputs.calls.recv() => agent.answer(call, &mut inputs.calls).await,
                ready = inputs.kernel.readable() => {
                    if let Ok(mut ready) = ready {
                        agent.notice();
                        ready.clear_ready();
                    }
                }
                heard = agent.voice.hear() => agent.hear(heard),
                Some(update) = inputs.updates.recv() => {
                    agent.take(update);
                    for _ in 0..BATCH {
                        let Ok(update) = inputs.updates.try_recv() else { break };
                        agent.take(update);
                    }
                    save.get_or_insert(tokio::time::Instant::now() + SAVE_AFTER);
                }
                () = until(agent.hold_until) => agent.hold_until = None,
                () = until(save) => {
                    save = match agent.save() {
                        Saved::Now => None,
                        Saved::Later => Some(tokio::time::Instant::now() + SAVE_AFTER),
                    };
                }
                () = tokio::time::sleep_until(refresh) => {
                    agent.look = Look::Again;
                    refresh = tokio::time::Instant::now() + agent.engine.settings().refresh;
                }
                () = until(agent.rollouts.next()) => {}
                () = until(agent.secrets.next) => {}
                () = until(patience) => agent.give_up_waiting(),
                // After a turn of the tasks that carry answers to callers.
                () = tokio::task::yield_now(), if agent.kernel.has_unlabelled() => agent.kernel.label_links(),
                _ = retry.tick(), if !agent.pending.is_empty() => {}
            }
            agent.rollouts_pass();
            agent.cycle();
            agent.report_rollouts();
            agent.answer_callers();
        }
        agent.save_all();
        // Who asked for the end is still to get the answer: the tasks that write are ready, and take their turn here.
        for _ in 0..LAST_TURNS {
            tokio::task::yield_now().await;
        }
        let _ = std::fs::remove_file(agent.config.agent_socket());
        Ok(())
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

impl Agent {
    /// Goes on from what is on disk: the attachments of this host, and the last that the store told.
    fn recall(&mut self) {
        let documents: Vec<(Key, Document)> = self.snapshot.documents().map(|(k, d)| (k.clone(), d.clone())).collect();
        if self.snapshot.is_known() {
            self.known = Known::Snapshot;
            self.hold_until = Some(tokio::time::Instant::now() + STORE_PATIENCE);
        }
        for (key, document) in documents {
            self.told(key, &document, self.snapshot.revision);
        }
        self.rollouts_pass();
        let records: Vec<Record> = self.records.iter().cloned().collect();
        for record in records {
            let key = record.key();
            if let Intent::Attached { document, .. } = &record.intent {
                self.learn(endpoint_key(&key), &document.value());
            }
            if let Some(link) = record.going.as_deref().and_then(|link| link.parse().ok()) {
                self.leaving.insert(link, None);
            }
            if record.published == Published::No {
                self.say(&record);
            }
        }
    }

    /// Publishes a record, sooner or later.
    pub(crate) fn say(&self, record: &Record) {
        let word = match &record.intent {
            Intent::Attached { document, .. } => Word::Attached(document.clone()),
            Intent::Detached => Word::Detached,
        };
        let _ = self.words.send((record.key(), word));
    }

    /// Takes in what the store says.
    fn take(&mut self, update: Update) {
        match update {
            Update::Begin => self.snapshot.begin(),
            Update::Put(stored) if rollouts::is_of_another(&stored.key, &self.config.node) => {}
            Update::Put(stored) => {
                let document = Document::from(&stored.document);
                if self.snapshot.put(stored.key.clone(), document.clone()) == News::Changed {
                    self.told(stored.key, &document, stored.revision);
                }
            }
            Update::Gone(key, revision) => {
                self.snapshot.gone(&key);
                self.gone(&key, revision);
            }
            Update::Unreachable => self.hold_until = None,
            Update::InSync(revision) => {
                self.hold_until = None;
                for key in self.snapshot.in_sync(revision) {
                    self.snapshot.gone(&key);
                    self.gone(&key, revision);
                }
                self.forget_deleted(revision);
                if self.known == Known::Nothing {
                    self.look = Look::Again;
                }
                self.known = Known::Store;
            }
            Update::Published(key, word, revision) => self.published(&key, &word, revision),
            Update::Unpublishable(key, reason) => {
                tracing::error!(endpoint = %key, reason, "the store refuses this endpoint");
                self.unpublishable.insert(key, reason);
            }
        }
    }

    /// The store has a resource, as of a revision.
    fn told(&mut self, key: Key, document: &Document, revision: Revision) {
        let value = document.value();
        if rollouts::concerns(key.kind) {
            return self.rollout_told(&key, &value);
        }
        if feed::elsewhere(&key, &value, &self.config.node) {
            // None of ours, or not any more; policy may speak of it all the same.
            if self.leaves(&key, revision) == Leaves::Yes {
                self.learn(key, &value);
            }
            return;
        }
        if key.kind == Kind::WorkloadEndpoint {
            match self.records.get(&endpoint_of(&key)) {
                None => {}
                Some(record) if record.published == Published::No => return,
                Some(record) => {
                    if let Intent::Attached { maker, .. } = record.intent {
                        let intent = Intent::Attached { document: document.clone(), maker };
                        self.record(Record { intent, ..record.clone() });
                    }
                }
            }
        }
        self.learn(key, &value);
    }

    pub(crate) fn learn(&mut self, key: Key, document: &Value) {
        let instead = self.rollouts.instead(&key, document);
        let document = match &instead {
            None => document,
            Some(Instead::Document(before)) => before,
            Some(Instead::Nothing) => return self.consider(Event::Gone(key)),
        };
        let event = match Resource::parse(document) {
            Ok(resource) => Event::Put(key, resource),
            Err(invalid) => {
                tracing::warn!(object = %key, reason = %invalid, "quarantined");
                let stand_in =
                    Policy::stand_in(&key, document).map(|policy| Box::new(Resource::Policy(Arc::new(policy))));
                Event::Invalid { key, reason: invalid.to_string(), stand_in }
            }
        };
        self.consider(event);
    }

    /// As of a revision the store does not have a resource.
    fn gone(&mut self, key: &Key, revision: Revision) {
        if rollouts::concerns(key.kind) {
            return self.rollout_gone(key);
        }
        if self.leaves(key, revision) == Leaves::Yes {
            self.consider(Event::Gone(key.clone()));
        }
    }

    /// As of a revision the store has no endpoint of ours by this key. What this host has said since counts more.
    fn leaves(&mut self, key: &Key, revision: Revision) -> Leaves {
        if key.kind == Kind::WorkloadEndpoint {
            let endpoint = endpoint_of(key);
            match self.records.get(&endpoint).map(|record| (record.published, &record.intent)) {
                Some((Published::No, _)) => return Leaves::No,
                Some((Published::At(at), _)) if revision.0 < at => return Leaves::No,
                Some((Published::At(_), Intent::Attached { maker: Maker::Us, .. })) => {
                    // The record goes after the link, so that an agent that dies between the two knows of it.
                    match self.engine.snapshot().endpoints.get(&endpoint).map(|e| e.link.clone()) {
                        Some(link) => drop(self.leaving.insert(link, Some(endpoint))),
                        None => self.unrecord(&endpoint),
                    }
                }
                Some(_) => self.unrecord(&endpoint),
                None => {}
            }
        }
        Leaves::Yes
    }

    /// Attachments that the store once had and has no more were deleted while we were not looking.
    fn forget_deleted(&mut self, revision: Revision) {
        let keys = self.records.iter().filter(|record| matches!(record.published, Published::At(_)));
        let keys: Vec<Key> = keys.map(|record| endpoint_key(&record.key())).collect();
        for key in keys {
            match self.snapshot.get(&key) {
                None => self.gone(&key, revision),
                Some(document) if feed::elsewhere(&key, &document.value(), &self.config.node) => {
                    let document = document.clone();
                    self.told(key, &document, revision);
                }
                Some(_) => {}
            }
        }
    }

    /// The store has what this host said, unless it has said something else since.
    fn published(&mut self, key: &EndpointKey, word: &Word, revision: Revision) {
        self.unpublishable.remove(key);
        let Some(record) = self.records.get(key).cloned() else { return };
        match (&record.intent, word) {
            (Intent::Attached { document, .. }, Word::Attached(said)) if document == said => {
                self.record(Record { published: Published::At(revision.0), ..record });
            }
            (Intent::Detached, Word::Detached) => {
                let going = record.going.and_then(|link| link.parse::<IfName>().ok());
                match going.and_then(|link| self.leaving.get_mut(&link)) {
                    Some(forget) => *forget = Some(key.clone()),
                    None => self.unrecord(key),
                }
            }
            _ => {}
        }
    }

    pub(crate) fn record(&mut self, record: Record) {
        if let Err(error) = self.records.put(record) {
            tracing::error!(%error, "cannot write an attachment's record");
        }
    }

    pub(crate) fn unrecord(&mut self, key: &EndpointKey) {
        if let Err(error) = self.records.remove(key) {
            tracing::error!(%error, endpoint = %key, "cannot remove an attachment's record");
        }
    }

    /// Takes in what the speaker says.
    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Connected => {
                // Until it has told all it knows, what it told before stands.
                self.stale = self.engine.snapshot().learned.keys().copied().collect();
            }
            Heard::Learned(paths) => {
                for (prefix, next_hops) in paths {
                    self.stale.remove(&prefix);
                    self.engine.apply(Event::Learned { prefix, next_hops });
                }
            }
            Heard::InSync => {
                for prefix in std::mem::take(&mut self.stale) {
                    self.engine.apply(Event::Learned { prefix, next_hops: NextHops::default() });
                }
            }
            Heard::Withdrawn(number) => self.withdrawn(number),
            Heard::Lost(reason) => tracing::warn!(reason, "the speaker is gone; routes stay as they are"),
            Heard::Nothing => {}
        }
    }

    /// Begins to write what the store told.
    fn save(&mut self) -> Saved {
        self.snapshot.save().unwrap_or_else(|error| {
            tracing::error!(%error, "cannot write the snapshot");
            Saved::Later
        })
    }

    /// Has all that the store told on disk.
    fn save_all(&mut self) {
        // What is being written first, then the rest, to its end.
        let last = self.snapshot.finish();
        let all = self.snapshot.save().and_then(|_| self.snapshot.finish());
        for error in [last, all].into_iter().filter_map(Result::err) {
            tracing::error!(%error, "cannot write the snapshot");
        }
    }

    pub(crate) fn stop(&mut self) {
        self.stopping = true;
    }
}

/// The resource key of an endpoint.
pub(crate) fn endpoint_key(key: &EndpointKey) -> Key {
    Key { kind: Kind::WorkloadEndpoint, namespace: Some(key.namespace.clone()), name: key.name.clone() }
}

/// The endpoint of a resource key.
pub(crate) fn endpoint_of(key: &Key) -> EndpointKey {
    EndpointKey { namespace: key.namespace.clone().unwrap_or_default(), name: key.name.clone() }
}

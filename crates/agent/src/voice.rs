//! The speaker as the loop sees it: what it has been told, what it has said.
//!
//! Says each thing once: prefixes that are advertised already, or an intent that has not changed, are not
//! repeated, except to a speaker that has just (re)started, which is told everything.

use crate::api::{Answer, Code, Refusal};
use crate::speaker::{Client, Event, LearnedRoute, PeerState, ToSpeaker};
use lasthop_compute::BgpIntent;
use lasthop_net::Prefix;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use tokio::sync::oneshot;

pub(crate) use crate::speaker::Question;

/// What the speaker says that concerns the loop.
#[derive(Debug)]
pub(crate) enum Heard {
    /// It is there (again): tell it everything.
    Connected,
    /// Learned paths are now these.
    Learned(Vec<LearnedRoute>),
    /// All that it has learned has been told.
    InSync,
    /// The withdrawals up to this number have been told to the peers.
    Withdrawn(u64),
    /// It is gone.
    Lost(String),
    /// Nothing that changes anything.
    Nothing,
}

/// A peer's state in the speaker's words.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) state: String,
    pub(crate) error: Option<String>,
}

/// The line to the speaker; silent where another program speaks BGP for this host.
pub(crate) struct Voice {
    client: Option<Client>,
    link: Link,
    told: Told,
    advertised: BTreeSet<Prefix>,
    intent: Option<BgpIntent>,
    peers: BTreeMap<IpAddr, Peer>,
    asked: BTreeMap<u64, oneshot::Sender<Answer>>,
    number: u64,
}

/// How the line stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Down,
    /// Up; what it has learned is being told.
    Up,
    /// Up, and all has been told.
    InSync,
}

/// What the speaker has been told since it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Everything,
}

impl Voice {
    /// A line to the speaker at `socket`; connects, and reconnects, by itself.
    pub(crate) fn connect(socket: PathBuf) -> Self {
        Self { client: Some(Client::new(&socket)), ..Self::silent() }
    }

    /// No line: something else speaks for this host.
    pub(crate) fn silent() -> Self {
        Self {
            client: None,
            link: Link::Down,
            told: Told::Nothing,
            advertised: BTreeSet::new(),
            intent: None,
            peers: BTreeMap::new(),
            asked: BTreeMap::new(),
            number: 0,
        }
    }

    /// Whether something else speaks for this host.
    pub(crate) fn is_silent(&self) -> bool {
        self.client.is_none()
    }

    /// Whether all that the speaker has learned has been told.
    pub(crate) fn is_in_sync(&self) -> bool {
        self.link == Link::InSync || self.is_silent()
    }

    /// `connected`, `connecting` or `external`.
    pub(crate) fn state(&self) -> &'static str {
        match (self.is_silent(), self.link) {
            (true, _) => "external",
            (false, Link::Down) => "connecting",
            (false, _) => "connected",
        }
    }

    /// What is advertised.
    pub(crate) fn advertised(&self) -> &BTreeSet<Prefix> {
        &self.advertised
    }

    /// The peers' states.
    pub(crate) fn peers(&self) -> &BTreeMap<IpAddr, Peer> {
        &self.peers
    }

    fn say(&mut self, message: ToSpeaker) {
        if self.link != Link::Down
            && let Some(client) = &mut self.client
        {
            client.send(&message);
        }
    }

    /// Who we are, and whom we talk to.
    pub(crate) fn configure(&mut self, intent: &BgpIntent) {
        if self.intent.as_ref() == Some(intent) || self.link == Link::Down {
            return;
        }
        self.say(ToSpeaker::Configure(intent.speaker.clone()));
        self.say(ToSpeaker::Peers(intent.peers.values().map(|peer| peer.config.clone()).collect()));
        self.intent = Some(intent.clone());
    }

    /// Whether the speaker has yet to be told everything.
    pub(crate) fn is_new(&self) -> bool {
        self.told == Told::Nothing && self.link != Link::Down
    }

    /// Advertises those of `prefixes` that `works` says yes to, and withdraws the others.
    pub(crate) fn advertise<'a>(
        &mut self,
        prefixes: impl Iterator<Item = &'a Prefix>,
        works: impl Fn(&Prefix) -> bool,
    ) {
        if self.link == Link::Down {
            return;
        }
        let (mut more, mut less) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            if works(prefix) {
                if self.advertised.insert(*prefix) {
                    more.push(*prefix);
                }
            } else if self.advertised.remove(prefix) {
                less.push(*prefix);
            }
        }
        if !less.is_empty() {
            self.withdraw(less);
        }
        if !more.is_empty() {
            self.say(ToSpeaker::Advertise(more));
        }
    }

    /// All has been told: what was not is to be forgotten.
    pub(crate) fn complete(&mut self) {
        if self.is_new() && self.intent.is_some() {
            self.say(ToSpeaker::Complete);
            self.told = Told::Everything;
        }
    }

    /// Whether the speaker may be telling its peers of a prefix: it does so on, while its line is cut.
    pub(crate) fn may_have(&self, prefix: &Prefix) -> bool {
        match &self.client {
            None => false,
            Some(client) if client.is_nobody_there() => false,
            Some(_) if self.link != Link::Down && self.told == Told::Everything => self.advertised.contains(prefix),
            Some(_) => true,
        }
    }

    /// Withdraws; [`Heard::Withdrawn`] with this number follows once the speaker has said so to its peers, also if the
    /// line is down now and comes up again.
    pub(crate) fn withdraw(&mut self, prefixes: Vec<Prefix>) -> u64 {
        for prefix in &prefixes {
            self.advertised.remove(prefix);
        }
        self.number += 1;
        if let Some(client) = &mut self.client {
            client.send(&ToSpeaker::Withdraw { seq: self.number, prefixes });
        }
        self.number
    }

    /// The next that the speaker says. Cancel-safe. Never returns if there is no line.
    pub(crate) async fn hear(&mut self) -> Heard {
        match &mut self.client {
            Some(client) => {
                let event = client.recv().await;
                self.understand(event)
            }
            None => std::future::pending().await,
        }
    }

    fn understand(&mut self, event: Event) -> Heard {
        match event {
            Event::Connected => {
                self.link = Link::Up;
                self.told = Told::Nothing;
                self.intent = None;
                self.advertised.clear();
                return Heard::Connected;
            }
            Event::Disconnected(reason) => {
                self.link = Link::Down;
                self.peers.clear();
                self.asked.clear();
                return Heard::Lost(reason);
            }
            Event::Learned(routes) => return Heard::Learned(routes),
            Event::LearnedInSync => {
                self.link = Link::InSync;
                return Heard::InSync;
            }
            Event::Peers(states) => {
                let peer = |state: PeerState| (state.address, Peer { state: state.state, error: state.last_error });
                self.peers = states.into_iter().map(peer).collect();
            }
            Event::Listening { port, problem: Some(problem) } => {
                tracing::error!(port, problem, "the speaker cannot listen");
            }
            Event::Answer { id, answer } => {
                if let Some(reply) = self.asked.remove(&id) {
                    let _ = reply.send(said(answer));
                }
            }
            Event::Withdrawn(number) => return Heard::Withdrawn(number),
            Event::Listening { .. } => {}
        }
        Heard::Nothing
    }
}

/// Asks the speaker, which answers when it answers.
pub(crate) fn ask(voice: &mut Voice, question: Question, reply: oneshot::Sender<Answer>) {
    let refusal = if voice.is_silent() {
        "another program speaks BGP for this host ('speaker: external'): ask it"
    } else if voice.link == Link::Down {
        "the speaker is not connected: is 'lasthop bgp' running?"
    } else {
        voice.number += 1;
        voice.asked.insert(voice.number, reply);
        voice.say(ToSpeaker::Ask { id: voice.number, question });
        return;
    };
    let _ = reply.send(Answer::Error(Refusal { code: Code::Unavailable, message: refusal.to_owned() }));
}

fn said(answer: Result<String, String>) -> Answer {
    match answer.map(|json| serde_json::from_str(&json)) {
        Ok(Ok(value)) => Answer::Ok(value),
        Ok(Err(error)) => Answer::Error(Refusal { code: Code::Unavailable, message: error.to_string() }),
        Err(message) => Answer::Error(Refusal { code: Code::NotFound, message }),
    }
}

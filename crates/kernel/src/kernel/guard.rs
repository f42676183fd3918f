//! What stands between workloads and everything else: the nftables table, and the responder on each link.

use super::plane::{Dataplane, Leaving};
use super::{Kernel, KernelEvent};
use crate::bpf::{Responder, Responders};
use crate::iptables::Iptables;
use crate::link::Links;
use crate::netlink::{Message, Protocol, Socket};
use crate::nft::{self, Decider, Nft, PolicyKey, PolicyScope, Repair};
use crate::reconcile::{Outcome, Pending, Reconciler, Scope, Want};
use crate::{Error, netlink::Received};
use lasthop_compute::{Desired, Source};
use lasthop_net::{Family, IfName, Prefix};
use lasthop_policy::ir::HostPolicy;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE`, `NFPROTO_INET`, `NFTA_TABLE_NAME`.
const GET_TABLE: u16 = 10 << 8 | 1;
const INET: u8 = 1;
const TABLE_NAME: u16 = 1;

/// The guard of one network namespace.
#[derive(Debug)]
pub(super) struct Guards {
    pub(super) nft: Nft,
    /// What carries guard and policy instead of the table, if it does.
    pub(super) iptables: Option<Box<Iptables>>,
    pub(super) dataplane: Dataplane,
    pub(super) leaving: Option<Leaving>,
    /// Whether iptables was found otherwise than it was left.
    drifted: Drifted,
    watch: nft::Watch,
    /// For counting only, so that it can be done in between.
    counters: Mutex<Nft>,
    responders: Reconciler<Responders>,
    state: Guarded,
}

/// Whether somebody has changed what is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Drifted {
    Yes,
    No,
}

/// Whether workload links are guarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guarded {
    /// Our table is there.
    Yes,
    /// It is not, or it is not known.
    No,
}

impl Guards {
    pub(super) fn open() -> Result<Self, Error> {
        Ok(Self {
            nft: Nft::open()?,
            iptables: None,
            dataplane: Dataplane::Nft,
            leaving: None,
            drifted: Drifted::No,
            watch: nft::Watch::open()?,
            counters: Mutex::new(Nft::open()?),
            responders: Reconciler::new(Responders::open()?),
            state: Guarded::No,
        })
    }

    pub(super) fn watch(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }

    /// Reads everything. Gives the links whose responder is not as we knew it.
    pub(super) fn read_back(&mut self) -> Result<BTreeSet<IfName>, Error> {
        self.read_table()?;
        self.responders.read_back()
    }

    /// Whether a link has a responder of ours, as last read.
    pub(super) fn serves(&self, link: &IfName) -> bool {
        self.responders.actual().contains_key(link)
    }

    pub(super) fn read_table(&mut self) -> Result<(), Error> {
        if let Some(iptables) = &mut self.iptables {
            if iptables.read_back()? {
                self.drifted = Drifted::Yes;
            }
            self.state = if iptables.is_guarded() { Guarded::Yes } else { Guarded::No };
            return Ok(());
        }
        self.nft.read_back()?;
        let mut request = Message::new(GET_TABLE, 0).fixed(&[INET, 0, 0, 0]);
        request.put_str(TABLE_NAME, nft::TABLE);
        let found = Socket::open(Protocol::Netfilter)?.request(&request, "look for our nftables table");
        self.state = if found.is_ok() { Guarded::Yes } else { Guarded::No };
        match found {
            Err(error) if !error.is_absent() => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether somebody else has changed our table; then it is read.
    pub(super) fn is_touched(&mut self) -> Result<bool, Error> {
        let touched = self.watch.touched(&self.nft.ports())?;
        if self.iptables.is_some() {
            // There are no announcements about iptables: what the last reading found counts.
            return Ok(std::mem::replace(&mut self.drifted, Drifted::No) == Drifted::Yes);
        }
        if touched {
            self.read_table()?;
        }
        Ok(touched)
    }

    /// Makes policy as desired, and takes away what the host has moved away from.
    fn sync_policy(&mut self, policy: &HostPolicy, scope: PolicyScope<'_>) -> Outcome<PolicyKey> {
        let mut outcome = match &mut self.iptables {
            Some(iptables) => iptables.sync_policy(policy, scope),
            None => self.nft.sync_policy(policy, scope),
        };
        if self.leaving.is_some() && self.state == Guarded::Yes && !outcome.failed.contains_key(&PolicyKey::Hosts) {
            match self.leave() {
                Ok(()) => outcome.writes += 1,
                Err(error) => tracing::warn!(%error, "the former dataplane is still in place"),
            }
        }
        outcome
    }

    /// A link is gone or another one, and its responder with it.
    pub(super) fn forget_link(&mut self, name: &IfName) {
        self.responders.observe(name.clone(), None);
    }

    /// Looks at a link's responder in the next pass.
    pub(super) fn recheck(&mut self, names: impl IntoIterator<Item = IfName>) {
        self.responders.recheck(names);
    }

    /// Takes in a tc announcement; the link whose responder somebody took away or changed.
    pub(super) fn observe(&mut self, message: Received<'_>, links: &Links) -> Option<IfName> {
        if message.port == self.responders.table_ref().port() {
            return None;
        }
        let name = links.name(crate::bpf::touched_link(message)?)?.clone();
        self.responders.observe(name.clone(), None).then_some(name)
    }

    /// Hangs responders on links, before they are brought up.
    pub(super) fn sync_responders(
        &mut self,
        desired: &Desired,
        links: &Links,
        scope: Scope<'_, IfName>,
    ) -> Outcome<IfName> {
        let want = |name: &IfName| {
            let Some(wanted) = desired.links.get(name) else { return Want::Nothing };
            let Some(link) = links.get(name) else { return Want::Pending(Pending::LinkAbsent(name.clone())) };
            let Some(mac) = wanted.host_mac.or(link.mac) else { return Want::Nothing };
            match Responder::new(mac, &prefixes_of(name, desired)) {
                Ok(responder) => Want::Value(responder),
                Err(error) => {
                    tracing::warn!(link = %name, %error, "no ARP responder");
                    Want::Nothing
                }
            }
        };
        match scope {
            Scope::All => self.responders.sync_all(desired.links.keys().cloned().collect(), want),
            Scope::Keys(keys) => self.responders.sync_keys(keys.clone(), want),
        }
    }
}

/// The addresses and prefixes that a link's workload may send from.
fn prefixes_of(link: &IfName, desired: &Desired) -> BTreeSet<Prefix> {
    let first = Source { link: link.clone(), prefix: Prefix::default_route(Family::V4) };
    let of_link = desired.sources.range(first..).take_while(|source| source.link == *link);
    of_link.map(|source| source.prefix).collect()
}

impl Kernel {
    /// Whether our nftables table is there, as far as we know: workload links pass nothing that it does not allow.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.guards.state == Guarded::Yes
    }

    /// Makes the guard itself: chains, rules and fixed sets, in one transaction. The one key is the table's name.
    pub fn sync_skeleton(&mut self, desired: &Desired) -> Outcome<String> {
        self.take_in();
        let mut outcome = Outcome::default();
        let (key, result) = match &mut self.guards.iptables {
            Some(iptables) => {
                let report = iptables.sync_skeleton(&desired.guard, &desired.nat);
                ("iptables".to_owned(), report.map(|report| report.changes))
            }
            None => {
                let report = self.guards.nft.sync_skeleton(&desired.guard, &desired.nat);
                (format!("table inet {}", nft::TABLE), report.map(|report| report.changes))
            }
        };
        match result {
            Ok(changes) => {
                for change in &changes {
                    tracing::debug!(%change, "guard");
                }
                outcome.writes = changes.len();
                outcome.done.insert(key);
                self.guards.state = Guarded::Yes;
            }
            Err(error) => {
                // A table of our name is no guard yet.
                self.guards.state = Guarded::No;
                outcome.failed.insert(key, error);
            }
        }
        outcome
    }

    /// Keeps the sources that links may use.
    pub fn sync_sources(&mut self, desired: &Desired, scope: Scope<'_, Source>) -> Outcome<Source> {
        self.take_in();
        if let Scope::Keys(keys) = scope {
            self.guards.recheck(keys.iter().map(|source| source.link.clone()));
        }
        match &mut self.guards.iptables {
            Some(iptables) => iptables.sync_sources(&desired.sources, scope),
            None => self.guards.nft.sync_sources(&desired.sources, scope),
        }
    }

    /// Keeps policy: what links may send and get, and what guards the host's own interfaces.
    pub fn sync_policy(&mut self, desired: &Desired, scope: PolicyScope<'_>) -> Outcome<PolicyKey> {
        self.take_in();
        self.guards.sync_policy(&desired.policy, scope)
    }

    /// What of policy the last passes have found changed by somebody else, and put right. Of iptables nothing is told.
    pub fn take_repairs(&mut self) -> Vec<Repair> {
        self.guards.nft.take_repairs()
    }

    /// Packets that the guard has dropped, by reason; empty if there is no guard.
    #[must_use]
    pub fn drops(&self) -> BTreeMap<String, u64> {
        if let Some(iptables) = &self.guards.iptables {
            let drops = iptables.drops().unwrap_or_default();
            return drops.into_iter().map(|(reason, packets)| (reason.to_owned(), packets)).collect();
        }
        let mut counters = self.guards.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let drops = counters.drops().unwrap_or_default();
        drops.into_iter().map(|(reason, packets)| (reason.to_owned(), packets)).collect()
    }

    /// Packets and bytes that rules of policy have counted; empty if there is no guard.
    #[must_use]
    pub fn policy_counters(&self) -> BTreeMap<Decider, (u64, u64)> {
        if let Some(iptables) = &self.guards.iptables {
            return iptables.policy_counters().unwrap_or_default();
        }
        let mut counters = self.guards.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.policy_counters().unwrap_or_default()
    }

    pub(super) fn remove_guard(&mut self) -> Result<(), Error> {
        self.guards.state = Guarded::No;
        self.guards.remove_everything()
    }

    /// Asks the guard whether somebody else has changed it.
    pub(super) fn take_in_guard(&mut self) {
        match self.guards.is_touched() {
            Ok(false) => {}
            Ok(true) if self.guards.iptables.is_some() => self.queue.push_back(KernelEvent::Iptables),
            Ok(true) => self.queue.push_back(KernelEvent::Nft),
            Err(error) => {
                tracing::warn!(%error, "announcements of nftables were lost");
                self.queue.push_back(KernelEvent::Overrun);
            }
        }
    }
}

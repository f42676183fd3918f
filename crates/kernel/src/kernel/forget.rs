//! Forgetting the connections of departed addresses, beside the work: the kernel's whole table is walked for it. An
//! address is not routed to its next owner before its connections are forgotten.

use crate::conntrack;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long addresses are gathered, so that many that leave one after the other cost few looks.
const GATHER: Duration = Duration::from_millis(25);

/// What is to be forgotten, and the thread that does it in the namespace where it was started.
#[derive(Debug)]
pub(super) struct Forgetter {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeSet<IpAddr>,
    at_work: BTreeSet<IpAddr>,
    haste: Haste,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Haste {
    #[default]
    None,
    /// Somebody waits.
    Now,
    /// Do what is left, then end.
    Last,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let idle = |state: &mut State| state.waiting.is_empty() && state.haste != Haste::Last;
            let state = self.changed.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
            let unhurried = |state: &mut State| state.haste == Haste::None;
            let gathered = self.changed.wait_timeout_while(state, GATHER, unhurried);
            let mut state = gathered.unwrap_or_else(PoisonError::into_inner).0;
            if state.waiting.is_empty() {
                return;
            }
            state.at_work = std::mem::take(&mut state.waiting);
            let addresses = state.at_work.clone();
            drop(state);
            match conntrack::delete_for(&addresses) {
                Ok(()) => tracing::debug!(addresses = addresses.len(), "connections forgotten"),
                Err(error) => tracing::warn!(%error, "cannot forget the connections of departed addresses"),
            }
            let mut state = self.lock();
            state.at_work.clear();
            if state.haste == Haste::Now {
                state.haste = Haste::None;
            }
            self.changed.notify_all();
        }
    }
}

impl Forgetter {
    pub(super) fn new() -> Self {
        Self { shared: Arc::default(), thread: None }
    }

    /// Has the connections of these addresses forgotten soon.
    pub(super) fn forget(&mut self, addresses: BTreeSet<IpAddr>) {
        if addresses.is_empty() {
            return;
        }
        self.shared.lock().waiting.extend(addresses.iter().copied());
        self.shared.changed.notify_all();
        if self.thread.is_none() {
            let shared = Arc::clone(&self.shared);
            match std::thread::Builder::new().name("conntrack".to_owned()).spawn(move || shared.work()) {
                Ok(thread) => self.thread = Some(thread),
                Err(error) => {
                    tracing::warn!(%error, "no thread to forget connections");
                    self.shared.lock().waiting.clear();
                }
            }
        }
    }

    /// Waits until none of the addresses that `concerns` names is left to forget.
    pub(super) fn wait(&self, concerns: impl Fn(&IpAddr) -> bool) {
        let left = |state: &State| state.waiting.iter().chain(&state.at_work).any(&concerns);
        let mut state = self.shared.lock();
        while left(&state) {
            state.haste = Haste::Now;
            self.shared.changed.notify_all();
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Forgetter {
    /// What is left is still done.
    fn drop(&mut self) {
        self.shared.lock().haste = Haste::Last;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

//! Our routes in the main table: those with one of our two protocol numbers.

use super::message::{self, OwnRoute, RouteEntry, Shape};
use crate::Error;
use crate::netlink::{Message, Socket};
use crate::reconcile::{Plan, Table};
use lasthop_net::{Family, Prefix, RouteProtocol, TableId};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

const CREATE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
const REPLACE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE) as u16;

/// Reads and writes our routes; on the side, tells everyone else's.
#[derive(Debug)]
pub(super) struct RouteTable {
    socket: Socket,
    /// Further routes of ours with the same prefix, which should not be: one prefix has one route of ours.
    pub(super) extra: BTreeMap<Prefix, Vec<OwnRoute>>,
    /// Prefixes where it is not known what is in place, or where it does not come first. They are cleared before
    /// they are written.
    pub(super) unclear: BTreeSet<Prefix>,
    /// Routes of others, as last read.
    pub(super) others: Vec<RouteEntry>,
}

impl RouteTable {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, extra: BTreeMap::new(), unclear: BTreeSet::new(), others: Vec::new() }
    }

    pub(super) fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    pub(super) fn port(&self) -> u32 {
        self.socket.port()
    }

    /// The requests that clear a prefix of what we may have there beside `actual`.
    fn clear(&mut self, prefix: Prefix, batch: &mut Batch) {
        for route in self.extra.remove(&prefix).unwrap_or_default() {
            batch.push(prefix, route.delete(prefix), Absence::Fine);
        }
        if self.unclear.remove(&prefix) {
            for protocol in [RouteProtocol::DIRECT, RouteProtocol::LEARNED] {
                batch.push(prefix, message::delete_protocol(prefix, protocol), Absence::Fine);
            }
        }
    }
}

/// Whether the absence of what should be deleted is as good.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Absence {
    Fine,
    Wrong,
}

#[derive(Default)]
struct Batch {
    owners: Vec<(Prefix, Absence)>,
    messages: Vec<Message>,
}

impl Batch {
    fn push(&mut self, prefix: Prefix, message: Message, absence: Absence) {
        self.owners.push((prefix, absence));
        self.messages.push(message);
    }
}

impl Table for RouteTable {
    type Key = Prefix;
    type Value = OwnRoute;

    fn read_back(&mut self) -> Result<BTreeMap<Prefix, OwnRoute>, Error> {
        let mut ours = BTreeMap::new();
        self.others.clear();
        self.extra.clear();
        for family in Family::ALL {
            let replies = self.socket.dump(&message::list(family), &format!("list {family} routes"))?;
            for entry in replies.iter().filter_map(RouteEntry::parse) {
                if entry.table != TableId::MAIN || entry.cloned {
                    continue;
                }
                if !entry.protocol.is_ours() {
                    self.others.push(entry);
                    continue;
                }
                let route = OwnRoute::of(&entry);
                match ours.entry(entry.prefix) {
                    Entry::Occupied(_) => self.extra.entry(entry.prefix).or_default().push(route),
                    Entry::Vacant(vacant) => {
                        vacant.insert(route);
                    }
                }
            }
        }
        Ok(ours)
    }

    fn write(
        &mut self,
        plan: &Plan<Prefix, OwnRoute>,
        actual: &BTreeMap<Prefix, OwnRoute>,
    ) -> Vec<(Prefix, Result<(), Error>)> {
        let mut batch = Batch::default();
        for prefix in &plan.remove {
            if let Some(route) = actual.get(prefix) {
                batch.push(*prefix, route.delete(*prefix), Absence::Fine);
            }
            self.clear(*prefix, &mut batch);
        }
        for (prefix, route) in &plan.upsert {
            let old = actual.get(prefix);
            let cleared = self.unclear.contains(prefix);
            self.clear(*prefix, &mut batch);
            // A direct route takes the place of whatever has its key; a learned one only that of our own.
            let replaces = !cleared && old.is_some_and(|old| old.metric == route.metric);
            let flags = if replaces || matches!(route.shape, Shape::Direct { .. }) { REPLACE } else { CREATE };
            batch.push(*prefix, route.add(*prefix, flags), Absence::Wrong);
            if let Some(old) = old.filter(|old| !cleared && old.metric != route.metric) {
                batch.push(*prefix, old.delete(*prefix), Absence::Fine);
            }
        }
        let results = self.socket.batch(&batch.messages, "program routes");
        let mut by_prefix: Vec<(Prefix, Result<(), Error>)> = Vec::with_capacity(plan.len());
        for ((prefix, absence), result) in batch.owners.into_iter().zip(results) {
            let result = match result {
                Err(error) if absence == Absence::Fine && error.is_absent() => Ok(()),
                Err(Error::Refused { refusal, .. }) => Err(refusal.during(format!("program route {prefix}"))),
                result => result,
            };
            if result.is_err() {
                self.unclear.insert(prefix);
            }
            by_prefix.push((prefix, result));
        }
        // What is unknown but has nothing to remove is as desired.
        if !plan.remove.is_empty() {
            let answered: BTreeSet<Prefix> = by_prefix.iter().map(|(prefix, _)| *prefix).collect();
            by_prefix.extend(plan.remove.iter().filter(|p| !answered.contains(p)).map(|prefix| (*prefix, Ok(()))));
        }
        by_prefix
    }
}

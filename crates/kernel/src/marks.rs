//! Workload links: marked with our alias, given their MAC, brought up. Never made or deleted here.

use crate::Error;
use crate::link::{Admin, Change, LinkState};
use crate::netlink::{Message, Protocol, Socket};
use crate::reconcile::{Plan, Table};
use lasthop_net::{IfIndex, IfName, Mac};
use std::collections::BTreeMap;

/// What we decide about a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which link of that name: another if it was made anew.
    pub link: IfIndex,
    /// Its alias.
    pub alias: Option<String>,
    /// Its MAC.
    pub mac: Option<Mac>,
    /// Whether it is brought up.
    pub admin: Admin,
}

impl Mark {
    /// What a link has now.
    #[must_use]
    pub fn of(link: &LinkState) -> Self {
        Self { link: link.index, alias: link.alias.clone(), mac: link.mac, admin: link.admin }
    }
}

/// Links with our alias.
#[derive(Debug)]
pub(crate) struct Marks {
    socket: Socket,
}

impl Marks {
    pub(crate) fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(Protocol::Route)? })
    }
}

/// The request that leads from `old` to `new`, without what is already so.
fn message(old: Option<&Mark>, new: &Mark) -> Message {
    let old = old.filter(|old| old.link == new.link);
    let change = Change {
        admin: (old.map(|old| old.admin) != Some(new.admin)).then_some(new.admin),
        mac: new.mac.filter(|mac| old.and_then(|old| old.mac) != Some(*mac)),
        alias: new.alias.clone().filter(|alias| old.and_then(|old| old.alias.as_ref()) != Some(alias)),
        ..Change::default()
    };
    change.message_for(new.link)
}

impl Table for Marks {
    type Key = IfName;
    type Value = Mark;

    fn read_back(&mut self) -> Result<BTreeMap<IfName, Mark>, Error> {
        let links = crate::link::list(&mut self.socket)?;
        Ok(links.iter().filter(|link| link.is_marked()).map(|link| (link.name.clone(), Mark::of(link))).collect())
    }

    fn write(
        &mut self,
        plan: &Plan<IfName, Mark>,
        actual: &BTreeMap<IfName, Mark>,
    ) -> Vec<(IfName, Result<(), Error>)> {
        // Of a link that is no longer wanted only the alias is taken away.
        let unmark = |mark: &Mark| Change { alias: Some(String::new()), ..Change::default() }.message_for(mark.link);
        let removed = plan.remove.iter().map(|name| (name, actual.get(name).map(unmark)));
        let written = plan.upsert.iter().map(|(name, mark)| (name, Some(message(actual.get(name), mark))));
        let mut results = Vec::new();
        let mut names = Vec::new();
        let mut messages = Vec::new();
        for (name, message) in removed.chain(written) {
            match message {
                Some(message) => {
                    names.push(name.clone());
                    messages.push(message);
                }
                None => results.push((name.clone(), Ok(()))),
            }
        }
        let answers = self.socket.batch(&messages, "configure a workload link");
        let removals = messages.len() - plan.upsert.len();
        for (index, (name, answer)) in names.into_iter().zip(answers).enumerate() {
            let fine = index < removals && answer.as_ref().is_err_and(Error::is_absent);
            results.push((name, if fine { Ok(()) } else { answer }));
        }
        results
    }
}

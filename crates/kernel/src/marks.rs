//! Workload links: marked with our alias, given their MAC, brought up. Never made or deleted here.
//!
//! The MAC that a link had before is recorded first, in a file of one line a link that only grows (and is tidied up when a
//! link gets its own back), and put back with the mark's removal. A link that we made never had another.

use crate::Error;
use crate::link::{Admin, Change, LinkState};
use crate::netlink::{Message, Protocol, Socket};
use crate::reconcile::{Plan, Table};
use lasthop_net::{IfIndex, IfName, Mac};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

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
    /// Where former MACs are recorded; `None` keeps them in memory only.
    record: Option<PathBuf>,
    /// What MACs links had before we changed them. An index alone may by now be another link's.
    former: BTreeMap<(IfIndex, IfName), Mac>,
}

impl Marks {
    pub(crate) fn open(record: Option<PathBuf>) -> Result<Self, Error> {
        let mut former = BTreeMap::new();
        if let Some(path) = &record {
            match std::fs::read_to_string(path) {
                Ok(text) => former.extend(text.lines().filter_map(parse_line)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io(format!("read {}", path.display()), &error)),
            }
        }
        Ok(Self { socket: Socket::open(Protocol::Route)?, record, former })
    }

    /// Records what MACs links have that are about to get another.
    fn remember(&mut self, changes: &[(IfName, Mark)], actual: &BTreeMap<IfName, Mark>) -> Result<(), Error> {
        let mut lines = String::new();
        for (name, new) in changes {
            let old = actual.get(name).filter(|old| old.link == new.link && new.mac.is_some() && old.mac != new.mac);
            let Some(mac) = old.and_then(|old| old.mac) else { continue };
            if let Entry::Vacant(vacant) = self.former.entry((new.link, name.clone())) {
                lines.push_str(&line((vacant.key(), &mac)));
                vacant.insert(mac);
            }
        }
        let Some(path) = self.record.as_ref().filter(|_| !lines.is_empty()) else { return Ok(()) };
        let append = || File::options().append(true).create(true).open(path)?.write_all(lines.as_bytes());
        append().map_err(|error| Error::io(format!("write {}", path.display()), &error))
    }

    /// Links that have their own MAC again, or are gone, are of no further interest.
    fn forget(&mut self, removed: &[IfName], results: &[(IfName, Result<(), Error>)]) {
        let before = self.former.len();
        let done = |name: &IfName| removed.contains(name) && results.iter().any(|(n, r)| n == name && r.is_ok());
        if before > 0 && !removed.is_empty() {
            self.former.retain(|(_, name), _| !done(name));
        }
        if self.former.len() < before
            && let Err(error) = self.tidy()
        {
            tracing::warn!(%error, "the record of former MAC addresses is not tidied up");
        }
    }

    /// Writes the record anew, without links that have their own MAC again.
    fn tidy(&self) -> Result<(), Error> {
        let Some(path) = &self.record else { return Ok(()) };
        let failed = |error: std::io::Error| Error::io(format!("write {}", path.display()), &error);
        if self.former.is_empty() {
            return match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
                _ => Ok(()),
            };
        }
        let mut new = path.clone().into_os_string();
        new.push(".new");
        let text: String = self.former.iter().map(line).collect();
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path)).map_err(failed)
    }
}

fn line(((index, name), mac): (&(IfIndex, IfName), &Mac)) -> String {
    format!("{} {name} {mac}\n", index.0)
}

fn parse_line(line: &str) -> Option<((IfIndex, IfName), Mac)> {
    let mut words = line.split(' ');
    let index = IfIndex(words.next()?.parse().ok()?);
    Some(((index, words.next()?.parse().ok()?), words.next()?.parse().ok()?))
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
        if let Err(error) = self.remember(&plan.upsert, actual) {
            // Without a record of what it was nothing is changed.
            let all = plan.remove.iter().chain(plan.upsert.iter().map(|(name, _)| name));
            return all.map(|name| (name.clone(), Err(error.clone()))).collect();
        }
        // A link that is no longer wanted loses its alias, and gets the MAC that it had.
        let former = &self.former;
        let unmark = |name: &IfName| {
            let mark = actual.get(name)?;
            let mac = former.get(&(mark.link, name.clone())).copied();
            Some(Change { alias: Some(String::new()), mac, ..Change::default() }.message_for(mark.link))
        };
        let removed = plan.remove.iter().map(|name| (name, unmark(name)));
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
        self.forget(&plan.remove, &results);
        results
    }
}

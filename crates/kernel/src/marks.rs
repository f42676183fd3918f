//! Workload links: marked with our alias, given their MAC, brought up. Never made or deleted here.
//!
//! The MAC that a link had before is recorded first, in a file of one line a link that grows (and is tidied up at a
//! reading back), and put back with the mark's removal. A link that we made never had another.
//!
//! Giving an alias to a link that is up has the kernel go through the IPv6 routes of the whole namespace
//! (`netdev_state_change`, then `rt6_sync_up` in net/ipv6/addrconf.c): a millisecond beside 1,000 links. So a link that is
//! down gets its alias before it comes up, and on others the alias is left to [`Marks::label`], when nobody waits. An agent
//! that dies in between knows the link by its recorded MAC.

use crate::Error;
use crate::link::{Admin, Change, LinkState};
use crate::netlink::{Message, Protocol, Socket};
use crate::reconcile::{Plan, Table};
use lasthop_net::{IfIndex, IfName, Mac};
use std::collections::{BTreeMap, BTreeSet};
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
    /// What MACs links had before we changed them. A name alone may by now be another link's.
    former: BTreeMap<IfName, (IfIndex, Mac)>,
    /// Lines of the record that say nothing any more.
    outdated: usize,
    /// Aliases that are still to be given, or taken away (the empty text).
    late: BTreeMap<IfName, (IfIndex, String)>,
}

impl Marks {
    pub(crate) fn open(record: Option<PathBuf>) -> Result<Self, Error> {
        let mut former = BTreeMap::new();
        let mut lines = 0;
        if let Some(path) = &record {
            match std::fs::read_to_string(path) {
                Ok(text) => {
                    for (name, known) in text.lines().filter_map(parse_line) {
                        lines += 1;
                        match known {
                            Some(known) => former.insert(name, known),
                            None => former.remove(&name),
                        };
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io(format!("read {}", path.display()), &error)),
            }
        }
        let outdated = lines - former.len();
        Ok(Self { socket: Socket::open(Protocol::Route)?, record, former, outdated, late: BTreeMap::new() })
    }

    /// Whether we have marked a link, or were about to.
    pub(crate) fn is_ours(&self, link: &LinkState) -> bool {
        link.is_marked() || self.former.get(&link.name).is_some_and(|(index, _)| *index == link.index)
    }

    /// What a link has, counting the alias that it is still to get or to lose.
    pub(crate) fn of(&self, link: &LinkState) -> Mark {
        let mut mark = Mark::of(link);
        if let Some((_, alias)) = self.late.get(&link.name).filter(|(index, _)| *index == link.index) {
            mark.alias = Some(alias.clone()).filter(|alias| !alias.is_empty());
        }
        mark
    }

    /// Whether some link is without its alias yet.
    pub(crate) fn has_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// Gives and takes away the aliases that were left. Those that were refused, with the reason.
    pub(crate) fn label(&mut self) -> Vec<(IfName, Error)> {
        let late = std::mem::take(&mut self.late);
        let change = |alias: &String| Change { alias: Some(alias.clone()), ..Change::default() };
        let messages: Vec<Message> = late.values().map(|(link, alias)| change(alias).message_for(*link)).collect();
        let answers = self.socket.batch(&messages, "give a workload link its alias");
        let refused = late.into_keys().zip(answers).filter_map(|(name, answer)| Some((name, answer.err()?)));
        refused.filter(|(_, error)| !error.is_absent()).collect()
    }

    /// Records what MACs links have that are about to get another.
    fn remember(&mut self, changes: &[(IfName, Mark)], actual: &BTreeMap<IfName, Mark>) -> Result<(), Error> {
        let mut lines = String::new();
        for (name, new) in changes {
            let old = actual.get(name).filter(|old| old.link == new.link && new.mac.is_some() && old.mac != new.mac);
            let Some(mac) = old.and_then(|old| old.mac) else { continue };
            if self.former.get(name).is_some_and(|(index, _)| *index == new.link) {
                continue;
            }
            self.outdated += usize::from(self.former.insert(name.clone(), (new.link, mac)).is_some());
            lines.push_str(&line(name, Some((new.link, mac))));
        }
        self.append(&lines)
    }

    /// A link that has its own MAC again, or is gone, is of no further interest.
    fn forget(&mut self, removed: &[IfName], results: &[(IfName, Result<(), Error>)]) {
        let mut lines = String::new();
        let failed: BTreeSet<&IfName> = results.iter().filter(|(_, r)| r.is_err()).map(|(name, _)| name).collect();
        for name in removed.iter().filter(|name| !failed.contains(name)) {
            if self.former.remove(name).is_some() {
                lines.push_str(&line(name, None));
                self.outdated += 2;
            }
        }
        if let Err(error) = self.append(&lines) {
            tracing::warn!(%error, "former MAC addresses stay recorded");
        }
    }

    fn append(&self, lines: &str) -> Result<(), Error> {
        let Some(path) = self.record.as_ref().filter(|_| !lines.is_empty()) else { return Ok(()) };
        let append = || File::options().append(true).create(true).open(path)?.write_all(lines.as_bytes());
        append().map_err(|error| Error::io(format!("write {}", path.display()), &error))
    }

    /// Writes the record anew, without what is no longer of use.
    pub(crate) fn tidy(&mut self) -> Result<(), Error> {
        let Some(path) = self.record.as_ref().filter(|_| self.outdated > 0) else { return Ok(()) };
        let failed = |error: std::io::Error| Error::io(format!("write {}", path.display()), &error);
        if self.former.is_empty() {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        } else {
            let mut new = path.clone().into_os_string();
            new.push(".new");
            let text: String = self.former.iter().map(|(name, known)| line(name, Some(*known))).collect();
            std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path)).map_err(failed)?;
        }
        self.outdated = 0;
        Ok(())
    }
}

/// `None`: its MAC is its own again.
fn line(name: &IfName, known: Option<(IfIndex, Mac)>) -> String {
    match known {
        Some((index, mac)) => format!("{} {name} {mac}\n", index.0),
        None => format!("- {name}\n"),
    }
}

fn parse_line(line: &str) -> Option<(IfName, Option<(IfIndex, Mac)>)> {
    let mut words = line.split(' ');
    let index = words.next()?;
    let name = words.next()?.parse().ok()?;
    if index == "-" {
        return Some((name, None));
    }
    Some((name, Some((IfIndex(index.parse().ok()?), words.next()?.parse().ok()?))))
}

/// What leads from `old` to `new`: the requests, in order, and when the link has its alias.
fn requests(old: Option<&Mark>, new: &Mark) -> (Vec<Message>, Alias) {
    let old = old.filter(|old| old.link == new.link);
    let named = old.and_then(|old| old.alias.as_ref()) == new.alias.as_ref();
    let change = Change {
        admin: (old.map(|old| old.admin) != Some(new.admin)).then_some(new.admin),
        mac: new.mac.filter(|mac| old.and_then(|old| old.mac) != Some(*mac)),
        ..Change::default()
    };
    if old.is_some_and(|old| old.admin == Admin::Down) && change.admin == Some(Admin::Up) {
        let alias = new.alias.clone().filter(|_| !named);
        let first = Change { alias, admin: None, ..change };
        let all = [first, Change::up()].into_iter().filter(|change| *change != Change::default());
        return (all.map(|change| change.message_for(new.link)).collect(), Alias::Done);
    }
    let requests = (change != Change::default()).then(|| change.message_for(new.link));
    (requests.into_iter().collect(), if named { Alias::Done } else { Alias::Later })
}

/// When a link has its alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alias {
    /// With the requests.
    Done,
    /// It is left to [`Marks::label`].
    Later,
}

impl Table for Marks {
    type Key = IfName;
    type Value = Mark;

    fn read_back(&mut self) -> Result<BTreeMap<IfName, Mark>, Error> {
        for (name, error) in self.label() {
            tracing::warn!(link = %name, %error, "no alias");
        }
        let links = crate::link::list(&mut self.socket)?;
        let there: BTreeSet<(&IfName, IfIndex)> = links.iter().map(|link| (&link.name, link.index)).collect();
        let before = self.former.len();
        self.former.retain(|name, (index, _)| there.contains(&(name, *index)));
        self.outdated += before - self.former.len();
        if let Err(error) = self.tidy() {
            tracing::warn!(%error, "the record of former MAC addresses is not tidied up");
        }
        Ok(links.iter().filter(|link| self.is_ours(link)).map(|link| (link.name.clone(), Mark::of(link))).collect())
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
        let mut results = Vec::new();
        let mut names = Vec::new();
        let mut messages = Vec::new();
        // A link that is no longer wanted gets the MAC that it had, and loses its alias.
        for name in &plan.remove {
            let Some(mark) = actual.get(name) else {
                results.push((name.clone(), Ok(())));
                continue;
            };
            self.late.insert(name.clone(), (mark.link, String::new()));
            match self.former.get(name).filter(|(index, _)| *index == mark.link) {
                Some((_, mac)) => {
                    names.push(name.clone());
                    messages.push(Change { mac: Some(*mac), ..Change::default() }.message_for(mark.link));
                }
                None => results.push((name.clone(), Ok(()))),
            }
        }
        let removals = messages.len();
        for (name, mark) in &plan.upsert {
            let (requests, alias) = requests(actual.get(name), mark);
            match (alias, &mark.alias) {
                (Alias::Later, Some(alias)) => drop(self.late.insert(name.clone(), (mark.link, alias.clone()))),
                _ => drop(self.late.remove(name)),
            }
            if requests.is_empty() {
                results.push((name.clone(), Ok(())));
            }
            for request in requests {
                names.push(name.clone());
                messages.push(request);
            }
        }
        let answers = self.socket.batch(&messages, "configure a workload link");
        for (index, (name, answer)) in names.into_iter().zip(answers).enumerate() {
            let fine = index < removals && answer.as_ref().is_err_and(Error::is_absent);
            results.push((name, if fine { Ok(()) } else { answer }));
        }
        self.forget(&plan.remove, &results);
        results
    }
}

//! All links of the namespace by name and by index, kept current by announcements.

use super::{Admin, LinkState};
use crate::Error;
use crate::marks::Mark;
use crate::netlink::{Received, Socket};
use lasthop_net::{IfIndex, IfName};
use std::collections::{BTreeMap, HashMap};

/// The links of a network namespace.
#[derive(Clone, Debug, Default)]
pub struct Links {
    by_name: BTreeMap<IfName, LinkState>,
    names: HashMap<IfIndex, IfName>,
}

/// What happened to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkChange {
    /// It is there now, perhaps anew with another index.
    Appeared,
    /// It is gone.
    Gone,
    /// It has another name now, under which it has appeared.
    Renamed,
    /// It was brought up.
    Up,
    /// It was brought down.
    Down,
    /// Its other end came.
    CarrierUp,
    /// Its other end went.
    CarrierDown,
    /// It has another MAC.
    MacChanged,
    /// Something else: MTU, alias, bridge.
    Changed,
}

impl Links {
    /// The link of this name.
    #[must_use]
    pub fn get(&self, name: &IfName) -> Option<&LinkState> {
        self.by_name.get(name)
    }

    /// The name of this index.
    #[must_use]
    pub fn name(&self, index: IfIndex) -> Option<&IfName> {
        self.names.get(&index)
    }

    /// The link of this index.
    #[must_use]
    pub fn by_index(&self, index: IfIndex) -> Option<&LinkState> {
        self.by_name.get(self.names.get(&index)?)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = &LinkState> {
        self.by_name.values()
    }

    /// Reads all links anew; what differs from what was known.
    pub fn read_back(&mut self, socket: &mut Socket) -> Result<Vec<(IfName, LinkChange)>, Error> {
        let mut before = std::mem::take(self);
        let mut changes = Vec::new();
        for link in super::list(socket)? {
            match before.by_name.remove(&link.name) {
                Some(old) => changes.extend(compare(&old, &link).map(|change| (link.name.clone(), change))),
                None => changes.push((link.name.clone(), LinkChange::Appeared)),
            }
            self.insert(link);
        }
        changes.extend(before.by_name.into_keys().map(|name| (name, LinkChange::Gone)));
        Ok(changes)
    }

    /// Takes in an announcement; what it changes, in order.
    pub fn observe(&mut self, message: Received<'_>) -> Vec<(IfName, LinkChange)> {
        let Some(link) = LinkState::parse(message) else { return Vec::new() };
        match message.kind {
            libc::RTM_NEWLINK => self.appeared(link),
            libc::RTM_DELLINK => self.gone(link.index),
            _ => Vec::new(),
        }
    }

    /// Takes in what was just written to a link, before it is announced. Gives what it was before.
    pub(crate) fn set(&mut self, name: &IfName, mark: &Mark) -> Option<LinkState> {
        let link = self.by_name.get_mut(name).filter(|link| link.index == mark.link)?;
        let before = link.clone();
        link.alias.clone_from(&mark.alias);
        link.mac = mark.mac;
        link.admin = mark.admin;
        Some(before)
    }

    /// A link's alias was just taken away.
    pub(crate) fn unmark(&mut self, name: &IfName) {
        if let Some(link) = self.by_name.get_mut(name) {
            link.alias = None;
        }
    }

    fn appeared(&mut self, link: LinkState) -> Vec<(IfName, LinkChange)> {
        let name = link.name.clone();
        let mut changes = Vec::new();
        if self.names.get(&link.index).is_some_and(|known| *known != name) {
            changes.extend(self.gone(link.index).into_iter().map(|(name, _)| (name, LinkChange::Renamed)));
        }
        match self.by_name.get(&name) {
            Some(old) => changes.extend(compare(old, &link).map(|change| (name, change))),
            None => changes.push((name, LinkChange::Appeared)),
        }
        self.insert(link);
        changes
    }

    fn gone(&mut self, index: IfIndex) -> Vec<(IfName, LinkChange)> {
        let Some(name) = self.names.remove(&index) else { return Vec::new() };
        // The name may have passed to another link already.
        if self.by_name.get(&name).is_some_and(|link| link.index == index) {
            self.by_name.remove(&name);
            return vec![(name, LinkChange::Gone)];
        }
        Vec::new()
    }

    fn insert(&mut self, link: LinkState) {
        self.names.insert(link.index, link.name.clone());
        self.by_name.insert(link.name.clone(), link);
    }
}

/// The most telling difference.
fn compare(old: &LinkState, new: &LinkState) -> Option<LinkChange> {
    Some(match () {
        () if old == new => return None,
        () if old.index != new.index => LinkChange::Appeared,
        () if old.admin != new.admin && new.admin == Admin::Up => LinkChange::Up,
        () if old.admin != new.admin => LinkChange::Down,
        () if old.carrier != new.carrier && new.is_running() => LinkChange::CarrierUp,
        () if old.carrier != new.carrier => LinkChange::CarrierDown,
        () if old.mac != new.mac => LinkChange::MacChanged,
        () => LinkChange::Changed,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Carrier;
    use super::*;

    fn link(index: u32, name: &str) -> LinkState {
        LinkState {
            index: IfIndex(index),
            name: name.parse().unwrap(),
            admin: Admin::Up,
            carrier: Carrier::Present,
            mac: None,
            mtu: 1500,
            alias: None,
            kind: None,
            master: None,
            peer: None,
        }
    }

    #[test]
    fn renames_and_new_indexes_are_told_apart() {
        use LinkChange::{Appeared, CarrierDown, Changed, Down, Gone, Renamed, Up};
        let mut links = Links::default();
        let name = |n: &str| n.parse::<IfName>().unwrap();
        assert_eq!(links.appeared(link(1, "a")), [(name("a"), Appeared)]);
        assert_eq!(links.appeared(link(1, "a")), []);
        assert_eq!(links.appeared(LinkState { admin: Admin::Down, ..link(1, "a") }), [(name("a"), Down)]);
        assert_eq!(links.appeared(link(1, "a")), [(name("a"), Up)]);
        assert_eq!(links.appeared(LinkState { carrier: Carrier::Lost, ..link(1, "a") }), [(name("a"), CarrierDown)]);
        assert_eq!(
            links.appeared(LinkState { mtu: 9000, carrier: Carrier::Lost, ..link(1, "a") }),
            [(name("a"), Changed)]
        );
        assert_eq!(links.appeared(link(1, "b")), [(name("a"), Renamed), (name("b"), Appeared)], "renamed");
        assert_eq!(links.appeared(link(2, "b")), [(name("b"), Appeared)], "made anew");
        assert_eq!(links.gone(IfIndex(1)), [], "the old one's end is no news");
        assert_eq!(links.name(IfIndex(2)), Some(&name("b")));
        assert_eq!(links.gone(IfIndex(2)), [(name("b"), Gone)]);
        assert!(links.iter().next().is_none());
    }
}

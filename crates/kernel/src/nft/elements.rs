//! The sources that links may use: a table for the reconciler.
//!
//! One pass is one transaction of a few elements in hash sets, so that an endpoint costs the same beside ten others and beside
//! ten thousand. If the kernel refuses the transaction, keys are written one by one, so that a bad one stops no other.

use super::ruleset::{Element, Mark, change_elements};
use super::skeleton::{PREFIXES, SOURCES, family_index};
use super::wire::Kind;
use super::{TABLE, dump, ranges};
use crate::Error;
use crate::netlink::{Message, Protocol, Refusal, Socket};
use crate::reconcile::{Plan, Table};
use lasthop_compute::Source;
use lasthop_net::{Family, IfName, Prefix};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// A link's name as a key: 16 bytes, the rest zero.
pub(super) fn name_key(name: &IfName) -> Vec<u8> {
    let mut key = name.as_str().as_bytes().to_vec();
    key.resize(16, 0);
    key
}

pub(super) fn name_of(key: &[u8]) -> Option<IfName> {
    let end = key.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&key[..end]).ok()?.parse().ok()
}

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Sends a transaction; the first refusal, in words.
pub(super) fn commit(socket: &mut Socket, messages: &[Message], attempted: &str) -> Result<(), Error> {
    match socket.transaction(messages, None) {
        Ok(_) => Ok(()),
        Err(refused) => {
            let unknown = Refusal { errno: Errno::EPROTO, explanation: None };
            Err(refused.into_iter().next().map_or(unknown, |(_, refusal)| refusal).during(attempted))
        }
    }
}

/// The sources that links may use.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) socket: Socket,
    strays: Strays,
}

/// Elements in our sets that we would not have written, as last read.
#[derive(Debug, Default)]
pub(super) struct Strays(BTreeMap<&'static str, Vec<Element>>);

impl Strays {
    fn add(&mut self, set: &'static str, element: Element) {
        self.0.entry(set).or_default().push(element);
    }

    /// Deletes them; how many there were.
    fn delete(&mut self, socket: &mut Socket) -> usize {
        let count = self.0.values().map(Vec::len).sum();
        let requests =
            |(set, elements): (&&str, &Vec<Element>)| change_elements(Kind::DelElement, TABLE, set, elements);
        let messages: Vec<Message> = self.0.iter().flat_map(requests).collect();
        match commit(socket, &messages, "delete elements of somebody else from our sets") {
            Err(error) if error.errno() != Some(Errno::ENOENT) => {
                tracing::warn!(%error, "they stay until the next try")
            }
            _ => self.0.clear(),
        }
        count
    }
}

/// The set and the element of a source.
fn place(source: &Source) -> (&'static str, Element) {
    let prefix = source.prefix;
    let index = family_index(prefix.family());
    let mut key = name_key(&source.link);
    let mut last = key.clone();
    key.extend(address_bytes(prefix.address()));
    if prefix.is_host() {
        return (SOURCES[index], Element::key(key));
    }
    last.extend(ranges::last(prefix));
    (PREFIXES[index], Element { last: Some(last), ..Element::key(key) })
}

/// The source that an element stands for; `None` if we would not have written it.
fn source_of(element: &Element, family: Family) -> Option<Source> {
    let address = |bytes: &[u8]| match family {
        Family::V4 => bytes.try_into().ok().map(<[u8; 4]>::into).map(IpAddr::V4),
        Family::V6 => bytes.try_into().ok().map(<[u8; 16]>::into).map(IpAddr::V6),
    };
    if element.mark != Mark::Key {
        return None;
    }
    let (name, first) = element.key.split_at_checked(16)?;
    let link = name_of(name)?;
    let first = address(first)?;
    let Some(last) = &element.last else { return Some(Source { link, prefix: Prefix::host(first) }) };
    let (_, last) = last.split_at_checked(16)?;
    let last = address(last)?;
    let fits = |len: &u8| {
        Prefix::new(first, *len).is_some_and(|p| p.address() == first && ranges::last(p) == address_bytes(last))
    };
    let len = (0..family.bits()).find(fits)?;
    Some(Source { link, prefix: Prefix::new(first, len)? })
}

impl Sources {
    pub(super) fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(Protocol::Netfilter)?, strays: Strays::default() })
    }
}

/// Elements grouped by set, as requests.
fn grouped<'a>(kind: Kind, sources: impl Iterator<Item = &'a Source>) -> Vec<Message> {
    let mut by_set: BTreeMap<&'static str, Vec<Element>> = BTreeMap::new();
    for (set, element) in sources.map(place) {
        by_set.entry(set).or_default().push(element);
    }
    by_set.iter().flat_map(|(set, elements)| change_elements(kind, TABLE, set, elements)).collect()
}

impl Sources {
    /// Deletes what somebody else has put into our sets; how many elements.
    pub(super) fn delete_strays(&mut self) -> usize {
        self.strays.delete(&mut self.socket)
    }
}

impl Table for Sources {
    type Key = Source;
    type Value = ();

    fn read_back(&mut self) -> Result<BTreeMap<Source, ()>, Error> {
        let mut sources = BTreeMap::new();
        self.strays = Strays::default();
        for family in Family::ALL {
            for set in [SOURCES[family_index(family)], PREFIXES[family_index(family)]] {
                for element in dump::elements(&mut self.socket, set)? {
                    match source_of(&element, family).filter(|source| place(source).0 == set) {
                        Some(source) => drop(sources.insert(source, ())),
                        None => self.strays.add(set, element),
                    }
                }
            }
        }
        Ok(sources)
    }

    fn write(&mut self, plan: &Plan<Source, ()>, _: &BTreeMap<Source, ()>) -> Vec<(Source, Result<(), Error>)> {
        let mut messages = grouped(Kind::DelElement, plan.remove.iter());
        messages.extend(grouped(Kind::NewElement, plan.upsert.iter().map(|(source, ())| source)));
        let removed = plan.remove.iter().map(|source| (source, Kind::DelElement));
        let added = plan.upsert.iter().map(|(source, ())| (source, Kind::NewElement));
        let all = removed.chain(added);
        if commit(&mut self.socket, &messages, "write sources").is_ok() {
            return all.map(|(source, _)| (source.clone(), Ok(()))).collect();
        }
        all.map(|(source, kind)| {
            let attempted = format!("source {} of {}", source.prefix, source.link);
            let result = commit(&mut self.socket, &grouped(kind, std::iter::once(source)), &attempted);
            (source.clone(), settle(kind, result))
        })
        .collect()
    }
}

/// Deleting what is not there, or adding what is, is success, as long as the set exists.
fn settle(kind: Kind, result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if kind == Kind::DelElement && error.errno() == Some(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_read_back_from_its_element() {
        for text in
            ["10.65.0.24/32", "10.65.0.0/16", "0.0.0.0/0", "fd00:65::18/128", "fd00:65::/64", "::/0", "fd00::/127"]
        {
            let source = Source { link: "tapa429fb36-04".parse().unwrap(), prefix: text.parse().unwrap() };
            assert_eq!(source_of(&place(&source).1, source.prefix.family()), Some(source.clone()), "{text}");
        }
    }

    #[test]
    fn an_element_that_is_no_prefix_is_nobodys_source() {
        let source = Source { link: "lh0".parse().unwrap(), prefix: "10.0.0.0/24".parse().unwrap() };
        let (_, mut element) = place(&source);
        if let Some(byte) = element.last.as_mut().and_then(|last| last.last_mut()) {
            *byte = 77;
        }
        assert_eq!(source_of(&element, Family::V4), None);
    }
}

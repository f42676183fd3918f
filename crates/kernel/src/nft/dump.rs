//! Reading our table back.

use super::TABLE;
use super::plan::Actual;
use super::policy::is_policy;
use super::ruleset::{Chain, Element, ReadRule, Ruleset, SetSpec, read_chain, read_elements, read_rule, read_set};
use super::skeleton::drop_reason;
use super::wire::{self, FAMILY_INET, FIXED, Kind, chain, element, rule, set, table};
use crate::Error;
use crate::netlink::{Attribute, Received, Replies, Socket};
use nix::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};

/// How often a reading that a change has interrupted is begun anew.
const TRIES: usize = 4;

/// Whether a message is of this kind and about our table.
fn ours(message: Received<'_>, kind: Kind) -> bool {
    let inet = message.fixed::<1>() == Some(&[FAMILY_INET]);
    // Attribute 1 is the table's name in every message.
    let name = || message.attributes(FIXED).get(table::NAME).and_then(Attribute::str);
    kind.is(message.kind) && inet && name() == Some(TABLE)
}

/// The number that every change of any table increments.
fn generation(socket: &mut Socket) -> Result<u32, Error> {
    let attempted = "read the nftables generation";
    let replies = socket.request(&Kind::GetGeneration.message(0), attempted)?;
    let number = |message: Received<'_>| message.attributes(FIXED).get(wire::GENERATION_ID).and_then(Attribute::u32_be);
    replies.iter().find_map(number).ok_or_else(|| Error::malformed(attempted, "no number"))
}

/// All of our table but policy, and the elements that belong to endpoints; `known` has the sets whose elements are wanted.
pub(super) fn skeleton(socket: &mut Socket, known: &Ruleset) -> Result<Actual, Error> {
    let mut before = generation(socket)?;
    for _ in 0..TRIES {
        let actual = skeleton_once(socket, known)?;
        let after = generation(socket)?;
        if before == after {
            return Ok(actual);
        }
        before = after;
    }
    skeleton_once(socket, known)
}

fn table_flags(socket: &mut Socket) -> Result<Option<u32>, Error> {
    let mut m = Kind::GetTable.message(0);
    m.put_str(table::NAME, TABLE);
    match socket.request(&m, "read the nftables table") {
        Ok(replies) => {
            let found = replies.iter().find(|message| ours(*message, Kind::NewTable));
            let flags = |message: Received<'_>| message.attributes(FIXED).get(table::FLAGS).and_then(Attribute::u32_be);
            Ok(found.map(|message| flags(message).unwrap_or(0)))
        }
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn skeleton_once(socket: &mut Socket, known: &Ruleset) -> Result<Actual, Error> {
    let Some(flags) = table_flags(socket)? else { return Ok(Actual::default()) };
    let mut actual = Actual { flags: Some(flags), ..Actual::default() };
    actual.chains = chains(socket)?.into_iter().filter(|(name, _)| !is_policy(name)).collect();
    for read in rules(socket)? {
        if let Some(chain) = actual.chains.get_mut(&read.chain) {
            chain.rules.push(read.rule);
        }
    }
    actual.sets = sets(socket)?.into_iter().filter(|(name, _)| !is_policy(name)).collect();
    for (name, set) in &known.sets {
        if set.elements.is_some() && actual.sets.get(name).is_some_and(|spec| spec.as_ref() == Some(&set.spec)) {
            actual.elements.insert(name.clone(), elements(socket, name)?.into_iter().collect());
        }
    }
    Ok(actual)
}

/// What a listing of a table that is not there gives.
fn listed(result: Result<Replies, Error>) -> Result<Replies, Error> {
    match result {
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(Replies::default()),
        other => other,
    }
}

/// All chains, without rules.
fn chains(socket: &mut Socket) -> Result<BTreeMap<String, Chain>, Error> {
    let mut m = Kind::GetChain.message(0);
    m.put_str(chain::TABLE, TABLE);
    let replies = listed(socket.dump(&m, "read nftables chains"))?;
    let ours = replies.iter().filter(|m| ours(*m, Kind::NewChain));
    Ok(ours.filter_map(|message| read_chain(&message.attributes(FIXED))).collect())
}

/// The names of all chains.
pub(super) fn chain_names(socket: &mut Socket) -> Result<Vec<String>, Error> {
    Ok(chains(socket)?.into_keys().collect())
}

/// All sets, without elements; `None` for one of a kind that we never make.
pub(super) fn sets(socket: &mut Socket) -> Result<BTreeMap<String, Option<SetSpec>>, Error> {
    let mut m = Kind::GetSet.message(0);
    m.put_str(set::TABLE, TABLE);
    let replies = listed(socket.dump(&m, "read nftables sets"))?;
    let ours = replies.iter().filter(|m| ours(*m, Kind::NewSet));
    Ok(ours.filter_map(|message| read_set(&message.attributes(FIXED))).collect())
}

/// All rules, in order.
pub(super) fn rules(socket: &mut Socket) -> Result<Vec<ReadRule>, Error> {
    let mut m = Kind::GetRule.message(0);
    m.put_str(rule::TABLE, TABLE);
    let replies = listed(socket.dump(&m, "read nftables rules"))?;
    let ours = replies.iter().filter(|message| ours(*message, Kind::NewRule));
    Ok(ours.filter_map(|message| read_rule(&message.attributes(FIXED))).collect())
}

/// The elements of one set; none if there is no such set.
pub(super) fn elements(socket: &mut Socket, name: &str) -> Result<Vec<Element>, Error> {
    let mut m = Kind::GetElement.message(0);
    m.put_str(element::LIST_TABLE, TABLE).put_str(element::LIST_SET, name);
    match socket.dump(&m, "read nftables elements") {
        Ok(replies) => {
            let ours = replies.iter().filter(|message| ours(*message, Kind::NewElement));
            Ok(ours.flat_map(read_elements).collect())
        }
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Packets dropped, by reason.
pub(super) fn drops(socket: &mut Socket) -> Result<BTreeMap<&'static str, u64>, Error> {
    let mut drops: BTreeMap<&'static str, u64> = super::skeleton::drop_reasons().into_iter().map(|r| (r, 0)).collect();
    for read in rules(socket)? {
        if let (Some(reason), Some((packets, _))) = (drop_reason(&read.chain, &read.rule.id), read.counted) {
            *drops.entry(reason).or_default() += packets;
        }
    }
    Ok(drops)
}

/// Whether some notifications say that somebody else has changed our table.
pub(super) fn touched(messages: &crate::netlink::Replies, own: &BTreeSet<u32>) -> bool {
    let kinds = [
        (Kind::NewTable, Kind::DelTable),
        (Kind::NewChain, Kind::DelChain),
        (Kind::NewRule, Kind::DelRule),
        (Kind::NewSet, Kind::DelSet),
        (Kind::NewElement, Kind::DelElement),
    ];
    let about_us = |message: Received<'_>| kinds.iter().any(|(new, del)| ours(message, *new) || ours(message, *del));
    messages.iter().any(|message| !own.contains(&message.port) && about_us(message))
}

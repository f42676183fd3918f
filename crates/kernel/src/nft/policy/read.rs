//! Reading policy back from our table.

use super::actual::Actual;
use super::content::{self, Content};
use super::matching::constant_name;
use super::render::{self, Found};
use super::{cases, verdict};
use crate::Error;
use crate::netlink::Socket;
use crate::nft::dump;
use crate::nft::elements::name_of;
use crate::nft::ruleset::{Element, Field, Gives, Keys, Mark, Rule, SetSpec};
use crate::nft::skeleton::{LINK_STACKS, STACKS};
use lasthop_net::Family;
use lasthop_policy::ir::{Digest, SetKind, StackId};
use std::collections::{BTreeMap, BTreeSet};

const KINDS: [(&str, SetKind); 3] = [("hosts", SetKind::Addresses), ("nets", SetKind::Nets), ("ports", SetKind::Ports)];

/// Whether a chain or set of this name belongs to policy.
pub(in crate::nft) fn is_policy(name: &str) -> bool {
    is_chain(name) || members(name).is_some() || constant(name).is_some()
}

fn is_chain(name: &str) -> bool {
    matches!(name.split_once('-'), Some((kind, digest)) if render::CHAIN_KINDS.contains(&kind) && verdict::digest(digest).is_some())
}

/// The kind and family of a set of members.
fn members(name: &str) -> Option<(SetKind, Family)> {
    let (kind, digest) = name.split_once('-')?;
    verdict::digest(digest)?;
    let family = match kind.as_bytes().last()? {
        b'4' => Family::V4,
        b'6' => Family::V6,
        _ => return None,
    };
    let kind = KINDS.into_iter().find(|(text, _)| *text == &kind[..kind.len() - 1])?.1;
    Some((kind, family))
}

/// The kind of name and the type of a set of fixed content.
fn constant(name: &str) -> Option<(&str, SetSpec)> {
    let (kind, digest) = name.split_once('-')?;
    verdict::digest(digest)?;
    let field = match kind {
        "list4" => Field::V4,
        "list6" => Field::V6,
        "portlist" => Field::Port,
        "cases" => return Some((kind, cases::spec())),
        _ => return None,
    };
    Some((kind, SetSpec { fields: vec![field], keys: Keys::Ranges, gives: Gives::Nothing }))
}

/// All of policy that our table holds.
pub(super) fn read(socket: &mut Socket) -> Result<Actual, Error> {
    let mut actual = Actual::default();
    let mut chains: BTreeMap<String, Vec<Rule>> =
        dump::chain_names(socket)?.into_iter().filter(|name| is_chain(name)).map(|name| (name, Vec::new())).collect();
    for read in dump::rules(socket)? {
        if let Some(rules) = chains.get_mut(&read.chain) {
            rules.push(read.rule);
        }
    }
    for (name, rules) in chains {
        match render::examine(&name, &rules) {
            Found::Intact => drop(actual.chains.insert(name)),
            Found::Damaged => drop(actual.damaged.insert(name)),
            Found::Program(content) => drop(actual.programs.insert(name, content)),
        }
    }
    for (name, spec) in dump::sets(socket)? {
        if let Some((kind, family)) = members(&name) {
            if spec != Some(content::spec(kind, family)) {
                actual.wrong.insert(name);
                continue;
            }
            let (content, strays) = Content::read(kind, family, dump::elements(socket, &name)?);
            actual.strays.extend(strays.into_iter().map(|element| (name.clone(), element)));
            actual.sets.insert(name, content);
        } else if let Some((kind, wanted)) = constant(&name) {
            let elements: BTreeSet<Element> = dump::elements(socket, &name)?.into_iter().collect();
            if spec != Some(wanted) {
                actual.wrong.insert(name);
            } else if name == constant_name(kind, &elements) {
                actual.constants.insert(name);
            } else {
                actual.tampered.insert(name, elements);
            }
        }
    }
    read_maps(socket, &mut actual)?;
    Ok(actual)
}

fn read_maps(socket: &mut Socket, actual: &mut Actual) -> Result<(), Error> {
    for element in dump::elements(socket, STACKS)? {
        match element.mark {
            Mark::Key => drop(actual.stacks.insert(element.key, element.verdict)),
            _ => actual.strays.push((STACKS.to_owned(), element)),
        }
    }
    for (index, map) in LINK_STACKS.into_iter().enumerate() {
        for element in dump::elements(socket, map)? {
            let digest = element.value.as_deref().and_then(|value| <[u8; 16]>::try_from(value).ok());
            match (name_of(&element.key), digest) {
                (Some(name), Some(digest)) if element.mark == Mark::Key => {
                    actual.links.entry(name).or_default()[index] = Some(StackId(Digest(digest)));
                }
                _ => actual.strays.push((map.to_owned(), element)),
            }
        }
    }
    Ok(())
}

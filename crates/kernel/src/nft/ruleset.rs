//! What a table holds, as values: chains of rules, sets and maps with their elements. To netlink and back.
//!
//! Follows nf_tables_newchain, nf_tables_newrule, nf_tables_newset and nft_add_set_elem in net/netfilter/nf_tables_api.c.

use super::expr::{Expr, Verdict};
use super::wire::{self, Kind, LIST_ELEM, chain, data, element, rule, set};
use crate::netlink::{Attribute, Attributes, Message, Received};
use std::collections::{BTreeMap, BTreeSet};

const NLM_F_CREATE: u16 = libc::NLM_F_CREATE as u16;
const NLM_F_APPEND: u16 = libc::NLM_F_APPEND as u16;
/// Elements in one message: an attribute holds 64 KiB, and an element takes under 100 bytes.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// What the kernel offers a base chain to see (`NF_INET_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// Everything that comes in, before routing.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
    /// Everything that goes out, after routing.
    Postrouting,
}

/// The type of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Sees every packet.
    Filter,
    /// Sees the first packet of every connection.
    Nat,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// Where a base chain sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hook {
    /// Its type.
    pub role: Role,
    /// Which packets.
    pub point: Point,
    /// Lower ones come first.
    pub priority: i32,
}

/// A chain. The policy of a base chain is accept: what is not ours is not ours to drop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// `None`: only reached by a jump.
    pub hook: Option<Hook>,
    /// In order.
    pub rules: Vec<Rule>,
    /// Whether what no rule has decided is dropped, or something else that we never set.
    pub foreign_policy: bool,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Its name within the table, shown by `nft list` as the comment.
    pub id: String,
    /// All have to hold, left to right.
    pub exprs: Vec<Expr>,
}

/// One part of a set's key, as nft names its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// A link's name, 16 bytes.
    Name,
    /// An IPv4 address.
    V4,
    /// An IPv6 address; or the digest of a stack, which is as long, so that listings can show it.
    V6,
    /// A protocol's number, one byte.
    Protocol,
    /// A port, two bytes in network order.
    Port,
}

impl Field {
    const ALL: [Self; 5] = [Self::Name, Self::V4, Self::V6, Self::Protocol, Self::Port];

    /// Bytes of the value.
    fn len(self) -> u32 {
        match self {
            Self::Name | Self::V6 => 16,
            Self::V4 => 4,
            Self::Port => 2,
            Self::Protocol => 1,
        }
    }

    /// nft's number of the type (`enum datatypes`), only for listings.
    fn datatype(self) -> u32 {
        match self {
            Self::V4 => 7,
            Self::V6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Name => 41,
        }
    }
}

/// How keys are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keys {
    /// Hashed, one by one: a change costs the same at any size.
    Exact,
    /// Ranges.
    Ranges,
}

/// What elements carry besides their key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gives {
    /// Nothing: a set.
    Nothing,
    /// A verdict.
    Verdict,
    /// A value of this type.
    Value(Field),
}

/// The definition of a set or map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SetSpec {
    /// The parts of its key.
    pub fields: Vec<Field>,
    /// How keys are kept.
    pub keys: Keys,
    /// What elements carry.
    pub gives: Gives,
}

/// What an element is besides a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// Nothing else.
    #[default]
    Key,
    /// The first key behind a range, where there is one field.
    RangeEnd,
    /// No key: stands for all that are not there. We never write one.
    CatchAll,
}

/// An element of a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Element {
    /// The key, or the first one of a range.
    pub key: Vec<u8>,
    /// The last key of a range, where fields are concatenated.
    pub last: Option<Vec<u8>>,
    /// What else it is.
    pub mark: Mark,
    /// What a verdict map has for it.
    pub verdict: Option<Verdict>,
    /// What another map has for it.
    pub value: Option<Vec<u8>>,
}

impl Element {
    /// A single key.
    #[must_use]
    pub fn key(key: Vec<u8>) -> Self {
        Self { key, last: None, mark: Mark::Key, verdict: None, value: None }
    }
}

/// A set with its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its definition.
    pub spec: SetSpec,
    /// Its elements; `None` if they are somebody else's care.
    pub elements: Option<BTreeSet<Element>>,
}

/// What a table ought to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// Sets and maps by name.
    pub sets: BTreeMap<String, Set>,
}

impl SetSpec {
    /// Length of a key: concatenated fields are padded to multiples of four bytes.
    fn key_len(&self) -> u32 {
        match self.fields.as_slice() {
            [field] => field.len(),
            fields => fields.iter().map(|field| field.len().next_multiple_of(4)).sum(),
        }
    }

    fn flags(&self) -> u32 {
        let interval = if self.keys == Keys::Ranges { set::INTERVAL } else { 0 };
        let map = if self.gives == Gives::Nothing { 0 } else { set::MAP };
        let concat = if self.fields.len() > 1 { set::CONCAT } else { 0 };
        interval | map | concat
    }

    /// nft's number of the key's type: six bits a field.
    fn datatype(&self) -> u32 {
        self.fields.iter().fold(0, |number, field| number << 6 | field.datatype())
    }
}

/// A request that creates a set.
pub(super) fn new_set(table: &str, name: &str, spec: &SetSpec, id: u32) -> Message {
    let mut m = Kind::NewSet.message(NLM_F_CREATE);
    m.put_str(set::TABLE, table).put_str(set::NAME, name).put_u32_be(set::FLAGS, spec.flags());
    m.put_u32_be(set::KEY_TYPE, spec.datatype()).put_u32_be(set::KEY_LENGTH, spec.key_len()).put_u32_be(set::ID, id);
    match spec.gives {
        Gives::Nothing => {}
        Gives::Verdict => drop(m.put_u32_be(set::DATA_TYPE, set::VERDICT).put_u32_be(set::DATA_LENGTH, 0)),
        Gives::Value(field) => {
            m.put_u32_be(set::DATA_TYPE, field.datatype()).put_u32_be(set::DATA_LENGTH, field.len());
        }
    }
    if spec.fields.len() > 1 {
        m.nest(set::DESCRIPTION, |m| {
            m.nest(set::DESCRIPTION_CONCAT, |m| {
                for field in &spec.fields {
                    m.nest(LIST_ELEM, |m| {
                        m.put_u32_be(set::FIELD_LENGTH, field.len());
                    });
                }
            });
        });
    }
    let order = if spec.fields == [Field::Name] { set::HOST_ENDIAN } else { set::BIG_ENDIAN };
    m.put(set::USERDATA, &user_value(set::KEY_BYTE_ORDER, &order.to_ne_bytes()));
    m
}

/// libnftnl's type, length, value.
fn user_value(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, u8::try_from(value.len()).unwrap_or(u8::MAX)];
    bytes.extend_from_slice(&value[..usize::from(bytes[1])]);
    bytes
}

/// Requests that add or delete (by `kind`) elements of a set.
pub(super) fn change_elements<'a>(
    kind: Kind,
    table: &str,
    set: &str,
    elements: impl IntoIterator<Item = &'a Element>,
) -> Vec<Message> {
    let flags = if kind == Kind::NewElement { NLM_F_CREATE } else { 0 };
    let mut elements = elements.into_iter().peekable();
    let mut messages = Vec::new();
    while elements.peek().is_some() {
        let mut m = kind.message(flags);
        m.put_str(element::LIST_TABLE, table).put_str(element::LIST_SET, set);
        m.nest(element::LIST_ELEMENTS, |m| {
            elements.by_ref().take(ELEMENTS_PER_MESSAGE).for_each(|element| element.put(m));
        });
        messages.push(m);
    }
    messages
}

impl Element {
    fn put(&self, m: &mut Message) {
        m.nest(LIST_ELEM, |m| {
            match self.mark {
                Mark::Key => {}
                Mark::RangeEnd => drop(m.put_u32_be(element::FLAGS, element::INTERVAL_END)),
                Mark::CatchAll => drop(m.put_u32_be(element::FLAGS, element::CATCH_ALL)),
            }
            if self.mark != Mark::CatchAll {
                m.nest(element::KEY, |m| {
                    m.put(data::VALUE, &self.key);
                });
            }
            if let Some(last) = &self.last {
                m.nest(element::KEY_END, |m| {
                    m.put(data::VALUE, last);
                });
            }
            if let Some(verdict) = &self.verdict {
                verdict.put(m, element::DATA);
            }
            if let Some(value) = &self.value {
                m.nest(element::DATA, |m| {
                    m.put(data::VALUE, value);
                });
            }
        });
    }

    /// Reads one `NFTA_LIST_ELEM`.
    fn get(attribute: Attribute<'_>) -> Option<Self> {
        let attributes = attribute.nested();
        let flags = attributes.get(element::FLAGS).and_then(Attribute::u32_be).unwrap_or(0);
        let mark = match flags {
            flags if flags & element::CATCH_ALL != 0 => Mark::CatchAll,
            flags if flags & element::INTERVAL_END != 0 => Mark::RangeEnd,
            _ => Mark::Key,
        };
        let value = |kind| Some(attributes.get(kind)?.nested().get(data::VALUE)?.payload.to_vec());
        Some(Self {
            key: if mark == Mark::CatchAll { Vec::new() } else { value(element::KEY)? },
            last: value(element::KEY_END),
            mark,
            verdict: attributes.get(element::DATA).and_then(Verdict::get),
            value: value(element::DATA),
        })
    }
}

/// The elements in a received `NFT_MSG_NEWSETELEM`.
pub(super) fn read_elements(message: Received<'_>) -> impl Iterator<Item = Element> {
    let attributes = message.attributes(wire::FIXED);
    let list = attributes.get(element::LIST_ELEMENTS).map(Attribute::nested);
    list.into_iter().flatten().filter_map(Element::get)
}

/// A request that creates a chain, or sets its policy to accept.
pub(super) fn new_chain(table: &str, name: &str, hook: Option<Hook>) -> Message {
    let mut m = Kind::NewChain.message(NLM_F_CREATE);
    m.put_str(chain::TABLE, table).put_str(chain::NAME, name);
    if let Some(hook) = hook {
        m.nest(chain::HOOK, |m| {
            m.put_u32_be(chain::HOOK_NUMBER, hook.point as u32);
            m.put_u32_be(chain::HOOK_PRIORITY, hook.priority.cast_unsigned());
        });
        m.put_u32_be(chain::POLICY, 1).put_str(chain::TYPE, hook.role.name());
    }
    m
}

/// A request about a chain as a whole: delete it (`DelChain`) or its rules (`DelRule`).
pub(super) fn about_chain(kind: Kind, table: &str, name: &str) -> Message {
    let mut m = kind.message(0);
    let attribute = if kind == Kind::DelRule { rule::CHAIN } else { chain::NAME };
    m.put_str(rule::TABLE, table).put_str(attribute, name);
    m
}

/// A request that appends a rule.
pub(super) fn append_rule(table: &str, chain: &str, wanted: &Rule) -> Message {
    let mut m = Kind::NewRule.message(NLM_F_CREATE | NLM_F_APPEND);
    m.put_str(rule::TABLE, table).put_str(rule::CHAIN, chain);
    m.nest(rule::EXPRESSIONS, |m| wanted.exprs.iter().for_each(|expr| expr.put(m)));
    let mut id = wanted.id.clone().into_bytes();
    id.push(0);
    m.put(rule::USERDATA, &user_value(rule::COMMENT, &id));
    m
}

/// The name and definition in a received `NFT_MSG_NEWCHAIN`, without rules.
pub(super) fn read_chain(attributes: &Attributes<'_>) -> Option<(String, Chain)> {
    let name = attributes.get(chain::NAME)?.str()?.to_owned();
    let Some(hook) = attributes.get(chain::HOOK).map(Attribute::nested) else {
        return Some((name, Chain::default()));
    };
    let number = |kind| hook.get(kind).and_then(Attribute::u32_be);
    let points = [Point::Prerouting, Point::Input, Point::Forward, Point::Output, Point::Postrouting];
    let role = match attributes.get(chain::TYPE)?.str()? {
        "nat" => Role::Nat,
        _ => Role::Filter,
    };
    let point = *points.get(number(chain::HOOK_NUMBER)? as usize)?;
    let hook = Hook { role, point, priority: number(chain::HOOK_PRIORITY)?.cast_signed() };
    let foreign_policy = attributes.get(chain::POLICY).and_then(Attribute::u32_be) != Some(1);
    Some((name, Chain { hook: Some(hook), rules: Vec::new(), foreign_policy }))
}

/// A rule as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReadRule {
    pub(super) chain: String,
    pub(super) rule: Rule,
    /// Packets and bytes that its counter has counted, if it has one.
    pub(super) counted: Option<(u64, u64)>,
}

/// A received `NFT_MSG_NEWRULE`.
pub(super) fn read_rule(attributes: &Attributes<'_>) -> Option<ReadRule> {
    let chain = attributes.get(rule::CHAIN)?.str()?.to_owned();
    let list = attributes.get(rule::EXPRESSIONS).map(Attribute::nested).into_iter().flatten();
    let id = attributes.get(rule::USERDATA).and_then(|attribute| match attribute.payload {
        [rule::COMMENT, length, text @ ..] if usize::from(*length) == text.len() => {
            std::str::from_utf8(text.strip_suffix(&[0])?).ok().map(str::to_owned)
        }
        _ => None,
    });
    let counted = list.clone().find_map(super::expr::counted);
    let exprs = list.map(Expr::get).collect();
    Some(ReadRule { chain, rule: Rule { id: id.unwrap_or_default(), exprs }, counted })
}

/// The name and definition in a received `NFT_MSG_NEWSET`; no definition if we never make such a set.
/// `None` for an anonymous one, which belongs to a rule.
pub(super) fn read_set(attributes: &Attributes<'_>) -> Option<(String, Option<SetSpec>)> {
    const ANONYMOUS: u32 = 1;
    let name = attributes.get(set::NAME)?.str()?.to_owned();
    let number = |kind| attributes.get(kind).and_then(Attribute::u32_be).unwrap_or(0);
    let flags = number(set::FLAGS);
    if flags & ANONYMOUS != 0 {
        return None;
    }
    let mut rest = number(set::KEY_TYPE);
    let mut fields = Vec::new();
    while rest != 0 {
        let field = Field::ALL.into_iter().find(|field| field.datatype() == rest & 0x3f);
        let Some(field) = field else { return Some((name, None)) };
        fields.insert(0, field);
        rest >>= 6;
    }
    let keys = if flags & set::INTERVAL != 0 { Keys::Ranges } else { Keys::Exact };
    let gives = match number(set::DATA_TYPE) {
        0 => Gives::Nothing,
        set::VERDICT => Gives::Verdict,
        other => match Field::ALL.into_iter().find(|field| field.datatype() == other) {
            Some(field) => Gives::Value(field),
            None => return Some((name, None)),
        },
    };
    let spec = SetSpec { fields, keys, gives };
    let same = spec.flags() == flags && spec.key_len() == number(set::KEY_LENGTH);
    Some((name, same.then_some(spec)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Everything that a decoder may meet, from bytes that were once right.
    fn read_all(payload: &[u8]) {
        let message = Received { kind: 0, flags: 0, sequence: 0, port: 0, payload };
        let attributes = message.attributes(wire::FIXED);
        let _ =
            (read_chain(&attributes), read_rule(&attributes), read_set(&attributes), read_elements(message).count());
    }

    fn samples() -> Vec<Message> {
        let spec = SetSpec { fields: vec![Field::Name, Field::V4], keys: Keys::Ranges, gives: Gives::Verdict };
        let element =
            Element { last: Some(vec![9; 20]), verdict: Some(Verdict::Goto("c".into())), ..Element::key(vec![1; 20]) };
        let hook = Hook { role: Role::Nat, point: Point::Postrouting, priority: -5 };
        let rule = Rule { id: "x".into(), exprs: vec![Expr::Counter, Expr::Verdict(Verdict::Drop)] };
        let mut all = change_elements(Kind::NewElement, "t", "s", [&element]);
        all.extend([new_set("t", "s", &spec, 1), new_chain("t", "c", Some(hook)), append_rule("t", "c", &rule)]);
        all
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(sample in 0usize..4, changes: Vec<(prop::sample::Index, u8)>, cut: prop::sample::Index) {
            let mut bytes = samples()[sample].payload().to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            read_all(&bytes[..cut.index(bytes.len())]);
            read_all(&bytes);
        }
    }

    #[test]
    fn definitions_are_read_as_they_were_written() {
        let attributes = |message: &Message| Attributes::after(&message.payload().to_vec().leak()[..], wire::FIXED);
        for (fields, keys, gives) in [
            (vec![Field::Name], Keys::Exact, Gives::Verdict),
            (vec![Field::Name], Keys::Exact, Gives::Value(Field::V6)),
            (vec![Field::V6], Keys::Exact, Gives::Verdict),
            (vec![Field::Name, Field::V6], Keys::Ranges, Gives::Nothing),
            (vec![Field::V4, Field::Protocol, Field::Port], Keys::Exact, Gives::Nothing),
            (vec![Field::Port], Keys::Ranges, Gives::Nothing),
            (vec![Field::V4], Keys::Ranges, Gives::Nothing),
        ] {
            let spec = SetSpec { fields, keys, gives };
            assert_eq!(read_set(&attributes(&new_set("t", "s", &spec, 1))), Some(("s".to_owned(), Some(spec))));
        }
        let hook = Hook { role: Role::Filter, point: Point::Prerouting, priority: -450 };
        let expect = Chain { hook: Some(hook), rules: Vec::new(), foreign_policy: false };
        assert_eq!(read_chain(&attributes(&new_chain("t", "c", Some(hook)))), Some(("c".to_owned(), expect)));
        let rule = Rule { id: "spoofed".into(), exprs: vec![Expr::Counter, Expr::Verdict(Verdict::Drop)] };
        let read = read_rule(&attributes(&append_rule("t", "c", &rule)));
        assert_eq!(read.map(|read| (read.chain, read.rule)), Some(("c".to_owned(), rule)));
    }
}

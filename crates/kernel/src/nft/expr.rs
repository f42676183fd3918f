//! Expressions: what a rule is made of, to and from netlink (net/netfilter/nft_*.c).
//!
//! Decoding is strict: an attribute that we would not have written, unless it has its default value, makes the
//! expression [`Expr::Foreign`], so that a rule that was tampered with never compares equal to ours.

use super::wire::{LIST_ELEM, data};
use crate::netlink::{Attribute, Attributes, Message};

/// `NFTA_EXPR_NAME`, `NFTA_EXPR_DATA`.
const NAME: u16 = 1;
const DATA: u16 = 2;

/// A register of 16 bytes (`NFT_REG_1` to `NFT_REG_4`). A longer key goes on in the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reg {
    /// Bytes 0 to 15.
    R1 = 1,
    /// Bytes 16 to 31.
    R2,
    /// Bytes 32 to 47.
    R3,
    /// Bytes 48 to 63.
    R4,
    /// Bytes 4 to 7, as the second part of a key after an IPv4 address (`NFT_REG32_01`).
    Second = 9,
    /// Bytes 8 to 11, as the third part after an IPv4 address (`NFT_REG32_02`).
    Third = 10,
    /// Bytes 20 to 23, as the third part after an IPv6 address and [`Self::R2`] (`NFT_REG32_05`).
    Sixth = 13,
}

impl Reg {
    const ALL: [Self; 7] = [Self::R1, Self::R2, Self::R3, Self::R4, Self::Second, Self::Third, Self::Sixth];
}

/// What a rule, or an element of a verdict map, decides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Ends this hook's chain; later chains of the hook still see the packet.
    Accept,
    /// The packet is gone.
    Drop,
    /// On with the next rule.
    Continue,
    /// Back to behind the last jump.
    Return,
    /// Into a chain, and back at its end.
    Jump(String),
    /// Into a chain, without coming back.
    Goto(String),
}

/// `enum nft_payload_bases`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Base {
    /// Link layer header.
    Link,
    /// IP header.
    Network,
    /// Header behind the IP headers.
    Transport,
}

/// `enum nft_meta_keys`, those we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Meta {
    /// The packet's mark, 4 bytes in host order.
    Mark = 3,
    /// Name of the link that the packet came in by, 16 bytes.
    InputName = 6,
    /// Name of the link that it will go out by.
    OutputName = 7,
    /// IPv4 or IPv6 (`NFPROTO_*`), one byte.
    Protocol = 15,
    /// The protocol behind the IP headers, one byte.
    Transport = 16,
}

/// `enum nft_cmp_ops`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Compare {
    /// Equal.
    Eq,
    /// Not equal.
    Ne,
    /// Less.
    Lt,
    /// Less or equal.
    Le,
    /// Greater.
    Gt,
    /// Greater or equal.
    Ge,
}

/// `enum nft_exthdr_op`, those we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Header {
    /// An IPv6 extension header, by its number.
    Extension = 0,
    /// An IPv4 option, by its type.
    Option = 2,
}

/// What a lookup gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Find {
    /// On if the key is there.
    Present,
    /// On if it is not.
    Absent,
    /// The verdict that the map has for it; on with the next rule if it has none.
    Verdict,
    /// The value that the map has for it, into a register; on with the next rule if it has none.
    Value(Reg),
}

/// What a sender is told (`NFT_REJECT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reject {
    /// Administratively prohibited, in the packet's family.
    Prohibited,
    /// TCP reset.
    Reset,
}

/// One expression.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expr {
    /// Bytes of the packet into a register.
    Payload {
        /// Counted from here.
        base: Base,
        /// First byte.
        offset: u32,
        /// How many.
        len: u32,
        /// Where to.
        to: Reg,
    },
    /// A fact about the packet into a register.
    Meta {
        /// Which.
        key: Meta,
        /// Where to.
        to: Reg,
    },
    /// A register into a fact about the packet.
    SetMeta {
        /// Which.
        key: Meta,
        /// Where from.
        from: Reg,
    },
    /// The packet is not tracked.
    Untrack,
    /// The bits of the connection tracking state into a register.
    CtState {
        /// Where to.
        to: Reg,
    },
    /// Whether an option or extension header is there (1 or 0) into a register.
    HasHeader {
        /// Of which kind.
        header: Header,
        /// Its number.
        number: u8,
        /// Where to.
        to: Reg,
    },
    /// On only if the comparison holds.
    Cmp {
        /// How.
        op: Compare,
        /// The register; bytes past `value` do not matter, so a beginning can be compared.
        from: Reg,
        /// With what.
        value: Vec<u8>,
    },
    /// `register & mask ^ xor`.
    Bitwise {
        /// The register, which also gets the result.
        reg: Reg,
        /// And.
        mask: Vec<u8>,
        /// Exclusive or.
        xor: Vec<u8>,
    },
    /// Asks a set or map.
    Lookup {
        /// Its name.
        set: String,
        /// The first register of the key.
        from: Reg,
        /// What for.
        find: Find,
    },
    /// Decides.
    Verdict(Verdict),
    /// Counts packets and bytes. The counts are no part of the rule.
    Counter,
    /// Source address of the link that the packet leaves by.
    Masquerade,
    /// Drops and tells the sender.
    Reject(Reject),
    /// A copy to an NFLOG group.
    Log {
        /// The group.
        group: u16,
        /// What every record begins with.
        prefix: String,
    },
    /// A line in the kernel's log, at the level of warnings.
    Note {
        /// What it begins with.
        prefix: String,
    },
    /// On only while packets come slower than this.
    Limit {
        /// Packets.
        rate: u64,
        /// In so many seconds.
        seconds: u64,
        /// Let through above the rate at first.
        burst: u32,
    },
    /// Counts in a named counter.
    CounterNamed(String),
    /// Something we did not write.
    Foreign(String),
}

/// Number of registers' attribute.
fn put_reg(message: &mut Message, kind: u16, reg: Reg) {
    message.put_u32_be(kind, reg as u32);
}

/// `NFTA_DATA_VALUE` in an attribute.
fn put_value(message: &mut Message, kind: u16, value: &[u8]) {
    message.nest(kind, |m| {
        m.put(data::VALUE, value);
    });
}

impl Verdict {
    /// Writes `NFTA_DATA_VERDICT` into an attribute.
    pub(super) fn put(&self, message: &mut Message, kind: u16) {
        let (code, chain): (i32, Option<&str>) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Continue => (-1, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
            Self::Return => (-5, None),
        };
        message.nest(kind, |m| {
            m.nest(data::VERDICT, |m| {
                m.put(data::VERDICT_CODE, &code.to_be_bytes());
                if let Some(chain) = chain {
                    m.put_str(data::VERDICT_CHAIN, chain);
                }
            });
        });
    }

    /// Reads a `NFTA_DATA_VERDICT` in an attribute.
    pub(super) fn get(attribute: Attribute<'_>) -> Option<Self> {
        let verdict = attribute.nested().get(data::VERDICT)?.nested();
        let chain = || verdict.get(data::VERDICT_CHAIN)?.str().map(str::to_owned);
        match verdict.get(data::VERDICT_CODE)?.u32_be()?.cast_signed() {
            0 => Some(Self::Drop),
            1 => Some(Self::Accept),
            -1 => Some(Self::Continue),
            -3 => chain().map(Self::Jump),
            -4 => chain().map(Self::Goto),
            -5 => Some(Self::Return),
            _ => None,
        }
    }
}

impl Expr {
    /// Name of the kernel's expression.
    fn name(&self) -> &str {
        match self {
            Self::Payload { .. } => "payload",
            Self::Meta { .. } | Self::SetMeta { .. } => "meta",
            Self::Untrack => "notrack",
            Self::CtState { .. } => "ct",
            Self::HasHeader { .. } => "exthdr",
            Self::Cmp { .. } => "cmp",
            Self::Bitwise { .. } => "bitwise",
            Self::Lookup { .. } => "lookup",
            Self::Verdict(_) => "immediate",
            Self::Counter => "counter",
            Self::Masquerade => "masq",
            Self::Reject(_) => "reject",
            Self::Log { .. } | Self::Note { .. } => "log",
            Self::Limit { .. } => "limit",
            Self::CounterNamed(_) => "objref",
            Self::Foreign(name) => name,
        }
    }

    /// Writes `NFTA_LIST_ELEM { NFTA_EXPR_NAME, NFTA_EXPR_DATA }`.
    pub(super) fn put(&self, message: &mut Message) {
        message.nest(LIST_ELEM, |m| {
            m.put_str(NAME, self.name());
            m.nest(DATA, |m| self.put_data(m));
        });
    }

    fn put_data(&self, m: &mut Message) {
        match self {
            Self::Payload { base, offset, len, to } => {
                put_reg(m, 1, *to);
                m.put_u32_be(2, *base as u32).put_u32_be(3, *offset).put_u32_be(4, *len);
            }
            Self::Meta { key, to } => {
                m.put_u32_be(2, *key as u32);
                put_reg(m, 1, *to);
            }
            Self::SetMeta { key, from } => {
                m.put_u32_be(2, *key as u32);
                put_reg(m, 3, *from);
            }
            Self::CtState { to } => {
                m.put_u32_be(2, 0);
                put_reg(m, 1, *to);
            }
            Self::HasHeader { header, number, to } => {
                put_reg(m, 1, *to);
                // Offset 0, one byte, NFT_EXTHDR_F_PRESENT.
                m.put_u8(2, *number).put_u32_be(3, 0).put_u32_be(4, 1).put_u32_be(5, 1).put_u32_be(6, *header as u32);
            }
            Self::Cmp { op, from, value } => {
                put_reg(m, 1, *from);
                m.put_u32_be(2, *op as u32);
                put_value(m, 3, value);
            }
            Self::Bitwise { reg, mask, xor } => {
                put_reg(m, 1, *reg);
                put_reg(m, 2, *reg);
                m.put_u32_be(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                put_value(m, 4, mask);
                put_value(m, 5, xor);
            }
            Self::Lookup { set, from, find } => {
                m.put_str(1, set);
                put_reg(m, 2, *from);
                match find {
                    Find::Present => {}
                    Find::Absent => drop(m.put_u32_be(5, 1)),
                    Find::Verdict => drop(m.put_u32_be(3, 0)),
                    Find::Value(to) => put_reg(m, 3, *to),
                }
            }
            Self::Verdict(verdict) => {
                m.put_u32_be(1, 0);
                verdict.put(m, 2);
            }
            Self::Counter | Self::Masquerade | Self::Untrack | Self::Foreign(_) => {}
            Self::Reject(Reject::Prohibited) => drop(m.put_u32_be(1, 2).put_u8(2, 3)),
            Self::Reject(Reject::Reset) => drop(m.put_u32_be(1, 1).put_u8(2, 0)),
            Self::Log { group, prefix } => drop(m.put_u16_be(1, *group).put_str(2, prefix)),
            // LOGLEVEL_WARNING.
            Self::Note { prefix } => drop(m.put_str(2, prefix).put_u32_be(5, 4)),
            Self::Limit { rate, seconds, burst } => {
                m.put_u64_be(1, *rate).put_u64_be(2, *seconds).put_u32_be(3, *burst).put_u32_be(4, 0).put_u32_be(5, 0);
            }
            // NFT_OBJECT_COUNTER.
            Self::CounterNamed(name) => drop(m.put_u32_be(1, 1).put_str(2, name)),
        }
    }

    /// Reads one `NFTA_LIST_ELEM`.
    pub(super) fn get(element: Attribute<'_>) -> Self {
        let attributes = element.nested();
        let name = attributes.get(NAME).and_then(Attribute::str).unwrap_or("?");
        let fields = Fields::new(attributes.get(DATA).map(Attribute::nested));
        Self::get_data(name, &fields).unwrap_or_else(|| Self::Foreign(name.to_owned()))
    }

    fn get_data(name: &str, f: &Fields<'_>) -> Option<Self> {
        let expr = match name {
            "payload" => {
                let base = match f.number(2)? {
                    0 => Base::Link,
                    1 => Base::Network,
                    2 => Base::Transport,
                    _ => return None,
                };
                f.only(&[1, 2, 3, 4])?;
                Self::Payload { base, offset: f.number(3)?, len: f.number(4)?, to: f.reg(1)? }
            }
            "meta" => {
                let all = [Meta::Mark, Meta::InputName, Meta::OutputName, Meta::Protocol, Meta::Transport];
                let number = f.number(2)?;
                let key = all.into_iter().find(|key| *key as u32 == number)?;
                if let Some(from) = f.reg(3) {
                    f.only(&[2, 3])?;
                    return Some(Self::SetMeta { key, from });
                }
                f.only(&[1, 2])?;
                Self::Meta { key, to: f.reg(1)? }
            }
            "ct" if f.number(2)? == 0 => {
                f.only(&[1, 2])?;
                Self::CtState { to: f.reg(1)? }
            }
            "exthdr" if (f.number(3)?, f.number(4)?, f.number(5)?) == (0, 1, 1) => {
                let header = match f.number(6)? {
                    0 => Header::Extension,
                    2 => Header::Option,
                    _ => return None,
                };
                f.only(&[1, 2, 3, 4, 5, 6])?;
                Self::HasHeader { header, number: f.get(2)?.u8()?, to: f.reg(1)? }
            }
            "cmp" => {
                let all = [Compare::Eq, Compare::Ne, Compare::Lt, Compare::Le, Compare::Gt, Compare::Ge];
                f.only(&[1, 2, 3])?;
                Self::Cmp { op: *all.get(f.number(2)? as usize)?, from: f.reg(1)?, value: f.value(3)? }
            }
            "bitwise" if f.reg(1)? == f.reg(2)? => {
                let (mask, xor) = (f.value(4)?, f.value(5)?);
                f.only(&[1, 2, 3, 4, 5])?;
                if f.number(3)? as usize != mask.len() || mask.len() != xor.len() {
                    return None;
                }
                Self::Bitwise { reg: f.reg(1)?, mask, xor }
            }
            "lookup" => {
                f.only(&[1, 2, 3, 5])?;
                let find = match (f.get(3), f.get(5).map_or(Some(0), Attribute::u32_be)?) {
                    (None, 0) => Find::Present,
                    (None, 1) => Find::Absent,
                    (Some(register), 0) if register.u32_be()? == 0 => Find::Verdict,
                    (Some(_), 0) => Find::Value(f.reg(3)?),
                    _ => return None,
                };
                Self::Lookup { set: f.text(1)?, from: f.reg(2)?, find }
            }
            "immediate" if f.number(1)? == 0 => {
                f.only(&[1, 2])?;
                Self::Verdict(Verdict::get(f.get(2)?)?)
            }
            "counter" => Self::Counter,
            "masq" => {
                f.only(&[])?;
                Self::Masquerade
            }
            "reject" => {
                f.only(&[1, 2])?;
                match (f.number(1)?, f.get(2).and_then(Attribute::u8)) {
                    (2, Some(3)) => Self::Reject(Reject::Prohibited),
                    (1, _) => Self::Reject(Reject::Reset),
                    _ => return None,
                }
            }
            "notrack" => {
                f.only(&[])?;
                Self::Untrack
            }
            "log" if f.get(1).is_none() => {
                f.only(&[2, 5])?;
                (f.number(5)? == 4).then_some(())?;
                Self::Note { prefix: f.text(2)? }
            }
            "log" => {
                f.only(&[1, 2])?;
                Self::Log { group: f.get(1)?.u16_be()?, prefix: f.text(2)? }
            }
            "limit" => f.limit()?,
            "objref" if f.number(1)? == 1 => {
                f.only(&[1, 2])?;
                Self::CounterNamed(f.text(2)?)
            }
            _ => return None,
        };
        Some(expr)
    }
}

/// The attributes of one expression.
struct Fields<'a>(Vec<Attribute<'a>>);

impl<'a> Fields<'a> {
    fn limit(&self) -> Option<Expr> {
        self.only(&[1, 2, 3])?;
        let long = |kind| self.get(kind).and_then(Attribute::u64_be);
        Some(Expr::Limit { rate: long(1)?, seconds: long(2)?, burst: self.number(3)? })
    }

    fn new(attributes: Option<Attributes<'a>>) -> Self {
        Self(attributes.into_iter().flatten().collect())
    }

    fn get(&self, kind: u16) -> Option<Attribute<'a>> {
        self.0.iter().find(|attribute| attribute.kind == kind).copied()
    }

    fn number(&self, kind: u16) -> Option<u32> {
        self.get(kind)?.u32_be()
    }

    fn text(&self, kind: u16) -> Option<String> {
        self.get(kind)?.str().map(str::to_owned)
    }

    fn reg(&self, kind: u16) -> Option<Reg> {
        Reg::ALL.into_iter().find(|reg| Some(*reg as u32) == self.number(kind))
    }

    fn value(&self, kind: u16) -> Option<Vec<u8>> {
        Some(self.get(kind)?.nested().get(data::VALUE)?.payload.to_vec())
    }

    /// Nothing besides these, but for zeros, which is how the kernel writes a default.
    fn only(&self, kinds: &[u16]) -> Option<()> {
        let known = |a: &Attribute<'_>| kinds.contains(&a.kind) || a.payload.iter().all(|byte| *byte == 0);
        self.0.iter().all(known).then_some(())
    }
}

/// The packets and bytes that a rule's counter has counted.
pub(super) fn counted(element: Attribute<'_>) -> Option<(u64, u64)> {
    let attributes = element.nested();
    (attributes.get(NAME)?.str()? == "counter").then_some(())?;
    let counter = attributes.get(DATA)?.nested();
    Some((counter.get(2)?.u64_be()?, counter.get(1)?.u64_be()?))
}

#[cfg(test)]
mod tests;

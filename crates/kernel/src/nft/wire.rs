//! Numbers of the nf_tables netlink family (include/uapi/linux/netfilter/nf_tables.h, nfnetlink.h) that libc lacks
//! or names by type; grouped by the message or expression that they belong to.

use crate::netlink::Message;

/// `NFNL_SUBSYS_NFTABLES << 8`.
const SUBSYSTEM: u16 = 10 << 8;
/// `NFPROTO_INET`: the family of our table.
pub(super) const FAMILY_INET: u8 = 1;
/// Length of `struct nfgenmsg`.
pub(super) const FIXED: usize = 4;
/// `NFNLGRP_NFTABLES`.
pub(super) const GROUP: u32 = 7;

/// `enum nf_tables_msg_types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Kind {
    NewTable = SUBSYSTEM,
    GetTable,
    DelTable,
    NewChain,
    GetChain,
    DelChain,
    NewRule,
    GetRule,
    DelRule,
    NewSet,
    GetSet,
    DelSet,
    NewElement,
    GetElement,
    DelElement,
    GetGeneration = SUBSYSTEM + 16,
}

impl Kind {
    /// A request of this type about tables of family `inet`.
    pub(super) fn message(self, flags: u16) -> Message {
        Message::new(self as u16, flags).fixed(&[FAMILY_INET, 0, 0, 0])
    }

    /// Whether a received message is of this type.
    pub(super) fn is(self, kind: u16) -> bool {
        self as u16 == kind
    }
}

/// `NFTA_LIST_ELEM`.
pub(super) const LIST_ELEM: u16 = 1;

pub(super) mod table {
    pub(crate) const NAME: u16 = 1;
    pub(crate) const FLAGS: u16 = 2;
}

pub(super) mod chain {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 3;
    pub(crate) const HOOK: u16 = 4;
    pub(crate) const POLICY: u16 = 5;
    pub(crate) const TYPE: u16 = 7;
    pub(crate) const HOOK_NUMBER: u16 = 1;
    pub(crate) const HOOK_PRIORITY: u16 = 2;
}

pub(super) mod rule {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const CHAIN: u16 = 2;
    pub(crate) const EXPRESSIONS: u16 = 4;
    pub(crate) const USERDATA: u16 = 7;
    /// `NFTNL_UDATA_RULE_COMMENT` of libnftnl.
    pub(crate) const COMMENT: u8 = 0;
}

pub(super) mod set {
    pub(crate) const TABLE: u16 = 1;
    pub(crate) const NAME: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const KEY_TYPE: u16 = 4;
    pub(crate) const KEY_LENGTH: u16 = 5;
    pub(crate) const DATA_TYPE: u16 = 6;
    pub(crate) const DATA_LENGTH: u16 = 7;
    pub(crate) const DESCRIPTION: u16 = 9;
    pub(crate) const ID: u16 = 10;
    pub(crate) const USERDATA: u16 = 13;
    pub(crate) const DESCRIPTION_CONCAT: u16 = 2;
    pub(crate) const FIELD_LENGTH: u16 = 1;
    pub(crate) const INTERVAL: u32 = 0x4;
    pub(crate) const MAP: u32 = 0x8;
    pub(crate) const CONCAT: u32 = 0x80;
    /// `NFT_DATA_VERDICT` as a data type.
    pub(crate) const VERDICT: u32 = 0xffff_ff00;
    /// `NFTNL_UDATA_SET_KEYBYTEORDER`, and nft's `BYTEORDER_HOST_ENDIAN`: without it nft prints names as nothing.
    pub(crate) const KEY_BYTE_ORDER: u8 = 0;
    pub(crate) const HOST_ENDIAN: u32 = 1;
    pub(crate) const BIG_ENDIAN: u32 = 2;
}

pub(super) mod element {
    pub(crate) const LIST_TABLE: u16 = 1;
    pub(crate) const LIST_SET: u16 = 2;
    pub(crate) const LIST_ELEMENTS: u16 = 3;
    pub(crate) const KEY: u16 = 1;
    pub(crate) const DATA: u16 = 2;
    pub(crate) const FLAGS: u16 = 3;
    pub(crate) const KEY_END: u16 = 10;
    pub(crate) const INTERVAL_END: u32 = 1;
    pub(crate) const CATCH_ALL: u32 = 2;
}

pub(super) mod data {
    pub(crate) const VALUE: u16 = 1;
    pub(crate) const VERDICT: u16 = 2;
    pub(crate) const VERDICT_CODE: u16 = 1;
    pub(crate) const VERDICT_CHAIN: u16 = 2;
}

/// `NFTA_GEN_ID`.
pub(super) const GENERATION_ID: u16 = 1;

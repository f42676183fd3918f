//! The RIBs (RFC 4271 section 3.2).
//!
//! Adj-RIB-In and Loc-RIB are one table: all paths of a prefix, of all peers, beside each other. What is sent is one table
//! for each group of peers that are sent the same.

pub(crate) mod decision;
pub(crate) mod export;
mod few;
pub(crate) mod group;
pub(crate) mod table;

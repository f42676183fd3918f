//! What development commands and tests share.

pub mod conformance;
pub mod simulate;

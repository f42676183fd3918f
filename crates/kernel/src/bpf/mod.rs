//! eBPF: programs that we write instruction by instruction, load, and hang on workload links.
//!
//! * [`asm`]: the assembler.
//! * [`responder`]: what answers the ARP and ND requests of a workload.
//! * [`Responders`]: which link has which responder, as a table for the reconciler.
//! * [`sys`]: the system call.

pub mod asm;
pub mod responder;
pub mod sys;
mod tc;

pub use tc::{Responder, Responders, touched_link};

//! The speaker's process: the agent's line to it, and its sessions with a real BIRD, in network namespaces.

#![allow(clippy::unwrap_used, reason = "a test")]

mod bfd;
mod bird;
mod bmp;
mod daemon;
mod frr;
mod hot;
mod interop;
mod line;
mod load;
mod mrt;
mod raw;
mod reasons;
mod record;
mod restart;
mod scenario;
mod secure;
mod support;

#[test]
#[ignore = "the speaker's process, started by the other tests"]
fn speaker_process() {
    support::speaker_process();
}

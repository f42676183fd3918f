//! Waiting for a file of ours to become readable.
#![allow(unsafe_code, reason = "tokio asks for a promise that it cannot check: see below")]

use std::io;
use std::os::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a file with the runtime, which must be running.
///
/// # Errors
/// If the file cannot be polled.
pub(crate) fn register(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor must stay open, and the same, for as long as it is registered: an `OwnedFd` does, and the
    // `AsyncFd` holds it and deregisters before it closes it.
    Ok(unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }?)
}

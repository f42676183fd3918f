//! A guest behind a TAP: holds the host's TAP and the guest's own network card (a second TAP, in the
//! guest's namespace) and moves frames between them, as a hypervisor would. So ARP, ND and MAC addresses
//! on the host's TAP are those of a machine of its own.

use anyhow::{Context, Result};
use lasthop_kernel::link::Tap;
use lasthop_net::IfName;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;

/// The longest frame of a TAP: 64 KiB and an Ethernet header with tags.
const FRAME: usize = 65_536 + 64;

/// Frames moved one way before the other gets its turn.
const TURN: usize = 64;

/// Moves frames between `tap` of the calling thread's namespace and `card` of namespace `guest`, until one
/// of them is gone.
///
/// # Errors
/// If either cannot be joined, or polling fails.
pub fn run(tap: &IfName, guest: &str, card: &IfName) -> Result<()> {
    let mut host_side = open(tap).with_context(|| format!("cannot join the TAP '{tap}'"))?;
    let mut guest_side = crate::netns::within(guest, || open(card))?
        .with_context(|| format!("cannot join '{card}' of the guest '{guest}'"))?;
    let mut frame = vec![0; FRAME];
    loop {
        let (host_event, guest_event) = wait(&host_side, &guest_side)?;
        let gone = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
        if (host_event | guest_event).intersects(gone) {
            return Ok(());
        }
        if host_event.contains(PollFlags::POLLIN) {
            carry(&mut host_side, &mut guest_side, &mut frame)?;
        }
        if guest_event.contains(PollFlags::POLLIN) {
            carry(&mut guest_side, &mut host_side, &mut frame)?;
        }
    }
}

/// A TAP of the calling thread's namespace, as a file that never blocks.
fn open(name: &IfName) -> Result<File> {
    let file = Tap::open(name)?.into_file();
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).context("cannot make the TAP non-blocking")?;
    Ok(file)
}

fn wait(a: &File, b: &File) -> Result<(PollFlags, PollFlags)> {
    let mut both = [PollFd::new(a.as_fd(), PollFlags::POLLIN), PollFd::new(b.as_fd(), PollFlags::POLLIN)];
    match poll(&mut both, PollTimeout::NONE) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err(error).context("polling the TAPs"),
    }
    let [a, b] = both.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
    Ok((a, b))
}

/// Moves what is there, at most one turn. A frame that the other side cannot take (its link is down) is
/// lost, as on a wire.
fn carry(from: &mut File, to: &mut File, frame: &mut [u8]) -> Result<()> {
    for _ in 0..TURN {
        match from.read(frame) {
            Ok(0) => break,
            Ok(length) => drop(to.write(frame.get(..length).unwrap_or_default())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("reading a frame"),
        }
    }
    Ok(())
}

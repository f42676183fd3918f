//! Socket options that have no safe wrapper: those of the netlink level, and the packet filter.
#![allow(unsafe_code, reason = "setsockopt has no safe wrapper for these")]

use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets an integer option of level `SOL_NETLINK`.
pub(super) fn set_option(fd: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> Result<(), Errno> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    let pointer = (&raw const value).cast::<libc::c_void>();
    // SAFETY: `pointer` is valid for `length` bytes for the whole call, and `fd` is open.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, pointer, length) };
    Errno::result(result).map(drop)
}

/// `BPF_LD | BPF_W | BPF_ABS`, `BPF_JMP | BPF_JEQ | BPF_K`, `BPF_RET | BPF_K`.
const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// Where `struct nlmsghdr` has the port.
const PORT_AT: u32 = 12;

/// Has the kernel drop messages that carry one of these ports (at most 200) before they are queued.
pub(super) fn ignore_ports(fd: BorrowedFd<'_>, ports: &[u32]) -> Result<(), Errno> {
    let insn = |code, jt, k| libc::sock_filter { code, jt, jf: 0, k };
    let count = u8::try_from(ports.len()).ok().filter(|count| *count <= 200).ok_or(Errno::E2BIG)?;
    let mut program = vec![insn(LOAD, 0, PORT_AT)];
    for (at, port) in (0..count).zip(ports) {
        // Loads read big-endian, headers are in host order. The drop is behind the remaining tests and the acceptance.
        program.push(insn(JUMP_IF_EQUAL, count - at, u32::from_be_bytes(port.to_ne_bytes())));
    }
    program.push(insn(RETURN, 0, u32::MAX));
    program.push(insn(RETURN, 0, 0));
    let length = libc::c_ushort::try_from(program.len()).map_err(|_| Errno::E2BIG)?;
    let filter = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    let pointer = (&raw const filter).cast::<libc::c_void>();
    // SAFETY: `pointer` is valid for `size` bytes, and `filter.filter` for `len` instructions, for the whole call.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, pointer, size) };
    Errno::result(result).map(drop)
}

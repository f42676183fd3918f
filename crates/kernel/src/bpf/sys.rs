//! bpf(2): load a program, try it on a packet (kernel/bpf/syscall.c, net/bpf/test_run.c).
#![allow(unsafe_code, reason = "bpf(2) has no safe wrapper")]

use super::asm::Insn;
use crate::Error;
use nix::errno::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
/// `BPF_PROG_TYPE_SCHED_CLS`.
const CLASSIFIER: u32 = 3;
/// Room for the verifier's words.
const LOG: usize = 256 << 10;

/// The fields of `union bpf_attr` for `BPF_PROG_LOAD`, as far as we fill them.
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// The fields of `union bpf_attr` for `BPF_PROG_TEST_RUN`, as far as we fill them.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    fd: u32,
    result: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_in_size: u32,
    context_out_size: u32,
    context_in: u64,
    context_out: u64,
}

/// Calls bpf(2).
///
/// # Safety
/// `attributes` must be a prefix of `union bpf_attr` for `command`, and every address in it must be valid for its length.
unsafe fn bpf<T>(command: libc::c_long, attributes: &mut T) -> Result<libc::c_long, Errno> {
    // SAFETY: the attributes live across the call and their size is given; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    Errno::result(result)
}

fn address<T>(of: &[T]) -> u64 {
    of.as_ptr().addr() as u64
}

fn count(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

/// A loaded program. It stays in the kernel as long as something uses it.
#[derive(Debug)]
pub struct Program(OwnedFd);

impl Program {
    /// Loads a classifier. The error has the last words of the verifier.
    pub fn load(name: &str, insns: &[Insn]) -> Result<Self, Error> {
        match load(name, insns, &mut []) {
            Ok(program) => Ok(program),
            Err(Errno::EPERM) => Err(Error::NotPermitted),
            Err(errno) => {
                let mut log = vec![0; LOG];
                let _ = load(name, insns, &mut log);
                let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
                let text = String::from_utf8_lossy(&log[..end]);
                let words =
                    text.lines().rev().take(4).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("; ");
                Err(Error::system(format!("load BPF program {name} ({words})"), errno))
            }
        }
    }

    /// Runs the program on a frame; its result and the frame as it left it. Nothing is sent.
    pub fn try_on(&self, frame: &[u8]) -> Result<(i32, Vec<u8>), Error> {
        let (attributes, out) = self.run(frame, 1)?;
        Ok((attributes.result.cast_signed(), out))
    }

    /// Nanoseconds that a run on a frame takes, over this many runs.
    pub fn time(&self, frame: &[u8], runs: u32) -> Result<u32, Error> {
        Ok(self.run(frame, runs)?.0.duration)
    }

    fn run(&self, frame: &[u8], repeat: u32) -> Result<(TestRun, Vec<u8>), Error> {
        let mut out = vec![0; frame.len() + 256];
        let mut attributes = TestRun {
            fd: self.0.as_raw_fd().cast_unsigned(),
            size_in: count(frame.len()),
            size_out: count(out.len()),
            data_in: address(frame),
            data_out: out.as_mut_ptr().addr() as u64,
            repeat,
            ..TestRun::default()
        };
        // SAFETY: frame and out live across the call and have the sizes given.
        unsafe { bpf(PROG_TEST_RUN, &mut attributes) }.map_err(|errno| Error::system("try a BPF program", errno))?;
        out.truncate(attributes.size_out as usize);
        Ok((attributes, out))
    }
}

fn load(name: &str, insns: &[Insn], log: &mut [u8]) -> Result<Program, Errno> {
    let license = c"Apache-2.0".to_bytes_with_nul();
    let mut attributes = Load {
        kind: CLASSIFIER,
        count: count(insns.len()),
        insns: address(insns),
        license: address(license),
        log_level: u32::from(!log.is_empty()),
        log_size: count(log.len()),
        log: if log.is_empty() { 0 } else { log.as_mut_ptr().addr() as u64 },
        ..Load::default()
    };
    for (to, from) in attributes.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: the instructions, the license and the log live across the call and have the sizes given.
    let fd = unsafe { bpf(PROG_LOAD, &mut attributes) }?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(Program(unsafe { OwnedFd::from_raw_fd(fd) }))
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

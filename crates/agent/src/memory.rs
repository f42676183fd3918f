//! How the allocator holds memory (mallopt(3)).
#![allow(unsafe_code, reason = "the C library has no safe way to be told")]

/// Has the allocator keep one heap for all threads: the loop is one thread, and the others write a file now and then.
pub(crate) fn one_heap() {
    // SAFETY: takes two integers, may be called at any time, and fails without changing anything.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

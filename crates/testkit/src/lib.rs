//! Fakes, state sequences and real daemons for tests.

pub mod fake;

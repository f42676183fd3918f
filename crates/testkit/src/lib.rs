//! Fakes, state sequences and real daemons for tests.

pub mod bird;
pub mod fake;
pub mod netns;

//! The simulated network, small: what `cargo xtask simulate` does with five thousand hosts.

#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it must be")]

use lasthop_xtask::simulate::net::{Size, World};
use lasthop_xtask::simulate::{spoil, steps};

#[test]
fn two_hundred_hosts_behind_three_levels_of_reflectors_know_only_what_is_true() {
    let mut world = World::new(Size { pods: 10, hosts: 20, middles: 3 });
    let mut seen = Vec::new();
    steps(&mut world, 40, |step| seen.push(step.milliseconds)).unwrap();
    assert_eq!(seen.len(), 7);
    // Six hops to come up, open and be told all the way up and down.
    assert!(seen.iter().all(|milliseconds| *milliseconds <= 20), "{seen:?}");
    assert_eq!(world.prefixes(), 2 * 198 + 40 - 1);
}

#[test]
fn mistakes_harm_nobody_but_those_who_make_them() {
    let outcome = spoil::spoil(&spoil::Options { sessions: 50, messages: 20_000 }).unwrap();
    // A mistake in a length ends the session; whoever makes other ones keeps it.
    assert!((2_000..18_000).contains(&outcome.resets), "{outcome:?}: too few or too many");
}

#!/bin/sh
# All tests of the workspace; with cargo-nextest if it is there, which runs them side by side.
set -eu
cargo=${CARGO:-cargo}
if $cargo nextest --version >/dev/null 2>&1; then
    $cargo nextest run --workspace --no-fail-fast --status-level slow --final-status-level fail
    exec $cargo test --workspace --doc --quiet
fi
# What .config/nextest.toml leaves to 'make interop' is left out here, too.
$cargo test --workspace --no-fail-fast --quiet -- --skip ::gobgp --skip ::openbgpd --skip ::exabgp
exec $cargo test --package lasthop-agent --test speaker --quiet -- \
    scenario::s01 scenario::r01_attributes_inside scenario::rr1_reflected scenario::g01 scenario::g02

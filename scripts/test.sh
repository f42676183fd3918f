#!/bin/sh
# All tests of the workspace; with cargo-nextest if it is there, which runs them side by side.
set -eu
cargo=${CARGO:-cargo}
if $cargo nextest --version >/dev/null 2>&1; then
    $cargo nextest run --workspace --no-fail-fast --status-level slow --final-status-level fail
    exec $cargo test --workspace --doc --quiet
fi
exec $cargo test --workspace --no-fail-fast --quiet

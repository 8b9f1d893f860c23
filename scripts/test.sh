#!/usr/bin/env bash
# Runs every test of the workspace, and checks that gear-api builds on its own. Gets a RabbitMQ for
# those that need one: setup.sh says how.
#   GEAR_TEST_LONG=1 scripts/test.sh    the long forms of the property tests
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh
# Those that need a broker wait more than they work.
[ "$(getconf _NPROCESSORS_ONLN)" -ge 4 ] || export RUST_TEST_THREADS="${RUST_TEST_THREADS:-4}"
cargo test --workspace --all-features --locked
# A library of business logic may want gear-api alone, and as little of it as there is.
cargo check --package gear-api --no-default-features --locked
# And what the façade says of backends that it does not have.
cargo test --package gear-mq --no-default-features --test connect --locked

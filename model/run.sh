#!/usr/bin/env bash
# Checks channels, waiting lists and named locks in every order of their threads, with loom,
# on stable Rust. Then, if a nightly toolchain has Miri, runs the unit tests of these and of
# regions that Miri supports. README.md lists what is checked.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo test --release --package wrun-model

if ! cargo +nightly miri --version >/dev/null 2>&1; then
  echo "Miri: skipped, there is none (rustup toolchain install nightly --component miri,rust-src)"
  exit 0
fi
# A separate folder: Miri has its own standard library and its own dependencies.
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/miri \
  cargo +nightly miri test --package wrun-model --lib -- port::queue region::tests::places sys::shared_words

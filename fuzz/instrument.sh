#!/bin/sh
# cargo's RUSTC_WORKSPACE_WRAPPER: the workspace's own crates get libFuzzer's
# instrumentation and their checks back; what they depend on is compiled as ever,
# so that wasmtime is not compiled again.
exec "$@" \
  -C passes=sancov-module \
  -C llvm-args=-sanitizer-coverage-level=4 \
  -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
  -C llvm-args=-sanitizer-coverage-pc-table \
  -C llvm-args=-sanitizer-coverage-trace-compares \
  -C codegen-units=1 \
  -C debug-assertions=on \
  -C overflow-checks=on

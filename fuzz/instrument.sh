#!/bin/sh
# Compiles with libFuzzer's instrumentation and with checks: a wrapper of rustc.
#
# As RUSTC_WORKSPACE_WRAPPER it sees the workspace's own crates only, so that
# wasmtime is not compiled again. As RUSTC_WRAPPER it sees all and takes wrun and
# the crates that read what it reads; that needs a target directory of its own,
# and `--target`, which tells them from the same crates in procedural macros.
crate=
target=
previous=
for argument; do
  case $previous in
    --crate-name) crate=$argument ;;
    --target) target=$argument ;;
  esac
  previous=$argument
done
case $crate in
  wrun* | frame | handshake | loader) ;;
  postcard | wasm_encoder | wasmparser | wast | wat | wit_component | wit_parser)
    [ -n "$target" ] || exec "$@"
    ;;
  *) exec "$@" ;;
esac
exec "$@" \
  -C passes=sancov-module \
  -C llvm-args=-sanitizer-coverage-level=4 \
  -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
  -C llvm-args=-sanitizer-coverage-pc-table \
  -C llvm-args=-sanitizer-coverage-trace-compares \
  -C codegen-units=1 \
  -C debug-assertions=on \
  -C overflow-checks=on

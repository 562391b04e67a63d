#!/bin/sh
# A wrapper of rustc that compiles with libFuzzer's instrumentation and with checks.
#
# As RUSTC_WORKSPACE_WRAPPER it compiles only the crates of the workspace, so that
# wasmtime is not compiled again. As RUSTC_WRAPPER it compiles all crates, and
# instruments wrun and the parsers that wrun uses. This needs a separate target
# directory, and `--target`, which distinguishes them from the same crates in
# procedural macros.
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

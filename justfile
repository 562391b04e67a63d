# The daily commands; `just --list`.

# Everything that CI does
ci:
    .ci/run

# Formatting, lints and documentation, with warnings denied
lint:
    cargo fmt --all --check
    cargo clippy --release --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --release --no-deps

# Integration tests whose name contains NAME
test NAME="":
    cargo test --release --test integration -- {{NAME}}

# Unit tests whose name contains NAME
unit NAME="":
    cargo test --release --lib --bins -- {{NAME}}

# Benchmark rows whose name contains ROW, briefly
bench ROW:
    cargo bench --bench cost -- --quick "{{ROW}}"

# Rebuild guests whose sources changed
guests *NAMES:
    guest-tasks/build.sh {{NAMES}}

//! Mutations that start from well-formed input: modules, tasks and components from
//! wasm-smith, which libFuzzer's own mutations then damage.

use libfuzzer_sys::arbitrary::{Arbitrary, Unstructured};
use wasm_smith::{Component, Config, Module};

/// One of this many mutations is made by wasm-smith.
const RARITY: u32 = 16;
/// Number of random bytes for wasm-smith's decisions.
const ENTROPY: usize = 2 << 10;

libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if seed.is_multiple_of(RARITY)
        && let Some(made) = make(seed / RARITY)
        && made.len() <= max_size
    {
        data[..made.len()].copy_from_slice(&made);
        return made.len();
    }
    libfuzzer_sys::fuzzer_mutate(data, size, max_size)
});

fn make(seed: u32) -> Option<Vec<u8>> {
    let entropy = entropy(seed);
    let mut entropy = Unstructured::new(&entropy);
    Some(match seed % 4 {
        0 => Module::arbitrary(&mut entropy).ok()?.to_bytes(),
        1 => Component::arbitrary(&mut entropy).ok()?.to_bytes(),
        _ => Module::new(task(), &mut entropy).ok()?.to_bytes(),
    })
}

/// Modules with the functions of a task, which may import WASI.
fn task() -> Config {
    let module = |text| wat::parse_str(text).expect("valid");
    Config {
        exports: Some(module(
            r#"(module
                (memory (export "memory") 1)
                (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
                (func (export "run") (param i32 i32) (result i32) unreachable))"#,
        )),
        available_imports: Some(module(
            r#"(module
                (import "wasi_snapshot_preview1" "fd_write"
                    (func (param i32 i32 i32 i32) (result i32)))
                (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
                (import "wrun:task/context@0.1.0" "cancelled" (func (result i32)))
                (import "wasi:cli/stdout@0.2.0" "get-stdout" (func (result i32))))"#,
        )),
        ..Config::default()
    }
}

fn entropy(seed: u32) -> Vec<u8> {
    // xorshift32, whose state must not be zero.
    let mut state = seed | 1 << 31;
    let mut bytes = Vec::with_capacity(ENTROPY);
    while bytes.len() < ENTROPY {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes
}

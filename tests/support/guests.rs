//! Guests as text, for tests that need one that tells how far it is.

/// Says that it runs, by progress, then waits until it is cancelled.
pub(crate) const ANNOUNCES: &str = r#"
(module
  (import "wrun:task/context@0.1.0" "progress" (func $progress (param i64 i32 i64)))
  (import "wrun:task/context@0.1.0" "subscribe-cancelled" (func $cancelled (result i32)))
  (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func (export "run") (param i32 i32) (result i32)
    (call $progress (i64.const 1) (i32.const 0) (i64.const 0))
    (call $block (call $cancelled))
    (i32.const 0)))"#;

/// Prints, then sleeps for a year.
pub(crate) const PRINTS_AND_SLEEPS: &str = r#"
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 200) "before it sleeps")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 200))
    (i32.store (i32.const 4) (i32.const 16))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 80) (i32.const 1))
    (i64.store (i32.const 88) (i64.const 31536000000000000))
    (drop (call $poll (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 192)))))"#;

/// Prints, then loops for ever without calling the host. It imports nothing of wrun, so it
/// cannot be told to stop.
pub(crate) const PRINTS_AND_LOOPS: &str = r#"
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 200) "before it loops")
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 200))
    (i32.store (i32.const 4) (i32.const 15))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (loop $forever (br $forever))))"#;

/// A component of more core instances than a component may have. Without memories: it is
/// refused before any limit of a task counts.
pub(crate) fn too_many_instances() -> String {
    let instances = "(core instance (instantiate $m))\n".repeat(1_200);
    format!(
        r#"(component
  (core module $m)
  (core module $task (memory (export "memory") 1)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "run") (param i32 i32) (result i32) (i32.const 0)))
  {instances}
  (core instance $task (instantiate $task))
  (alias core export $task "memory" (core memory $memory))
  (func (export "run") (param "input" (list u8)) (result (result (list u8) (error string)))
    (canon lift (core func $task "run") (memory $memory)
      (realloc (core func $task "cabi_realloc")))))"#
    )
}

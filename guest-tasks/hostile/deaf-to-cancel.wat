;; Reports that it runs, waits for its cancellation, then waits for another year: it ignores
;; the request to stop.
(module
  (import "wrun:task/context@0.1.0" "progress" (func $progress (param i64 i32 i64)))
  (import "wrun:task/context@0.1.0" "subscribe-cancelled" (func $cancelled (result i32)))
  (import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration"
    (func $timer (param i64) (result i32)))
  (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
  (memory (export "memory") 1)
  (global $free (mut i32) (i32.const 1024))
  (func (export "cabi_realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at
      (i32.and
        (i32.sub (i32.add (global.get $free) (local.get $align)) (i32.const 1))
        (i32.sub (i32.const 0) (local.get $align))))
    (global.set $free (i32.add (local.get $at) (local.get $size)))
    (local.get $at))
  (func (export "run") (param $input i32) (param $length i32) (result i32)
    (call $progress (i64.const 1) (i32.const 0) (i64.const 0))
    (call $block (call $cancelled))
    (call $block (call $timer (i64.const 31536000000000000)))
    (i32.const 0)))

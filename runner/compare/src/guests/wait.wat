;; With any input: says that it is there, and waits until it is asked to stop.
;; Without: completes.
(module
  (import "wrun:task/context@0.1.0" "progress" (func $progress (param i64 i32 i64)))
  (import "wrun:task/context@0.1.0" "subscribe-cancelled" (func $stop (result i32)))
  (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
  (memory (export "memory") 1)
  ;; One input, of a few bytes.
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64))
  (func (export "run") (param $input i32) (param $length i32) (result i32)
    (if (local.get $length)
      (then
        (call $progress (i64.const 1) (i32.const 0) (i64.const 0))
        (call $block (call $stop))))
    ;; byte 0 stays 0: ok, with no bytes
    (i32.const 0)))

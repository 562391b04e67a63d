;; Its start function hands the host a handle that it was never given.
(module
  (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
  (memory (export "memory") 1)
  (func $start (call $block (i32.const 77)))
  (start $start)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 16))
  (func (export "run") (param i32 i32) (result i32) (i32.const 0)))

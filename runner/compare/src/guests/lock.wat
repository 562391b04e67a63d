;; Two tasks and a named lock. With the input "hold" it takes the lock, says so, waits
;; until it is asked to stop, and traps with the lock in its hands. With any other input
;; of eight bytes it says that it is about to ask for the lock, waits for it, and returns
;; its input.
(module
  (import "wrun:task/context@0.1.0" "progress" (func $progress (param i64 i32 i64)))
  (import "wrun:task/context@0.1.0" "subscribe-cancelled" (func $cancelled (result i32)))
  (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
  (import "wrun:task/locks@0.1.0" "request" (func $request (param i32 i32 i32 i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 512) "compare")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func $lock
    ;; Exclusive, and it waits. The answer is ok with a lock, or it traps.
    (call $request (i32.const 512) (i32.const 7) (i32.const 0) (i32.const 0) (i32.const 16))
    (if (i32.load8_u (i32.const 16)) (then unreachable))
    (if (i32.eqz (i32.load8_u (i32.const 20))) (then unreachable)))
  (func $ready (call $progress (i64.const 1) (i32.const 0) (i64.const 0)))
  (func (export "run") (param $input i32) (param $length i32) (result i32)
    (if (i32.eq (local.get $length) (i32.const 4))
      (then
        (call $lock)
        (call $ready)
        (call $block (call $cancelled))
        unreachable))
    (call $ready)
    (call $lock)
    (i32.store (i32.const 0) (i32.const 0))
    (i32.store (i32.const 4) (local.get $input))
    (i32.store (i32.const 8) (local.get $length))
    (i32.const 0)))

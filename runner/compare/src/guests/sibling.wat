;; Works beside others until it is asked to stop, and can tell whether it was disturbed:
;; fills memory with numbers that follow from the eight bytes of its input, sums them up
;; again and again, traps when the sum is another, and returns it.
(module
  (import "wrun:task/context@0.1.0" "progress" (func $progress (param i64 i32 i64)))
  (import "wrun:task/context@0.1.0" "cancelled" (func $cancelled (result i32)))
  (import "wasi:clocks/monotonic-clock@0.2.12" "subscribe-duration"
    (func $timer (param i64) (result i32)))
  (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:io/poll@0.2.12" "[resource-drop]pollable" (func $drop (param i32)))
  (memory (export "memory") 2)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func $mix (param $x i64) (result i64)
    (local.set $x (i64.xor (local.get $x) (i64.shr_u (local.get $x) (i64.const 31))))
    (local.set $x (i64.mul (local.get $x) (i64.const 0x9e3779b97f4a7c15)))
    (i64.xor (local.get $x) (i64.shr_u (local.get $x) (i64.const 29))))
  (func $fill (param $seed i64)
    (local $i i32)
    (loop $more
      (i64.store offset=65536 (i32.shl (local.get $i) (i32.const 3))
        (call $mix (i64.add (local.get $seed) (i64.extend_i32_u (local.get $i)))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $i) (i32.const 8192)))))
  (func $sum (result i64)
    (local $i i32) (local $sum i64)
    (loop $more
      (local.set $sum (call $mix (i64.xor (local.get $sum)
        (i64.load offset=65536 (i32.shl (local.get $i) (i32.const 3))))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $i) (i32.const 8192))))
    (local.get $sum))
  (func (export "run") (param $input i32) (param $length i32) (result i32)
    (local $sum i64) (local $timer i32)
    (if (i32.ne (local.get $length) (i32.const 8)) (then unreachable))
    (call $fill (i64.load (local.get $input)))
    (local.set $sum (call $sum))
    (call $progress (i64.const 1) (i32.const 0) (i64.const 0))
    (block $asked
      (loop $more
        (br_if $asked (call $cancelled))
        (if (i64.ne (call $sum) (local.get $sum)) (then unreachable))
        ;; A pause, so that eight of these leave the processors to what is measured.
        (local.set $timer (call $timer (i64.const 1000000)))
        (call $block (local.get $timer))
        (call $drop (local.get $timer))
        (br $more)))
    (if (i64.ne (call $sum) (local.get $sum)) (then unreachable))
    (i64.store (i32.const 64) (local.get $sum))
    (i32.store (i32.const 0) (i32.const 0))
    (i32.store (i32.const 4) (i32.const 64))
    (i32.store (i32.const 8) (i32.const 8))
    (i32.const 0)))

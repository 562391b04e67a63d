;; Says that it is ready, waits until it is asked to stop, and then does what the first
;; byte of its input names:
;; 0 traps, 1 calls itself without end, 2 computes without end, 3 takes all the memory
;; that it can have, 4 writes without end and ignores every refusal.
(module
  (import "wrun:task/context@0.1.0" "progress" (func $progress (param i64 i32 i64)))
  (import "wrun:task/context@0.1.0" "subscribe-cancelled" (func $cancelled (result i32)))
  (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))
  (import "wasi:cli/stdout@0.2.12" "get-stdout" (func $stdout (result i32)))
  (import "wasi:io/streams@0.2.12" "[method]output-stream.blocking-write-and-flush"
    (func $write (param i32 i32 i32 i32)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func $deeper (param i32) (result i32)
    (i32.add (call $deeper (i32.add (local.get 0) (i32.const 1))) (i32.const 1)))
  (func (export "run") (param $input i32) (param $length i32) (result i32)
    (local $page i32) (local $stdout i32)
    (call $progress (i64.const 1) (i32.const 0) (i64.const 0))
    (call $block (call $cancelled))
    (block $flood
      (block $bomb
        (block $loop
          (block $stack
            (block $trap
              (br_table $trap $stack $loop $bomb $flood $trap (i32.load8_u (local.get $input))))
            unreachable)
          (drop (call $deeper (i32.const 0)))
          unreachable)
        (loop $forever (br $forever)))
      (loop $more
        (local.set $page (memory.grow (i32.const 16)))
        (if (i32.eq (local.get $page) (i32.const -1)) (then unreachable))
        (memory.fill (i32.shl (local.get $page) (i32.const 16)) (i32.const 1) (i32.const 1048576))
        (br $more)))
    (local.set $stdout (call $stdout))
    (loop $more
      (call $write (local.get $stdout) (i32.const 4096) (i32.const 4096) (i32.const 16))
      (br $more))
    unreachable))

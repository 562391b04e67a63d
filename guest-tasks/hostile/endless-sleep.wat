;; Sleeps for a year in one poll_oneoff: blocked in the host, not in a loop.
(module
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    ;; one subscription at 0: clock (tag 0 at 8), monotonic (1 at 16), timeout at 24
    (i32.store (i32.const 16) (i32.const 1))
    (i64.store (i32.const 24) (i64.const 31536000000000000))
    (drop (call $poll (i32.const 0) (i32.const 64) (i32.const 1) (i32.const 128)))))

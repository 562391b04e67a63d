;; Asks for 1 GiB of random bytes while it has 64 KiB of memory.
(module
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (if (i32.eqz (call $random (i32.const 0) (i32.const 1073741824)))
      (then (call $proc_exit (i32.const 1))))))

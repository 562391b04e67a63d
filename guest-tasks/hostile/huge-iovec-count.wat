;; One fd_write of 268 million iovecs: the host must not allocate memory for this number.
(module
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (if (i32.eqz (call $fd_write (i32.const 1) (i32.const 0) (i32.const 0x0fffffff) (i32.const 8)))
      (then (call $proc_exit (i32.const 1))))))

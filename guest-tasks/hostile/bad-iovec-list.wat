;; Hands the host a list of iovecs that lies outside of its memory.
;; Refused with a trap or with an errno (then it exits 0); never accepted (1).
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (if (i32.eqz (call $fd_write (i32.const 1) (i32.const -8) (i32.const 1) (i32.const 8)))
      (then (call $proc_exit (i32.const 1))))))

;; Closes its own stdio, then writes: an errno (EBADF is 8), no crash. Exits with it.
(module
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $fd_close (i32.const 0)))
    (drop (call $fd_close (i32.const 1)))
    (drop (call $fd_close (i32.const 2)))
    (call $proc_exit (call $fd_write (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 8)))))

;; Imports a WASI 0.1 function that does not exist.
(module
  (import "wasi_snapshot_preview1" "fd_teleport" (func $f (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (drop (call $f (i32.const 1)))))

;; Imports a function that no host provides.
(module
  (import "env" "mystery" (func $mystery (param i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (call $mystery (i32.const 1))))

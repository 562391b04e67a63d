;; run and a memory, but nothing to ask for room in it.
(module
  (memory (export "memory") 1)
  (func (export "run") (param i32 i32) (result i32) (i32.const 0)))

;; Its start function throws: the guest's own failure, before anything was called.
(module
  (tag $oops)
  (memory (export "memory") 1)
  (func $start (throw $oops))
  (start $start)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 16))
  (func (export "run") (param i32 i32) (result i32) (i32.const 0)))

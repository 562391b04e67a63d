;; Makes sockets until it is refused, nothing being granted, and returns how many
;; it got, as one byte: the descriptors of a process are not one guest's to have.
(module
  (import "wasi:sockets/tcp-create-socket@0.2.12" "create-tcp-socket"
    (func $create (param i32 i32)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 64))
  (func (export "run") (param i32 i32) (result i32)
    (local $made i32)
    (block $refused
      (loop $again
        (call $create (i32.const 0) (i32.const 100))
        (br_if $refused (i32.load8_u (i32.const 100)))
        (local.set $made (i32.add (local.get $made) (i32.const 1)))
        (br_if $again (i32.lt_u (local.get $made) (i32.const 200)))))
    (i32.store8 (i32.const 200) (i32.add (i32.const 48) (local.get $made)))
    (i32.store8 (i32.const 0) (i32.const 0))
    (i32.store (i32.const 4) (i32.const 200))
    (i32.store (i32.const 8) (i32.const 1))
    (i32.const 0)))

;; Makes regions of a megabyte until it is refused one, and then grows its memory.
;; Prints how many, and the number of the error, and whether memory grew.
(module
  (import "wrun:task/regions@0.1.0" "[static]region.create"
    (func $create (param i64 i32 i32)))
  (memory (export "memory") 1)
  (global $out (mut i32) (i32.const 128))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func $put (param $char i32)
    (i32.store8 (global.get $out) (local.get $char))
    (global.set $out (i32.add (global.get $out) (i32.const 1))))
  ;; The result at 64 as a character: a dot, or the number of the error, which is
  ;; after the flag, aligned like the type of the result.
  (func $said (param $align i32)
    (if (i32.load8_u (i32.const 64))
      (then (call $put (i32.add (i32.const 48) (i32.load8_u (i32.add (i32.const 64) (local.get $align))))))
      (else (call $put (i32.const 46)))))
  (func $number (param $n i32)
    (if (i32.ge_u (local.get $n) (i32.const 10))
      (then (call $number (i32.div_u (local.get $n) (i32.const 10)))))
    (call $put (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10)))))
  (func $end (result i32)
    (i32.store offset=4 (i32.const 0) (i32.const 128))
    (i32.store offset=8 (i32.const 0) (i32.sub (global.get $out) (i32.const 128)))
    (i32.const 0))
  (func (export "run") (param i32 i32) (result i32)
    (local $n i32)
    (loop $on
      (call $create (i64.const 1048576) (i32.const 0) (i32.const 64))
      (if (i32.eqz (i32.load8_u (i32.const 64)))
        (then
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br $on))))
    (call $number (local.get $n))
    (call $said (i32.const 4))
    (call $put (select (i32.const 43) (i32.const 45) (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
    (call $end)))

;; Lays one region over 192 MiB of its memory, more than wasmtime lets a call pass
;; on. Prints a dot, and the letter that it finds at the end.
(module
  (import "wrun:task/regions@0.1.0" "[static]region.create"
    (func $create (param i64 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.map"
    (func $map (param i32 i64 i32 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.write"
    (func $write (param i32 i64 i32 i32 i32)))
  (memory (export "memory") 3074)
  (data (i32.const 16) "z")
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
  (func $got (result i32) (i32.load (i32.const 68)))
  (func $end (result i32)
    (i32.store offset=4 (i32.const 0) (i32.const 128))
    (i32.store offset=8 (i32.const 0) (i32.sub (global.get $out) (i32.const 128)))
    (i32.const 0))
  (func (export "run") (param i32 i32) (result i32)
    (local $region i32)
    (call $create (i64.const 0xc000000) (i32.const 0) (i32.const 64)) (call $said (i32.const 4))
    (local.set $region (call $got))
    (call $map (local.get $region) (i64.const 0) (i32.const 65536) (i32.const 0xc000000) (i32.const 64)) (call $said (i32.const 4))
    (call $write (local.get $region) (i64.const 0xbffffff) (i32.const 16) (i32.const 1) (i32.const 64)) (call $said (i32.const 1))
    (call $put (i32.load8_u (i32.const 0xc00ffff)))
    (call $end)))

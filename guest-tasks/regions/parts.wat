;; A region in parts, each mapped over its own window, and joined again. Prints a
;; dot or the number of an error for each answer, and the letters that it finds.
(module
  (import "wrun:task/regions@0.1.0" "[static]region.create"
    (func $create (param i64 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.len"
    (func $len (param i32) (result i64)))
  (import "wrun:task/regions@0.1.0" "[method]region.read"
    (func $read (param i32 i64 i64 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.map"
    (func $map (param i32 i64 i32 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.freeze"
    (func $freeze (param i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.split"
    (func $split (param i32 i64 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.join"
    (func $join (param i32 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[resource-drop]mapping"
    (func $drop-mapping (param i32)))
  (memory (export "memory") 16)
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
    (local $region i32) (local $first i32) (local $second i32) (local $mapping i32) (local $other i32)
    (call $create (i64.const 131072) (i32.const 0) (i32.const 64)) (call $said (i32.const 4))
    (local.set $region (call $got))
    ;; misaligned; out of bounds
    (call $split (local.get $region) (i64.const 1) (i32.const 64)) (call $said (i32.const 4))
    (call $split (local.get $region) (i64.const 131072) (i32.const 64)) (call $said (i32.const 4))
    (call $split (local.get $region) (i64.const 65536) (i32.const 64)) (call $said (i32.const 4))
    (local.set $first (call $got))
    (local.set $second (i32.load (i32.const 72)))
    ;; what was split is empty
    (call $put (i32.add (i32.const 48) (i32.wrap_i64 (call $len (local.get $region)))))
    (call $freeze (local.get $region) (i32.const 64)) (call $said (i32.const 1))
    ;; a part is not frozen
    (call $freeze (local.get $first) (i32.const 64)) (call $said (i32.const 1))
    ;; the second part before the first
    (call $map (local.get $second) (i64.const 0) (i32.const 65536) (i32.const 65536) (i32.const 64)) (call $said (i32.const 4))
    (local.set $mapping (call $got))
    (call $map (local.get $first) (i64.const 0) (i32.const 131072) (i32.const 65536) (i32.const 64)) (call $said (i32.const 4))
    (local.set $other (call $got))
    (i32.store8 (i32.const 65536) (i32.const 98))
    (i32.store8 (i32.const 196607) (i32.const 97))
    ;; busy, then no neighbours in this order, then with itself
    (call $join (local.get $first) (local.get $second) (i32.const 64)) (call $said (i32.const 1))
    (call $drop-mapping (local.get $mapping))
    (call $drop-mapping (local.get $other))
    (call $join (local.get $second) (local.get $first) (i32.const 64)) (call $said (i32.const 1))
    (call $join (local.get $first) (local.get $first) (i32.const 64)) (call $said (i32.const 1))
    (call $join (local.get $first) (local.get $second) (i32.const 64)) (call $said (i32.const 1))
    (call $put (i32.add (i32.const 48) (i32.wrap_i64 (call $len (local.get $second)))))
    (call $read (local.get $first) (i64.const 65535) (i64.const 2) (i32.const 64)) (call $said (i32.const 4))
    (call $put (i32.load8_u (call $got)))
    (call $put (i32.load8_u (i32.add (call $got) (i32.const 1))))
    (call $freeze (local.get $first) (i32.const 64)) (call $said (i32.const 1))
    (call $end)))

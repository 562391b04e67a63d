;; One region, written by calls and by stores. Prints a dot or the number of an
;; error for each answer, and the letters that it finds.
(module
  (import "wrun:task/regions@0.1.0" "[static]region.create"
    (func $create (param i64 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.len"
    (func $len (param i32) (result i64)))
  (import "wrun:task/regions@0.1.0" "[method]region.kind"
    (func $kind (param i32) (result i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.read"
    (func $read (param i32 i64 i64 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.write"
    (func $write (param i32 i64 i32 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.map"
    (func $map (param i32 i64 i32 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]mapping.len"
    (func $mapping-len (param i32) (result i64)))
  (import "wrun:task/regions@0.1.0" "[resource-drop]mapping"
    (func $drop-mapping (param i32)))
  (import "wrun:task/regions@0.1.0" "[resource-drop]region"
    (func $drop-region (param i32)))
  (memory (export "memory") 16)
  (data (i32.const 16) "abc")
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
    (local $region i32) (local $mapping i32)
    ;; two pages of 64 KiB
    (call $create (i64.const 131072) (i32.const 0) (i32.const 64)) (call $said (i32.const 4))
    (local.set $region (call $got))
    (call $put (i32.add (i32.const 48) (call $kind (local.get $region))))
    (call $put (i32.add (i32.const 48) (i32.wrap_i64 (i64.div_u (call $len (local.get $region)) (i64.const 65536)))))
    (call $write (local.get $region) (i64.const 65536) (i32.const 16) (i32.const 3) (i32.const 64)) (call $said (i32.const 1))
    ;; its second page over the third page of memory: "abc" is there
    (call $map (local.get $region) (i64.const 65536) (i32.const 131072) (i32.const 65536) (i32.const 64)) (call $said (i32.const 4))
    (local.set $mapping (call $got))
    (call $put (i32.add (i32.const 48) (i32.wrap_i64 (i64.div_u (call $mapping-len (local.get $mapping)) (i64.const 65536)))))
    (call $put (i32.load8_u (i32.const 131074)))
    ;; a store is seen by a call, and a write is seen by a load
    (i32.store8 (i32.const 131075) (i32.const 100))
    (call $read (local.get $region) (i64.const 65536) (i64.const 4) (i32.const 64)) (call $said (i32.const 4))
    (call $put (i32.load8_u (i32.add (call $got) (i32.const 3))))
    (call $write (local.get $region) (i64.const 131071) (i32.const 17) (i32.const 1) (i32.const 64)) (call $said (i32.const 1))
    (call $put (i32.load8_u (i32.const 196607)))
    ;; from the window into itself, one byte on
    (call $write (local.get $region) (i64.const 65537) (i32.const 131072) (i32.const 4) (i32.const 64)) (call $said (i32.const 1))
    (call $put (i32.load8_u (i32.const 131074)))
    ;; the memory grows under the mapping, and bulk operations go across its edge
    (call $put (select (i32.const 43) (i32.const 45) (i32.ne (memory.grow (i32.const 4)) (i32.const -1))))
    (memory.fill (i32.const 131000) (i32.const 120) (i32.const 144))
    (call $put (i32.load8_u (i32.const 131143)))
    (memory.copy (i32.const 196600) (i32.const 131100) (i32.const 16))
    ;; gone: the window is empty, beside it nothing changed, the region has it all
    (call $drop-mapping (local.get $mapping))
    (call $put (i32.add (i32.const 48) (i32.load8_u (i32.const 131100))))
    (call $put (i32.load8_u (i32.const 131071)))
    (call $put (i32.load8_u (i32.const 196608)))
    (call $read (local.get $region) (i64.const 65564) (i64.const 1) (i32.const 64)) (call $said (i32.const 4))
    (call $put (i32.load8_u (call $got)))
    ;; once more, elsewhere
    (call $map (local.get $region) (i64.const 0) (i32.const 262144) (i32.const 131072) (i32.const 64)) (call $said (i32.const 4))
    (call $put (i32.load8_u (i32.const 327708)))
    (call $drop-mapping (call $got))
    (call $drop-region (local.get $region))
    (call $end)))

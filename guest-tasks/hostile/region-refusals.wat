;; Everything with regions that is to be refused, each once. Prints the number of
;; each error: 0 out-of-bounds, 1 misaligned, 2 busy, 3 wrong-kind, 4 limit.
(module
  (import "wrun:task/regions@0.1.0" "[static]region.create"
    (func $create (param i64 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.read"
    (func $read (param i32 i64 i64 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.write"
    (func $write (param i32 i64 i32 i32 i32)))
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
    (local $region i32) (local $other i32) (local $mapping i32)
    ;; no region: empty, far too large, frozen from the start
    (call $create (i64.const 0) (i32.const 0) (i32.const 64)) (call $said (i32.const 4))
    (call $create (i64.const -1) (i32.const 0) (i32.const 64)) (call $said (i32.const 4))
    (call $create (i64.const 0x4000000000000000) (i32.const 2) (i32.const 64)) (call $said (i32.const 4))
    (call $create (i64.const 4096) (i32.const 1) (i32.const 64)) (call $said (i32.const 4))
    (call $put (i32.const 32))
    (call $create (i64.const 131072) (i32.const 0) (i32.const 64))
    (local.set $region (call $got))
    ;; reading and writing beyond the end
    (call $read (local.get $region) (i64.const 131072) (i64.const 1) (i32.const 64)) (call $said (i32.const 4))
    (call $read (local.get $region) (i64.const 1) (i64.const -1) (i32.const 64)) (call $said (i32.const 4))
    (call $write (local.get $region) (i64.const 131071) (i32.const 16) (i32.const 2) (i32.const 64)) (call $said (i32.const 1))
    (call $write (local.get $region) (i64.const -1) (i32.const 16) (i32.const 2) (i32.const 64)) (call $said (i32.const 1))
    (call $put (i32.const 32))
    ;; windows: none, not at a page, not whole pages, not from a page of the region on,
    ;; beyond its end, far beyond it
    (call $map (local.get $region) (i64.const 0) (i32.const 65536) (i32.const 0) (i32.const 64)) (call $said (i32.const 4))
    (call $map (local.get $region) (i64.const 0) (i32.const 65537) (i32.const 65536) (i32.const 64)) (call $said (i32.const 4))
    (call $map (local.get $region) (i64.const 0) (i32.const 65536) (i32.const 65535) (i32.const 64)) (call $said (i32.const 4))
    (call $map (local.get $region) (i64.const 1) (i32.const 65536) (i32.const 65536) (i32.const 64)) (call $said (i32.const 4))
    (call $map (local.get $region) (i64.const 65536) (i32.const 65536) (i32.const 131072) (i32.const 64)) (call $said (i32.const 4))
    (call $map (local.get $region) (i64.const -65536) (i32.const 65536) (i32.const 131072) (i32.const 64)) (call $said (i32.const 4))
    (call $put (i32.const 32))
    ;; while it is mapped: no second time, no freezing, no splitting
    (call $map (local.get $region) (i64.const 0) (i32.const 131072) (i32.const 65536) (i32.const 64)) (call $said (i32.const 4))
    (local.set $mapping (call $got))
    (call $map (local.get $region) (i64.const 65536) (i32.const 262144) (i32.const 65536) (i32.const 64)) (call $said (i32.const 4))
    (call $freeze (local.get $region) (i32.const 64)) (call $said (i32.const 1))
    (call $split (local.get $region) (i64.const 65536) (i32.const 64)) (call $said (i32.const 4))
    ;; another one over its window: before, behind, inside, around
    (call $create (i64.const 262144) (i32.const 0) (i32.const 64))
    (local.set $other (call $got))
    (call $map (local.get $other) (i64.const 0) (i32.const 65536) (i32.const 131072) (i32.const 64)) (call $said (i32.const 4))
    (call $map (local.get $other) (i64.const 0) (i32.const 131072) (i32.const 131072) (i32.const 64)) (call $said (i32.const 4))
    (call $map (local.get $other) (i64.const 0) (i32.const 131072) (i32.const 65536) (i32.const 64)) (call $said (i32.const 4))
    (call $map (local.get $other) (i64.const 0) (i32.const 65536) (i32.const 262144) (i32.const 64)) (call $said (i32.const 4))
    ;; neither joined to another whole one
    (call $join (local.get $other) (local.get $region) (i32.const 64)) (call $said (i32.const 1))
    (call $drop-mapping (local.get $mapping))
    (call $join (local.get $other) (local.get $region) (i32.const 64)) (call $said (i32.const 1))
    (call $put (i32.const 32))
    ;; shared ones are not mapped, split, frozen
    (call $create (i64.const 131072) (i32.const 2) (i32.const 64))
    (local.set $region (call $got))
    (call $map (local.get $region) (i64.const 0) (i32.const 65536) (i32.const 65536) (i32.const 64)) (call $said (i32.const 4))
    (call $split (local.get $region) (i64.const 65536) (i32.const 64)) (call $said (i32.const 4))
    (call $freeze (local.get $region) (i32.const 64)) (call $said (i32.const 1))
    (call $join (local.get $other) (local.get $region) (i32.const 64)) (call $said (i32.const 1))
    (call $end)))

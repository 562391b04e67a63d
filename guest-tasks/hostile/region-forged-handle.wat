;; Maps a region with a handle that it was never given.
(module
  (import "wrun:task/regions@0.1.0" "[method]region.map"
    (func $map (param i32 i64 i32 i32 i32)))
  (memory (export "memory") 16)
  (global $out (mut i32) (i32.const 128))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func $put (param $char i32)
    (i32.store8 (global.get $out) (local.get $char))
    (global.set $out (i32.add (global.get $out) (i32.const 1))))
  (func $end (result i32)
    (i32.store offset=4 (i32.const 0) (i32.const 128))
    (i32.store offset=8 (i32.const 0) (i32.sub (global.get $out) (i32.const 128)))
    (i32.const 0))
  (func (export "run") (param i32 i32) (result i32)
    (call $map (i32.const 77) (i64.const 0) (i32.const 65536) (i32.const 65536) (i32.const 64))
    (call $end)))

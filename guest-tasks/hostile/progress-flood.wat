;; Reports progress a million times, then answers ok: calls are merged, not queued.
(module
  (import "wrun:task/context@0.1.0" "progress" (func $progress (param i64 i32 i64)))
  (memory (export "memory") 1)
  (global $free (mut i32) (i32.const 1024))
  (func (export "cabi_realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at
      (i32.and
        (i32.sub (i32.add (global.get $free) (local.get $align)) (i32.const 1))
        (i32.sub (i32.const 0) (local.get $align))))
    (global.set $free (i32.add (local.get $at) (local.get $size)))
    (local.get $at))
  (func (export "run") (param $input i32) (param $length i32) (result i32)
    (local $done i64)
    (loop $more
      (call $progress (local.get $done) (i32.const 1) (i64.const 1000000))
      (local.set $done (i64.add (local.get $done) (i64.const 1)))
      (br_if $more (i64.lt_u (local.get $done) (i64.const 1000000))))
    (i32.const 0)))

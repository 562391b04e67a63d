;; run returns err with a text that is not UTF-8.
(module
  (memory (export "memory") 1)
  (data (i32.const 16) "ab\ff\fe")
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
    (i32.store8 (i32.const 0) (i32.const 1))
    (i32.store offset=4 (i32.const 0) (i32.const 16))
    (i32.store offset=8 (i32.const 0) (i32.const 4))
    (i32.const 0)))

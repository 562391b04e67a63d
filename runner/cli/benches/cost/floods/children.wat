;; Starts children and lets go of them, for ever.
(module
  (import "wrun:task/tasks@0.1.0" "spawn" (func $spawn (param i32 i32 i32 i32 i32 i32 i32)))
  (import "wrun:task/tasks@0.1.0" "[resource-drop]child" (func $drop_child (param i32)))
  (memory (export "memory") 40)
  ;; What the host hands over begins at 600,000, again and again.
  (global $free (mut i32) (i32.const 600000))
  (data (i32.const 100) "c")
  (func (export "cabi_realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at
      (i32.and
        (i32.sub (i32.add (global.get $free) (local.get $align)) (i32.const 1))
        (i32.sub (i32.const 0) (local.get $align))))
    (global.set $free (i32.add (local.get $at) (local.get $size)))
    (local.get $at))
  (func (export "run") (param i32 i32) (result i32) (local $i i32) (local $n i32)
    (loop $more
      (call $spawn (i32.const 100) (i32.const 1) (i32.const 0) (i32.const 0)
        (i32.const 0) (i32.const 0) (i32.const 64))
      (if (i32.eqz (i32.load8_u (i32.const 64)))
        (then (call $drop_child (i32.load (i32.const 68)))))
      (br $more))
    (unreachable)))

;; Joins a broadcast channel as often as it may, and sends 256 KiB to each member for ever.
(module
  (import "wrun:task/broadcast@0.1.0" "open" (func $open (param i32 i32 i32)))
  (import "wrun:task/ports@0.1.0" "[method]port.try-send"
    (func $try_send (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "wrun:task/ports@0.1.0" "[method]port.try-receive" (func $receive (param i32 i32)))
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
    (loop $join
      (call $open (i32.const 100) (i32.const 1) (i32.const 64))
      (if (i32.eqz (i32.load8_u (i32.const 64)))
        (then
          (i32.store offset=512 (i32.mul (local.get $n) (i32.const 4)) (i32.load (i32.const 68)))
          (local.set $n (i32.add (local.get $n) (i32.const 1)))
          (br_if $join (i32.lt_u (local.get $n) (i32.const 32))))))
    (if (i32.eqz (local.get $n)) (then (unreachable)))
    (loop $more
      (local.set $i (i32.const 0))
      (loop $each
        (call $try_send (i32.load offset=512 (i32.mul (local.get $i) (i32.const 4)))
          (i32.const 65536) (i32.const 262144) (i32.const 0) (i32.const 0)
          (i32.const 0) (i32.const 0) (i32.const 64))
        (loop $drain
          (global.set $free (i32.const 600000))
          (call $receive (i32.load offset=512 (i32.mul (local.get $i) (i32.const 4)))
            (i32.const 64))
          (br_if $drain (i32.eqz (i32.load8_u (i32.const 64)))))
        (br_if $each
          (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $n))))
      (br $more))
    (unreachable)))

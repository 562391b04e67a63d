;; "hello, " and the input: the whole task ABI by hand, in one core module.
;;
;; The host calls cabi_realloc for room, writes the input there, calls run with
;; (pointer, length), and reads the answer where run's result points.
(module
  (memory (export "memory") 1)
  (data (i32.const 16) "hello, ")

  ;; A bump allocator: one call per instance, so nothing is ever freed.
  (global $free (mut i32) (i32.const 1024))
  (func $allocate (export "cabi_realloc")
    (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    ;; round up to the alignment
    (local.set $at
      (i32.and
        (i32.sub (i32.add (global.get $free) (local.get $align)) (i32.const 1))
        (i32.sub (i32.const 0) (local.get $align))))
    (global.set $free (i32.add (local.get $at) (local.get $size)))
    ;; grow while the end lies outside; a refused growth is a trap
    (block $enough
      (br_if $enough
        (i32.le_u (global.get $free) (i32.mul (memory.size) (i32.const 65536))))
      (br_if $enough
        (i32.ne (i32.const -1)
          (memory.grow
            (i32.add (i32.const 1)
              (i32.div_u
                (i32.sub (global.get $free) (i32.mul (memory.size) (i32.const 65536)))
                (i32.const 65536))))))
      unreachable)
    (local.get $at))

  (func (export "run") (param $input i32) (param $length i32) (result i32)
    (local $output i32)
    (local.set $output
      (call $allocate (i32.const 0) (i32.const 0) (i32.const 1)
        (i32.add (local.get $length) (i32.const 7))))
    (memory.copy (local.get $output) (i32.const 16) (i32.const 7))
    (memory.copy
      (i32.add (local.get $output) (i32.const 7)) (local.get $input) (local.get $length))
    ;; result<list<u8>, string> at 0: 0 is ok, 1 is err; then pointer, length
    (i32.store8 (i32.const 0) (i32.const 0))
    (i32.store offset=4 (i32.const 0) (local.get $output))
    (i32.store offset=8 (i32.const 0) (i32.add (local.get $length) (i32.const 7)))
    (i32.const 0)))

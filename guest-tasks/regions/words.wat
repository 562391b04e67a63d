;; Atomics on a shared region, and waiting on one. Prints what each gives, a dot or
;; the number of an error for each answer, and how each wait ended.
(module
  (import "wrun:task/regions@0.1.0" "[static]region.create"
    (func $create (param i64 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.wait"
    (func $wait (param i32 i64 i32 i32 i64 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.notify"
    (func $notify (param i32 i64 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.load-u32"
    (func $load-u32 (param i32 i64 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.store-u32"
    (func $store-u32 (param i32 i64 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.add-u32"
    (func $add-u32 (param i32 i64 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.and-u32"
    (func $and-u32 (param i32 i64 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.or-u32"
    (func $or-u32 (param i32 i64 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.xor-u32"
    (func $xor-u32 (param i32 i64 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.exchange-u32"
    (func $exchange-u32 (param i32 i64 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.compare-exchange-u32"
    (func $compare-exchange-u32 (param i32 i64 i32 i32 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.load-u64"
    (func $load-u64 (param i32 i64 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.store-u64"
    (func $store-u64 (param i32 i64 i64 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.add-u64"
    (func $add-u64 (param i32 i64 i64 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.and-u64"
    (func $and-u64 (param i32 i64 i64 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.or-u64"
    (func $or-u64 (param i32 i64 i64 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.xor-u64"
    (func $xor-u64 (param i32 i64 i64 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.exchange-u64"
    (func $exchange-u64 (param i32 i64 i64 i32)))
  (import "wrun:task/regions@0.1.0" "[method]region.compare-exchange-u64"
    (func $compare-exchange-u64 (param i32 i64 i64 i64 i32)))
  (memory (export "memory") 1)
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
  (func $upper (result i32) (i32.load (i32.const 76)))
  (func $number (param $n i32)
    (if (i32.ge_u (local.get $n) (i32.const 10))
      (then (call $number (i32.div_u (local.get $n) (i32.const 10)))))
    (call $put (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10)))))
  (func $end (result i32)
    (i32.store offset=4 (i32.const 0) (i32.const 128))
    (i32.store offset=8 (i32.const 0) (i32.sub (global.get $out) (i32.const 128)))
    (i32.const 0))
  (func (export "run") (param i32 i32) (result i32)
    (local $region i32)
    (call $create (i64.const 16) (i32.const 2) (i32.const 64)) (call $said (i32.const 4))
    (local.set $region (call $got))
    ;; 5, then 5 + 4 = 9, 9 & 3 = 1, 1 | 6 = 7, 7 ^ 4 = 3, 8; each gives what was before
    (call $store-u32 (local.get $region) (i64.const 4) (i32.const 5) (i32.const 64)) (call $said (i32.const 1))
    (call $add-u32 (local.get $region) (i64.const 4) (i32.const 4) (i32.const 64)) (call $number (call $got))
    (call $and-u32 (local.get $region) (i64.const 4) (i32.const 3) (i32.const 64)) (call $number (call $got))
    (call $or-u32 (local.get $region) (i64.const 4) (i32.const 6) (i32.const 64)) (call $number (call $got))
    (call $xor-u32 (local.get $region) (i64.const 4) (i32.const 4) (i32.const 64)) (call $number (call $got))
    (call $exchange-u32 (local.get $region) (i64.const 4) (i32.const 8) (i32.const 64)) (call $number (call $got))
    ;; not 3 any more: nothing changes
    (call $compare-exchange-u32 (local.get $region) (i64.const 4) (i32.const 3) (i32.const 1) (i32.const 64)) (call $number (call $got))
    (call $compare-exchange-u32 (local.get $region) (i64.const 4) (i32.const 8) (i32.const 2) (i32.const 64)) (call $number (call $got))
    (call $load-u32 (local.get $region) (i64.const 4) (i32.const 64)) (call $number (call $got))
    (call $put (i32.const 32))
    ;; the same with 64 bits, of which the second half is printed
    (call $store-u64 (local.get $region) (i64.const 8) (i64.const 0x500000000) (i32.const 64)) (call $said (i32.const 1))
    (call $add-u64 (local.get $region) (i64.const 8) (i64.const 0x400000000) (i32.const 64)) (call $number (call $upper))
    (call $and-u64 (local.get $region) (i64.const 8) (i64.const 0x300000000) (i32.const 64)) (call $number (call $upper))
    (call $or-u64 (local.get $region) (i64.const 8) (i64.const 0x600000000) (i32.const 64)) (call $number (call $upper))
    (call $xor-u64 (local.get $region) (i64.const 8) (i64.const 0x400000000) (i32.const 64)) (call $number (call $upper))
    (call $exchange-u64 (local.get $region) (i64.const 8) (i64.const 0x800000000) (i32.const 64)) (call $number (call $upper))
    (call $compare-exchange-u64 (local.get $region) (i64.const 8) (i64.const 3) (i64.const 1) (i32.const 64)) (call $number (call $upper))
    (call $compare-exchange-u64 (local.get $region) (i64.const 8) (i64.const 0x800000000) (i64.const 0x200000000) (i32.const 64)) (call $number (call $upper))
    (call $load-u64 (local.get $region) (i64.const 8) (i32.const 64)) (call $number (call $upper))
    (call $put (i32.const 32))
    ;; misaligned, twice; out of bounds, twice
    (call $load-u32 (local.get $region) (i64.const 2) (i32.const 64)) (call $said (i32.const 4))
    (call $add-u64 (local.get $region) (i64.const 4) (i64.const 1) (i32.const 64)) (call $said (i32.const 8))
    (call $load-u32 (local.get $region) (i64.const 16) (i32.const 64)) (call $said (i32.const 4))
    (call $load-u64 (local.get $region) (i64.const -8) (i32.const 64)) (call $said (i32.const 8))
    (call $put (i32.const 32))
    ;; not equal (1); timed out (2) at once and after 5 ms; no waiter to wake
    (call $wait (local.get $region) (i64.const 4) (i32.const 9) (i32.const 0) (i64.const 0) (i32.const 64)) (call $said (i32.const 1))
    (call $put (i32.add (i32.const 48) (i32.load8_u (i32.const 65))))
    (call $wait (local.get $region) (i64.const 4) (i32.const 2) (i32.const 1) (i64.const 0) (i32.const 64)) (call $said (i32.const 1))
    (call $put (i32.add (i32.const 48) (i32.load8_u (i32.const 65))))
    (call $wait (local.get $region) (i64.const 4) (i32.const 2) (i32.const 1) (i64.const 5000000) (i32.const 64)) (call $said (i32.const 1))
    (call $put (i32.add (i32.const 48) (i32.load8_u (i32.const 65))))
    (call $notify (local.get $region) (i64.const 4) (i32.const 7) (i32.const 64)) (call $said (i32.const 4)) (call $number (call $got))
    ;; misaligned; out of bounds
    (call $wait (local.get $region) (i64.const 5) (i32.const 2) (i32.const 0) (i64.const 0) (i32.const 64)) (call $said (i32.const 1))
    (call $notify (local.get $region) (i64.const 16) (i32.const 7) (i32.const 64)) (call $said (i32.const 4))
    (call $put (i32.const 32))
    ;; an exclusive one has none of this: wrong-kind
    (call $create (i64.const 16) (i32.const 0) (i32.const 64))
    (local.set $region (call $got))
    (call $load-u32 (local.get $region) (i64.const 0) (i32.const 64)) (call $said (i32.const 4))
    (call $store-u64 (local.get $region) (i64.const 0) (i64.const 1) (i32.const 64)) (call $said (i32.const 1))
    (call $wait (local.get $region) (i64.const 0) (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 64)) (call $said (i32.const 1))
    (call $notify (local.get $region) (i64.const 0) (i32.const 7) (i32.const 64)) (call $said (i32.const 4))
    (call $end)))

//! A guest that is left, and one that is ended, at each of its instructions: the processor's trap
//! flag raises a signal after every one.

use super::tests::{ENDED, Guest, SIDE_CHANGES, guest, site};
use super::*;
use std::arch::asm;
use std::cell::Cell;

/// Calls of every kind, with frames of different sizes, memory, floats and vectors.
const SMALL: &str = r#"(module
    (import "host" "add" (func $add (param i64 i64) (result i64)))
    (memory 1)
    (tag $error (param i64))
    (table funcref (elem $leaf))
    (type $leaf (func (param i64) (result i64)))
    (func $leaf (param i64) (result i64) (i64.add (local.get 0) (i64.const 3)))
    (func $few (param i64 i64) (result i64)
        (return_call $many (local.get 1) (local.get 0) (i64.const 7) (i64.const 8)
            (i64.const 9) (i64.const 10) (i64.const 11) (i64.const 12)))
    (func $many (param i64 i64 i64 i64 i64 i64 i64 i64) (result i64)
        (if (i64.eqz (local.get 0)) (then (return (i64.add (local.get 1) (local.get 7)))))
        (return_call $few (i64.add (local.get 1) (i64.const 1))
            (i64.sub (local.get 0) (i64.const 1))))
    (func $throws (param i64) (throw $error (local.get 0)))
    (func $catches (param i64) (result i64)
        (block $caught (result i64)
            (try_table (catch $error $caught) (call $throws (local.get 0)))
            (unreachable)))
    (func $deep (param i64) (result i64)
        (if (result i64) (i64.eqz (local.get 0)) (then (i64.const 0))
            (else (i64.add (local.get 0)
                (call $deep (i64.sub (local.get 0) (i64.const 1)))))))
    (func (export "run") (param $x i64) (result i64)
        (local $y f64) (local $v v128)
        (local.set $x (call $leaf (local.get $x)))
        (local.set $x (call $add (local.get $x) (i64.const 5)))
        (local.set $x (i64.xor (local.get $x)
            (call_indirect (type $leaf) (local.get $x) (i32.const 0))))
        (local.set $x (i64.xor (local.get $x) (call $few (local.get $x) (i64.const 2))))
        (local.set $x (i64.add (local.get $x) (call $catches (local.get $x))))
        (local.set $x (i64.add (local.get $x) (call $deep (i64.const 4))))
        (i64.store (i32.const 8) (local.get $x))
        (memory.fill (i32.const 16) (i32.const 1) (i32.const 100))
        (local.set $y (f64.sqrt (f64.convert_i64_s (i64.load (i32.const 16)))))
        (local.set $v (i64x2.mul (i64x2.splat (local.get $x)) (v128.load (i32.const 8))))
        (i64.xor (i64x2.extract_lane 1 (local.get $v)) (i64.reinterpret_f64 (local.get $y)))))"#;

thread_local! {
    /// Instructions of the guest that are still to pass before the first tick.
    static PASSING: Cell<u64> = const { Cell::new(0) };
    static TICKS: Cell<u64> = const { Cell::new(0) };
}

/// Sets or clears this thread's trap flag.
fn single_step(on: bool) {
    // SAFETY: the flag alone changes, for which there is a handler.
    unsafe {
        match on {
            true => asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq"),
            false => asm!("pushfq", "and qword ptr [rsp], -0x101", "popfq"),
        }
    }
}

extern "C" fn on_step(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a `ucontext_t` to handlers with `SA_SIGINFO`.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let at = program_counter(context);
    let is_guest = SHARED.with(|shared| {
        let (from, to) = &shared.code;
        let code = from.load(Ordering::Relaxed)..to.load(Ordering::Relaxed);
        shared.armed.load(Ordering::Relaxed) && code.contains(&at)
    });
    if !is_guest {
        return;
    }
    if PASSING.get() > 0 {
        PASSING.set(PASSING.get() - 1);
        return;
    }
    TICKS.set(TICKS.get() + 1);
    tick(context);
    if program_counter(context) != at {
        context.uc_mcontext.gregs[libc::REG_EFL as usize] &= !0x100;
    }
}

fn handle_steps() {
    // SAFETY: all bytes zero are a valid `sigaction`, and the pointers are to local values. The
    // handler is as the one for ticks.
    let installed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_step as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        libc::sigaction(libc::SIGTRAP, &raw const action, ptr::null_mut())
    };
    assert_eq!(installed, 0);
}

/// Runs it with a tick at each instruction after `passing`: its result, and how many ticks.
fn run(
    guest: &mut Guest,
    site: &TrapSite,
    passing: u64,
    resume: Resume,
) -> (wasmtime::Result<i64>, u64) {
    let typed = guest
        .func
        .typed::<i64, i64>(&guest.store)
        .expect("its type");
    let code = GuestCode::of_module_with(&guest.module, site);
    let mut call = Preemptible::new(typed.call_async(&mut guest.store, 4), code);
    let cx = Context::from_waker(Waker::noop());
    PASSING.set(passing);
    TICKS.set(0);
    // Its own code alone, and what is between that and the host.
    SIDE_CHANGES.set(single_step);
    let mut how = Resume::Continue;
    let result = loop {
        match call.step(&cx, how).expect("a stack") {
            Step::Ready(result) => break result,
            Step::Preempted => how = resume,
            Step::Pending => {}
        }
    };
    single_step(false);
    SIDE_CHANGES.set(|_| {});
    (result, TICKS.get())
}

#[test]
fn a_guest_can_be_left_and_ended_at_each_instruction() {
    handle_steps();
    let site = site();
    let expected = guest(SMALL).run(4, false).0;
    let (result, instructions) = run(&mut guest(SMALL), &site, 0, Resume::Continue);
    assert_eq!(result.expect("a result"), expected);
    assert!(instructions > 200, "{instructions}");
    let mut trapped = 0;
    for passing in 0..instructions {
        let (result, ticks) = run(&mut guest(SMALL), &site, passing, Resume::End);
        match result {
            // The rest is what leads back to the host.
            Ok(result) => assert_eq!(result, expected, "{passing} of {instructions}"),
            Err(error) => {
                let trap = error.downcast_ref::<wasmtime::Trap>();
                let ended = trap == Some(&wasmtime::Trap::UnreachableCodeReached);
                let ended = ended || error.root_cause().to_string() == ENDED;
                assert!(ended, "{passing} of {instructions}: {error:?}");
                assert!(ticks > 0);
                trapped += 1;
            }
        }
    }
    eprintln!("{instructions} instructions, ended at {trapped}");
    assert!(
        trapped * 10 > instructions * 9,
        "{trapped} of {instructions}"
    );
    assert!(!has_abandoned());
}

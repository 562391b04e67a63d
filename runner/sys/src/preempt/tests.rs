use super::*;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::{CallHook, Caller, Config, Engine, Func, Instance, Linker, Module, Store};

/// Mixes integers, floats and vectors in registers and memory, and calls the host now and
/// then, so that any register that is not restored changes the result.
const MIXES: &str = r#"(module
    (import "host" "add" (func $add (param i64 i64) (result i64)))
    (memory 1)
    (func $leaf (param i64) (result i64)
        (i64.xor (local.get 0) (i64.shr_u (local.get 0) (i64.const 29))))
    (func (export "run") (param $left i64) (result i64)
        (local $a i64) (local $b i64) (local $x f64) (local $v v128) (local $at i32)
        (local.set $a (i64.const 1))
        (local.set $x (f64.const 1))
        (local.set $v (v128.const i32x4 1 2 3 4))
        (loop $more
            (local.set $a (i64.mul (call $leaf (local.get $a)) (i64.const 0x5851F42D4C957F2D)))
            (local.set $a (i64.add (local.get $a) (i64.const 0x14057B7EF767814F)))
            (local.set $b (i64.rotl (i64.xor (local.get $b) (local.get $a)) (i64.const 7)))
            (local.set $x (f64.add (f64.mul (local.get $x) (f64.const 0.999)) (f64.const 0.5)))
            (local.set $v (i32x4.add (i32x4.mul (local.get $v) (local.get $v))
                                     (i32x4.splat (i32.wrap_i64 (local.get $a)))))
            (local.set $at (i32.and (i32.wrap_i64 (local.get $b)) (i32.const 0xfff8)))
            (i64.store (local.get $at)
                (i64.add (i64.load (local.get $at)) (i64.reinterpret_f64 (local.get $x))))
            (if (i64.eqz (i64.and (local.get $left) (i64.const 0xff)))
                (then (local.set $b (call $add (local.get $b) (i64.load (local.get $at))))))
            (local.set $left (i64.sub (local.get $left) (i64.const 1)))
            (br_if $more (i64.ne (local.get $left) (i64.const 0))))
        (i64.xor (local.get $b)
            (i64.xor (i64.reinterpret_f64 (local.get $x))
                (i64.xor (i64x2.extract_lane 0 (local.get $v))
                         (i64x2.extract_lane 1 (local.get $v)))))))"#;

const LOOPS: &str = r#"(module (func (export "run") (param i64) (result i64)
    (loop (br 0)) (unreachable)))"#;

/// The error of a guest that was ended on its way back from the host.
pub(super) const ENDED: &str = "it was to end";

thread_local! {
    /// Called when the guest begins or goes on, and when it calls the host or returns.
    pub(super) static SIDE_CHANGES: Cell<fn(bool)> = const { Cell::new(|_| {}) };
}

pub(super) struct Guest {
    pub(super) module: Module,
    pub(super) store: Store<()>,
    pub(super) func: Func,
}

pub(super) fn guest(text: &str) -> Guest {
    let mut config = Config::new();
    config.concurrency_support(false).wasm_exceptions(true);
    let engine = Engine::new(&config).expect("an engine");
    let module = Module::new(&engine, wat::parse_str(text).expect("text")).expect("a module");
    let mut linker = Linker::new(&engine);
    let add = |_: Caller<'_, ()>, a: i64, b: i64| a.wrapping_add(b);
    linker.func_wrap("host", "add", add).expect("a function");
    let mut store = Store::new(&engine, ());
    store.call_hook(|_, hook| {
        match hook {
            CallHook::CallingHost | CallHook::ReturningFromWasm => {
                SIDE_CHANGES.get()(false);
                in_host();
            }
            CallHook::CallingWasm => {
                in_guest();
                SIDE_CHANGES.get()(true);
            }
            CallHook::ReturningFromHost if point() => wasmtime::bail!(ENDED),
            CallHook::ReturningFromHost => SIDE_CHANGES.get()(true),
        }
        Ok(())
    });
    let instance: Instance = {
        let making = linker.instantiate_async(&mut store, &module);
        finished(making).0.expect("an instance")
    };
    let func = instance.get_func(&mut store, "run").expect("it exports it");
    Guest {
        module,
        store,
        func,
    }
}

impl Guest {
    /// The result, and how many polls it took.
    pub(super) fn run(&mut self, rounds: i64, preemptible: bool) -> (i64, u64) {
        let typed = self.func.typed::<i64, i64>(&self.store).expect("its type");
        let code = GuestCode::of_module(&self.module);
        let call = typed.call_async(&mut self.store, rounds);
        let (result, polls) = match preemptible {
            true => stepped(Preemptible::new(call, code)),
            false => finished(call),
        };
        (result.expect("a result"), polls)
    }
}

fn finished<T>(future: impl Future<Output = T>) -> (T, u64) {
    let mut future = std::pin::pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    let mut polls = 1;
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(result) => return (result, polls),
            Poll::Pending => polls += 1,
        }
    }
}

/// The output, and how many steps it took.
fn stepped<F: Future>(mut future: Preemptible<F>) -> (F::Output, u64) {
    let cx = Context::from_waker(Waker::noop());
    let mut steps = 1;
    loop {
        match future.step(&cx, Resume::Continue).expect("a stack") {
            Step::Ready(output) => return (output, steps),
            Step::Pending | Step::Preempted => steps += 1,
        }
    }
}

/// Sends the signal to this thread, again and again, while `work` runs.
fn interrupted<T>(work: impl FnOnce() -> T) -> T {
    handle_ticks(libc::SIGUSR2).expect("a handler");
    // SAFETY: it takes nothing and returns this thread's number.
    let thread = unsafe { libc::gettid() };
    let over = Arc::new(AtomicBool::new(false));
    let sender = std::thread::spawn({
        let over = over.clone();
        move || {
            let mut pause = 1_u32;
            while !over.load(Ordering::Relaxed) {
                // SAFETY: numbers alone; the thread lives until this one is joined.
                unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGUSR2) };
                pause = pause.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let until = Instant::now() + Duration::from_nanos(u64::from(pause >> 17));
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
            }
        }
    });
    let result = work();
    over.store(true, Ordering::Relaxed);
    sender.join().expect("no panic");
    result
}

/// `WRUN_INTERRUPTS` says how often; by default a second or two.
#[test]
fn nothing_of_a_guest_is_lost() {
    let wanted = std::env::var("WRUN_INTERRUPTS").ok();
    let wanted = wanted.map_or(20_000, |it| it.parse().expect("a number"));
    let mut guest = guest(MIXES);
    let mut interrupts = 0;
    let mut rounds = 10_000;
    while interrupts < wanted {
        let (expected, once) = guest.run(rounds, false);
        assert_eq!(once, 1);
        // Its memory is as the last run left it.
        let (after, _) = guest.run(rounds, false);
        let mut other = self::guest(MIXES);
        let (result, polls) = interrupted(|| other.run(rounds, true));
        assert_eq!(result, expected, "of {rounds} rounds, after {polls} polls");
        let (result, more) = interrupted(|| other.run(rounds, true));
        assert_eq!(result, after, "of {rounds} rounds, after {more} polls");
        interrupts += polls + more - 2;
        rounds = (rounds * 2).min(4_000_000);
        guest = self::guest(MIXES);
    }
    assert!(!has_abandoned());
    eprintln!("{interrupts} interrupts");
}

#[test]
fn what_is_left_inside_is_never_entered_again() {
    let polls_until = |end: Instant| {
        let mut guest = guest(LOOPS);
        let typed = guest
            .func
            .typed::<i64, i64>(&guest.store)
            .expect("its type");
        let code = GuestCode::of_module(&guest.module);
        let call = typed.call_async(&mut guest.store, 0);
        let mut left = Preemptible::new(call, code);
        let cx = Context::from_waker(Waker::noop());
        while Instant::now() < end {
            let step = left.step(&cx, Resume::Continue).expect("a stack");
            assert!(matches!(step, Step::Preempted));
        }
        drop(left);
        std::mem::forget(guest);
    };
    let thread = std::thread::spawn(move || {
        interrupted(|| polls_until(Instant::now() + Duration::from_millis(50)));
        assert!(has_abandoned());
        let next = Preemptible::new(async {}, GuestCode::at(&[]));
        let polled = catch_unwind(AssertUnwindSafe(|| stepped(next)));
        assert!(polled.is_err(), "the stack is another's");
    });
    thread.join().expect("no panic");
    assert!(!has_abandoned(), "it was another thread's");
}

#[test]
fn a_panic_reaches_the_poller_and_a_wait_is_a_wait() {
    let code = || GuestCode::at(&[]);
    let panics = Preemptible::new(async { panic!("as planned") }, code());
    let polled = catch_unwind(AssertUnwindSafe(|| stepped::<_>(panics)));
    let panic = polled.map(|((), _)| ()).expect_err("it panics");
    assert_eq!(panic.downcast_ref(), Some(&"as planned"));
    // Two that wait take turns on one stack.
    let waits = || async {
        let mut polled = 0;
        std::future::poll_fn(|_| {
            polled += 1;
            match polled {
                1..=3 => Poll::Pending,
                _ => Poll::Ready(()),
            }
        })
        .await;
        polled
    };
    let mut one = Preemptible::new(waits(), code());
    let cx = Context::from_waker(Waker::noop());
    let step = one.step(&cx, Resume::Continue).expect("a stack");
    assert_eq!(step, Step::Pending);
    assert_eq!(stepped(Preemptible::new(waits(), code())), (4, 4));
    assert_eq!(stepped(one), (4, 3));
}

/// Guests that never return, of different kinds of code: tail calls, exceptions, calls of the
/// host, deep recursion, memory.
const ENDLESS: [&str; 6] = [
    "(loop (br 0)) (unreachable)",
    "(return_call $even (i64.const 1) (i64.const 2))",
    "(loop (call $throws) (br 0)) (unreachable)",
    "(loop (drop (call $add (i64.const 1) (i64.const 2))) (br 0)) (unreachable)",
    "(loop (drop (call $deep (i64.const 200))) (br 0)) (unreachable)",
    "(loop (memory.fill (i32.const 0) (i32.const 1) (i32.const 65536))
           (drop (call $leaf (i64.const 1))) (br 0)) (unreachable)",
];

fn endless(body: &str) -> String {
    format!(
        r#"(module
        (import "host" "add" (func $add (param i64 i64) (result i64)))
        (memory 1)
        (tag $error)
        (func $leaf (param i64) (result i64) (i64.add (local.get 0) (i64.const 3)))
        (func $even (param i64 i64) (result i64)
            (return_call $odd (local.get 1) (local.get 0) (i64.const 7) (i64.const 8)
                (i64.const 9) (i64.const 10) (i64.const 11) (i64.const 12)))
        (func $odd (param i64 i64 i64 i64 i64 i64 i64 i64) (result i64)
            (return_call $even (local.get 7) (local.get 0)))
        (func $thrower (throw $error))
        (func $throws (block $caught (try_table (catch $error $caught) (call $thrower))))
        (func $deep (param i64) (result i64)
            (if (result i64) (i64.eqz (local.get 0)) (then (i64.const 0))
                (else (i64.add (i64.const 1)
                    (call $deep (i64.sub (local.get 0) (i64.const 1)))))))
        (func (export "run") (param i64) (result i64) {body}))"#
    )
}

pub(super) fn site() -> TrapSite {
    let text = wat::parse_str("(module (func unreachable))").expect("text");
    assert_eq!(text, TrapSite::MODULE);
    let module = Module::new(&Engine::default(), TrapSite::MODULE).expect("a module");
    TrapSite::of(module).expect("its trap")
}

impl Guest {
    /// Runs it, and ends it after `preemptions`: how it ended, and how often it was preempted.
    fn ended_after(&mut self, preemptions: u64, site: &TrapSite) -> (wasmtime::Error, u64) {
        let typed = self.func.typed::<i64, i64>(&self.store).expect("its type");
        let code = GuestCode::of_module_with(&self.module, site);
        let mut call = Preemptible::new(typed.call_async(&mut self.store, 0), code);
        let cx = Context::from_waker(Waker::noop());
        let mut times = 0;
        loop {
            let resume = match times >= preemptions {
                true => Resume::End,
                false => Resume::Continue,
            };
            match call.step(&cx, resume).expect("a stack") {
                Step::Ready(result) => return (result.expect_err("it never returns"), times),
                Step::Preempted => times += 1,
                Step::Pending => {}
            }
        }
    }
}

/// `WRUN_INTERRUPTS` says how often in all; by default a second or two.
#[test]
fn a_guest_can_be_ended_at_any_moment() {
    let wanted = std::env::var("WRUN_INTERRUPTS").ok();
    let wanted: u64 = wanted.map_or(3_000, |it| it.parse().expect("a number"));
    let site = site();
    let mut interrupts = 0;
    let mut ended = 0_u64;
    interrupted(|| {
        while interrupts < wanted {
            for body in ENDLESS {
                let mut guest = guest(&endless(body));
                let (error, times) = guest.ended_after(ended % 5, &site);
                assert!(times >= (ended % 5).max(1), "{body}: {times}");
                let trap = error.downcast_ref::<wasmtime::Trap>();
                let by_hook = error.root_cause().to_string() == ENDED;
                let trapped = trap == Some(&wasmtime::Trap::UnreachableCodeReached);
                assert!(trapped || by_hook, "{body}: {error:?}");
                interrupts += times;
                ended += 1;
            }
        }
    });
    assert!(!has_abandoned());
    eprintln!("{ended} guests ended, {interrupts} interrupts");
}

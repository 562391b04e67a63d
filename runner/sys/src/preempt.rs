//! Preempting a guest whose code checks nothing, in a process with one thread.
//!
//! The future that runs the guest is polled on a stack of its own. A timer signal whose
//! handler finds the thread in the guest's compiled code switches back to the stack of the
//! poller, in the middle of the guest, and [`Preemptible::poll`] returns `Pending` after it
//! has woken its task. The next poll switches to the guest's stack again; the handler
//! returns there, and the kernel restores every register.
//!
//! Why the handler may switch: guest code holds no lock of the host and is in the middle of
//! no Rust code. What is on the stack above it waits for a call to return, as it does when
//! a call of the guest waits. So the host's other code finds everything as if the guest had
//! called [`point`], which is what happens if the signal arrives in host code: it is noted,
//! and the guest is preempted when the host is about to return to it. wasmtime tells the host
//! of all such returns but those of a few functions that only copy or compare: there the next
//! tick comes sooner.
//!
//! Invariant: a future that was dropped in the middle of its guest is never touched again.
//! It is leaked with its stack, and its process must not poll another: see
//! [`has_abandoned`].

#![expect(unsafe_code, reason = "a signal handler that switches stacks")]

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::any::Any;
use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, compiler_fence};
use std::task::{Context, Poll, Waker};
use wasmtime::Module;
use wasmtime::component::Component;

/// The stack on which futures are polled. Guests and host calls have another, wasmtime's, so
/// this has room for the poll alone.
const STACK: usize = 1 << 20;

/// One poll: a function and its argument. `None` continues what was preempted.
type Work = Option<(unsafe fn(*mut ()), *mut ())>;

/// Why the stack was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Polled,
    Preempted,
}

/// The stack of a thread, with what is running on it.
type Lane = Coroutine<Work, Left, ()>;

/// What the signal's handler reads and writes. Its accesses are relaxed: it runs on the
/// thread that it interrupts.
struct Shared {
    /// Where to leave the lane; null before it was entered.
    yielder: AtomicPtr<Yielder<Work, Left>>,
    /// A future is being polled on the lane, and may be preempted.
    armed: AtomicBool,
    /// A tick arrived while host code was running.
    due: AtomicBool,
    /// A call of the host is running, which comes to [`point`] when it returns.
    in_host: AtomicBool,
    /// The guest's compiled code.
    code: (AtomicUsize, AtomicUsize),
}

thread_local! {
    // Neither needs a destructor, so that accesses are plain loads, in the handler, too.
    static SHARED: Shared = const {
        Shared {
            yielder: AtomicPtr::new(ptr::null_mut()),
            armed: AtomicBool::new(false),
            due: AtomicBool::new(false),
            in_host: AtomicBool::new(false),
            code: (AtomicUsize::new(0), AtomicUsize::new(0)),
        }
    };
    /// Never freed: the thread is its process's only one.
    static LANE: Cell<*mut Lane> = const { Cell::new(ptr::null_mut()) };
    /// The state of the future that is being polled on the lane, or was preempted there.
    static POLLED: Cell<*mut ()> = const { Cell::new(ptr::null_mut()) };
    static ABANDONED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a future of this thread was dropped in the middle of its guest. The process can
/// still report it, and must then end.
pub fn has_abandoned() -> bool {
    ABANDONED.get()
}

/// Notes that the guest has called the host, or that its own call has returned to it.
pub fn in_host() {
    SHARED.with(|shared| shared.in_host.store(true, Ordering::Relaxed));
}

/// Notes that the guest is called.
pub fn in_guest() {
    SHARED.with(|shared| shared.in_host.store(false, Ordering::Relaxed));
}

/// Notes that the host is about to return to the guest, and preempts it if a tick has arrived
/// since the last time.
pub fn point() {
    SHARED.with(|shared| {
        shared.in_host.store(false, Ordering::Relaxed);
        if shared.due.load(Ordering::Relaxed) && shared.armed.load(Ordering::Relaxed) {
            leave(shared);
        }
    });
}

/// Switches to the stack of the poller, and returns when it polls again.
fn leave(shared: &Shared) {
    shared.due.store(false, Ordering::Relaxed);
    shared.armed.store(false, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    let yielder = shared.yielder.load(Ordering::Relaxed);
    // SAFETY: whoever armed it is polling on the lane, whose first frame has the yielder.
    // `suspend` is to be called on the coroutine's side, which this is: on its stack, or on
    // one that was entered from there and not left.
    unsafe { (*yielder).suspend(Left::Preempted) };
    compiler_fence(Ordering::SeqCst);
}

/// Makes this signal preempt guests.
pub(crate) fn handle_ticks(signal: libc::c_int) -> io::Result<()> {
    // SAFETY: all bytes zero are a valid `sigaction`, which is then filled in. The handler
    // touches the thread's own atomics, and switches stacks in guest code alone; see the
    // module. It does not run on the alternate stack, which has room for one handler, and not
    // for one that was left. The signal stays unblocked in it: one that arrives before it
    // leaves finds host code. Calls of the kernel that can go on do so.
    let installed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_tick as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_RESTART;
        libc::sigaction(signal, &raw const action, ptr::null_mut())
    };
    match installed {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn on_tick(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a `ucontext_t` to handlers with `SA_SIGINFO`.
    let at = unsafe { program_counter(&*context.cast::<libc::ucontext_t>()) };
    let _ = SHARED.try_with(|shared| {
        if !shared.armed.load(Ordering::Relaxed) {
            return;
        }
        let (from, to) = &shared.code;
        if (from.load(Ordering::Relaxed)..to.load(Ordering::Relaxed)).contains(&at) {
            leave(shared);
            return;
        }
        shared.due.store(true, Ordering::Relaxed);
        // A copy or a fill, of which the host knows nothing: it is short, and there may be one after
        // another, with little between them that a tick could find.
        if !shared.in_host.load(Ordering::Relaxed) {
            crate::ticks::soon();
        }
    });
}

fn program_counter(context: &libc::ucontext_t) -> usize {
    #[cfg(target_arch = "x86_64")]
    let at = context.uc_mcontext.gregs[libc::REG_RIP as usize].cast_unsigned();
    #[cfg(target_arch = "aarch64")]
    let at = context.uc_mcontext.pc;
    usize::try_from(at).unwrap_or_default()
}

/// Maps the stack on which this thread polls, so that forks inherit it.
pub(crate) fn prepare() -> io::Result<()> {
    lane().map(drop)
}

/// The lane of this thread.
fn lane() -> io::Result<*mut Lane> {
    let mut lane = LANE.get();
    if lane.is_null() {
        let stack = DefaultStack::new(STACK)?;
        let coroutine = Coroutine::with_stack(stack, |yielder, mut work: Work| {
            SHARED.with(|shared| {
                let yielder = ptr::from_ref(yielder).cast_mut();
                shared.yielder.store(yielder, Ordering::Relaxed);
            });
            loop {
                if let Some((poll, future)) = work {
                    SHARED.with(|shared| shared.armed.store(true, Ordering::Relaxed));
                    compiler_fence(Ordering::SeqCst);
                    // SAFETY: `Preemptible::poll` gives its own function with its own state,
                    // which lives until the poll is over, or for ever.
                    unsafe { poll(future) };
                    compiler_fence(Ordering::SeqCst);
                    SHARED.with(|shared| shared.armed.store(false, Ordering::Relaxed));
                }
                work = yielder.suspend(Left::Polled);
            }
        });
        lane = Box::into_raw(Box::new(coroutine));
        LANE.set(lane);
    }
    Ok(lane)
}

/// Where the compiled code of a guest is.
#[derive(Clone, Debug)]
pub struct GuestCode(Range<usize>);

impl GuestCode {
    pub fn of_module(module: &Module) -> Self {
        GuestCode::at(&module.image_range())
    }

    pub fn of_component(component: &Component) -> Self {
        GuestCode::at(&component.image_range())
    }

    fn at(range: &Range<*const u8>) -> Self {
        GuestCode(range.start.addr()..range.end.addr())
    }
}

/// A future that runs a guest, and can be left while the guest computes. It is to be polled
/// on the thread that made it, and one at a time: another poll panics.
pub struct Preemptible<F: Future> {
    state: *mut State<F>,
    lane: *mut Lane,
    code: GuestCode,
    /// It was left in the middle of a poll.
    inside: bool,
    _owns: PhantomData<State<F>>,
}

// SAFETY: it owns its state, which is `Send` if the future is and its output; the lane is
// used by polls alone, which check that they are on its thread; and a state that the lane
// uses, of a future that was left inside, is never touched elsewhere.
unsafe impl<F: Future<Output: Send> + Send> Send for Preemptible<F> {}

struct State<F: Future> {
    future: ManuallyDrop<F>,
    waker: Waker,
    ready: Option<Result<F::Output, Box<dyn Any + Send>>>,
}

impl<F: Future> Preemptible<F> {
    /// Wraps `future`, which runs a guest with this code, and notes with [`in_host`],
    /// [`in_guest`] and [`point`] which of the two is running.
    ///
    /// # Errors
    ///
    /// There is no memory for the stack.
    pub fn new(future: F, code: GuestCode) -> io::Result<Self> {
        let lane = lane()?;
        in_host();
        let state = State {
            future: ManuallyDrop::new(future),
            waker: Waker::noop().clone(),
            ready: None,
        };
        Ok(Preemptible {
            state: Box::into_raw(Box::new(state)),
            lane,
            code,
            inside: false,
            _owns: PhantomData,
        })
    }
}

/// Polls the future of a `State<F>`.
///
/// # Safety
///
/// `state` points to one that nobody else uses until this returns.
unsafe fn poll<F: Future>(state: *mut ()) {
    // SAFETY: see above. The future is not moved until it is dropped: it is in a box.
    let state = unsafe { &mut *state.cast::<State<F>>() };
    // SAFETY: as above.
    let future = unsafe { Pin::new_unchecked(&mut *state.future) };
    // The waker of this poll, also where it is left and another poll continues it.
    let mut cx = Context::from_waker(&state.waker);
    // The lane must not unwind.
    let polled = catch_unwind(AssertUnwindSafe(|| future.poll(&mut cx)));
    state.ready = match polled {
        Ok(Poll::Pending) => None,
        Ok(Poll::Ready(output)) => Some(Ok(output)),
        Err(panic) => Some(Err(panic)),
    };
}

// The future is in a box.
impl<F: Future> Unpin for Preemptible<F> {}

impl<F: Future> Future for Preemptible<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        assert_eq!(self.lane, LANE.get(), "polled on another thread");
        let work: Work = match self.inside {
            true => {
                SHARED.with(|shared| shared.armed.store(true, Ordering::Relaxed));
                None
            }
            false => {
                assert!(POLLED.get().is_null(), "polled inside of another");
                POLLED.set(self.state.cast());
                SHARED.with(|shared| {
                    let (from, to) = &shared.code;
                    from.store(self.code.0.start, Ordering::Relaxed);
                    to.store(self.code.0.end, Ordering::Relaxed);
                    shared.due.store(false, Ordering::Relaxed);
                });
                // SAFETY: no poll uses the state: the last one is over.
                unsafe { (*self.state).waker.clone_from(cx.waker()) };
                Some((poll::<F>, self.state.cast()))
            }
        };
        // SAFETY: the lane is never freed, belongs to this thread, and is not being resumed:
        // `POLLED` is this future since it was null.
        let left = unsafe { (*self.lane).resume(work) };
        match left {
            CoroutineResult::Yield(Left::Preempted) => {
                self.inside = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            CoroutineResult::Yield(Left::Polled) => {
                self.inside = false;
                POLLED.set(ptr::null_mut());
                // SAFETY: the poll is over.
                match unsafe { (*self.state).ready.take() } {
                    None => Poll::Pending,
                    Some(Ok(output)) => Poll::Ready(output),
                    Some(Err(panic)) => resume_unwind(panic),
                }
            }
            CoroutineResult::Return(()) => unreachable!("it polls for ever"),
        }
    }
}

impl<F: Future> Drop for Preemptible<F> {
    fn drop(&mut self) {
        if self.inside {
            ABANDONED.set(true);
            return;
        }
        // SAFETY: it came from a box, and no poll uses it.
        let mut state = unsafe { Box::from_raw(self.state) };
        // SAFETY: it is dropped here alone.
        unsafe { ManuallyDrop::drop(&mut state.future) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::{Duration, Instant};
    use wasmtime::{CallHook, Caller, Config, Engine, Func, Instance, Linker, Store};

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

    struct Guest {
        module: Module,
        store: Store<()>,
        func: Func,
    }

    fn guest(text: &str) -> Guest {
        let mut config = Config::new();
        config.concurrency_support(false);
        let engine = Engine::new(&config).expect("an engine");
        let module = Module::new(&engine, wat::parse_str(text).expect("text")).expect("a module");
        let mut linker = Linker::new(&engine);
        let add = |_: Caller<'_, ()>, a: i64, b: i64| a.wrapping_add(b);
        linker.func_wrap("host", "add", add).expect("a function");
        let mut store = Store::new(&engine, ());
        store.call_hook(|_, hook| {
            match hook {
                CallHook::CallingHost | CallHook::ReturningFromWasm => in_host(),
                CallHook::CallingWasm => in_guest(),
                CallHook::ReturningFromHost => point(),
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
        fn run(&mut self, rounds: i64, preemptible: bool) -> (i64, u64) {
            let typed = self.func.typed::<i64, i64>(&self.store).expect("its type");
            let code = GuestCode::of_module(&self.module);
            let call = typed.call_async(&mut self.store, rounds);
            let (result, polls) = match preemptible {
                true => finished(Preemptible::new(call, code).expect("a stack")),
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
                    unsafe {
                        libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, libc::SIGUSR2)
                    };
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
            let mut left = Box::pin(Preemptible::new(call, code).expect("a stack"));
            let mut cx = Context::from_waker(Waker::noop());
            while Instant::now() < end {
                assert!(left.as_mut().poll(&mut cx).is_pending());
            }
            drop(left);
            std::mem::forget(guest);
        };
        let thread = std::thread::spawn(move || {
            interrupted(|| polls_until(Instant::now() + Duration::from_millis(50)));
            assert!(has_abandoned());
            let code = GuestCode(0..0);
            let next = Preemptible::new(async {}, code).expect("a stack");
            let polled = catch_unwind(AssertUnwindSafe(|| finished(next)));
            assert!(polled.is_err(), "the stack is another's");
        });
        thread.join().expect("no panic");
        assert!(!has_abandoned(), "it was another thread's");
    }

    #[test]
    fn a_panic_reaches_the_poller_and_a_wait_is_a_wait() {
        let code = || GuestCode(0..0);
        let panics = Preemptible::new(async { panic!("as planned") }, code()).expect("a stack");
        let polled = catch_unwind(AssertUnwindSafe(|| finished::<()>(panics)));
        let panic = polled.expect_err("it panics");
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
        let mut one = Box::pin(Preemptible::new(waits(), code()).expect("a stack"));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(one.as_mut().poll(&mut cx).is_pending());
        let two = Preemptible::new(waits(), code()).expect("a stack");
        assert_eq!(finished(two), (4, 4));
        assert_eq!(finished(one), (4, 3));
    }
}

//! Preempting a guest whose code checks nothing.
//!
//! The future that runs the guest is polled on a stack of its own. A signal whose handler
//! finds the thread in the guest's compiled code switches back to the stack of the poller, in
//! the middle of the guest, and [`Preemptible::step`] returns [`Step::Preempted`]. The next
//! step, on the same thread, switches to the guest's stack again; the handler returns there,
//! and the kernel restores every register. Or it moves the program counter onto a trap, and
//! the guest ends there as if it had trapped itself.
//!
//! Why the handler may switch: guest code holds no lock of the host and is in the middle of
//! no Rust code. What is on the stack above it waits for a call to return, as it does when
//! a call of the guest waits. So the host's other code finds everything as if the guest had
//! called [`point`], which is what happens if the signal arrives in host code: it is noted,
//! and the guest is preempted when the host is about to return to it. wasmtime tells the host
//! of all such returns but those of a few functions that only copy or compare: there the next
//! tick comes sooner.
//!
//! Why the handler may trap: of what it interrupts, wasmtime's trap handler uses the frame
//! pointer alone, and only to say where the guest was. It is right after each instruction of a
//! defined function, and the handler traps nowhere else. The rest, it takes from the record of
//! the entry into the guest. The store is not used afterwards.
//!
//! Invariant: a future that was left in the middle of its guest is stepped on that thread until
//! its poll is over, and nothing else is stepped there meanwhile. If it is dropped, it is leaked
//! with its stack, and its thread must not step another: see [`has_abandoned`].

#![expect(unsafe_code, reason = "a signal handler that switches stacks")]

mod guest_code;
mod guest_thread;
#[cfg(feature = "test-hooks")]
#[path = "../test-hooks/storm.rs"]
mod storm;

pub use guest_code::{GuestCode, TrapSite};
pub use guest_thread::{GuestThread, handle_interrupts, interrupt_from_here};
#[cfg(feature = "test-hooks")]
pub use storm::{Interrupts, Storm};

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use guest_code::Bodies;
use std::any::Any;
use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, compiler_fence};
use std::task::{Context, Poll, Waker};

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
    /// The handler is running, or the guest was left in it.
    in_handler: AtomicBool,
    /// The guest's compiled code.
    code: (AtomicUsize, AtomicUsize),
    /// Where that may be trapped; null if it is never trapped. The future that is polled owns it.
    bodies: AtomicPtr<Bodies>,
    /// The guest that was left is to end.
    end: AtomicBool,
    /// This thread, if it runs guests beside others.
    thread: AtomicPtr<GuestThread>,
}

thread_local! {
    // Neither needs a destructor, so that accesses are plain loads, in the handler, too.
    static SHARED: Shared = const {
        Shared {
            yielder: AtomicPtr::new(ptr::null_mut()),
            armed: AtomicBool::new(false),
            due: AtomicBool::new(false),
            in_host: AtomicBool::new(false),
            in_handler: AtomicBool::new(false),
            code: (AtomicUsize::new(0), AtomicUsize::new(0)),
            bodies: AtomicPtr::new(ptr::null_mut()),
            end: AtomicBool::new(false),
            thread: AtomicPtr::new(ptr::null_mut()),
        }
    };
    static LANE: Cell<*mut Lane> = const { Cell::new(ptr::null_mut()) };
    /// Frees it with its thread.
    static OWNED: Cell<Option<OwnedLane>> = const { Cell::new(None) };
    /// The state of the future that is being polled on the lane, or was preempted there.
    static POLLED: Cell<*mut ()> = const { Cell::new(ptr::null_mut()) };
    static ABANDONED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a future of this thread was dropped in the middle of its guest. A process of one
/// thread can still report it, and must then end.
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
/// since the last time. Whether the guest is to end instead.
#[must_use]
pub fn point() -> bool {
    SHARED.with(|shared| {
        shared.in_host.store(false, Ordering::Relaxed);
        let due = shared.due.load(Ordering::Relaxed) && shared.armed.load(Ordering::Relaxed);
        #[cfg(feature = "test-hooks")]
        if due {
            storm::count(storm::Found::Return);
        }
        due && leave(shared)
    })
}

/// Switches to the stack of the poller, and returns at its next step: whether the guest is to
/// end.
fn leave(shared: &Shared) -> bool {
    shared.due.store(false, Ordering::Relaxed);
    shared.armed.store(false, Ordering::Relaxed);
    compiler_fence(Ordering::SeqCst);
    let yielder = shared.yielder.load(Ordering::Relaxed);
    // SAFETY: whoever armed it is polling on the lane, whose first frame has the yielder.
    // `suspend` is to be called on the coroutine's side, which this is: on its stack, or on
    // one that was entered from there and not left.
    unsafe { (*yielder).suspend(Left::Preempted) };
    compiler_fence(Ordering::SeqCst);
    shared.end.load(Ordering::Relaxed)
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
    // SAFETY: the kernel passes a `ucontext_t` to handlers with `SA_SIGINFO`, and the handler
    // may change it.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    tick(context);
}

/// What a handler does. Whether the thread runs a guest.
///
/// A signal that arrives in the handler is noted and no more: if it asked for another one, that
/// could again arrive before the handler has its processor back, and each would take its part of the
/// guest's stack until nothing is left of it.
fn tick(context: &mut libc::ucontext_t) -> bool {
    let ticked = SHARED.try_with(|shared| {
        if !shared.armed.load(Ordering::Relaxed) {
            return false;
        }
        if shared.in_handler.load(Ordering::Relaxed) {
            shared.due.store(true, Ordering::Relaxed);
            return true;
        }
        shared.in_handler.store(true, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        tick_once(shared, context);
        compiler_fence(Ordering::SeqCst);
        shared.in_handler.store(false, Ordering::Relaxed);
        true
    });
    ticked.unwrap_or(false)
}

/// What the handler does for a thread that runs a guest, unless it was running already.
fn tick_once(shared: &Shared, context: &mut libc::ucontext_t) {
    let at = program_counter(context);
    let (from, to) = &shared.code;
    if (from.load(Ordering::Relaxed)..to.load(Ordering::Relaxed)).contains(&at) {
        #[cfg(feature = "test-hooks")]
        storm::count(storm::Found::Guest);
        if leave(shared) {
            // SAFETY: null, or owned by the future that is being polled.
            let bodies = unsafe { shared.bodies.load(Ordering::Relaxed).as_ref() };
            if let Some(trap) = bodies.and_then(|bodies| bodies.trap(at)) {
                #[cfg(feature = "test-hooks")]
                storm::count(storm::Found::Trap);
                set_program_counter(context, trap);
            }
        }
        return;
    }
    #[cfg(feature = "test-hooks")]
    storm::count(storm::Found::Host);
    shared.due.store(true, Ordering::Relaxed);
    // A copy or a fill, of which the host knows nothing: it is short, and there may be one after
    // another, with little between them that a tick could find.
    if !shared.in_host.load(Ordering::Relaxed) {
        crate::ticks::soon();
        // SAFETY: null, or kept as long as this thread steps guests.
        if let Some(thread) = unsafe { shared.thread.load(Ordering::Relaxed).as_ref() } {
            thread.miss();
        }
    }
}

fn program_counter(context: &libc::ucontext_t) -> usize {
    #[cfg(target_arch = "x86_64")]
    let at = context.uc_mcontext.gregs[libc::REG_RIP as usize].cast_unsigned();
    #[cfg(target_arch = "aarch64")]
    let at = context.uc_mcontext.pc;
    usize::try_from(at).unwrap_or_default()
}

#[expect(clippy::cast_possible_wrap, reason = "an address in a register")]
fn set_program_counter(context: &mut libc::ucontext_t, at: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        context.uc_mcontext.gregs[libc::REG_RIP as usize] = at as i64;
    }
    #[cfg(target_arch = "aarch64")]
    {
        context.uc_mcontext.pc = at as u64;
    }
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
        OWNED.set(Some(OwnedLane(lane)));
    }
    Ok(lane)
}

/// The lane of a thread, until that ends.
struct OwnedLane(*mut Lane);

impl Drop for OwnedLane {
    fn drop(&mut self) {
        // A guest was left on it.
        if !POLLED.get().is_null() {
            return;
        }
        LANE.set(ptr::null_mut());
        SHARED.with(|shared| shared.yielder.store(ptr::null_mut(), Ordering::Relaxed));
        // SAFETY: it came from a box, and this thread, its only user, is about to end.
        let mut lane = unsafe { Box::from_raw(self.0) };
        // SAFETY: it waits for work, and nothing on its stack needs to be dropped.
        unsafe { lane.force_reset() };
    }
}

/// How a future that was left in the middle of its guest goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Where it was.
    Continue,
    /// The guest traps, if it can be trapped there; otherwise it is soon left again.
    End,
}

/// What a step led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<T> {
    Ready(T),
    /// The future waits, and wakes the waker of its last step.
    Pending,
    /// It was left in the middle of its guest.
    Preempted,
}

/// A future that runs a guest, and can be left while the guest computes. It must own what it runs: one
/// that is dropped while it is left in the middle is forgotten, and not what it points to.
pub struct Preemptible<F: Future> {
    state: *mut State<F>,
    code: GuestCode,
    /// The lane on which it was left in the middle of a poll; null otherwise.
    inside: *mut Lane,
    _owns: PhantomData<State<F>>,
}

// SAFETY: it owns its state, which is `Send` if the future is and its output. The lane is used
// by steps alone, which check that they are on its thread; and a state that the lane uses, of a
// future that was left inside, is never touched elsewhere.
unsafe impl<F: Future<Output: Send> + Send> Send for Preemptible<F> {}

struct State<F: Future> {
    future: ManuallyDrop<F>,
    waker: Waker,
    ready: Option<Result<F::Output, Box<dyn Any + Send>>>,
}

impl<F: Future> Preemptible<F> {
    /// Wraps `future`, which runs a guest with this code, and notes with [`in_host`],
    /// [`in_guest`] and [`point`] which of the two is running.
    pub fn new(future: F, code: GuestCode) -> Self {
        let state = State {
            future: ManuallyDrop::new(future),
            waker: Waker::noop().clone(),
            ready: None,
        };
        Preemptible {
            state: Box::into_raw(Box::new(state)),
            code,
            inside: ptr::null_mut(),
            _owns: PhantomData,
        }
    }

    /// Polls the future; or lets it go on where it was left, with the waker of that poll.
    ///
    /// # Errors
    ///
    /// There is no memory for the stack. The future was not polled.
    ///
    /// # Panics
    ///
    /// If the future does, or if it or another was left on this thread, and this is not that.
    pub fn step(&mut self, cx: &Context<'_>, resume: Resume) -> io::Result<Step<F::Output>> {
        let lane = lane()?;
        let work: Work = if self.inside.is_null() {
            assert!(POLLED.get().is_null(), "polled inside of another");
            POLLED.set(self.state.cast());
            SHARED.with(|shared| {
                let (from, to) = &shared.code;
                from.store(self.code.range().start, Ordering::Relaxed);
                to.store(self.code.range().end, Ordering::Relaxed);
                shared.bodies.store(self.code.bodies(), Ordering::Relaxed);
                shared.due.store(false, Ordering::Relaxed);
                shared.in_host.store(true, Ordering::Relaxed);
            });
            // SAFETY: no poll uses the state: the last one is over.
            unsafe { (*self.state).waker.clone_from(cx.waker()) };
            Some((poll::<F>, self.state.cast()))
        } else {
            assert_eq!(self.inside, lane, "polled on another thread");
            SHARED.with(|shared| {
                shared.end.store(resume == Resume::End, Ordering::Relaxed);
                shared.armed.store(true, Ordering::Relaxed);
            });
            None
        };
        // SAFETY: the lane belongs to this thread and is not being resumed: `POLLED` is this
        // future since it was null.
        let left = unsafe { (*lane).resume(work) };
        match left {
            CoroutineResult::Yield(Left::Preempted) => {
                self.inside = lane;
                Ok(Step::Preempted)
            }
            CoroutineResult::Yield(Left::Polled) => {
                self.inside = ptr::null_mut();
                POLLED.set(ptr::null_mut());
                // SAFETY: the poll is over.
                match unsafe { (*self.state).ready.take() } {
                    None => Ok(Step::Pending),
                    Some(Ok(output)) => Ok(Step::Ready(output)),
                    Some(Err(panic)) => resume_unwind(panic),
                }
            }
            CoroutineResult::Return(()) => unreachable!("it polls for ever"),
        }
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

impl<F: Future> Drop for Preemptible<F> {
    fn drop(&mut self) {
        if !self.inside.is_null() {
            ABANDONED.set(true);
            return;
        }
        // SAFETY: it came from a box, and no poll uses it.
        let mut state = unsafe { Box::from_raw(self.state) };
        // SAFETY: it is dropped here alone.
        unsafe { ManuallyDrop::drop(&mut state.future) };
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod single_step;
#[cfg(test)]
mod tests;

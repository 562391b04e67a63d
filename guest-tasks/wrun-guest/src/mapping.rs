//! Windows of this task's memory, and what is laid over them.
//!
//! Why the slices are sound. A window is a block of the allocator's that nobody else
//! has, and stays one until nothing is laid over it. What is laid over it changes for
//! nobody else's doing: an exclusive region's one holder is this task, whose calls that
//! write to it (`write`) or give it away (`send`, `split`, `freeze`) need it unborrowed;
//! a frozen region is never written to, and its mapping's writes are private. The host
//! sees to both, and refuses a second mapping of an exclusive region: a mapping that is
//! forgotten (`mem::forget`) leaks its window, and nothing else.

use crate::bindings::wrun::task::regions::{Mapping as Live, Region as Handle, RegionError};
use std::alloc::{Layout, alloc, dealloc};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Bytes of a page of WebAssembly: its multiples are whole pages on every host, so
/// regions are mapped and split there.
pub const PAGE: u64 = 64 << 10;

/// Sizes of a host's pages, from the largest. Where a region does not end with one of
/// the larger, it is mapped up to the end of a smaller one.
const PAGES: [u64; 3] = [PAGE, 16 << 10, 4 << 10];

/// Bytes of a host's large page. Where a window begins at one, a region's large pages are
/// laid there as such, and touched for the first time once and not 512 times.
const LARGE: usize = 2 << 20;

/// A region's bytes in this task's memory: a slice, until it is dropped.
///
/// ```no_run
/// # fn main() -> Result<(), wrun_guest::RegionError> {
/// let mut region = wrun_guest::Exclusive::new(1 << 20)?;
/// let mut numbers = region.map()?;
/// numbers.view_mut::<u32>().fill(7);
/// assert_eq!(numbers[..5], [7, 0, 0, 0, 7]);
/// drop(numbers);
/// assert_eq!(region.read(4, 1)?, [7]);
/// # Ok(())
/// # }
/// ```
pub struct Mapping<'region> {
    // In this order: first nothing is laid over the window any more, then others may
    // have it.
    _live: Live,
    window: Window,
    len: usize,
    /// An exclusive region's: nobody reads, writes or sends it meanwhile.
    _region: PhantomData<&'region mut Handle>,
}

/// Numbers of which every pattern of bits is one, without gaps.
///
/// # Safety
///
/// Any initialized bytes are a value of the type, all its bytes are initialized, and
/// its alignment divides [`PAGE`].
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($number:ty),*) => {$(
        // SAFETY: numbers of fixed width have neither gaps nor forbidden values, and are
        // aligned to 16 bytes at most.
        unsafe impl Plain for $number {}
    )*};
}
plain!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

/// Whole pages of this task's memory.
struct Window {
    at: NonNull<u8>,
    layout: Layout,
}

impl Window {
    /// Its bytes may be anything: nobody reads them before something is laid over them.
    fn new(len: u64) -> Result<Self, RegionError> {
        let len = usize::try_from(len).map_err(|_| RegionError::Limit)?;
        let align = if len < LARGE { PAGE as usize } else { LARGE };
        let layout = Layout::from_size_align(len, align).map_err(|_| RegionError::Limit)?;
        if len == 0 {
            return Err(RegionError::OutOfBounds);
        }
        // SAFETY: the layout has a size that is not zero.
        let at = NonNull::new(unsafe { alloc(layout) }).ok_or(RegionError::Limit)?;
        Ok(Window { at, layout })
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: it came from the allocator with this layout, and nothing is laid over
        // it: a `Mapping` drops what is first.
        unsafe { dealloc(self.at.as_ptr(), self.layout) }
    }
}

#[cfg(target_arch = "wasm32")]
#[link(wasm_import_module = "wrun:task/regions@0.1.0")]
unsafe extern "C" {
    #[link_name = "[method]region.map"]
    fn region_map(region: u32, offset: u64, window: *mut u8, len: usize, answer: *mut Answer);
}

#[cfg(not(target_arch = "wasm32"))]
unsafe fn region_map(_: u32, _: u64, _: *mut u8, _: usize, _: *mut Answer) {
    unreachable!("only a task can map a region")
}

/// `result<mapping, region-error>`, as the canonical ABI lays it out.
#[repr(C)]
#[derive(Default)]
struct Answer {
    is_err: u8,
    /// The mapping; or the error, in the first byte.
    value: u32,
}

/// Maps `[offset, offset + len)` of a region that this task alone may write to, or
/// that nobody may.
pub(crate) fn map<'region>(
    region: &Handle,
    offset: u64,
    len: u64,
) -> Result<Mapping<'region>, RegionError> {
    let end = offset.checked_add(len);
    if end.is_none_or(|end| end > region.len()) {
        return Err(RegionError::OutOfBounds);
    }
    let window = Window::new(
        len.checked_next_multiple_of(PAGE)
            .ok_or(RegionError::Limit)?,
    )?;
    let mut refused = RegionError::OutOfBounds;
    for page in PAGES {
        // As long as the window at most, which was rounded to the largest.
        let pages = len.next_multiple_of(page) as usize;
        match lay(region, offset, &window, pages) {
            Ok(live) => {
                return Ok(Mapping {
                    _live: live,
                    window,
                    len: len as usize,
                    _region: PhantomData,
                });
            }
            Err(RegionError::OutOfBounds) => {}
            Err(error) => {
                refused = error;
                break;
            }
        }
    }
    Err(refused)
}

// Not by the bindings, which pass a `&[u8]`: the bytes behind it may be uninitialized,
// and change while it is borrowed.
fn lay(region: &Handle, offset: u64, window: &Window, len: usize) -> Result<Live, RegionError> {
    let mut answer = Answer::default();
    // SAFETY: the import has this signature in the canonical ABI. The window is this
    // function's for as long as the host is at it, and `len` bytes are within it.
    unsafe {
        region_map(
            region.handle(),
            offset,
            window.at.as_ptr(),
            len,
            &raw mut answer,
        )
    };
    match answer.is_err {
        // SAFETY: the host has just given the handle to this task.
        0 => Ok(unsafe { Live::from_handle(answer.value) }),
        _ => Err(match answer.value.to_le_bytes()[0] {
            0 => RegionError::OutOfBounds,
            1 => RegionError::Misaligned,
            2 => RegionError::Busy,
            3 => RegionError::WrongKind,
            _ => RegionError::Limit,
        }),
    }
}

impl Mapping<'_> {
    /// The bytes as numbers, little-endian; what does not make a whole one at the end
    /// is left out.
    #[must_use]
    pub fn view<T: Plain>(&self) -> &[T] {
        let len = self.len / size_of::<T>();
        // SAFETY: see the module; `len` numbers are within the window, which is aligned
        // to a page, and any bytes are numbers.
        unsafe { std::slice::from_raw_parts(self.window.at.as_ptr().cast(), len) }
    }

    /// As [`Mapping::view`], to write to.
    #[must_use]
    pub fn view_mut<T: Plain>(&mut self) -> &mut [T] {
        let len = self.len / size_of::<T>();
        // SAFETY: as above; `self` is borrowed for as long as the slice.
        unsafe { std::slice::from_raw_parts_mut(self.window.at.as_ptr().cast(), len) }
    }
}

impl Deref for Mapping<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.view()
    }
}

impl DerefMut for Mapping<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.view_mut()
    }
}

impl fmt::Debug for Mapping<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("at", &self.window.at)
            .field("len", &self.len)
            .finish()
    }
}

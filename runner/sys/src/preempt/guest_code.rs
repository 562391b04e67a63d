//! Where the compiled code of a guest is, and where it may be made to trap.

use std::ops::Range;
use std::sync::Arc;
use wasmtime::component::Component;
use wasmtime::{Module, ModuleFunction};

/// Where the compiled code of a guest is.
#[derive(Clone, Debug)]
pub struct GuestCode {
    range: Range<usize>,
    bodies: Option<Arc<Bodies>>,
}

impl GuestCode {
    pub fn of_module(module: &Module) -> Self {
        GuestCode::at(module.text())
    }

    pub fn of_component(component: &Component) -> Self {
        GuestCode::at(component.text())
    }

    /// The same, of a guest that can be made to trap.
    pub fn of_module_with(module: &Module, site: &TrapSite) -> Self {
        GuestCode::at(module.text()).with(module.text(), module.functions(), site)
    }

    /// The same, of a guest that can be made to trap.
    pub fn of_component_with(component: &Component, site: &TrapSite) -> Self {
        let text = component.text();
        GuestCode::at(text).with(text, component.functions(), site)
    }

    pub(super) fn at(text: &[u8]) -> Self {
        let range = text.as_ptr_range();
        GuestCode {
            range: range.start.addr()..range.end.addr(),
            bodies: None,
        }
    }

    fn with(
        mut self,
        text: &[u8],
        functions: impl Iterator<Item = ModuleFunction>,
        site: &TrapSite,
    ) -> Self {
        let base = self.range.start;
        let mut bodies = Vec::new();
        let mut moving = Vec::new();
        for function in functions {
            let end = function.offset.saturating_add(function.len);
            let Some(code) = text.get(function.offset..end) else {
                continue;
            };
            let start = base.saturating_add(function.offset);
            bodies.push(start..base.saturating_add(end));
            if let Some(window) = moves_its_frame(code) {
                moving.push(start + window.start..start + window.end);
            }
        }
        bodies.sort_unstable_by_key(|body| body.start);
        moving.sort_unstable_by_key(|window| window.start);
        self.bodies = Some(Arc::new(Bodies {
            bodies,
            moving,
            site: site.clone(),
        }));
        self
    }

    pub(super) fn range(&self) -> &Range<usize> {
        &self.range
    }

    /// A pointer for a signal's handler, valid as long as this is.
    pub(super) fn bodies(&self) -> *mut Bodies {
        self.bodies.as_ref().map_or(std::ptr::null_mut(), |bodies| {
            Arc::as_ptr(bodies).cast_mut()
        })
    }
}

/// The functions that a guest defines, without the trampolines between it and the host.
#[derive(Debug)]
pub(super) struct Bodies {
    /// Sorted, and disjoint.
    bodies: Vec<Range<usize>>,
    /// Where they move their frames: the frame pointer is not yet that of a whole frame. Sorted,
    /// and disjoint.
    moving: Vec<Range<usize>>,
    site: TrapSite,
}

impl Bodies {
    /// What the program counter becomes for a trap, if it may be moved from here. For the
    /// signal's handler.
    pub(super) fn trap(&self, at: usize) -> Option<usize> {
        (is_within(&self.bodies, at) && !is_within(&self.moving, at)).then_some(self.site.at)
    }
}

fn is_within(ranges: &[Range<usize>], at: usize) -> bool {
    let after = ranges.partition_point(|range| range.start <= at);
    let last = after.checked_sub(1).and_then(|last| ranges.get(last));
    last.is_some_and(|range| range.contains(&at))
}

/// Where a function moves its frame, which it does when it begins if it calls another last, with
/// more arguments on the stack than it has itself (`gen_clobber_save` in Cranelift's
/// `isa/x64/abi.rs`): it sets the frame pointer first, and then copies the caller's frame
/// pointer and the return address to where that points.
fn moves_its_frame(code: &[u8]) -> Option<Range<usize>> {
    /// `mov rbp, rsp`: the first is the second instruction of every function.
    const SETS: &[u8] = &[0x48, 0x89, 0xe5];
    const FIRST: usize = 4;
    /// `mov [rsp], r11`, and `mov [rsp + 8], r11`.
    const COPIES: [&[u8]; 2] = [&[0x4c, 0x89, 0x1c, 0x24], &[0x4c, 0x89, 0x5c, 0x24, 0x08]];
    /// Beyond the longest prologue: only the check of the stack's limit comes before.
    const PROLOGUE: usize = 256;

    let prologue = code.get(FIRST..code.len().min(PROLOGUE))?;
    let mut sets = prologue.windows(SETS.len()).enumerate();
    sets.find_map(|(offset, bytes)| {
        let start = FIRST + offset + SETS.len();
        let mut rest = code.get(start..).filter(|_| bytes == SETS)?;
        for copy in COPIES {
            // `mov r11, [rsp + n]`, with n of one byte or four.
            rest = match rest {
                [0x4c, 0x8b, 0x5c, 0x24, _, rest @ ..] => rest,
                [0x4c, 0x8b, 0x9c, 0x24, _, _, _, _, rest @ ..] => rest,
                _ => return None,
            };
            rest = rest.strip_prefix(copy)?;
        }
        Some(start..code.len() - rest.len())
    })
}

/// An instruction that wasmtime knows to be a trap.
#[derive(Clone, Debug)]
pub struct TrapSite {
    /// Keeps the code.
    _module: Module,
    at: usize,
}

impl TrapSite {
    /// What a module with a trap site is made from: `(module (func unreachable))`.
    pub const MODULE: &[u8] = b"\0asm\x01\0\0\0\
        \x01\x04\x01\x60\0\0\
        \x03\x02\x01\0\
        \x0a\x05\x01\x03\0\0\x0b";

    /// The trap of a module that was made from [`TrapSite::MODULE`]; `None` for any other, and
    /// where guests cannot be made to trap: on processors other than x86-64.
    pub fn of(module: Module) -> Option<Self> {
        // On other processors it is not known where functions move their frames.
        if !cfg!(target_arch = "x86_64") {
            return None;
        }
        /// `ud2`.
        const TRAP: &[u8] = &[0x0f, 0x0b];

        let text = module.text();
        let mut functions = module.functions();
        let (function, None) = (functions.next()?, functions.next()) else {
            return None;
        };
        let body = text.get(function.offset..function.offset.checked_add(function.len)?)?;
        let mut found = body.windows(TRAP.len()).enumerate();
        let mut found = found.by_ref().filter(|(_, bytes)| *bytes == TRAP);
        let (Some((offset, _)), None) = (found.next(), found.next()) else {
            return None;
        };
        let at = text.as_ptr().addr() + function.offset + offset;
        drop(functions);
        Some(TrapSite {
            at,
            _module: module,
        })
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use wasmtime::Engine;

    #[test]
    fn functions_that_move_their_frames_are_found() {
        for arguments in [8, 20, 40, 200] {
            let params = "i64 ".repeat(arguments);
            let values = "(i64.const 1)".repeat(arguments);
            let text = format!(
                r#"(module
                (func $few (param i64) (result i64) (return_call $many {values}))
                (func $many (param {params}) (result i64) (local.get {}))
                (func $calls (result i64) (call $few (i64.const 1)))
                (func (result i64) (return_call $calls)))"#,
                arguments - 1
            );
            let bytes = wat::parse_str(text).expect("text");
            let module = Module::new(&Engine::default(), bytes).expect("a module");
            let found: Vec<bool> = module
                .functions()
                .map(|function| {
                    let code = &module.text()[function.offset..][..function.len];
                    moves_its_frame(code).is_some()
                })
                .collect();
            assert_eq!(found, [true, false, false, false], "{arguments}");
        }
    }

    #[test]
    fn a_place_is_within_a_range_or_not() {
        let ranges = [3..5, 5..6, 9..12];
        let within: Vec<usize> = (0..15).filter(|at| is_within(&ranges, *at)).collect();
        assert_eq!(within, [3, 4, 5, 9, 10, 11]);
        assert!(!is_within(&[], 0));
    }
}

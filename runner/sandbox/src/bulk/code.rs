//! Writes the functions that execute bulk instructions in pieces.

use super::PIECE;
use wasm_encoder::{Function, Instruction as I};

/// A function being written.
pub(super) struct Code(pub(super) Function);

impl Code {
    pub(super) fn add(&mut self, instructions: &[I<'_>]) {
        for instruction in instructions {
            self.0.instruction(instruction);
        }
    }

    /// Puts a number of 64 bits on the stack.
    pub(super) fn number(&mut self, local: u32, wide: bool) {
        self.add(&[I::LocalGet(local)]);
        if !wide {
            self.add(&[I::I64ExtendI32U]);
        }
    }

    pub(super) fn bytes_of(&mut self, memory: u32, wide: bool) {
        self.add(&[I::MemorySize(memory)]);
        if !wide {
            self.add(&[I::I64ExtendI32U]);
        }
        self.add(&[I::I64Const(16), I::I64Shl]);
    }

    /// Tests that as many bytes as the third parameter says exist from `start`.
    pub(super) fn is_within(&mut self, start: u32, wide: bool, memory: u32, is_64: bool) {
        // The length is within the memory, and the start within the rest.
        self.number(2, wide);
        self.bytes_of(memory, is_64);
        self.add(&[I::I64LeU]);
        self.number(start, is_64);
        self.bytes_of(memory, is_64);
        self.number(2, wide);
        self.add(&[I::I64Sub, I::I64LeU, I::I32And]);
    }

    /// Advances an address by a piece.
    pub(super) fn step(&mut self, local: u32, wide: bool) {
        self.add(&[
            I::LocalGet(local),
            piece(wide),
            add(wide),
            I::LocalSet(local),
        ]);
    }

    /// Subtracts a piece from the length; repeats if more than one is left.
    pub(super) fn next_piece(&mut self, wide: bool) {
        self.add(&[I::LocalGet(2), piece(wide), sub(wide), I::LocalTee(2)]);
        self.add(&[piece(wide), greater(wide), I::BrIf(0)]);
    }
}

pub(super) fn piece(wide: bool) -> I<'static> {
    if wide {
        I::I64Const(PIECE.into())
    } else {
        I::I32Const(PIECE)
    }
}

pub(super) fn greater(wide: bool) -> I<'static> {
    if wide { I::I64GtU } else { I::I32GtU }
}

pub(super) fn add(wide: bool) -> I<'static> {
    if wide { I::I64Add } else { I::I32Add }
}

pub(super) fn sub(wide: bool) -> I<'static> {
    if wide { I::I64Sub } else { I::I32Sub }
}

//! Maps code that moved to its original position.

use crate::load_error::LoadError;
use serde::{Deserialize, Serialize};
use wasm_encoder::Encode;

/// Maximum of steps in [`Offsets`].
const MAX_STEPS: usize = 100_000;

/// Maps offsets in the code that runs to offsets in the binary from which it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Offsets {
    /// Nothing moved before the first step. Each step has the distance to the step before,
    /// and by how much more the code behind it has moved.
    Steps(Vec<(u32, i32)>),
    /// There would be too many steps.
    Unknown,
}

impl Default for Offsets {
    fn default() -> Self {
        Offsets::Steps(Vec::new())
    }
}

impl Offsets {
    /// The corresponding offset in the task's own binary.
    pub(crate) fn original(&self, offset: usize) -> Option<usize> {
        let Offsets::Steps(steps) = self else {
            return None;
        };
        let (mut at, mut moved) = (0_usize, 0_i64);
        for (distance, more) in steps {
            at = at.saturating_add(*distance as usize);
            if at > offset {
                break;
            }
            moved += i64::from(*more);
        }
        usize::try_from(i64::try_from(offset).ok()? - moved).ok()
    }
}

/// Bytes under construction, with marks for copied parts: their position, and their
/// original position.
#[derive(Default)]
pub(super) struct Text {
    pub(super) bytes: Vec<u8>,
    marks: Vec<(usize, usize)>,
}

impl Text {
    pub(super) fn copy(&mut self, original: usize, bytes: &[u8]) {
        self.marks.push((self.bytes.len(), original));
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn append(&mut self, other: Text) {
        let at = self.bytes.len();
        let marks = other.marks.into_iter();
        self.marks
            .extend(marks.map(|(place, original)| (at + place, original)));
        self.bytes.extend_from_slice(&other.bytes);
    }

    pub(super) fn section(&mut self, id: u8, content: Text) -> Result<(), LoadError> {
        self.bytes.push(id);
        self.number(content.bytes.len())?;
        self.append(content);
        Ok(())
    }

    pub(super) fn number(&mut self, number: usize) -> Result<(), LoadError> {
        u32::try_from(number)
            .map_err(|_| too_large())?
            .encode(&mut self.bytes);
        Ok(())
    }

    pub(super) fn offsets(&self) -> Offsets {
        let mut steps = Vec::new();
        let (mut last, mut moved) = (0_usize, 0_i64);
        for (place, original) in &self.marks {
            let now = *place as i64 - *original as i64;
            if now == moved {
                continue;
            }
            let (Ok(distance), Ok(more)) =
                (u32::try_from(place - last), i32::try_from(now - moved))
            else {
                return Offsets::Unknown;
            };
            if steps.len() == MAX_STEPS {
                return Offsets::Unknown;
            }
            steps.push((distance, more));
            (last, moved) = (*place, now);
        }
        Offsets::Steps(steps)
    }
}

pub(super) fn too_large() -> LoadError {
    LoadError::Unsupported {
        what: "more than 4 GiB of code".into(),
        hint: "make it smaller".into(),
    }
}

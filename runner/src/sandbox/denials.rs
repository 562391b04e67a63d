//! What a task asked for and was not granted, noted for its report.
//!
//! Invariant: at most [`MAX`] different entries with at most [`MAX_TARGET`]
//! bytes each, whatever the guest does.

use crate::report::{Access, Denial};
use std::sync::{Arc, Mutex, PoisonError};

const MAX: usize = 64;
const MAX_TARGET: usize = 256;

/// The list; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Denials(Arc<Mutex<Vec<Denial>>>);

impl Denials {
    pub(crate) fn note(&self, access: Access, target: &str) {
        let mut end = target.len().min(MAX_TARGET);
        while !target.is_char_boundary(end) {
            end -= 1;
        }
        let target = &target[..end];
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for denial in list.iter_mut() {
            if denial.access == access && denial.target == target {
                denial.count = denial.count.saturating_add(1);
                return;
            }
        }
        if list.len() < MAX {
            list.push(Denial {
                access,
                target: target.to_owned(),
                count: 1,
            });
        }
    }

    /// A list from elsewhere, within the same bounds.
    pub(crate) fn bounded(mut list: Vec<Denial>) -> Vec<Denial> {
        list.truncate(MAX);
        for denial in &mut list {
            denial
                .target
                .truncate(denial.target.floor_char_boundary(MAX_TARGET));
        }
        list
    }

    pub(crate) fn take(&self) -> Vec<Denial> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_bounded() {
        let denials = Denials::default();
        for n in 0..1_000 {
            denials.note(Access::Path, &format!("{n}{}", "ä".repeat(1_000)));
            denials.note(Access::Write, "same");
        }
        let list = denials.take();
        assert_eq!(list.len(), MAX);
        assert!(list.iter().all(|denial| denial.target.len() <= MAX_TARGET));
        let same = list.iter().find(|d| d.access == Access::Write);
        assert_eq!(same.map(|d| d.count), Some(1_000));
    }
}

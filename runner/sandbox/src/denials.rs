//! What a task requested and was not granted, recorded for its report.
//!
//! Invariant: at most [`MAX`] different entries with at most [`MAX_TARGET`]
//! bytes each, whatever the guest does.

use serde::de::{Deserializer, SeqAccess, Visitor};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use wrun_sys::Unpoisoned;
use wrun_types::report::{Access, Denial};

const MAX: usize = 64;
const MAX_TARGET: usize = 256;

/// The list; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Denials(Arc<Shared>);

#[derive(Default)]
struct Shared {
    list: Mutex<Vec<Denial>>,
    /// See [`Denials::binds`].
    binds: AtomicBool,
}

impl Denials {
    /// Whether the guest itself binds a socket now, rather than by connecting.
    pub(crate) fn binds(&self) -> bool {
        self.0.binds.load(Ordering::Relaxed)
    }

    pub(crate) fn set_binds(&self, binds: bool) {
        self.0.binds.store(binds, Ordering::Relaxed);
    }

    pub(crate) fn note(&self, access: Access, target: &str) {
        let mut end = target.len().min(MAX_TARGET);
        while !target.is_char_boundary(end) {
            end -= 1;
        }
        let target = &target[..end];
        let mut list = self.0.list.lock().unpoisoned();
        for denial in list.iter_mut() {
            if denial.access == access && denial.target == target {
                denial.count = denial.count.saturating_add(1);
                return;
            }
        }
        if list.len() < MAX {
            list.push(Denial::new(access, target));
        }
    }

    /// Reads a list, and keeps at most [`MAX`] entries: three bytes of a frame can be forty
    /// of memory.
    pub(crate) fn deserialize<'de, D>(deserializer: D) -> Result<Vec<Denial>, D::Error>
    where
        D: Deserializer<'de>,
    {
        struct Few;

        impl<'de> Visitor<'de> for Few {
            type Value = Vec<Denial>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("denials")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<Denial>, A::Error> {
                let mut list = Vec::new();
                while let Some(denial) = seq.next_element()? {
                    if list.len() < MAX {
                        list.push(denial);
                    }
                }
                Ok(list)
            }
        }

        deserializer.deserialize_seq(Few)
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
        std::mem::take(&mut *self.0.list.lock().unpoisoned())
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

    #[test]
    fn a_longer_list_is_read_and_not_kept() {
        #[derive(serde::Serialize, serde::Deserialize)]
        struct Report {
            #[serde(deserialize_with = "Denials::deserialize")]
            denied: Vec<Denial>,
            after: u8,
        }
        let denial = Denial::new(Access::Path, "");
        let long = Report {
            denied: vec![denial; 100_000],
            after: 7,
        };
        let bytes = postcard::to_allocvec(&long).expect("encodes");
        let read: Report = postcard::from_bytes(&bytes).expect("decodes");
        assert_eq!((read.denied.len(), read.after), (MAX, 7));
        assert!(read.denied.capacity() < 2 * MAX);
    }
}

//! Notes on how apps run, for the operator of the server: each is told once, not for each
//! request.

use crate::event::Event;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// More are not told: a note may have something that differs in each request.
const MAX_TOLD: usize = 256;

/// Is told what happens to a server.
pub(crate) type Tell = Arc<dyn Fn(&Event) + Send + Sync>;

/// See the [module](self).
pub(crate) struct Noted {
    tell: Tell,
    /// By the names of routes.
    told: Mutex<BTreeSet<(String, String)>>,
}

impl Noted {
    pub(crate) fn new(tell: Tell) -> Self {
        Noted {
            tell,
            told: Mutex::default(),
        }
    }

    /// Tells the notes on an app, but for those that were.
    pub(crate) fn tell(&self, route: &str, notes: impl IntoIterator<Item = impl Into<String>>) {
        for note in notes {
            let note = (route.to_owned(), note.into());
            let is_new = {
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                told.len() < MAX_TOLD && told.insert(note.clone())
            };
            if is_new {
                let (route, note) = note;
                let event = Event::Note { route, note };
                tracing::warn!(target: "wrun::serve", "{event}");
                (self.tell)(&event);
            }
        }
    }
}

impl Default for Noted {
    fn default() -> Self {
        Noted::new(Arc::new(|_| ()))
    }
}

impl fmt::Debug for Noted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Noted").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_note_is_told_once_for_each_app() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let noted = {
            let told = told.clone();
            Noted::new(Arc::new(move |event| {
                told.lock().expect("no panic").push(event.to_string());
            }))
        };
        for _ in 0..3 {
            noted.tell("/a", ["one", "two"]);
            noted.tell("/b", ["one"]);
        }
        let told = told.lock().expect("no panic");
        assert_eq!(*told, ["/a: one", "/a: two", "/b: one"]);
    }
}

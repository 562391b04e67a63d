//! The holders of each named lock, and the requests that wait for it: a pure state machine,
//! without I/O, clocks or threads.
//!
//! Invariants: a lock has one exclusive holder, or shared ones, or none; requests are
//! granted in order, so that shared requests do not pass an exclusive one that waits; a
//! name without holders and requests is removed.

use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};

/// How a named lock is held (`Runner::lock`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LockMode {
    /// No other holder.
    Exclusive,
    /// Others may hold the lock too, shared.
    Shared,
}

/// One request, from when it is made until it is released or withdrawn. A number is never
/// used twice.
pub type Ticket = u64;

/// The result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requested {
    /// The lock is held.
    Granted(Ticket),
    /// It will be granted by [`LockTable::release`] of another ticket.
    Waits(Ticket),
    /// It is not available now, and the request was not to wait.
    NotAvailable,
    /// There are as many names or requests as allowed.
    Limit,
}

#[derive(Debug, Default)]
struct Lock {
    /// All of the same mode; more than one only if shared.
    holders: Vec<Ticket>,
    mode: Option<LockMode>,
    waiting: VecDeque<(Ticket, LockMode)>,
}

/// The locks of one runner.
#[derive(Debug)]
pub struct LockTable {
    locks: HashMap<String, Lock>,
    names: HashMap<Ticket, String>,
    last: Ticket,
    max_names: usize,
    max_requests: usize,
}

impl Lock {
    fn admits(&self, mode: LockMode) -> bool {
        self.holders.is_empty() || (mode == LockMode::Shared && self.mode == Some(LockMode::Shared))
    }

    fn grant(&mut self, ticket: Ticket, mode: LockMode) {
        self.mode = Some(mode);
        self.holders.push(ticket);
    }

    fn is_unused(&self) -> bool {
        self.holders.is_empty() && self.waiting.is_empty()
    }
}

impl LockTable {
    /// With at most this many names, and this many requests that hold or wait.
    #[doc(hidden)]
    pub fn new(max_names: usize, max_requests: usize) -> Self {
        LockTable {
            locks: HashMap::new(),
            names: HashMap::new(),
            last: 0,
            max_names,
            max_requests,
        }
    }

    /// Requests a lock.
    #[doc(hidden)]
    pub fn request(&mut self, name: &str, mode: LockMode, if_available: bool) -> Requested {
        let (lock, is_new) = match self.locks.get_mut(name) {
            Some(lock) => (Some(lock), false),
            None => (None, true),
        };
        let free = lock
            .as_ref()
            .is_none_or(|lock| lock.waiting.is_empty() && lock.admits(mode));
        if if_available && !free {
            return Requested::NotAvailable;
        }
        if self.names.len() >= self.max_requests || (is_new && self.locks.len() >= self.max_names) {
            return Requested::Limit;
        }
        self.last += 1;
        let ticket = self.last;
        self.names.insert(ticket, name.to_owned());
        let lock = self.locks.entry(name.to_owned()).or_default();
        if free {
            lock.grant(ticket, mode);
            Requested::Granted(ticket)
        } else {
            lock.waiting.push_back((ticket, mode));
            Requested::Waits(ticket)
        }
    }

    /// Releases a lock, or withdraws a request; returns the requests that are granted now.
    /// No effect for an unknown ticket.
    #[doc(hidden)]
    pub fn release(&mut self, ticket: Ticket) -> Vec<Ticket> {
        let Some(name) = self.names.remove(&ticket) else {
            return Vec::new();
        };
        let Some(lock) = self.locks.get_mut(&name) else {
            return Vec::new();
        };
        lock.holders.retain(|holder| *holder != ticket);
        lock.waiting.retain(|(waiting, _)| *waiting != ticket);
        let mut granted = Vec::new();
        while let Some(&(next, mode)) = lock.waiting.front() {
            if !lock.admits(mode) {
                break;
            }
            lock.waiting.pop_front();
            lock.grant(next, mode);
            granted.push(next);
        }
        if lock.is_unused() {
            self.locks.remove(&name);
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::LockMode::{Exclusive, Shared};
    use super::*;
    use std::collections::{HashSet, VecDeque};

    fn table() -> LockTable {
        LockTable::new(4, 100)
    }

    #[track_caller]
    fn granted(requested: Requested) -> Ticket {
        match requested {
            Requested::Granted(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn waits(requested: Requested) -> Ticket {
        match requested {
            Requested::Waits(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn who_asked_first_has_it_first() {
        let mut table = table();
        let first = granted(table.request("a", Shared, false));
        let second = granted(table.request("a", Shared, false));
        let writer = waits(table.request("a", Exclusive, false));
        // It does not pass the one that waits.
        let late = waits(table.request("a", Shared, false));
        let later = waits(table.request("a", Shared, false));
        assert_eq!(table.request("a", Shared, true), Requested::NotAvailable);
        granted(table.request("b", Exclusive, true));
        assert!(table.release(first).is_empty());
        assert_eq!(table.release(second), [writer]);
        assert!(table.release(second).is_empty());
        assert_eq!(table.release(writer), [late, later]);
        assert!(table.release(99).is_empty());
    }

    #[test]
    fn who_gives_up_waiting_holds_up_nobody() {
        let mut table = table();
        let reader = granted(table.request("a", Shared, false));
        let writer = waits(table.request("a", Exclusive, false));
        let other = waits(table.request("a", Shared, false));
        assert_eq!(table.release(writer), [other]);
        assert!(table.release(reader).is_empty());
        assert!(table.release(other).is_empty());
        assert!(table.locks.is_empty() && table.names.is_empty());
    }

    #[test]
    fn names_and_requests_have_bounds() {
        let mut table = LockTable::new(2, 3);
        granted(table.request("a", Shared, false));
        let b = granted(table.request("b", Shared, false));
        assert_eq!(table.request("c", Shared, false), Requested::Limit);
        granted(table.request("a", Shared, false));
        assert_eq!(table.request("a", Shared, false), Requested::Limit);
        table.release(b);
        granted(table.request("c", Shared, true));
    }

    /// Walks through every reachable state of a few tasks and one lock: the table does what
    /// an obvious model does, and no request waits without a reason.
    #[test]
    fn all_states_of_one_lock() {
        /// A step: a request of a mode, or the end of the nth live ticket.
        #[derive(Clone, Copy, Debug)]
        enum Step {
            Request(LockMode),
            End(usize),
        }
        let mut todo: VecDeque<Vec<Step>> = VecDeque::from([vec![]]);
        let mut seen = HashSet::new();
        while let Some(steps) = todo.pop_front() {
            let mut table = table();
            // In the order of the requests: ticket, mode, whether it is held.
            let mut model: Vec<(Ticket, LockMode, bool)> = Vec::new();
            for step in &steps {
                match *step {
                    Step::Request(mode) => {
                        let free = model.iter().all(|(_, held, is_held)| {
                            *is_held && *held == Shared && mode == Shared
                        });
                        let requested = table.request("a", mode, false);
                        let ticket = match free {
                            true => granted(requested),
                            false => waits(requested),
                        };
                        model.push((ticket, mode, free));
                    }
                    Step::End(at) => {
                        let (ticket, ..) = model.remove(at);
                        let mut granted_now = table.release(ticket);
                        for at in 0..model.len() {
                            let (ticket, mode, held) = model[at];
                            let before = &model[..at];
                            let mut all = before.iter();
                            let free = match mode {
                                Exclusive => before.is_empty(),
                                Shared => all.all(|(_, mode, held)| *held && *mode == Shared),
                            };
                            if free && !held {
                                model[at].2 = true;
                                assert_eq!(granted_now.first(), Some(&ticket), "{steps:?}");
                                granted_now.remove(0);
                            }
                        }
                        assert!(granted_now.is_empty(), "{steps:?}");
                    }
                }
                let held: Vec<_> = model.iter().filter(|it| it.2).collect();
                let exclusive = held.iter().any(|it| it.1 == Exclusive);
                assert!(!exclusive || held.len() == 1, "{steps:?}");
                assert!(model.is_empty() || !held.is_empty(), "{steps:?}");
                assert_eq!(table.locks.is_empty(), model.is_empty(), "{steps:?}");
                assert_eq!(table.names.len(), model.len(), "{steps:?}");
            }
            let state: Vec<_> = model.iter().map(|it| (it.1, it.2)).collect();
            if !seen.insert(state) {
                continue;
            }
            let requests = [Exclusive, Shared].map(Step::Request);
            let ends = (0..model.len()).map(Step::End);
            let possible = if model.len() < 6 { &requests[..] } else { &[] };
            for step in possible.iter().copied().chain(ends) {
                todo.push_back([&steps[..], &[step]].concat());
            }
        }
        assert!(seen.len() > 100, "{} states", seen.len());
    }
}

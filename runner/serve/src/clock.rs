//! What one connection waits for, and until when: pure state that its I/O and its requests
//! write and its driver reads.
//!
//! Invariant: at every time at most one of the limits of [`ClientLimits`] on waiting applies, and
//! while a request is answered and its client takes what is sent, none: then the time is the
//! app's, which has a limit of its own.

use crate::limits::ClientLimits;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Which time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Late {
    /// The header of a request is not complete.
    Header,
    /// There was no request.
    Idle,
    /// The client takes nothing of what is sent.
    Send,
}

/// The clock of one connection.
#[derive(Debug)]
pub(crate) struct Clock(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Bytes of other kinds than requests arrive in HTTP/2.
    streams: bool,
    header_timeout: Duration,
    idle_timeout: Duration,
    send_timeout: Duration,
    /// When the first byte of the request arrived that has not begun to be answered.
    first_byte: Option<Instant>,
    /// Since when no request is answered.
    idle_since: Instant,
    had_request: bool,
    in_flight: u32,
    blocked_since: Option<Instant>,
    /// Streams with a part of an answer that waits for the client to make room for it, and
    /// since when it has taken nothing of any.
    offers: u32,
    offered_since: Option<Instant>,
    /// The client was still sending when it was answered.
    unread: bool,
}

impl Clock {
    pub(crate) fn new(limits: &ClientLimits) -> Arc<Self> {
        Arc::new(Clock(Mutex::new(State {
            streams: false,
            header_timeout: limits.header_timeout,
            idle_timeout: limits.idle_timeout,
            send_timeout: limits.send_timeout,
            first_byte: None,
            idle_since: Instant::now(),
            had_request: false,
            in_flight: 0,
            blocked_since: None,
            offers: 0,
            offered_since: None,
            unread: false,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection is one of HTTP/2.
    pub(crate) fn has_streams(&self) {
        self.state().streams = true;
    }

    /// Bytes arrived.
    pub(crate) fn read(&self) {
        let mut state = self.state();
        if state.in_flight == 0 && state.first_byte.is_none() {
            state.first_byte = Some(Instant::now());
        }
    }

    /// Bytes were taken, or none could be.
    pub(crate) fn sent(&self, is_blocked: bool) {
        let mut state = self.state();
        match is_blocked {
            true => {
                state.blocked_since.get_or_insert_with(Instant::now);
            }
            false => state.blocked_since = None,
        }
    }

    /// A request is answered from now on, until what this returns is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Answering {
        let mut state = self.state();
        let first_byte = state.first_byte.take().filter(|_| !state.streams);
        state.in_flight += 1;
        state.had_request = true;
        Answering {
            began: first_byte.unwrap_or_else(Instant::now),
            is_stream: state.streams,
            offers: false,
            clock: self.clone(),
        }
    }

    /// The client was answered before it had sent its request.
    pub(crate) fn left_unread(&self) {
        self.state().unread = true;
    }

    /// Whether to wait for the client before the connection is closed.
    pub(crate) fn is_unread(&self) -> bool {
        let state = self.state();
        state.unread || state.first_byte.is_some()
    }

    /// When the connection will be late, and how.
    pub(crate) fn deadline(&self) -> Option<(Instant, Late)> {
        let state = self.state();
        let waits = [state.blocked_since, state.offered_since];
        if let Some(since) = waits.into_iter().flatten().min() {
            return Some((since + state.send_timeout, Late::Send));
        }
        if state.in_flight > 0 {
            return None;
        }
        Some(match state.first_byte {
            Some(first) if !state.streams => (first + state.header_timeout, Late::Header),
            _ if !state.had_request && !state.streams => {
                (state.idle_since + state.header_timeout, Late::Idle)
            }
            _ => (state.idle_since + state.idle_timeout, Late::Idle),
        })
    }
}

/// One request, from the end of its header to the end of its answer.
#[derive(Debug)]
pub(crate) struct Answering {
    /// When its first byte arrived.
    pub(crate) began: Instant,
    /// Its client makes room for it apart from the socket (RFC 9113, section 5.2).
    is_stream: bool,
    /// It is one of the clock's offers.
    offers: bool,
    clock: Arc<Clock>,
}

impl Answering {
    /// A part of the answer goes to the client, until more is [wanted](Answering::wanted).
    pub(crate) fn offered(&mut self) {
        if self.is_stream && !self.offers {
            self.offers = true;
            let mut state = self.clock.state();
            state.offers += 1;
            state.offered_since.get_or_insert_with(Instant::now);
        }
    }

    /// The client took what was there.
    pub(crate) fn wanted(&mut self) {
        if self.offers {
            self.offers = false;
            let mut state = self.clock.state();
            state.offers -= 1;
            state.offered_since = (state.offers > 0).then(Instant::now);
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.wanted();
        let mut state = self.clock.state();
        state.in_flight -= 1;
        if state.in_flight == 0 {
            state.idle_since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Duration = Duration::from_secs(1);
    const IDLE: Duration = Duration::from_secs(10);
    const SEND: Duration = Duration::from_secs(100);

    fn clock() -> Arc<Clock> {
        let limits = ClientLimits::default();
        Clock::new(
            &limits
                .header_timeout(HEADER)
                .idle_timeout(IDLE)
                .send_timeout(SEND),
        )
    }

    fn late(clock: &Clock) -> Option<Late> {
        clock.deadline().map(|(_, late)| late)
    }

    #[test]
    fn a_connection_has_one_limit_at_a_time() {
        let clock = clock();
        let (at, why) = clock.deadline().expect("a limit");
        assert_eq!(why, Late::Idle);
        assert!(at <= Instant::now() + HEADER);
        clock.read();
        assert_eq!(late(&clock), Some(Late::Header));
        let first = clock.begin();
        assert_eq!(clock.deadline(), None);
        // Its body, which is not the beginning of the next one.
        clock.read();
        clock.sent(true);
        assert_eq!(late(&clock), Some(Late::Send));
        clock.sent(false);
        let second = clock.begin();
        drop(first);
        assert_eq!(clock.deadline(), None);
        drop(second);
        let (at, why) = clock.deadline().expect("a limit");
        assert_eq!(why, Late::Idle);
        assert!(at > Instant::now() + HEADER);
        clock.read();
        assert_eq!(late(&clock), Some(Late::Header));
    }

    #[test]
    fn a_request_begins_with_its_first_byte() {
        let clock = clock();
        clock.read();
        let before = Instant::now();
        std::thread::sleep(Duration::from_millis(2));
        clock.read();
        assert!(clock.begin().began <= before);
        let request = clock.begin();
        assert!(request.began > before);
    }

    #[test]
    fn a_client_takes_an_answer_by_its_window_too() {
        let clock = clock();
        clock.has_streams();
        let (mut one, mut other) = (clock.begin(), clock.begin());
        assert_eq!(clock.deadline(), None);
        one.offered();
        let (first, why) = clock.deadline().expect("a limit");
        assert_eq!(why, Late::Send);
        other.offered();
        assert_eq!(clock.deadline(), Some((first, Late::Send)));
        std::thread::sleep(Duration::from_millis(2));
        // It took something: the time begins anew.
        other.wanted();
        assert!(clock.deadline().expect("a limit").0 > first);
        drop(one);
        assert_eq!(clock.deadline(), None);
        other.offered();
        drop(other);
        assert_eq!(late(&clock), Some(Late::Idle));
    }

    #[test]
    fn frames_without_a_request_are_no_reason_to_stay() {
        let clock = clock();
        clock.has_streams();
        clock.read();
        assert_eq!(late(&clock), Some(Late::Idle));
        let began = clock.begin().began;
        assert!(Instant::now() - began < HEADER);
    }
}

//! Which tasks a worker asks the server for, and how many: no I/O.
//!
//! Each class and tenant is a *lane*, with a consumer of its own on the server. A worker asks
//! lanes that have tasks in turn, for as many as it has room for. While none has, it waits at as
//! many lanes as it has room for, and changes them every [`WAITING`].
//!
//! Invariant: the tasks that were asked for and have not come, and those that have come and
//! were not taken, are never more than the room.

use crate::queue::{LaneKey, Turns, Weights};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::time::Instant;

/// How long a worker waits at a lane without tasks.
pub(super) const WAITING: Duration = Duration::from_secs(2);
/// How long after the end of a request its tasks may still come.
const OVERDUE: Duration = Duration::from_secs(1);
/// A lane that had no tasks to give is asked again when it has more in all, or after this time.
const EMPTY: Duration = Duration::from_secs(8);
/// The pause after the server refused a request: the tenant has enough in flight.
const REFUSED: Duration = Duration::from_millis(200);
/// Maximum of lanes that a worker knows. If there are more, it knows others after a while.
pub(super) const MOST: usize = 4096;

/// A request for tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) number: u64,
    pub(super) lane: LaneKey,
    pub(super) batch: usize,
    /// Whether the server is to wait for tasks, for [`WAITING`].
    pub(super) waits: bool,
}

#[derive(Debug)]
struct Request {
    lane: LaneKey,
    left: usize,
    waits: bool,
    over: Instant,
}

#[derive(Debug, Default)]
struct Lane {
    /// Tasks that nobody has, as the server said last.
    pending: u64,
    /// Those and what is in flight, as it was listed last.
    all: u64,
    /// How many tasks it had, those in flight included, when it was found to have none to give,
    /// and when that was.
    empty: Option<(u64, Instant)>,
    waited: Option<Instant>,
    not_before: Option<Instant>,
    is_waited_at: bool,
}

#[derive(Debug)]
pub(super) struct Lanes {
    lanes: BTreeMap<LaneKey, Lane>,
    requests: HashMap<u64, Request>,
    turns: Turns,
    numbers: u64,
}

impl Lane {
    /// It is listed with this many tasks, those in flight included. What was in flight when it had
    /// none to give is so still, as far as can be known.
    fn has(&mut self, all: u64) {
        self.all = all;
        self.pending = match &mut self.empty {
            Some((then, since)) if all <= *then && since.elapsed() < EMPTY => {
                *then = all;
                0
            }
            _ => {
                self.empty = None;
                all
            }
        };
    }
}

impl Lanes {
    pub(super) fn new(weights: Weights) -> Self {
        Lanes {
            lanes: BTreeMap::new(),
            requests: HashMap::new(),
            turns: Turns::new(weights),
            numbers: 0,
        }
    }

    /// Which lanes there are, with how many tasks, those in flight included.
    pub(super) fn refresh(&mut self, found: Vec<(LaneKey, u64)>) {
        let found: BTreeMap<LaneKey, u64> = found.into_iter().take(MOST).collect();
        self.lanes
            .retain(|lane, state| found.contains_key(lane) || state.is_waited_at);
        for (lane, all) in found {
            self.lanes.entry(lane).or_default().has(all);
        }
        let lanes = &self.lanes;
        self.turns
            .retain(|class| lanes.keys().any(|lane| lane.0 == *class));
    }

    /// Whether this lane is among them.
    pub(super) fn knows(&self, lane: &LaneKey) -> bool {
        self.lanes.contains_key(lane)
    }

    /// Forgets a lane, whose consumer is gone.
    pub(super) fn forget(&mut self, lane: &LaneKey) {
        self.lanes.remove(lane);
    }

    /// What to ask for, with room for this many more than have come.
    pub(super) fn ask(&mut self, room: usize) -> Vec<Ask> {
        let now = Instant::now();
        self.requests
            .retain(|_, request| request.over + OVERDUE > now);
        for lane in self.lanes.values_mut() {
            lane.is_waited_at = false;
        }
        let mut asked: HashMap<LaneKey, u64> = HashMap::new();
        for request in self.requests.values() {
            *asked.entry(request.lane.clone()).or_default() += request.left as u64;
            if let Some(lane) = self.lanes.get_mut(&request.lane) {
                lane.is_waited_at |= request.waits;
            }
        }
        let mut room = room.saturating_sub(self.outstanding());
        let mut asks: BTreeMap<LaneKey, usize> = BTreeMap::new();
        let is_ready = |lane: &Lane| lane.not_before.is_none_or(|from| from <= now);
        while room > 0 {
            let lanes = self.lanes.iter().filter(|(key, lane)| {
                is_ready(lane) && lane.pending > asked.get(*key).copied().unwrap_or(0)
            });
            let Some(lane) = self.turns.next(lanes.map(|(key, _)| key)) else {
                break;
            };
            *asked.entry(lane.clone()).or_default() += 1;
            *asks.entry(lane).or_default() += 1;
            room -= 1;
        }
        let is_idle = asks.is_empty() && self.requests.values().all(|request| request.waits);
        let mut made: Vec<_> = asks
            .into_iter()
            .map(|(lane, batch)| self.request(lane, batch, false))
            .collect();
        if is_idle {
            let mut idle: Vec<_> = self
                .lanes
                .iter()
                .filter(|(_, lane)| !lane.is_waited_at && is_ready(lane))
                .collect();
            idle.sort_by_key(|(_, lane)| lane.waited);
            let idle: Vec<_> = idle
                .into_iter()
                .take(room)
                .map(|(key, _)| key.clone())
                .collect();
            made.extend(idle.into_iter().map(|lane| self.request(lane, 1, true)));
        }
        made
    }

    fn request(&mut self, lane: LaneKey, batch: usize, waits: bool) -> Ask {
        let now = Instant::now();
        self.numbers += 1;
        if let Some(state) = self.lanes.get_mut(&lane) {
            state.is_waited_at |= waits;
            state.waited = Some(now).filter(|_| waits).or(state.waited);
        }
        let request = Request {
            lane: lane.clone(),
            left: batch,
            waits,
            over: if waits { now + WAITING } else { now },
        };
        self.requests.insert(self.numbers, request);
        Ask {
            number: self.numbers,
            lane,
            batch,
            waits,
        }
    }

    /// A task of a lane has come; after it the lane has this many. The server does not say for
    /// which request it is, so it is for the oldest.
    pub(super) fn came(&mut self, lane: &LaneKey, pending: u64) {
        if let Some(state) = self.lanes.get_mut(lane) {
            state.pending = pending;
            state.empty = None;
        }
        let of_lane = self
            .requests
            .iter_mut()
            .filter(|(_, request)| request.lane == *lane);
        if let Some((number, request)) = of_lane.min_by_key(|(number, _)| **number) {
            let number = *number;
            request.left = request.left.saturating_sub(1);
            // A request that does not wait ends with the last task.
            if request.left == 0 || (pending == 0 && !request.waits) {
                self.requests.remove(&number);
            }
        }
    }

    /// A request ended without (more) tasks.
    pub(super) fn ended(&mut self, number: u64, was_refused: bool) -> Option<LaneKey> {
        let request = self.requests.remove(&number)?;
        if let Some(lane) = self.lanes.get_mut(&request.lane) {
            if !request.waits {
                lane.pending = 0;
            }
            if was_refused {
                lane.not_before = Some(Instant::now() + REFUSED);
            } else if !request.waits {
                lane.empty = Some((lane.all, Instant::now()));
            }
        }
        Some(request.lane)
    }

    /// A request could not be sent: nothing is known of its lane.
    pub(super) fn unsent(&mut self, number: u64) {
        self.requests.remove(&number);
    }

    /// All requests are lost: the connection is a new one.
    pub(super) fn lost(&mut self) {
        self.requests.clear();
    }

    /// How many tasks were asked for and have not come.
    pub(super) fn outstanding(&self) -> usize {
        self.requests.values().map(|request| request.left).sum()
    }

    /// When to ask again if nothing comes.
    pub(super) fn next(&self) -> Option<Instant> {
        let over = self.requests.values().map(|request| request.over + OVERDUE);
        let refused = self.lanes.values().filter_map(|lane| lane.not_before);
        over.chain(refused.filter(|from| *from > Instant::now()))
            .min()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.requests.values().all(|request| request.waits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(tenant: &str) -> LaneKey {
        let token = |text: &str| text.parse().expect("a token");
        (token("normal"), token(tenant))
    }

    #[tokio::test(start_paused = true)]
    async fn lanes_with_tasks_are_asked_in_turn_and_never_for_more_than_the_room() {
        let mut lanes = Lanes::new(Weights::default());
        lanes.refresh(vec![(lane("many"), 1000), (lane("few"), 2)]);
        assert!(lanes.knows(&lane("few")) && !lanes.knows(&lane("other")));
        let asks = lanes.ask(8);
        let batch = |tenant: &str| {
            asks.iter()
                .find(|ask| ask.lane == lane(tenant))
                .map(|ask| ask.batch)
        };
        assert_eq!((batch("few"), batch("many")), (Some(2), Some(6)));
        assert!(lanes.ask(8).is_empty());
        lanes.came(&lane("many"), 999);
        assert_eq!(lanes.outstanding(), 7);
        assert_eq!(lanes.ask(8).len(), 1);
        // What the server does not answer is asked for again.
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(lanes.ask(8).iter().map(|ask| ask.batch).sum::<usize>(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn without_tasks_a_worker_waits_at_all_lanes_one_after_another() {
        let mut lanes = Lanes::new(Weights::default());
        lanes.refresh(["a", "b", "c"].map(|tenant| (lane(tenant), 1)).into());
        for ask in lanes.ask(3) {
            lanes.ended(ask.number, false);
        }
        let waits = lanes.ask(1);
        assert!(waits.len() == 1 && waits[0].waits);
        tokio::time::advance(WAITING).await;
        lanes.ended(waits[0].number, false);
        let others = lanes.ask(1);
        assert_ne!(others[0].lane, waits[0].lane);
        // A lane that has tasks again goes first.
        lanes.refresh(vec![(lane("c"), 5)]);
        assert_eq!(lanes.ask(3)[0].lane, lane("c"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_whose_tasks_are_all_in_flight_is_asked_when_it_has_more() {
        let mut lanes = Lanes::new(Weights::default());
        lanes.refresh(vec![(lane("a"), 3)]);
        let ask = lanes.ask(1).remove(0);
        lanes.ended(ask.number, false);
        let is_asked = |lanes: &mut Lanes, all: u64| {
            lanes.refresh(vec![(lane("a"), all)]);
            let asks = lanes.ask(1);
            let is_asked = asks.iter().any(|ask| !ask.waits);
            asks.iter()
                .for_each(|ask| _ = lanes.ended(ask.number, false));
            is_asked
        };
        assert!(!is_asked(&mut lanes, 3) && !is_asked(&mut lanes, 1));
        // Two have ended since, and one is new.
        assert!(is_asked(&mut lanes, 2));
        assert!(!is_asked(&mut lanes, 2));
        // As many may have ended as have come.
        tokio::time::advance(EMPTY).await;
        assert!(is_asked(&mut lanes, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenant_with_enough_in_flight_is_asked_later() {
        let mut lanes = Lanes::new(Weights::default());
        lanes.refresh(vec![(lane("a"), 9)]);
        let ask = lanes.ask(1).remove(0);
        lanes.ended(ask.number, true);
        lanes.refresh(vec![(lane("a"), 9)]);
        assert!(lanes.ask(1).is_empty());
        tokio::time::advance(REFUSED).await;
        let asks = lanes.ask(1);
        assert!(asks.len() == 1 && !asks[0].waits, "{asks:?}");
    }
}

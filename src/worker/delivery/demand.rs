//! The demand for tasks: how many may be pulled, which is never more than there are free demand. Pure. The pull loop tells
//! it what happens.

use std::time::{Duration, Instant};

/// How long a pull may wait at the server for tasks. An idle worker renews one this often; a worker
/// that froze with its connection open can swallow tasks (each then waits out `ackWait`) this long.
pub const EXPIRES: Duration = Duration::from_secs(10);

/// A pull is given up if the server has not ended it so long after its time. So nothing can stall the group.
const GRACE: Duration = Duration::from_secs(5);

/// Most pulls under way at once. Two keep the flow going. Slots that free up meanwhile go into one pull, not into one
/// each. The server holds 512 pulls for a consumer, of all its workers.
const MAX_PULLS: usize = 2;

/// The demand of one group in this process.
#[derive(Debug, Default)]
pub struct Demand {
    capacity: u32,
    running: u32,
    pulls: Vec<Pull>,
    last_id: u64,
}

#[derive(Debug)]
struct Pull {
    id: u64,
    left: u32,
    given_up: Instant,
}

/// A pull to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Number of the pull.
    pub pull: u64,
    /// Tasks to ask for.
    pub batch: u32,
}

impl Demand {
    /// Sets the most tasks at once. When more are running, nothing is pulled until enough of them are finished.
    pub fn set_capacity(&mut self, capacity: u32) {
        self.capacity = capacity;
    }

    /// Tasks that run.
    pub fn running(&self) -> u32 {
        self.running
    }

    /// Whether any pull is under way.
    pub fn expects(&self) -> bool {
        !self.pulls.is_empty()
    }

    /// Whether one more pull may be under way.
    pub fn may_ask(&self) -> bool {
        self.pulls.len() < MAX_PULLS
    }

    /// The pull to send now, where only `room` more tasks may come at present.
    pub fn ask(&mut self, now: Instant, room: u32) -> Option<Ask> {
        let asked: u32 = self.pulls.iter().map(|pull| pull.left).sum();
        let free = self.capacity.saturating_sub(self.running + asked);
        let batch = free.min(room.saturating_sub(asked));
        if batch == 0 || !self.may_ask() {
            return None;
        }
        self.last_id += 1;
        self.pulls.push(Pull {
            id: self.last_id,
            left: batch,
            given_up: now + EXPIRES + GRACE,
        });
        Some(Ask {
            pull: self.last_id,
            batch,
        })
    }

    /// A task came and takes a slot. A task does not tell the pull that it came by. It is counted for the oldest, and
    /// [`Demand::ended`] corrects that.
    pub fn started(&mut self) {
        self.running += 1;
        self.settle(1);
    }

    /// So many tasks ended and gave their slots back.
    pub fn finished(&mut self, tasks: u32) {
        self.running = self.running.saturating_sub(tasks);
    }

    /// The server ended a pull, with `left` tasks to go where it says so.
    pub fn ended(&mut self, pull: u64, left: Option<u32>) {
        let counted = match self.pulls.iter().position(|p| p.id == pull) {
            Some(position) => self.pulls.remove(position).left,
            None => 0,
        };
        // Tasks that were counted for this pull came by another, which has fewer to go then.
        self.settle(left.unwrap_or(counted).saturating_sub(counted));
    }

    /// Forgets all pulls, as their connection or their consumer is gone.
    pub fn void(&mut self) {
        self.pulls.clear();
    }

    /// Gives up the pulls that the server should have ended long ago. Returns how many.
    pub fn give_up(&mut self, now: Instant) -> usize {
        let before = self.pulls.len();
        self.pulls.retain(|pull| now < pull.given_up);
        before - self.pulls.len()
    }

    /// The time when [`Demand::give_up`] is due.
    pub fn next_give_up(&self) -> Option<Instant> {
        self.pulls.iter().map(|pull| pull.given_up).min()
    }

    /// Takes `count` tasks from those to come, of the oldest pulls first.
    fn settle(&mut self, mut count: u32) {
        for pull in &mut self.pulls {
            let settled = count.min(pull.left);
            pull.left -= settled;
            count -= settled;
        }
        self.pulls.retain(|pull| pull.left > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    enum Step {
        Capacity(u32),
        Room(u32),
        Asks(u64, u32),
        AsksNothing,
        Starts(u32),
        Finishes(u32),
        Ends(u64, Option<u32>),
        Void,
        GivesUp(usize),
    }
    use Step::*;

    fn play(case: &str, steps: &[Step]) {
        let mut demand = Demand::default();
        let mut room = u32::MAX;
        let now = Instant::now();
        for (number, step) in steps.iter().enumerate() {
            let place = format!("{case}, step {number}");
            match step {
                Capacity(capacity) => demand.set_capacity(*capacity),
                Room(tasks) => room = *tasks,
                Asks(pull, batch) => assert_eq!(
                    demand.ask(now, room),
                    Some(Ask {
                        pull: *pull,
                        batch: *batch
                    }),
                    "{place}"
                ),
                AsksNothing => assert_eq!(demand.ask(now, room), None, "{place}"),
                Starts(count) => (0..*count).for_each(|_| demand.started()),
                Finishes(count) => demand.finished(*count),
                Ends(pull, left) => demand.ended(*pull, *left),
                Void => demand.void(),
                GivesUp(count) => assert_eq!(demand.give_up(now + EXPIRES + GRACE), *count, "{place}"),
            }
        }
    }

    #[test]
    fn a_worker_asks_for_its_free_slots_and_no_more() {
        for (case, steps) in [
            ("nothing before the limit is known", vec![AsksNothing]),
            ("all at first", vec![Capacity(4), Asks(1, 4), AsksNothing]),
            (
                "what was freed",
                vec![
                    Capacity(4),
                    Asks(1, 4),
                    Starts(4),
                    AsksNothing,
                    Finishes(1),
                    Asks(2, 1),
                    AsksNothing,
                ],
            ),
            (
                "what frees up while two pulls wait goes into one pull",
                vec![
                    Capacity(8),
                    Asks(1, 8),
                    Starts(8),
                    Finishes(1),
                    Asks(2, 1),
                    Finishes(1),
                    Asks(3, 1),
                    Finishes(5),
                    AsksNothing,
                    Starts(1),
                    Asks(4, 5),
                ],
            ),
            (
                "less after the limit fell below what runs",
                vec![
                    Capacity(4),
                    Asks(1, 4),
                    Starts(4),
                    Capacity(2),
                    Finishes(2),
                    AsksNothing,
                    Finishes(1),
                    Asks(2, 1),
                ],
            ),
            (
                "more after it rose",
                vec![Capacity(2), Asks(1, 2), Capacity(5), Asks(2, 3)],
            ),
            (
                "as there is room for, with what was asked for already",
                vec![
                    Capacity(100),
                    Room(5),
                    Asks(1, 5),
                    AsksNothing,
                    Starts(3),
                    Room(2),
                    AsksNothing,
                    Room(4),
                    Asks(2, 2),
                    Room(0),
                    Starts(4),
                    AsksNothing,
                ],
            ),
            (
                "again what expired",
                vec![Capacity(4), Asks(1, 4), Starts(1), Ends(1, Some(3)), Asks(2, 3)],
            ),
            (
                "again what the server refused without a number",
                vec![Capacity(4), Asks(1, 4), Ends(1, None), Asks(2, 4)],
            ),
            (
                "again all after a reconnect",
                vec![Capacity(4), Asks(1, 4), Starts(1), Void, Asks(2, 3)],
            ),
            (
                "again what the server forgot",
                vec![Capacity(4), Asks(1, 4), Starts(1), GivesUp(1), Asks(2, 3), AsksNothing],
            ),
        ] {
            play(case, &steps);
        }
    }

    #[test]
    fn tasks_that_came_by_the_newer_pull_are_set_right_when_the_older_one_ends() {
        // Pulls of 2 and 3; both tasks came by the second, so that of the first both were left.
        play(
            "the older ends",
            &[
                Capacity(2),
                Asks(1, 2),
                Capacity(5),
                Asks(2, 3),
                Starts(2),
                Ends(1, Some(2)),
                Asks(3, 2),
                AsksNothing,
            ],
        );
    }
}

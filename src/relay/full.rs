//! Tasks that wait for a full queue: when the relay tries each again, and how many there are.

use crate::protocol::Queue;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// Least time between two tries at one full queue. With very many tasks waiting for it, the tries would take the relay's
/// time away from other queues.
const SPACING: Duration = Duration::from_millis(1);

/// After how long a task that was to be tried again counts as another replica's.
const FORGET: Duration = Duration::from_secs(60);

/// The tasks that wait for their full queues.
#[derive(Default)]
pub struct FullQueues {
    /// When each task (by its sequence number in the delay stream) is to be tried again.
    tasks: HashMap<u64, Instant>,
    /// After when the next task of a queue may be tried.
    queues: HashMap<Queue, Instant>,
}

impl FullQueues {
    /// A full queue refused a task. Returns after how long the relay tries it again, at least `pause`.
    pub fn refused(&mut self, queue: &Queue, sequence: u64, pause: Duration, now: Instant) -> Duration {
        let next = self.queues.entry(queue.clone()).or_insert(now);
        let at = (now + pause).max(*next + SPACING);
        *next = at;
        self.tasks.insert(sequence, at);
        at - now
    }

    /// A task waits no more.
    pub fn settled(&mut self, sequence: u64) {
        self.tasks.remove(&sequence);
    }

    /// How many tasks wait.
    pub fn count(&mut self, now: Instant) -> usize {
        self.tasks.retain(|_, at| *at + FORGET > now);
        self.queues.retain(|_, at| *at + FORGET > now);
        self.tasks.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tries_at_a_full_queue_are_spread() {
        let (mut full, now) = (FullQueues::default(), Instant::now());
        let pause = Duration::from_secs(5);
        let (queue, other) = (Queue::new("a", "b"), Queue::new("a", "c"));
        let pauses: Vec<_> = (1..=3).map(|task| full.refused(&queue, task, pause, now)).collect();
        assert_eq!(pauses, [pause, pause + SPACING, pause + SPACING * 2]);
        assert_eq!(full.refused(&other, 4, pause, now), pause, "each queue by itself");
        full.settled(1);
        assert_eq!(full.count(now), 3);
        assert_eq!(full.count(now + FORGET * 2), 0, "another replica relayed them");
    }
}

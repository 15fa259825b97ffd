//! The pulls that the server has: how many messages are asked for and have not come. Pure.

use std::time::{Duration, Instant};

/// How long after its expiry a pull is given up whose end the server did not tell, so that nothing stalls for good.
const GRACE: Duration = Duration::from_secs(5);

/// The outstanding pulls of one consumer.
#[derive(Debug)]
pub struct Pulls {
    at_once: usize,
    expires: Duration,
    outstanding: Vec<Pull>,
    last_id: u64,
}

#[derive(Debug)]
struct Pull {
    id: u64,
    left: u32,
    given_up: Instant,
}

impl Pulls {
    /// None yet; at most `at_once` at a time, each of which waits at the server for `expires`.
    pub fn new(at_once: usize, expires: Duration) -> Self {
        Self {
            at_once,
            expires,
            outstanding: Vec::new(),
            last_id: 0,
        }
    }

    /// Messages that are asked for and have not come.
    pub fn outstanding(&self) -> u32 {
        self.outstanding.iter().map(|pull| pull.left).sum()
    }

    /// Whether anything is asked for.
    pub fn expects(&self) -> bool {
        !self.outstanding.is_empty()
    }

    /// Whether one more pull may be sent.
    pub fn may_ask(&self) -> bool {
        self.outstanding.len() < self.at_once
    }

    /// Notes a pull for `batch` messages, and returns its number.
    pub fn ask(&mut self, now: Instant, batch: u32) -> u64 {
        self.last_id += 1;
        self.outstanding.push(Pull {
            id: self.last_id,
            left: batch,
            given_up: now + self.expires + GRACE,
        });
        self.last_id
    }

    /// A message came. Nothing tells which pull it came by: the oldest one is assumed, and [`Pulls::ended`] corrects that.
    pub fn received(&mut self) {
        self.settle(1);
    }

    /// No more messages come for a pull; the server had `left` of them to go, where it says so.
    pub fn ended(&mut self, pull: u64, left: Option<u32>) {
        let counted = match self.outstanding.iter().position(|p| p.id == pull) {
            Some(position) => self.outstanding.remove(position).left,
            None => 0,
        };
        // Messages counted for this pull that came by another one: that one has fewer to go.
        self.settle(left.unwrap_or(counted).saturating_sub(counted));
    }

    /// All pulls are void: their connection is gone, or their consumer.
    pub fn void(&mut self) {
        self.outstanding.clear();
    }

    /// Gives up the pulls that the server should have ended long ago, and returns how many.
    pub fn give_up(&mut self, now: Instant) -> usize {
        let before = self.outstanding.len();
        self.outstanding.retain(|pull| now < pull.given_up);
        before - self.outstanding.len()
    }

    /// When [`Pulls::give_up`] is due.
    pub fn next_give_up(&self) -> Option<Instant> {
        self.outstanding.iter().map(|pull| pull.given_up).min()
    }

    /// `count` fewer messages to come, of the oldest pulls.
    fn settle(&mut self, mut count: u32) {
        for pull in &mut self.outstanding {
            let settled = count.min(pull.left);
            pull.left -= settled;
            count -= settled;
        }
        self.outstanding.retain(|pull| pull.left > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPIRES: Duration = Duration::from_secs(10);

    #[test]
    fn messages_that_came_by_the_newer_pull_are_corrected_when_the_older_one_ends() {
        let (mut pulls, now) = (Pulls::new(2, EXPIRES), Instant::now());
        let older = pulls.ask(now, 2);
        pulls.ask(now, 3);
        assert!(!pulls.may_ask());
        // Both messages came by the second pull: the server has two left for the first one.
        pulls.received();
        pulls.received();
        assert_eq!(pulls.outstanding(), 3);
        pulls.ended(older, Some(2));
        assert_eq!(pulls.outstanding(), 1);
        assert!(pulls.may_ask());
    }

    #[test]
    fn a_pull_ends_when_all_came_when_the_server_says_so_or_when_it_is_given_up() {
        let (mut pulls, now) = (Pulls::new(2, EXPIRES), Instant::now());
        pulls.ask(now, 1);
        pulls.received();
        assert!(!pulls.expects(), "all came");
        let pull = pulls.ask(now, 4);
        pulls.ended(pull, None);
        assert!(!pulls.expects(), "the server refused it without a number");
        pulls.ask(now, 4);
        assert_eq!(pulls.give_up(now + EXPIRES), 0);
        assert_eq!(pulls.next_give_up(), Some(now + EXPIRES + GRACE));
        assert_eq!(pulls.give_up(now + EXPIRES + GRACE), 1);
        pulls.ask(now, 4);
        pulls.void();
        assert_eq!(pulls.outstanding(), 0);
    }
}

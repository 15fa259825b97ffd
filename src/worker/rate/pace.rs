//! The arithmetic of a rate: when tasks may start. Pure. Times are the NATS server's, in nanoseconds since 1970.
//!
//! With T = `tasks`, P = `per` and B = `burst`, starts are reserved at *slots* that are at least I apart,
//! I = 1.005 P / T. A slot may lie in the past, when starts were saved up. Its task may be late, as no machine wakes up
//! on the dot. But the task starts less than B I + 0.005 P after its slot, or not by that slot.
//!
//! So the slots of all starts within P (both ends included) lie within P + B I + 0.005 P = (T + B) I, one end excluded.
//! No more than T + B slots find room there, so no window of `per` has more than `tasks + burst` starts. Late starts cost
//! half a percent; 99.5 % of the rate are left.

use crate::{api::RateLimit, protocol::rate::SharedRate as Shared};
use std::time::Duration;

/// Slots are further apart than `per / tasks` by so many thousandths.
const SLACK: u64 = 5;

/// Tasks of so much time are pulled before they may start, so that the way to NATS costs no start.
const AHEAD: Duration = Duration::from_millis(20);

/// Most workers of a group, as the operator makes no more pods. What they can have reserved ahead together bounds how far
/// ahead the next slot can be. A slot further ahead is from before the server's clock was set back.
const WORKERS: u64 = 500;

/// A checked rate limit as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tasks per period; at least 1.
    pub tasks: u64,
    /// Length of the period in milliseconds; at least 1000.
    pub per_ms: u64,
    /// Starts that may be saved up; at least 1.
    pub burst: u64,
}

impl From<&RateLimit> for Rate {
    fn from(limit: &RateLimit) -> Self {
        Self {
            tasks: u64::try_from(limit.tasks).unwrap_or(1),
            per_ms: u64::try_from(limit.per.checked().as_millis()).unwrap_or(u64::MAX),
            burst: u64::try_from(limit.burst).unwrap_or(1),
        }
    }
}

/// A rate as the times of its slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The time between two slots.
    pub interval: u64,
    /// The first slot may lie so long before now, for the starts that are saved up, but one.
    saved: u64,
    /// A task may not start any more so long after its slot.
    lateness: u64,
    /// Most tasks of one worker that wait for their start.
    pub ahead: u32,
}

/// The moment at which a task may start by its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Now.
    Now,
    /// In so many nanoseconds.
    In(u64),
    /// Never: it is too late.
    Never,
}

impl Pace {
    /// The pace of a rate.
    pub fn of(rate: Rate) -> Self {
        let per = rate.per_ms.max(1).saturating_mul(1_000_000);
        let tasks = rate.tasks.max(1);
        let burst = rate.burst.max(1);
        // At most a day in nanoseconds, and that a thousand times: below 2^64.
        let interval = per
            .saturating_mul(1000 + SLACK)
            .div_ceil(tasks.saturating_mul(1000))
            .max(1);
        Self {
            interval,
            saved: (burst - 1).saturating_mul(interval),
            lateness: burst.saturating_mul(interval).saturating_add(per / 1000 * SLACK),
            ahead: ahead(rate),
        }
    }

    /// Reserves `count` slots at the time `now`, and says what is shared from then on.
    pub fn reserve(&self, before: Option<&Shared>, now: u64, count: u32) -> (Vec<u64>, Shared) {
        let oldest = now.saturating_sub(self.saved);
        let mut shared = self.at_present(before, now);
        shared.free.retain(|slot| *slot >= oldest);
        let again = shared.free.len().min(count as usize);
        let mut slots: Vec<u64> = shared.free.drain(..again).collect();
        for _ in again..count as usize {
            let slot = shared.next.max(oldest);
            slots.push(slot);
            shared.next = slot.saturating_add(self.interval);
        }
        (slots, shared)
    }

    /// Frees `slots`, which were reserved and will not be used, and says what is shared from then on.
    pub fn give_back(&self, before: Option<&Shared>, now: u64, slots: &[u64]) -> Shared {
        let mut shared = self.at_present(before, now);
        shared.free.extend(slots.iter().filter(|slot| **slot < shared.next));
        shared.free.sort_unstable();
        shared
    }

    /// The shared state, by this rate.
    fn at_present(&self, before: Option<&Shared>, now: u64) -> Shared {
        let furthest = self
            .interval
            .saturating_mul(u64::from(self.ahead))
            .saturating_mul(WORKERS);
        match before {
            None => Shared {
                interval: self.interval,
                ..Shared::default()
            },
            Some(shared) if shared.interval == self.interval => Shared {
                next: shared.next.min(now.saturating_add(furthest)),
                ..shared.clone()
            },
            // The rate was changed. The next start is not further away than the new rate has it.
            Some(shared) => Shared {
                next: shared.next.min(now.saturating_add(self.interval)),
                interval: self.interval,
                free: Vec::new(),
            },
        }
    }

    /// Tells when a task may start by `slot`, seen from `now`, give or take `error`.
    pub fn when(&self, slot: u64, now: u64, error: u64) -> When {
        // A start is for certain neither before the slot nor too late. An error that leaves no time between the two is
        // not believed, as a start more or less is better than none.
        let error = error.min(self.lateness / 4);
        if now.saturating_add(error) >= slot.saturating_add(self.lateness) {
            When::Never
        } else if now < slot.saturating_add(error) {
            When::In(slot.saturating_add(error) - now)
        } else {
            When::Now
        }
    }

    /// Starts that are saved up.
    pub fn saved_up(&self, shared: Option<&Shared>, now: u64) -> u64 {
        let next = self.at_present(shared, now).next.max(now.saturating_sub(self.saved));
        now.checked_sub(next).map_or(0, |since| since / self.interval + 1)
    }

    /// The time to reserve slots for tasks that came while others still wait.
    pub fn reserve_at(&self, shared: &Shared) -> u64 {
        if shared.interval == self.interval && self.ahead > 1 {
            shared
                .next
                .saturating_sub(self.interval.saturating_mul(u64::from(self.ahead)) / 2)
        } else {
            0
        }
    }
}

impl Shared {
    /// What to build on, of what this worker `knew` and what it `read`: a server that crashed may have lost the
    /// last changes. Then slots are reserved that are not in what it says.
    pub fn latest(knew: Option<Self>, read: Option<Self>) -> Option<Self> {
        match (knew, read) {
            (Some(knew), Some(read)) if knew.interval != read.interval || knew.next <= read.next => Some(read),
            (Some(knew), _) => Some(Self {
                free: Vec::new(),
                ..knew
            }),
            (None, read) => read,
        }
    }
}

/// How many tasks one worker pulls before they may start: those of 20 ms, and at least one.
pub fn ahead(rate: Rate) -> u32 {
    let ahead = u128::from(rate.tasks) * AHEAD.as_millis();
    let ahead = ahead.div_ceil(u128::from(rate.per_ms.max(1))).max(1);
    u32::try_from(ahead).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;
    const NOW: u64 = 1_790_000_000 * S;

    fn pace(tasks: u64, per_ms: u64, burst: u64) -> Pace {
        Pace::of(Rate { tasks, per_ms, burst })
    }

    #[test]
    fn slots_are_half_a_percent_further_apart_than_the_rate_has_it() {
        for (tasks, per_ms, burst, interval, lateness, tasks_ahead) in [
            (1, 1000, 1, 1_005_000_000, 1_010_000_000, 1),
            (20, 1000, 1, 50_250_000, 55_250_000, 1),
            (1000, 1000, 1, 1_005_000, 6_005_000, 20),
            (1000, 1000, 10, 1_005_000, 15_050_000, 20),
            (1, 60_000, 3, 60_300_000_000, 181_200_000_000, 1),
            (10_000_000, 1_000_000, 1, 100_500, 5_000_100_500, 200),
            (3, 1000, 1, 335_000_000, 340_000_000, 1),
            (51, 1000, 1, 19_705_883, 24_705_883, 2),
            (1, 86_400_000, 100_000, 86_832_000_000_000, 8_683_200_432_000_000_000, 1),
        ] {
            let pace = pace(tasks, per_ms, burst);
            assert_eq!(
                (pace.interval, pace.lateness, pace.ahead),
                (interval, lateness, tasks_ahead),
                "{tasks} per {per_ms} ms, burst {burst}"
            );
        }
    }

    #[test]
    fn slots_follow_one_another_and_no_more_than_the_burst_is_saved_up() {
        let pace = pace(10, 1000, 3);
        let i = pace.interval;
        let (slots, shared) = pace.reserve(None, NOW, 5);
        assert_eq!(slots, [NOW - 2 * i, NOW - i, NOW, NOW + i, NOW + 2 * i]);
        let (slots, shared) = pace.reserve(Some(&shared), NOW + i / 2, 1);
        assert_eq!(slots, [NOW + 3 * i]);
        assert_eq!(pace.saved_up(Some(&shared), NOW + 4 * i - 1), 0);
        assert_eq!(pace.saved_up(Some(&shared), NOW + 4 * i), 1);
        assert_eq!(pace.saved_up(Some(&shared), NOW + 5 * i), 2);
        assert_eq!(pace.saved_up(Some(&shared), NOW + 100 * i), 3);
        let (slots, _) = pace.reserve(Some(&shared), NOW + 100 * i, 2);
        assert_eq!(slots, [NOW + 98 * i, NOW + 99 * i]);
    }

    #[test]
    fn another_rate_counts_from_now_and_takes_back_no_start() {
        let (slow, fast) = (pace(1, 60_000, 1), pace(500, 1000, 1));
        let (_, shared) = slow.reserve(None, NOW, 1);
        let (slots, shared) = fast.reserve(Some(&shared), NOW + S, 2);
        assert_eq!(slots, [NOW + S + fast.interval, NOW + S + 2 * fast.interval]);
        let (slots, _) = slow.reserve(Some(&shared), NOW + S, 2);
        assert_eq!(
            slots,
            [shared.next, shared.next + slow.interval],
            "and what the old one had reserved counts"
        );
        // One whose next start was due anyway keeps it.
        assert_eq!(fast.reserve(Some(&shared), NOW + 9 * S, 1).0, [NOW + 9 * S]);
    }

    #[test]
    fn what_is_given_back_is_used_before_anything_new_and_not_for_long() {
        let pace = pace(1, 60_000, 1);
        let i = pace.interval;
        let (slots, shared) = pace.reserve(None, NOW, 3);
        let shared = pace.give_back(Some(&shared), NOW, &[slots[2], slots[1]]);
        assert_eq!(shared.free, [NOW + i, NOW + 2 * i]);
        let (again, rest) = pace.reserve(Some(&shared), NOW + i, 1);
        assert_eq!((again, rest.free), (vec![NOW + i], vec![NOW + 2 * i]));
        let (later, rest) = pace.reserve(Some(&shared), NOW + i + 1, 2);
        assert_eq!((later, rest.free), (vec![NOW + 2 * i, NOW + 3 * i], vec![]));
    }

    #[test]
    fn a_task_starts_between_its_slot_and_the_lateness_for_certain() {
        let pace = pace(1000, 1000, 1);
        for (after, error, when) in [
            (-5, 0, When::In(5)),
            (0, 0, When::Now),
            (0, 7, When::In(7)),
            (7, 7, When::Now),
            (6_004_999, 0, When::Now),
            (6_005_000, 0, When::Never),
            (6_004_993, 7, When::Never),
            // An error of a second leaves no time: a quarter of the lateness is believed.
            (0, S, When::In(6_005_000 / 4)),
            (6_005_000 / 4, S, When::Now),
        ] {
            let now = NOW.checked_add_signed(after).expect("a time");
            assert_eq!(pace.when(NOW, now, error), when, "{after} after, give or take {error}");
        }
    }

    #[test]
    fn a_state_that_went_back_is_not_believed() {
        let state = |next, interval, free: &[u64]| Shared {
            next,
            interval,
            free: free.to_vec(),
        };
        for (case, knew, read, latest) in [
            (
                "forward",
                Some(state(10, 1, &[])),
                Some(state(11, 1, &[9])),
                Some(state(11, 1, &[9])),
            ),
            (
                "back",
                Some(state(10, 1, &[])),
                Some(state(9, 1, &[7])),
                Some(state(10, 1, &[])),
            ),
            (
                "another rate",
                Some(state(10, 1, &[])),
                Some(state(9, 2, &[])),
                Some(state(9, 2, &[])),
            ),
            ("gone", Some(state(10, 1, &[4])), None, Some(state(10, 1, &[]))),
            ("new", None, Some(state(1, 1, &[])), Some(state(1, 1, &[]))),
            ("nothing", None, None, None),
        ] {
            assert_eq!(Shared::latest(knew, read), latest, "{case}");
        }
    }

    #[test]
    fn a_server_whose_clock_was_set_back_does_not_stop_the_group_for_as_long() {
        let pace = pace(1000, 1000, 1);
        let (_, shared) = pace.reserve(None, NOW + 3600 * S, 1);
        let (slots, _) = pace.reserve(Some(&shared), NOW, 1);
        assert_eq!(slots, [NOW + 500 * 20 * pace.interval]);
    }
}

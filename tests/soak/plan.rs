//! What a soak consists of, all of it from one seed: the groups, and what each task does to its handler.

use crate::checker::{Limits, Rate, Rules, Task};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use std::time::Duration;

pub const GROUPS: usize = 20;

/// How soon a dead worker's tasks go to another. Not as short as could be: on a machine with more to do
/// than it can, a process may get no time for some seconds.
pub const ACK_WAIT: Duration = Duration::from_secs(8);

/// Tasks at once, of each group at first.
const CONCURRENCY: [usize; GROUPS] = [1, 1, 2, 2, 3, 4, 5, 6, 8, 8, 10, 12, 16, 20, 25, 30, 40, 50, 50, 1];

/// A group.
#[derive(Clone, Debug)]
pub struct Group {
    pub name: String,
    pub rules: Rules,
    pub first: Limits,
}

impl Group {
    pub fn all(random: &mut impl Rng) -> Vec<Self> {
        let one = |(index, concurrency): (usize, usize)| {
            let rate = (index % 4 == 3).then(|| Rate {
                tasks: random.random_range(15..40),
                per: Duration::from_secs(1),
                burst: random.random_range(1..=5),
            });
            let expire = (index % 5 == 4).then_some(Duration::from_secs(6));
            Self {
                name: format!("group-{index:02}"),
                rules: Rules {
                    max_attempts: random.random_range(4..=6),
                    timeout: Duration::from_secs(2),
                    // How a task ended that expired and left no letter could not be seen from outside.
                    dead_letter: index % 6 != 5 || expire.is_some(),
                    expire,
                },
                first: Limits { concurrency, rate },
            }
        };
        CONCURRENCY.into_iter().enumerate().map(one).collect()
    }

    /// Other limits than now, mostly around the first.
    pub fn other_limits(&self, random: &mut impl Rng) -> Limits {
        let first = self.first;
        Limits {
            concurrency: random.random_range(first.concurrency.div_ceil(2)..=first.concurrency * 2),
            rate: first.rate.map(|rate| Rate {
                tasks: random.random_range(rate.tasks..=2 * rate.tasks),
                ..rate
            }),
        }
    }

    /// The spec of its `TaskGroup`.
    pub fn spec(&self, limits: Limits) -> Value {
        let ms = |time: Duration| format!("{}ms", time.as_millis());
        json!({
            "concurrency": limits.concurrency,
            "rateLimit": limits.rate.map(|rate| json!({
                "tasks": rate.tasks, "per": ms(rate.per), "burst": rate.burst,
            })),
            "timeouts": {
                "task": ms(self.rules.timeout),
                "ackWait": ms(ACK_WAIT),
                "expire": ms(self.rules.expire.unwrap_or_default()),
            },
            "retry": {
                "maxAttempts": self.rules.max_attempts,
                "initialDelay": "100ms",
                "maxDelay": "2s",
                "maxRetryAfter": "5s",
            },
            "deadLetter": {"enabled": self.rules.dead_letter},
            "workers": {"maxInflightPerPod": self.first.concurrency},
        })
    }
}

/// What a task does to its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Takes so long and is done.
    Ok(Duration),
    /// Fails so often first.
    Fail(u32),
    /// Can't be done.
    Permanent,
    /// Is not answered the first time.
    Hang,
    /// Closes the group the first time.
    Close(Duration),
    /// Breaks the connection off the first time, as a handler that crashes.
    Die,
    /// Kills its worker the first time.
    Kill,
}

impl Act {
    /// What this task does: the same for the same seed.
    pub fn of(seed: u64, group: &Group, task: Task) -> Self {
        let place = (task.group as u64) << 32 | u64::from(task.number);
        let mut random = StdRng::seed_from_u64(seed ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // What holds a slot for long would be all that a narrow group does.
        let wide = group.first.concurrency >= 4;
        let ms = Duration::from_millis;
        match random.random_range(0..10_000) {
            0..500 => Self::Fail(random.random_range(1..=3)),
            500..580 => Self::Fail(u32::MAX),
            580..730 => Self::Permanent,
            730..780 if wide => Self::Hang,
            780..790 if wide && group.first.rate.is_none() => Self::Close(ms(2500)),
            790..890 => Self::Die,
            890..893 => Self::Kill,
            893..1100 if wide => Self::Ok(ms(random.random_range(200..1500))),
            _ => Self::Ok(ms(random.random_range(0..40))),
        }
    }
}

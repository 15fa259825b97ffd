//! Pure: the backlog of a group, and which changes of it are worth a write.

use crate::api::TaskGroupStatus;

/// The backlog of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Tasks waiting.
    pub pending: i64,
    /// Tasks being run.
    pub in_flight: i64,
    /// Tasks in back-off.
    pub delayed: i64,
    /// Dead letters.
    pub dead: i64,
}

impl Numbers {
    /// The numbers of a status that has all of them.
    pub fn of(status: &TaskGroupStatus) -> Option<Self> {
        Some(Self {
            pending: status.pending?,
            in_flight: status.in_flight?,
            delayed: status.delayed?,
            dead: status.dead_lettered?,
        })
    }
}

/// Whether `now` is worth a write: a number came from or went to zero, moved by a tenth or more, or has settled (it is
/// the same in two sweeps) at something else than the status says.
pub fn is_news(said: Option<Numbers>, now: Numbers, last: Option<Numbers>) -> bool {
    let Some(said) = said else { return true };
    if said == now {
        return false;
    }
    let moved = |said: i64, now: i64| {
        (said == 0) != (now == 0) || said.abs_diff(now).saturating_mul(10) >= said.max(now).unsigned_abs()
    };
    last == Some(now)
        || [
            (said.pending, now.pending),
            (said.in_flight, now.in_flight),
            (said.delayed, now.delayed),
            (said.dead, now.dead),
        ]
        .into_iter()
        .any(|(said, now)| said != now && moved(said, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(pending: i64, in_flight: i64, dead: i64) -> Numbers {
        Numbers {
            pending,
            in_flight,
            delayed: 0,
            dead,
        }
    }

    #[test]
    fn only_a_change_that_matters_is_news() {
        let said = Some(numbers(1000, 4, 0));
        for (now, last, news) in [
            (numbers(1000, 4, 0), None, false),
            (numbers(950, 4, 0), None, false),
            (numbers(950, 4, 0), Some(numbers(950, 4, 0)), true),
            (numbers(900, 4, 0), None, true),
            (numbers(1000, 0, 0), None, true),
            (numbers(1000, 4, 1), None, true),
        ] {
            assert_eq!(is_news(said, now, last), news, "{now:?}");
        }
        let delayed = Numbers {
            delayed: 1,
            ..numbers(1000, 4, 0)
        };
        assert!(is_news(said, delayed, None), "a task in back-off");
        assert!(is_news(None, numbers(0, 0, 0), None), "nothing was said yet");
    }
}

//! Notices that this process stood still (SIGSTOP, a paused machine), or that the connection did: then what
//! comes out of the socket may be old, and its lease may have ended. Pure.

use std::time::{Duration, Instant};

/// How often the pull loop wakes up at least.
pub const BEAT: Duration = Duration::from_millis(250);

/// A beat that comes so much too late was held up by more than a busy machine.
pub const LATE: Duration = Duration::from_millis(500);

/// How often the server is asked for a sign of life while tasks are asked for, for leases of `ack_wait`.
/// Not more often than needed: an idle worker costs the server one message each time.
pub fn heartbeat(ack_wait: Duration) -> Duration {
    (ack_wait / 6).clamp(Duration::from_millis(250), Duration::from_millis(4500))
}

/// When the pull loop was last awake.
#[derive(Clone, Copy, Debug)]
pub struct Pulse(Instant);

impl Pulse {
    /// It is awake now.
    pub fn new(now: Instant) -> Self {
        Self(now)
    }

    /// It is awake again. Since when it may have stood still, if so.
    pub fn beat(&mut self, now: Instant) -> Option<Instant> {
        let last = std::mem::replace(&mut self.0, now);
        (now.duration_since(last) > BEAT + LATE).then_some(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_gap_is_a_stand_still() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start);
        let soon = start + BEAT * 2;
        assert_eq!(pulse.beat(soon), None);
        let late = soon + Duration::from_secs(1);
        assert_eq!(pulse.beat(late), Some(soon));
        assert_eq!(pulse.beat(late + BEAT), None, "it goes on");
    }
}

//! When too long nothing came from the server: this process stood still (SIGSTOP, a stopped machine), or
//! the connection did. Then what comes next may be old, and its lease may have ended. Pure.

use std::time::Duration;

/// A sign of life that comes so much too late was held up by more than a busy machine.
const LATE: Duration = Duration::from_millis(500);

/// How often the server is asked for a sign of life while tasks are asked for, for leases of `ack_wait`.
/// Not more often than needed: an idle worker costs the server one message each time.
pub fn heartbeat(ack_wait: Duration) -> Duration {
    (ack_wait / 6).clamp(Duration::from_millis(250), Duration::from_millis(4500))
}

/// How long it may stay silent.
pub fn longest(ack_wait: Duration) -> Duration {
    heartbeat(ack_wait) + LATE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_noticed_before_the_broker_delivers_again() {
        for seconds in [2, 3, 30, 3600] {
            let ack_wait = Duration::from_secs(seconds);
            assert!(longest(ack_wait) < ack_wait / 2, "{seconds}");
            // JetStream refuses a pull that is over before its second heartbeat.
            assert!(heartbeat(ack_wait) * 2 < super::super::slots::EXPIRES, "{seconds}");
        }
    }
}

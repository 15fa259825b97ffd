//! Heartbeats of the server while tasks are pulled. When they stop, this process stood still (SIGSTOP, a stopped machine),
//! or the connection did. Then a task that comes next may be old, and its lease may have ended. Pure.

use std::time::Duration;

/// A heartbeat that is late by so much was held up by more than a busy machine.
const LATE: Duration = Duration::from_millis(500);

/// How often the server sends a heartbeat, for leases of `ack_wait`. Each costs the server a message for every idle worker.
pub fn interval(ack_wait: Duration) -> Duration {
    (ack_wait / 6).clamp(Duration::from_millis(250), Duration::from_millis(4500))
}

/// How long the server may stay silent.
pub fn longest_silence(ack_wait: Duration) -> Duration {
    interval(ack_wait) + LATE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silence_is_noticed_before_the_broker_redelivers() {
        for seconds in [2, 3, 30, 3600] {
            let ack_wait = Duration::from_secs(seconds);
            assert!(longest_silence(ack_wait) < ack_wait / 2, "{seconds}");
            // JetStream refuses a pull that is over before its second heartbeat.
            assert!(interval(ack_wait) * 2 < super::super::pull_loop::EXPIRES, "{seconds}");
        }
    }
}

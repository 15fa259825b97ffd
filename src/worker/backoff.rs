//! Pauses between tries that grow, with jitter, so that many workers do not try in step.

use rand::RngExt;
use std::time::Duration;

/// A growing pause.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    tries: u32,
}

impl Backoff {
    /// From about `first` up to about `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            tries: 0,
        }
    }

    /// The next pause.
    pub fn next(&mut self) -> Duration {
        let pause = self.first.saturating_mul(1 << self.tries.min(16)).min(self.longest);
        self.tries = self.tries.saturating_add(1);
        jittered(pause)
    }

    /// It worked: begin anew.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

/// Between half and one and a half of `pause`.
pub fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.5))
}

/// Anything from nothing to `longest`.
pub fn full_jitter(longest: Duration) -> Duration {
    longest.mul_f64(rand::rng().random_range(0.0..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        let within = |pause: Duration, about: u64| {
            let about = Duration::from_millis(about);
            assert!(
                pause >= about / 2 && pause <= about * 3 / 2,
                "{pause:?} is not about {about:?}"
            );
        };
        for about in [100, 200, 350, 350] {
            within(backoff.next(), about);
        }
        backoff.reset();
        within(backoff.next(), 100);
    }
}

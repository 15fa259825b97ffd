//! Pauses between tries, by backon. Two things are added to its iterator. A loop that recovers begins anew, and the
//! jitter spreads a pause to both sides. backon's own jitter only lengthens it, up to double.

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use rand::RngExt;
use std::time::Duration;

/// A pause that doubles with each try, with jitter, so that many workers do not try in step.
#[derive(Debug)]
pub struct Backoff {
    builder: ExponentialBuilder,
    pauses: ExponentialBackoff,
}

impl Backoff {
    /// Pauses from about `first` up to about `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        let builder = ExponentialBuilder::new()
            .with_min_delay(first)
            .with_max_delay(longest)
            .without_max_times();
        Self {
            builder,
            pauses: builder.build(),
        }
    }

    /// The next pause.
    pub fn next(&mut self) -> Duration {
        // The iterator has no end, as the number of tries is not bounded.
        jittered(self.pauses.next().unwrap_or_default())
    }

    /// Begins anew, as a try succeeded.
    pub fn reset(&mut self) {
        self.pauses = self.builder.build();
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

    #[test]
    fn pauses_never_end() {
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(20));
        assert!((0..1000).all(|_| !backoff.next().is_zero()));
    }
}

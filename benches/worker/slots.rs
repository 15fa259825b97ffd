//! Whether a slot is ever idle while tasks wait.

use crate::{bed::Bed, floor, meter::Meter, ours};
use std::time::Duration;

/// What is measured.
#[derive(Clone, Copy)]
pub struct Case {
    pub concurrency: usize,
    pub length: Duration,
    /// Measured for so long.
    pub window: Duration,
    /// Tasks that are there at the start: more than can be run meanwhile.
    pub backlog: usize,
}

impl Case {
    pub fn new(concurrency: usize, length: Duration, window: Duration) -> Self {
        // No broker that we measured delivers more per second.
        const FASTEST: f64 = 60_000.0;
        let ideal = crate::as_f64(concurrency as u64) / length.as_secs_f64();
        let seconds = (window + warm_up(length)).as_secs_f64() * 1.2;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few 100,000")]
        let backlog = (ideal.min(FASTEST) * seconds) as usize + 2 * concurrency;
        Self {
            concurrency,
            length,
            window,
            backlog,
        }
    }
}

/// Until the first tasks, which all started at once, are over.
fn warm_up(length: Duration) -> Duration {
    Duration::from_millis(500) + length
}

/// Share of the slots' time in which a task ran, in percent: with so many of our workers, or with none
/// the bare pull and ack loop.
pub async fn busy_percent(bed: &Bed, case: Case, workers: usize) -> f64 {
    let (group, meter) = (bed.group(case.concurrency).await, Meter::new());
    group.fill(case.backlog).await;
    let floor = match workers {
        0 => Some(floor::pull_loop(&group, case.concurrency, meter.work(case.length)).await),
        _ => None,
    };
    let workers: Vec<_> = (0..workers)
        .map(|_| ours::in_process(&group, meter.work(case.length)))
        .collect();
    crate::bed::until("a task is over", async || meter.read().tasks > 0).await;
    tokio::time::sleep(warm_up(case.length)).await;
    let from = meter.read();
    tokio::time::sleep(case.window).await;
    let to = meter.read();
    let most = crate::as_f64(case.concurrency as u64);
    assert!(
        f64::from(to.peak) <= most,
        "{} ran at once, with a limit of {most}",
        to.peak
    );
    assert!(
        to.tasks + case.concurrency as u64 <= case.backlog as u64,
        "the queue ran empty"
    );
    drop(floor);
    for worker in workers {
        worker.stop().await;
    }
    group.delete().await;
    (to.busy - from.busy) / (most * (to.at - from.at).as_secs_f64()) * 100.0
}

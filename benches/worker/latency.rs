//! From the publishing of a task to the start of its handler, when there is little to do.

use crate::{
    bed::{Bed, Group, until},
    floor::{self, Work},
    ours,
};
use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// Between two tasks: 200 per second.
const INTERVAL: Duration = Duration::from_millis(5);

/// Slots: far more than run at once.
const SLOTS: usize = 100;

/// Tasks that are not counted: connections are made, code is read from disk.
const WARM_UP: usize = 50;

/// Latencies in milliseconds.
type Latencies = Arc<Mutex<Vec<f64>>>;

/// Of ours with a function for a handler.
pub async fn ours(bed: &Bed, tasks: usize) -> Vec<f64> {
    let group = bed.group(SLOTS).await;
    let (work, latencies, begun) = recorder();
    let worker = ours::in_process(&group, work);
    let found = publish(&group, tasks, &latencies, begun).await;
    worker.stop().await;
    group.delete().await;
    found
}

/// Of the bare pull and ack loop.
pub async fn pull_loop(bed: &Bed, tasks: usize) -> Vec<f64> {
    let group = bed.group(SLOTS).await;
    let (work, latencies, begun) = recorder();
    let running = floor::pull_loop(&group, SLOTS, work).await;
    let found = publish(&group, tasks, &latencies, begun).await;
    drop(running);
    group.delete().await;
    found
}

/// Work that notes how long ago its payload says it was published.
fn recorder() -> (Work, Latencies, Instant) {
    let (latencies, begun) = (Latencies::default(), Instant::now());
    let noted = latencies.clone();
    let work: Work = Arc::new(move |payload| {
        let text = std::str::from_utf8(&payload).unwrap();
        let published = begun + Duration::from_nanos(text.parse().unwrap());
        noted.lock().unwrap().push(published.elapsed().as_secs_f64() * 1e3);
        Box::pin(async {})
    });
    (work, latencies, begun)
}

async fn publish(group: &Group<'_>, tasks: usize, latencies: &Latencies, begun: Instant) -> Vec<f64> {
    let count = || latencies.lock().unwrap().len();
    group.publish(0, begun.elapsed().as_nanos().to_string()).await;
    until("the first task starts", async || count() == 1).await;
    let mut ticks = tokio::time::interval(INTERVAL);
    for id in 1..WARM_UP + tasks {
        ticks.tick().await;
        group.publish(id, begun.elapsed().as_nanos().to_string()).await;
    }
    until("the last task starts", async || count() == WARM_UP + tasks).await;
    latencies.lock().unwrap()[WARM_UP..].to_vec()
}

//! Tasks per second that do nothing: what the worker itself costs.

use crate::{
    bed::Bed,
    floor::{self, Work},
    handler::Handler,
    meter::Meter,
    ours,
};
use std::time::{Duration, Instant};

/// How often the handler's process is asked how far it is. Each time costs it a connection.
const LOOK: Duration = Duration::from_millis(10);

/// How long the bare HTTP loop runs before and while it is measured.
const HTTP_WARM_UP: Duration = Duration::from_millis(300);
const HTTP_WINDOW: Duration = Duration::from_secs(2);

/// What is counted of so many tasks: not how it starts, and not how it ends.
fn window(tasks: u64) -> [u64; 2] {
    [tasks / 10, tasks / 20 * 19]
}

fn rate(from: (Instant, u64), to: (Instant, u64)) -> f64 {
    crate::as_f64(to.1 - from.1) / (to.0 - from.0).as_secs_f64()
}

/// Ours with a function for a handler.
pub async fn in_process(bed: &Bed, slots: usize, tasks: usize) -> f64 {
    let (group, meter) = (bed.group(slots).await, Meter::new());
    group.fill(tasks).await;
    let worker = ours::in_process(&group, meter.work(Duration::ZERO));
    let rate = meter_rate(&meter, tasks).await;
    worker.stop().await;
    group.delete().await;
    rate
}

/// The bare pull and ack loop.
pub async fn pull_loop(bed: &Bed, slots: usize, tasks: usize) -> f64 {
    let (group, meter) = (bed.group(slots).await, Meter::new());
    group.fill(tasks).await;
    let running = floor::pull_loop(&group, slots, meter.work(Duration::ZERO)).await;
    let rate = meter_rate(&meter, tasks).await;
    drop(running);
    group.delete().await;
    rate
}

async fn meter_rate(meter: &Meter, tasks: usize) -> f64 {
    let mut readings = Vec::new();
    for count in window(tasks as u64) {
        crate::bed::until("tasks are done", async || meter.read().tasks >= count).await;
        let reading = meter.read();
        readings.push((reading.at, reading.tasks));
    }
    rate(readings[0], readings[1])
}

/// Ours with the handler over HTTP.
pub async fn http(bed: &Bed, handler: &Handler, slots: usize, tasks: usize) -> f64 {
    let group = bed.group(slots).await;
    group.fill(tasks).await;
    let before = handler.count().await;
    let worker = ours::http(&group, &handler.url());
    let rate = handler_rate(handler, before, tasks).await;
    worker.stop().await;
    group.delete().await;
    rate
}

/// The bare pull and ack loop with a bare HTTP request for each message.
pub async fn pull_and_http_loop(bed: &Bed, handler: &Handler, slots: usize, tasks: usize) -> f64 {
    let group = bed.group(slots).await;
    group.fill(tasks).await;
    let before = handler.count().await;
    let work: Work = floor::http_work(handler.addr, slots).await;
    let running = floor::pull_loop(&group, slots, work).await;
    let rate = handler_rate(handler, before, tasks).await;
    drop(running);
    group.delete().await;
    rate
}

async fn handler_rate(handler: &Handler, before: u64, tasks: usize) -> f64 {
    let mut readings = Vec::new();
    for count in window(tasks as u64) {
        let reading = loop {
            let now = handler.count().await - before;
            if now >= count {
                break (Instant::now(), now);
            }
            tokio::time::sleep(LOOK).await;
        };
        readings.push(reading);
    }
    rate(readings[0], readings[1])
}

/// The bare HTTP client loop, without tasks.
pub async fn http_loop(handler: &Handler, connections: usize) -> f64 {
    let running = floor::http_loop(handler.addr, connections).await;
    tokio::time::sleep(HTTP_WARM_UP).await;
    let from = (Instant::now(), handler.count().await);
    tokio::time::sleep(HTTP_WINDOW).await;
    let to = (Instant::now(), handler.count().await);
    drop(running);
    rate(from, to)
}

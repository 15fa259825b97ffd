//! What the worker costs, beside the floor: the same client libraries in bare loops. See [`USAGE`].
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a bench panics where it can't go on"
)]

#[path = "../../tests/support/mod.rs"]
mod servers;
#[path = "../support/mod.rs"]
mod support;

mod bed;
mod floor;
mod handler;
mod latency;
mod meter;
mod ours;
mod peers;
mod slots;
mod speed;

use bed::Bed;
use handler::Handler;
use slots::Case;
use std::{env, process::ExitCode, time::Duration};
use support::{
    arguments::{number, parts},
    report::{Metric, median, percentile, report},
};

const USAGE: &str = "\
Measures the worker against a real nats-server, beside bare loops of the same client libraries.

  make bench-worker [QUICK=1] [ROUNDS=5] [ONLY=speed,http,latency,slots,cost]
  cargo bench --bench worker           (the same from the environment)

  QUICK   1: one round of a tenth of the work, to try it; the figures are worth little
  ROUNDS  times that everything but slots is measured, 1 to 20
  ONLY    some of the parts, separated by commas; without it all, which takes about 12 minutes

  speed    tasks that do nothing, in the worker's own process, over a bare pull and ack loop
  http     tasks that do nothing, by HTTP to another process, over a bare HTTP client loop (no tasks),
           and over a bare loop that pulls, requests and acks
  latency  from publishing to the start of the handler at 200 tasks/s, over a bare pull loop
  slots    share of the slots' time in which a task runs, with more tasks waiting
  cost     memory and processor time of the worker's own process
  peers    tasks that do nothing, over Celery and BullMQ: only by `make bench-peers`, which installs them

In each round the bare loop and ours take turns. The table shows medians of the rounds. Slots are
measured once, in a long window. An aim that is missed is shown as such, and is no failure. Needs: make tools. Keep
the machine idle meanwhile.

Example:
  make bench-worker ONLY=latency";

const PARTS: [&str; 5] = ["speed", "http", "latency", "slots", "cost"];

/// Tasks at once.
const SLOTS: [usize; 3] = [10, 100, 1000];

fn main() -> ExitCode {
    // cargo itself adds --bench.
    let args: Vec<_> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let [mode, file] = args.as_slice()
        && mode == handler::BE_THE_HANDLER
    {
        runtime.block_on(handler::serve(file));
        return ExitCode::SUCCESS;
    }
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let (parts, rounds) = match (parts(&PARTS, &["peers"]), number("ROUNDS", 5, 1..=20)) {
        (Ok(parts), Ok(rounds)) if args.is_empty() => (parts, rounds),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("error: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
        _ => {
            eprintln!("error: {} is not known\n\n{USAGE}", args.join(" "));
            return ExitCode::from(2);
        }
    };
    let quick = env::var("QUICK").is_ok_and(|quick| !["", "0"].contains(&quick.as_str()));
    let effort = Effort::new(rounds, quick);
    let metrics = runtime.block_on(measure(&parts, effort));
    report(if parts == ["peers"] { "peers" } else { "worker" }, &metrics);
    ExitCode::SUCCESS
}

/// How much is measured.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    /// What all amounts and times are divided by.
    less: u32,
}

impl Effort {
    fn new(rounds: usize, quick: bool) -> Self {
        let (rounds, less) = if quick { (1, 10) } else { (rounds, 1) };
        Self { rounds, less }
    }

    fn tasks(self, tasks: usize) -> usize {
        tasks / self.less as usize
    }
}

async fn measure(parts: &[String], effort: Effort) -> Vec<Metric> {
    println!("starting nats-server and a handler");
    let (bed, handler) = (Bed::start().await, Handler::start().await);
    let mut metrics = Vec::new();
    for part in parts {
        match part.as_str() {
            "speed" => metrics.extend(measure_speed(&bed, effort).await),
            "http" => metrics.extend(measure_http(&bed, &handler, effort).await),
            "latency" => metrics.extend(measure_latency(&bed, effort).await),
            "slots" => metrics.extend(measure_slots(&bed, effort).await),
            "peers" => metrics.extend(measure_peers(&bed, &handler, effort).await),
            _ => metrics.extend(measure_cost(&bed, &handler, effort).await),
        }
    }
    metrics
}

async fn measure_speed(bed: &Bed, effort: Effort) -> Vec<Metric> {
    let mut metrics = Vec::new();
    for (slots, tasks) in SLOTS.into_iter().zip([40_000, 100_000, 150_000]) {
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        for round in 1..=effort.rounds {
            floor.push(speed::pull_loop(bed, slots, effort.tasks(tasks)).await);
            ours.push(speed::in_process(bed, slots, effort.tasks(tasks)).await);
            say(&format!("no-op, {slots} at once"), round, "tasks/s", &ours, &floor);
        }
        let metric = Metric::new(
            format!("no-op tasks, {slots} at once, over a bare pull and ack loop"),
            "tasks/s",
            median(&ours),
        )
        .over(median(&floor));
        metrics.push(if slots == 10 {
            metric
        } else {
            metric.at_least_times_the_floor(0.8)
        });
    }
    metrics
}

async fn measure_http(bed: &Bed, handler: &Handler, effort: Effort) -> Vec<Metric> {
    let mut metrics = Vec::new();
    for (slots, tasks) in SLOTS.into_iter().zip([20_000, 30_000, 30_000]) {
        let tasks = effort.tasks(tasks);
        let (mut ours, mut floor, mut both) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=effort.rounds {
            floor.push(speed::http_loop(handler, slots).await);
            both.push(speed::pull_and_http_loop(bed, handler, slots, tasks).await);
            ours.push(speed::http(bed, handler, slots, tasks).await);
            say(&format!("HTTP, {slots} at once"), round, "tasks/s", &ours, &floor);
        }
        let metric = |over, floor| {
            let name = format!("no-op HTTP tasks, {slots} at once, over {over}");
            Metric::new(name, "tasks/s", median(&ours)).over(median(floor))
        };
        metrics.push(metric("a bare HTTP loop without tasks", &floor).at_least_times_the_floor(0.8));
        metrics.push(metric("a bare loop that pulls, requests, acks", &both));
    }
    metrics
}

/// Of the latencies of a round.
const PERCENTS: [usize; 2] = [50, 99];

async fn measure_latency(bed: &Bed, effort: Effort) -> Vec<Metric> {
    let tasks = effort.tasks(1000);
    let (mut ours, mut floor) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 1..=effort.rounds {
        let (bare, worker) = (latency::pull_loop(bed, tasks).await, latency::ours(bed, tasks).await);
        for (index, percent) in PERCENTS.into_iter().enumerate() {
            ours[index].push(percentile(&worker, percent));
            floor[index].push(percentile(&bare, percent));
            let what = format!("latency p{percent}");
            say(&what, round, "ms", &ours[index], &floor[index]);
        }
    }
    let metric = |index: usize| {
        Metric::new(
            format!("published to handler started at 200 tasks/s, p{}", PERCENTS[index]),
            "ms",
            median(&ours[index]),
        )
        .over(median(&floor[index]))
    };
    vec![metric(0), metric(1).at_most_above_the_floor(2.0)]
}

async fn measure_slots(bed: &Bed, effort: Effort) -> Vec<Metric> {
    let mut metrics = Vec::new();
    // Of the short tasks, a shorter time: their backlog has to be published before.
    for (length, window) in [(10, 4), (1000, 20)] {
        let length = Duration::from_millis(length);
        let window = (Duration::from_secs(window) / effort.less).max(2 * length);
        for concurrency in [1, 10, 100, 1000] {
            let case = Case::new(concurrency, length, window);
            let floor = slots::busy_percent(bed, case, 0).await;
            for (workers, name) in [(1, "one worker"), (2, "two workers")] {
                let ours = slots::busy_percent(bed, case, workers).await;
                println!("  slots, {concurrency} x {length:?}, {name}: {ours:.2} % busy, the bare loop {floor:.2} %");
                let what = format!("slots busy, {concurrency} x {length:?}, {name}");
                metrics.push(Metric::new(what, "%", ours).over(floor).at_least(99.0));
            }
        }
    }
    metrics
}

/// Beside what one might pick instead, 100 at once.
async fn measure_peers(bed: &Bed, handler: &Handler, effort: Effort) -> Vec<Metric> {
    const AT_ONCE: usize = 100;
    let rounds = effort.rounds.min(3);
    let (mut embedded, mut http, mut bullmq) = (Vec::new(), Vec::new(), Vec::new());
    let mut celery = [Vec::new(), Vec::new()];
    for round in 1..=rounds {
        bullmq.push(peers::bullmq(effort.tasks(60_000), AT_ONCE).await);
        for ((pool, concurrency), rates) in peers::CELERY.into_iter().zip(&mut celery) {
            rates.push(peers::celery(effort.tasks(8_000), pool, concurrency).await);
            println!(
                "  round {round}: Celery, {pool} {concurrency}: {:.0} tasks/s",
                rates[round - 1]
            );
        }
        embedded.push(speed::in_process(bed, AT_ONCE, effort.tasks(100_000)).await);
        http.push(speed::http(bed, handler, AT_ONCE, effort.tasks(30_000)).await);
        println!(
            "  round {round}: BullMQ {:.0}, ours in process {:.0}, ours by HTTP {:.0} tasks/s",
            bullmq[round - 1],
            embedded[round - 1],
            http[round - 1]
        );
    }
    println!("  Redis keeps nothing on disk here; NATS keeps every task on disk");
    // The better of its two ways.
    let celery = celery.iter().map(|rates| median(rates)).fold(0.0, f64::max);
    let metric = |how: &str, ours: &[f64], peer: &str, floor: f64| {
        let name = format!("no-op tasks, {AT_ONCE} at once, {how}, over {peer}");
        Metric::new(name, "tasks/s", median(ours)).over(floor)
    };
    let bullmq = median(&bullmq);
    vec![
        metric("in process", &embedded, "BullMQ", bullmq).at_least_times_the_floor(3.0),
        metric("in process", &embedded, "Celery", celery).at_least_times_the_floor(50.0),
        metric("by HTTP to another process", &http, "BullMQ", bullmq),
        metric("by HTTP to another process", &http, "Celery", celery),
    ]
}

/// Of so many workers, each with a group of its own; the medians count.
async fn measure_cost(bed: &Bed, handler: &Handler, effort: Effort) -> Vec<Metric> {
    const IN_FLIGHT: usize = 1000;
    let (mut groups, mut workers) = (Vec::new(), Vec::new());
    for _ in 0..effort.rounds {
        let group = bed.group(IN_FLIGHT).await;
        workers.push(ours::Own::start(&group, &handler.hold_url()).await);
        groups.push(group);
    }
    // Long enough for all that an idle worker does: pulls are renewed every 10 s, settings read every 30 s.
    let cpu = ours::cpu_percent(&workers, Duration::from_secs(60) / effort.less).await;
    let idle: Vec<_> = workers.iter().map(|worker| worker.usage.memory()).collect();
    let own: Vec<_> = workers.iter().map(|worker| worker.usage.own_memory()).collect();
    println!("  idle: {idle:.1?} MB, {cpu:.2?} % of a core");
    let mut full = Vec::new();
    for (group, worker) in groups.into_iter().zip(workers) {
        let all = handler.count().await + IN_FLIGHT as u64;
        group.fill(IN_FLIGHT).await;
        bed::until("all tasks run", async || handler.count().await == all).await;
        full.push(worker.usage.memory());
        drop(worker);
        group.delete().await;
    }
    println!("  with {IN_FLIGHT} tasks in flight: {full:.1?} MB");
    vec![
        Metric::new("memory of an idle worker", "MB", median(&idle)).at_most(10.0),
        Metric::new(
            "of it not the program's file, shared by all workers",
            "MB",
            median(&own),
        ),
        Metric::new(
            format!("memory of a worker with {IN_FLIGHT} HTTP tasks in flight"),
            "MB",
            median(&full),
        ),
        Metric::new("processor time of an idle worker", "% of a core", median(&cpu)).below(0.5),
    ]
}

fn say(what: &str, round: usize, unit: &str, ours: &[f64], floor: &[f64]) {
    let last = |values: &[f64]| values.last().copied().unwrap_or_default();
    println!(
        "  {what}, round {round}: ours {:.2}, floor {:.2} {unit}",
        last(ours),
        last(floor)
    );
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

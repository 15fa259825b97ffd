//! How long it takes from applied TaskGroups to their pipelines, and from a changed limit to the
//! changed consumer, beside the floor: the same requests in a bare loop. See [`USAGE`].
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
mod change;
mod floor;
mod ours;
mod seen;

use bed::Bed;
use floor::Floor;
use ours::Operator;
use std::{env, process::ExitCode, time::Duration};
use support::report::{Metric, median, percentile, report};

const USAGE: &str = "\
Measures the operator against a real kube-apiserver, etcd and nats-server.

  make bench-reconcile [N=300] [ROUNDS=3]
  cargo bench --bench reconcile        (N and ROUNDS from the environment)

  N       TaskGroups applied at once, 1 to 5000
  ROUNDS  times that everything is measured; the table shows medians, 1 to 20

In each round, N TaskGroups are applied, and the release build of the operator makes their streams,
consumers and Deployments and writes their statuses. The floor makes the same objects from a loop
with no controller, 1, 8 and 32 at a time, of which the fastest counts. Both end when a watch has
shown the last status. Then the limit of one group after the other is changed, and it is measured
how soon its consumer has it. The last round counts requests and memory.

Ends with a table, and with the same in target/bench/reconcile.json. An aim that is missed is shown
as such, and is no failure. Needs: make tools. Keep the machine idle meanwhile.

Example:
  make bench-reconcile N=100";

/// Limits changed, one after another.
const CHANGES: usize = 100;

/// Before each measurement: nats-server and etcd still clean up after the deletions of the one before.
const REST: Duration = Duration::from_secs(1);

/// At a time in the floor's loop; the best counts.
const WIDTHS: [usize; 3] = [1, 8, 32];

fn main() -> ExitCode {
    // cargo itself adds --bench.
    let args: Vec<_> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let (groups, rounds) = match (number("N", 300, 5000), number("ROUNDS", 3, 20)) {
        (Ok(groups), Ok(rounds)) if args.is_empty() => (groups, rounds),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("error: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
        _ => {
            eprintln!("error: {} is not known\n\n{USAGE}", args.join(" "));
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let metrics = runtime.block_on(measure(groups, rounds));
    report("reconcile", &metrics);
    ExitCode::SUCCESS
}

/// A number from the environment.
fn number(key: &str, default: usize, most: usize) -> Result<usize, String> {
    let Ok(text) = env::var(key) else { return Ok(default) };
    text.parse()
        .ok()
        .filter(|number| (1..=most).contains(number))
        .ok_or_else(|| format!("{key}={text:?}: write a number from 1 to {most}"))
}

#[derive(Default)]
struct Figures {
    ours: Vec<f64>,
    floor: [Vec<f64>; WIDTHS.len()],
    kubernetes: f64,
    jetstream: f64,
    memory: f64,
    changes: Vec<f64>,
    bare_changes: Vec<f64>,
}

async fn measure(groups: usize, rounds: usize) -> Vec<Metric> {
    println!("starting etcd, kube-apiserver and nats-server");
    let bed = Bed::start().await;
    println!("warming up");
    let status = warm_up(&bed).await;
    let mut figures = Figures::default();
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        let last = round == rounds;
        // What is first changes from round to round, so that neither gains by its place.
        if round % 2 == 1 {
            measure_ours(&bed, groups, last, &mut figures).await;
            measure_floor(&bed, groups, last, &status, &mut figures).await;
        } else {
            measure_floor(&bed, groups, last, &status, &mut figures).await;
            measure_ours(&bed, groups, last, &mut figures).await;
        }
    }
    metrics(groups, &figures)
}

/// Has the servers do everything once, and returns a status as the operator writes it.
async fn warm_up(bed: &Bed) -> floor::Status {
    const FEW: usize = 16;
    let operator = Operator::start(bed).await;
    operator.apply(FEW).await;
    let status = floor::Status::like(&operator.namespace).await;
    operator.delete_all().await;
    let floor = Floor::new(bed, &status).await;
    floor.run(FEW, FEW).await;
    floor.delete_all(FEW).await;
    status
}

async fn measure_ours(bed: &Bed, groups: usize, last: bool, figures: &mut Figures) {
    let operator = Operator::start(bed).await;
    tokio::time::sleep(REST).await;
    let before = operator.requests();
    let seconds = operator.apply(groups).await;
    println!("  ours: {}", speed(groups, seconds));
    figures.ours.push(seconds);
    if last {
        operator.until_backlog_was_swept().await;
        let requests = operator.requests().since(&before);
        requests.print();
        let each = |count: u64| as_f64(count) / as_f64(groups as u64);
        figures.kubernetes = each(requests.kubernetes());
        figures.jetstream = each(requests.jetstream);
    }
    operator.namespace.verify(groups, &bed.broker).await;
    if last {
        figures.changes = change::ours(bed, &operator, groups, CHANGES).await;
        println!("  {CHANGES} changes: {}", spread(&figures.changes));
    }
    figures.memory = figures.memory.max(operator.peak_memory());
    let seconds = operator.delete_all().await;
    println!("  deleted: {}", speed(groups, seconds));
}

async fn measure_floor(bed: &Bed, groups: usize, last: bool, status: &floor::Status, figures: &mut Figures) {
    for (index, width) in WIDTHS.into_iter().enumerate() {
        let floor = Floor::new(bed, status).await;
        tokio::time::sleep(REST).await;
        let seconds = floor.run(groups, width).await;
        println!("  floor, {width} at a time: {}", speed(groups, seconds));
        figures.floor[index].push(seconds);
        if last && index + 1 == WIDTHS.len() {
            figures.bare_changes = change::floor(&floor, groups, CHANGES).await;
            println!("  {CHANGES} bare changes: {}", spread(&figures.bare_changes));
        }
        floor.delete_all(groups).await;
    }
}

fn metrics(groups: usize, figures: &Figures) -> Vec<Metric> {
    let floor = figures
        .floor
        .iter()
        .map(|seconds| median(seconds))
        .fold(f64::INFINITY, f64::min);
    let change = |percent| {
        let (ours, floor) = (&figures.changes, &figures.bare_changes);
        Metric::new(
            format!("changed concurrency to changed consumer, p{percent}"),
            "ms",
            percentile(ours, percent),
        )
        .over(percentile(floor, percent))
    };
    vec![
        Metric::new(
            format!("{groups} TaskGroups applied to all pipelines made"),
            "s",
            median(&figures.ours),
        )
        .over(floor)
        .at_most_times_the_floor(1.5),
        Metric::new("Kubernetes requests for each new group", "requests", figures.kubernetes).at_most(6.0),
        Metric::new("JetStream requests for each new group", "requests", figures.jetstream).at_most(4.0),
        Metric::new(
            format!("peak memory of the operator at {groups} groups"),
            "MB",
            figures.memory,
        )
        .below(60.0),
        change(50),
        change(99).below(250.0),
    ]
}

fn speed(groups: usize, seconds: f64) -> String {
    format!("{seconds:.2} s, {:.0} groups/s", as_f64(groups as u64) / seconds)
}

fn spread(milliseconds: &[f64]) -> String {
    let at = |percent| percentile(milliseconds, percent);
    format!("p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms", at(50), at(99), at(100))
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

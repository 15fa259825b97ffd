//! Groups applied at once and limits changed one after the other: time, requests and memory.

use crate::{
    REST, as_f64,
    bed::Bed,
    change,
    floor::{Floor, Status},
    ours::Operator,
    speed,
    support::report::{Metric, median, percentile},
};

/// Limits changed, one after the other.
const CHANGES: usize = 100;

/// Objects that the floor's loop makes at a time. The fastest loop counts.
const WIDTHS: [usize; 3] = [1, 8, 32];

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

/// Measures `groups` groups `rounds` times. Returns the medians.
pub async fn measure(bed: &Bed, status: &Status, groups: usize, rounds: usize) -> Vec<Metric> {
    let mut figures = Figures::default();
    for round in 1..=rounds {
        println!("pipelines, round {round} of {rounds}");
        let last = round == rounds;
        // The first place changes from round to round, so that neither side gains by it.
        if round % 2 == 1 {
            measure_ours(bed, groups, last, &mut figures).await;
            measure_floor(bed, groups, last, status, &mut figures).await;
        } else {
            measure_floor(bed, groups, last, status, &mut figures).await;
            measure_ours(bed, groups, last, &mut figures).await;
        }
    }
    metrics(groups, &figures)
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
    figures.memory = figures.memory.max(operator.usage().peak_memory());
    let deletion = operator.delete_all().await;
    println!("  deleted: {}", speed(groups, deletion.seconds));
}

async fn measure_floor(bed: &Bed, groups: usize, last: bool, status: &Status, figures: &mut Figures) {
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

fn spread(milliseconds: &[f64]) -> String {
    let at = |percent| percentile(milliseconds, percent);
    format!("p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms", at(50), at(99), at(100))
}

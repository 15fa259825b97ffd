//! Costs with many groups beside the costs with a quarter of them.

use crate::{
    REST, as_f64,
    bed::Bed,
    busy::{self, Busy},
    floor::{Floor, Status},
    ours::{Deletion, Operator},
    speed,
    support::report::Metric,
};
use std::fs;

/// Groups where nobody says how many.
const GROUPS: usize = 4000;

/// A machine with 24 GiB states a little less.
const NEEDS_GIB: f64 = 23.0;

/// Four times as many groups may cost little more than four times as much.
const AIM: f64 = 4.5;

/// Objects that the floor's loop makes at a time. One at a time is never the fastest.
const WIDTHS: [usize; 2] = [8, 32];

/// The number of groups that this machine has the memory for, or why it has not.
pub fn default_size() -> Result<usize, String> {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"))
        .and_then(|number| number.parse().ok())
        .ok_or("/proc/meminfo does not state this machine's memory; LARGE=4000 measures nevertheless")?;
    let gib = kibibytes / f64::from(1 << 20);
    if gib < NEEDS_GIB {
        return Err(format!(
            "{GROUPS} groups need a machine with 24 GiB of memory, and this one has {gib:.1}; LARGE={GROUPS} measures nevertheless"
        ));
    }
    Ok(GROUPS)
}

/// Figures of one number of groups.
struct Costs {
    /// From applied groups to all pipelines made.
    seconds: f64,
    /// Processor time for that, in seconds.
    cpu: f64,
    /// Peak memory after that and after the busy sweeps, in MB.
    memory: f64,
    busy: Busy,
    deletion: Deletion,
}

/// Measures `groups` groups and a quarter of that.
pub async fn measure(bed: &Bed, status: &Status, groups: usize) -> Vec<Metric> {
    let few = groups / 4;
    let small = costs(bed, few).await;
    let large = costs(bed, groups).await;
    let mut floor = f64::INFINITY;
    for width in WIDTHS {
        println!("scale, floor with {groups} groups, {width} at a time");
        let bare = Floor::new(bed, status).await;
        tokio::time::sleep(REST).await;
        let seconds = bare.run(groups, width).await;
        println!("  {}", speed(groups, seconds));
        floor = floor.min(seconds);
        bare.delete_all(groups).await;
    }
    let mut sweeps = Metric::new(
        format!("processor time, {groups} groups get a task every 10 s, over {few} groups"),
        "% of a core",
        large.busy.percent,
    )
    .over(small.busy.percent);
    // Without the sweeps that it is about, the figure says nothing about its aim.
    if small.busy.kept_up() && large.busy.kept_up() {
        sweeps = sweeps.at_most_times_the_floor(AIM);
    }
    vec![
        Metric::new(
            format!("{groups} TaskGroups applied to all pipelines made"),
            "s",
            large.seconds,
        )
        .over(floor),
        Metric::new(
            format!("peak memory of the operator at {groups} groups"),
            "MB",
            large.memory,
        )
        .below(100.0),
        Metric::new(
            format!("processor time of making {groups} pipelines, over {few}"),
            "s",
            large.cpu,
        )
        .over(small.cpu)
        .at_most_times_the_floor(AIM),
        sweeps,
        Metric::new(
            format!("processor time of deleting {groups} groups, over {few} groups"),
            "s",
            large.deletion.cpu,
        )
        .over(small.deletion.cpu)
        .at_most_times_the_floor(AIM),
    ]
}

async fn costs(bed: &Bed, groups: usize) -> Costs {
    println!("scale, {groups} groups");
    let operator = Operator::start(bed).await;
    tokio::time::sleep(REST).await;
    let cpu = operator.usage().cpu();
    let seconds = operator.apply(groups).await;
    let usage = operator.usage();
    let cpu = usage.cpu() - cpu;
    println!(
        "  applied: {}, {cpu:.1} s of processor time, peak memory {:.1} MB",
        speed(groups, seconds),
        usage.peak_memory()
    );
    operator.until_backlog_was_swept().await;
    operator.namespace.verify(groups, &bed.broker).await;
    let busy = busy::measure(bed, &operator, groups).await;
    println!(
        "  busy: {:.1} % of a core, {:.2} status patches for each group and sweep, memory {:.1} MB",
        busy.percent,
        busy.patches,
        usage.memory()
    );
    if !busy.kept_up() {
        println!("  the operator did not sweep every 10 s: repeat this on a faster machine, or on an idle one");
    }
    let memory = usage.peak_memory();
    busy::calm(bed, &operator, groups).await;
    let deletion = operator.delete_all().await;
    println!(
        "  deleted: {}, {:.1} s of processor time ({:.2} ms for each group)",
        speed(groups, deletion.seconds),
        deletion.cpu,
        deletion.cpu * 1000.0 / as_f64(groups as u64)
    );
    Costs {
        seconds,
        cpu,
        memory,
        busy,
        deletion,
    }
}

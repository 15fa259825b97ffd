//! Measures how long it takes from applied TaskGroups to their pipelines and from a changed limit to the changed
//! consumer, and how the operator's costs grow with the number of groups. See [`USAGE`].
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
mod busy;
mod change;
mod floor;
mod ours;
mod pipelines;
mod scale;
mod seen;

use bed::Bed;
use floor::{Floor, Status};
use ours::Operator;
use std::{env, process::ExitCode, time::Duration};
use support::{
    arguments::{number, parts},
    report::{Metric, report},
};

const USAGE: &str = "\
Measures the operator against a real kube-apiserver, etcd and nats-server.

  make bench-reconcile [N=300] [ROUNDS=3] [LARGE=4000] [ONLY=pipelines,scale]
  cargo bench --bench reconcile        (the same from the environment)

  N       TaskGroups applied at once in `pipelines`, 1 to 5000
  ROUNDS  times that `pipelines` is measured, 1 to 20; the table shows medians
  LARGE   TaskGroups in `scale`, 4 to 5000; 0 leaves that part out. Without LARGE it is 4000 on a
          machine with 24 GiB of memory, and left out on a smaller one
  ONLY    one of the parts

  pipelines  N TaskGroups are applied, and the release build of the operator makes their streams,
             consumers and Deployments and writes their statuses. The floor makes the same objects
             from a loop without a controller, 1, 8 and 32 at a time; the fastest counts. Both end
             when a watch has shown the last status. Then the limit of one group after the other is
             changed until its consumer has it. The last round counts requests and memory.
  scale      The same once with LARGE groups. Then, with LARGE and with a quarter of that: the
             operator's processor time for making the pipelines, while every group gets a new task
             every 10 s, and for deleting all groups. That time may grow with the number of groups,
             but not faster. With 4000 groups, this takes several minutes.

Ends with a table, and with the same in target/bench/reconcile.json. A missed aim is shown as such,
and is no failure. Needs: make tools. Keep the machine idle meanwhile.

Example:
  make bench-reconcile N=100 ONLY=pipelines";

const PARTS: [&str; 2] = ["pipelines", "scale"];

/// Pause before each measurement, in which nats-server and etcd clean up after the deletions before it.
const REST: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    // cargo itself adds --bench.
    let args: Vec<_> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let plan = match Plan::read() {
        Ok(plan) if args.is_empty() => plan,
        Ok(_) => return wrong(&format!("{} is not known", args.join(" "))),
        Err(error) => return wrong(&error),
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let metrics = runtime.block_on(measure(&plan));
    report("reconcile", &metrics);
    ExitCode::SUCCESS
}

fn wrong(error: &str) -> ExitCode {
    eprintln!("error: {error}\n\n{USAGE}");
    ExitCode::from(2)
}

/// What to measure.
struct Plan {
    parts: Vec<String>,
    groups: usize,
    rounds: usize,
    /// Why `scale` is left out, or its number of groups.
    large: Result<usize, String>,
}

impl Plan {
    fn read() -> Result<Self, String> {
        let large = match number("LARGE", usize::MAX, 0..=5000)? {
            0 => Err("LARGE is 0".into()),
            few @ 1..4 => return Err(format!("LARGE={few}: write 0 or a number from 4 to 5000")),
            usize::MAX => scale::default_size(),
            groups => Ok(groups),
        };
        Ok(Self {
            parts: parts(&PARTS, &[])?,
            groups: number("N", 300, 1..=5000)?,
            rounds: number("ROUNDS", 3, 1..=20)?,
            large,
        })
    }
}

async fn measure(plan: &Plan) -> Vec<Metric> {
    println!("starting etcd, kube-apiserver and nats-server");
    let bed = Bed::start().await;
    println!("warming up");
    let status = warm_up(&bed).await;
    let mut metrics = Vec::new();
    for part in &plan.parts {
        match (part.as_str(), &plan.large) {
            ("pipelines", _) => metrics.extend(pipelines::measure(&bed, &status, plan.groups, plan.rounds).await),
            (_, Ok(groups)) => metrics.extend(scale::measure(&bed, &status, *groups).await),
            (_, Err(why)) => println!("scale is left out: {why}"),
        }
    }
    metrics
}

/// Has the servers do everything once, and returns a status as the operator writes it.
async fn warm_up(bed: &Bed) -> Status {
    const FEW: usize = 16;
    let operator = Operator::start(bed).await;
    operator.apply(FEW).await;
    let status = Status::like(&operator.namespace).await;
    operator.delete_all().await;
    let floor = Floor::new(bed, &status).await;
    floor.run(FEW, FEW).await;
    floor.delete_all(FEW).await;
    status
}

fn speed(groups: usize, seconds: f64) -> String {
    format!("{seconds:.2} s, {:.0} groups/s", as_f64(groups as u64) / seconds)
}

#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

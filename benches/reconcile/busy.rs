//! The operator's costs while every group gets new tasks.

use crate::{as_f64, bed::Bed, bed::group_name, ours::Operator};
use futures::{StreamExt, stream};
use kube::api::ListParams;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use taskgroup::{api::TaskGroupStatus, protocol::Queue};
use tokio::time::{MissedTickBehavior, interval};

/// Time in which every group gets one task; the operator sweeps over the backlog as often.
const SWEEP: Duration = Duration::from_secs(10);

/// Sweeps that are measured, after one that is not. No worker takes the tasks: a longer queue would grow by less than
/// a tenth in each sweep, which the operator does not write into the status.
const SWEEPS: u32 = 5;

/// Status patches for each group and sweep that show that the operator kept up.
const FEWEST_PATCHES: f64 = 0.8;

/// Tasks are published so many times in a sweep, each time to another part of the groups.
const STEPS: u32 = 100;

/// Purges under way at once.
const WIDTH: usize = 16;

/// How long no further group may be noticed to be empty.
const PATIENCE: Duration = Duration::from_secs(120);

/// Figures of busy groups.
pub struct Busy {
    /// Processor time of the operator in percent of a core.
    pub percent: f64,
    /// Status patches for each group and sweep. Far below 1, the machine is too slow to sweep every 10 s, and `percent`
    /// counts fewer sweeps.
    pub patches: f64,
}

impl Busy {
    /// Whether the operator swept as often as it should have. Otherwise the figure is too low.
    pub fn kept_up(&self) -> bool {
        self.patches >= FEWEST_PATCHES
    }
}

/// Measures the operator while every group gets a new task in every sweep.
pub async fn measure(bed: &Bed, operator: &Operator<'_>, groups: usize) -> Busy {
    let client = bed.nats.client().await;
    let feed = async |sweeps: u32| {
        let mut timer = interval(SWEEP / STEPS);
        timer.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for sweep in 0..sweeps {
            for step in 0..STEPS as usize {
                timer.tick().await;
                for index in (step..groups).step_by(STEPS as usize) {
                    let queue = Queue::new(operator.namespace.name.as_str(), group_name(index));
                    let task = queue.task(&format!("task-{sweeps}-{sweep}"));
                    client.publish(task, "".into()).await.unwrap();
                }
            }
        }
        client.flush().await.unwrap();
    };
    feed(1).await;
    let (requests, usage) = (operator.requests(), operator.usage());
    let (cpu, start) = (usage.cpu(), Instant::now());
    feed(SWEEPS).await;
    let (cpu, wall) = (usage.cpu() - cpu, start.elapsed());
    let patches = operator.requests().since(&requests).status_patches();
    Busy {
        percent: cpu / wall.as_secs_f64() * 100.0,
        patches: as_f64(patches) / as_f64(groups as u64 * u64::from(SWEEPS)),
    }
}

/// Empties all queues, and waits until every status says so: what follows is not disturbed by the tasks.
pub async fn calm(bed: &Bed, operator: &Operator<'_>, groups: usize) {
    let jetstream = bed.nats.jetstream().await;
    let purged: u64 = stream::iter(0..groups)
        .map(|index| {
            let stream = Queue::new(operator.namespace.name.as_str(), group_name(index)).stream();
            let jetstream = &jetstream;
            async move {
                let answer: Value = jetstream
                    .request(format!("STREAM.PURGE.{stream}"), &json!({}))
                    .await
                    .unwrap();
                answer["purged"].as_u64().unwrap()
            }
        })
        .buffer_unordered(WIDTH)
        .fold(0, async |sum, purged| sum + purged)
        .await;
    assert_eq!(purged, groups as u64 * u64::from(SWEEPS + 1), "every task was stored");
    let api = operator.namespace.groups();
    let (mut deadline, mut before) = (Instant::now() + PATIENCE, usize::MAX);
    loop {
        let all = api.list(&ListParams::default()).await.unwrap();
        let is_empty = |status: &TaskGroupStatus| status.pending == Some(0);
        let left = all
            .iter()
            .filter(|group| !group.status.as_ref().is_some_and(is_empty))
            .count();
        if left == 0 {
            return;
        }
        if left < before {
            (deadline, before) = (Instant::now() + PATIENCE, left);
        }
        assert!(
            Instant::now() < deadline,
            "{left} statuses never say that the queue is empty"
        );
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

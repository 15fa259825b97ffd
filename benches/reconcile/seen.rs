//! When everything is there: the same for the operator and for the floor.

use futures::StreamExt;
use kube::{
    Api, ResourceExt,
    runtime::watcher::{self, Event, watcher},
};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use taskgroup::{
    api::{ConditionStatus, ConditionType, TaskGroup},
    operator::status::find,
};
use tokio::{sync::oneshot, task::JoinHandle};

/// Without a new pipeline for so long, something is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// A watch that waits for the statuses of all TaskGroups of a namespace.
pub struct Seen {
    done: Arc<Mutex<HashSet<String>>>,
    wanted: usize,
    watch: JoinHandle<Instant>,
}

impl Seen {
    /// Returns when the watch has begun.
    pub async fn start(groups: Api<TaskGroup>, wanted: usize) -> Self {
        let done = Arc::new(Mutex::new(HashSet::new()));
        let (begun, has_begun) = oneshot::channel();
        let watch = tokio::spawn(follow(groups, wanted, done.clone(), begun));
        has_begun.await.unwrap();
        Self { done, wanted, watch }
    }

    /// The moment that the last one was seen.
    ///
    /// # Panics
    /// If no further one comes, with `last_words`.
    pub async fn all(mut self, last_words: impl Fn() -> String) -> Instant {
        let mut before = 0;
        loop {
            if let Ok(at) = tokio::time::timeout(PATIENCE, &mut self.watch).await {
                return at.unwrap();
            }
            let now = self.done.lock().unwrap().len();
            assert!(
                now > before,
                "{now} of {} pipelines, and no more come: {}",
                self.wanted,
                last_words()
            );
            before = now;
        }
    }
}

async fn follow(
    groups: Api<TaskGroup>,
    wanted: usize,
    done: Arc<Mutex<HashSet<String>>>,
    begun: oneshot::Sender<()>,
) -> Instant {
    let mut events = Box::pin(watcher(groups, watcher::Config::default()));
    let mut begun = Some(begun);
    loop {
        match events.next().await.unwrap() {
            Ok(Event::InitDone) => {
                if let Some(begun) = begun.take() {
                    begun.send(()).unwrap();
                }
            }
            Ok(Event::Apply(group) | Event::InitApply(group)) if is_done(&group) => {
                let mut done = done.lock().unwrap();
                done.insert(group.name_any());
                if done.len() == wanted {
                    return Instant::now();
                }
            }
            Ok(_) => {}
            Err(error) => eprintln!("the watch begins anew: {error}"),
        }
    }
}

/// Whether the status says that the stream, the consumer and the Deployment of this spec are made. (No
/// pod ever runs here.)
pub fn is_done(group: &TaskGroup) -> bool {
    let Some(status) = &group.status else { return false };
    let is = |type_, expected: ConditionStatus| {
        find(status, type_).is_some_and(|condition| condition.status == expected.as_str())
    };
    let rolling_out = find(status, ConditionType::WorkersReady).is_some_and(|workers| workers.reason == "RollingOut");
    status.observed_generation == group.metadata.generation
        && is(ConditionType::StreamReady, ConditionStatus::True)
        && is(ConditionType::ConsumerReady, ConditionStatus::True)
        && rolling_out
}

//! The example of a container that speaks JetStream itself keeps to the same consumer as a worker.

#[path = "../../examples/native.rs"]
#[allow(
    dead_code,
    missing_docs,
    reason = "a test needs no main, and an example no documentation"
)]
mod example;

use crate::{
    bed::{Bed, Group, until},
    handler::Hold,
    numbers,
};
use example::Settings;
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What several pods did together.
#[derive(Default)]
struct Books {
    done: Mutex<Vec<String>>,
    running: AtomicUsize,
    peak: AtomicUsize,
}

/// Counted for as long as it lives.
struct Running(Arc<Books>);

impl Running {
    fn new(books: &Arc<Books>) -> Self {
        let running = books.running.fetch_add(1, SeqCst) + 1;
        books.peak.fetch_max(running, SeqCst);
        Self(books.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

/// A pod that takes at most `max_inflight` tasks at once, each of which waits for `hold`.
fn pod(
    bed: &Bed,
    max_inflight: usize,
    ack_wait: u64,
    hold: &Hold,
    books: &Arc<Books>,
) -> (CancellationToken, JoinHandle<()>) {
    let settings = Settings {
        nats_url: bed.nats.url(),
        nats_creds: None,
        stream: bed.stream().to_string(),
        consumer: "workers-crawl".to_owned(),
        max_inflight,
        ack_wait: Duration::from_secs(ack_wait),
    };
    let (hold, books, stop) = (hold.clone(), books.clone(), CancellationToken::new());
    let stopped = stop.clone();
    let work = move |message: Arc<async_nats::jetstream::Message>| {
        let (hold, books) = (hold.clone(), books.clone());
        async move {
            let running = Running::new(&books);
            hold.wait().await;
            drop(running);
            let id = message.subject.rsplit('.').next().unwrap_or_default().to_owned();
            if id == "fails-once" && message.info().is_ok_and(|info| info.delivered == 1) {
                return Err("as it is told".to_owned());
            }
            books.done.lock().expect("the books").push(id);
            Ok(())
        }
    };
    let pod = tokio::spawn(async move { example::run(&settings, work, stopped).await.expect("it runs") });
    (stop, pod)
}

#[tokio::test]
async fn two_pods_reach_the_groups_limit_and_never_exceed_it_nor_their_own_also_when_it_changes() {
    let mut group = Group::default().concurrency(3);
    let bed = Bed::with(&group).await;
    let (hold, books) = (Hold::new(), Arc::<Books>::default());
    let (one, other) = (pod(&bed, 2, 30, &hold, &books), pod(&bed, 3, 30, &hold, &books));
    bed.publish_many(40).await;
    let running = async |count: usize| {
        until(&format!("{count} run"), async || books.running.load(SeqCst) == count).await;
    };
    running(3).await;
    hold.release(10);
    until("ten are done", async || {
        books.done.lock().expect("the books").len() == 10
    })
    .await;
    running(3).await;
    assert_eq!(books.peak.load(SeqCst), 3);
    group.concurrency = 5;
    bed.change(&group).await;
    running(5).await;
    group.concurrency = 9;
    bed.change(&group).await;
    hold.release(100);
    bed.empty_queue().await;
    assert_eq!(books.peak.load(SeqCst), 5, "2 and 3 are all that the pods take");
    let done = books.done.lock().expect("the books").clone();
    assert_eq!(done.len(), 40);
    assert_eq!(done.into_iter().collect::<BTreeSet<_>>(), numbers(40));
    for (stop, pod) in [one, other] {
        stop.cancel();
        pod.await.expect("it ends");
    }
}

#[tokio::test]
async fn a_task_longer_than_ack_wait_runs_once_and_one_that_fails_again() {
    let bed = Bed::with(&Group::default().concurrency(1).ack_wait(2)).await;
    let (hold, books) = (Hold::new(), Arc::<Books>::default());
    let _pods = (pod(&bed, 5, 2, &hold, &books), pod(&bed, 5, 2, &hold, &books));
    bed.publish("long", "").await;
    until("it runs", async || books.running.load(SeqCst) == 1).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(bed.consumer_info().await["num_redelivered"], 0);
    bed.publish("fails-once", "").await;
    hold.release(3);
    bed.empty_queue().await;
    assert_eq!(*books.done.lock().expect("the books"), ["long", "fails-once"]);
    assert_eq!(books.peak.load(SeqCst), 1);
}

#[tokio::test]
async fn a_pod_that_loses_nats_cuts_its_tasks_off() {
    let bed = Bed::with(&Group::default().concurrency(2).ack_wait(3)).await;
    let (hold, books) = (Hold::new(), Arc::<Books>::default());
    let _pod = pod(&bed, 5, 3, &hold, &books);
    bed.publish_many(2).await;
    until("two run", async || books.running.load(SeqCst) == 2).await;
    bed.nats.stop();
    until("both are cut off", async || books.running.load(SeqCst) == 0).await;
    bed.nats.resume().await;
    bed.connected().await;
    hold.release(2);
    bed.empty_queue().await;
    assert_eq!(books.done.lock().expect("the books").len(), 2);
}

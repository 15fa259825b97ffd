//! The worker in this process, with a function in the place of a handler: several groups in one process, and a function that
//! panics.

use crate::{
    bed::{Bed, Group, nats_args, until},
    handler::{Handler, Hold, ok},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};
use taskgroup::{
    admin::ServeArgs,
    protocol::{Kind, Queue},
    telemetry::LogFormat,
    worker::{self, Args, AttemptResult, HandlerArgs, InProcess, Output},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What the function ran, by group.
#[derive(Default)]
struct Runs {
    /// Task and attempt of each call.
    calls: Mutex<Vec<(String, String, u32)>>,
    running: Mutex<BTreeMap<String, usize>>,
}

/// Counted while it lives.
struct Running {
    runs: Arc<Runs>,
    group: String,
}

impl Runs {
    fn begin(self: &Arc<Self>, group: &str, id: &str, attempt: u32) -> Running {
        let call = (group.to_owned(), id.to_owned(), attempt);
        self.calls.lock().unwrap().push(call);
        *self.running.lock().unwrap().entry(group.to_owned()).or_default() += 1;
        Running {
            runs: self.clone(),
            group: group.to_owned(),
        }
    }

    fn running(&self, group: &str) -> usize {
        self.running.lock().unwrap().get(group).copied().unwrap_or_default()
    }

    fn calls(&self, group: &str) -> usize {
        let calls = self.calls.lock().unwrap();
        calls.iter().filter(|call| call.0 == group).count()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *self.runs.running.lock().unwrap().get_mut(&self.group).unwrap() -= 1;
    }
}

fn done() -> AttemptResult {
    AttemptResult::Answered {
        status: 200,
        retry_after: None,
        body: Output::default(),
    }
}

fn args(bed: &Bed) -> Args {
    Args {
        nats: nats_args(&bed.nats),
        serve: ServeArgs {
            admin_addr: ([127, 0, 0, 1], 0).into(),
            log_format: LogFormat::Text,
            log: "warn".into(),
        },
        namespace: bed.queue.namespace.clone(),
        queue: bed.queue.name.clone(),
        handler: HandlerArgs::default(),
        no_env: true,
    }
}

/// A worker in this process. It stops when this is dropped.
struct Embedded {
    worker: Option<JoinHandle<anyhow::Result<()>>>,
    shutdown: CancellationToken,
}

impl Embedded {
    fn start(bed: &Bed, queues: Vec<Queue>, handler: InProcess) -> Self {
        let shutdown = CancellationToken::new();
        let worker = worker::run_groups(args(bed), queues, handler, shutdown.clone());
        Self {
            worker: Some(tokio::spawn(worker)),
            shutdown,
        }
    }

    async fn ended(&mut self) -> anyhow::Result<()> {
        self.worker.take().unwrap().await.unwrap()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[tokio::test]
async fn a_panic_fails_the_attempt_of_one_task_and_nothing_else() {
    let mut group = Group::default().max_attempts(2);
    group.settings.retry.initial_delay = "10ms".into();
    let bed = Bed::with_relay(&group).await;
    let runs: Arc<Runs> = Arc::default();
    let books = runs.clone();
    let handler: InProcess = Arc::new(move |attempt| {
        let running = books.begin("acme", attempt.id, attempt.number);
        assert!(attempt.id != "at-once", "no such luck");
        let id = attempt.id.to_owned();
        Box::pin(async move {
            let _running = running;
            tokio::task::yield_now().await;
            assert!(id != "later", "no such luck");
            done()
        })
    });
    let mut worker = Embedded::start(&bed, vec![bed.queue.clone()], handler);
    for id in ["at-once", "later"] {
        bed.publish(id, "").await;
    }
    bed.publish_many(50).await;
    let dead = bed.dead_letters(2).await;
    for letter in dead {
        let header = |name: &str| letter.headers[name].as_str();
        assert_eq!(
            (header("x-dead-reason"), header("x-dead-attempts")),
            ("MaxAttempts", "2")
        );
        assert!(header("x-dead-error").contains("no such luck"), "{letter:?}");
    }
    bed.empty_queue().await;
    let mut calls = runs.calls.lock().unwrap().clone();
    calls.sort();
    let attempts = |id: &str| {
        let of_task = calls.iter().filter(|call| call.1 == id);
        of_task.map(|call| call.2).collect::<Vec<_>>()
    };
    assert_eq!((attempts("at-once"), attempts("later")), (vec![1, 2], vec![1, 2]));
    assert_eq!(calls.len(), 54, "the others ran once");
    assert_eq!(runs.running("acme"), 0);
    worker.shutdown.cancel();
    worker.ended().await.expect("the worker was never at fault");
}

/// A group of this name, by its own settings.
fn group(name: &str, concurrency: i64) -> Group {
    let mut group = Group::default().concurrency(concurrency);
    name.clone_into(&mut group.settings.group);
    group
}

/// Two groups in one process, whose tasks wait for `hold`.
async fn two_groups(hold: &Hold) -> (Bed, Queue, Arc<Runs>, Embedded) {
    let bed = Bed::with_relay(&group("acme", 2)).await;
    let other = Queue::new("crawl", "initech");
    bed.create_group(&other, &group("initech", 3)).await;
    let runs: Arc<Runs> = Arc::default();
    let (books, hold) = (runs.clone(), hold.clone());
    let handler: InProcess = Arc::new(move |attempt| {
        let running = books.begin(&attempt.settings.group, attempt.id, attempt.number);
        let hold = hold.clone();
        Box::pin(async move {
            let _running = running;
            hold.wait().await;
            done()
        })
    });
    let worker = Embedded::start(&bed, vec![bed.queue.clone(), other.clone()], handler);
    for id in 0..8 {
        let id = id.to_string();
        bed.publish(&id, "").await;
        bed.store(&other.task(&id), &[]).await;
    }
    until("both groups are at their limits", async || {
        runs.running("acme") == 2 && runs.running("initech") == 3
    })
    .await;
    (bed, other, runs, worker)
}

#[tokio::test]
async fn two_groups_in_one_process_keep_to_their_own_limits_and_settings() {
    let hold = Hold::new();
    let (bed, other, runs, worker) = two_groups(&hold).await;
    bed.change_of(&other, &group("initech", 5)).await;
    until("initech is at its new limit", async || runs.running("initech") == 5).await;
    assert_eq!(runs.running("acme"), 2);
    bed.change(&group("acme", 4)).await;
    until("acme is at its new limit", async || runs.running("acme") == 4).await;
    assert_eq!(runs.running("initech"), 5);
    hold.release(100);
    bed.empty_queue().await;
    until("the other queue is empty, too", async || {
        bed.nats.messages(other.stream().as_str()).await == 0
    })
    .await;
    assert_eq!((runs.calls("acme"), runs.calls("initech")), (8, 8));
    drop(worker);
}

#[tokio::test]
async fn a_task_is_cancelled_in_the_group_that_the_question_names() {
    let hold = Hold::new();
    let (bed, other, runs, worker) = two_groups(&hold).await;
    // Both groups run a task of this id.
    assert_eq!(bed.ask_to_cancel_of(&other, "0", 1000).await, "running");
    until("its slot is free for the next", async || runs.calls("initech") == 4).await;
    assert_eq!((runs.running("acme"), runs.calls("acme")), (2, 2));
    // The operator counts the answers against the workers of the group. One of a process that does not run the group would
    // take the place of one that runs the task.
    let third = Queue::new("crawl", "umbrella").of(Kind::WorkerCancel);
    let question = r#"{"id": "0", "upTo": 1000}"#;
    let client = bed.nats.client().await;
    let asked = tokio::time::timeout(
        std::time::Duration::from_secs(1),
        client.request(third, question.into()),
    );
    assert!(asked.await.is_err(), "no answer");
    hold.release(100);
    bed.empty_queue().await;
    drop(worker);
}

#[tokio::test]
async fn a_process_with_several_groups_finishes_what_runs_of_each_and_starts_nothing() {
    let hold = Hold::new();
    let (bed, other, runs, mut worker) = two_groups(&hold).await;
    worker.shutdown.cancel();
    let waiting = async |queue: &Queue| {
        let info = bed.nats.consumer(queue.stream().as_str()).await.unwrap();
        info["num_waiting"].as_u64().unwrap()
    };
    until("nothing is pulled", async || {
        waiting(&bed.queue).await + waiting(&other).await == 0
    })
    .await;
    assert_eq!((runs.running("acme"), runs.running("initech")), (2, 3));
    hold.release(5);
    worker.ended().await.expect("an orderly end");
    assert_eq!((runs.calls("acme"), runs.calls("initech")), (2, 3));
    for (queue, left) in [(&bed.queue, 6), (&other, 5)] {
        assert_eq!(bed.nats.messages(queue.stream().as_str()).await, left, "{queue}");
    }
}

#[tokio::test]
async fn a_process_with_several_groups_has_one_subscription_of_each_kind() {
    let hold = Hold::new();
    let (bed, _other, _runs, worker) = two_groups(&hold).await;
    let connections = bed.nats.monitor("/connz?subs=1").expect("the server's connections");
    for kind in [Kind::Settings, Kind::WorkerCancel, Kind::WorkerCallback] {
        let all = format!("\"{}\"", Queue::new("crawl", "*").of(kind));
        assert_eq!(connections.matches(&all).count(), 1, "{all} in {connections}");
        for queue in ["acme", "initech"] {
            let own = format!("\"{}\"", Queue::new("crawl", queue).of(kind));
            assert!(!connections.contains(&own), "{own} in {connections}");
        }
    }
    hold.release(100);
    drop(worker);
}

#[tokio::test]
async fn a_callback_of_any_group_of_the_namespace_is_made_by_the_settings_of_that_group() {
    let hold = Hold::new();
    let (bed, _other, _runs, worker) = two_groups(&hold).await;
    let caller = Handler::start(|_| async { ok() }).await;
    let mut allowed = group("umbrella", 1);
    allowed.settings.callback_allow = vec!["127.0.0.0/8".into()];
    let (umbrella, missing) = (Queue::new("crawl", "umbrella"), Queue::new("crawl", "missing"));
    bed.create_group(&umbrella, &allowed).await;
    let client = bed.nats.client().await;
    let ask = async |queue: &Queue| {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("X-Callback-Url", caller.url().as_str());
        headers.insert("X-Call-Id", "0");
        let subject = queue.of(Kind::WorkerCallback);
        let answer = client.request_with_headers(subject, headers, "body".into()).await;
        String::from_utf8_lossy(&answer.expect("an answer").payload).into_owned()
    };
    assert_eq!(ask(&umbrella).await, "ok");
    assert_eq!(caller.books.calls()[0].payload, "body");
    assert_eq!(ask(&bed.queue).await, "give-up", "acme allows no address inside");
    assert_eq!(ask(&missing).await, "retry", "nobody knows what it allows");
    assert_eq!(caller.books.calls().len(), 1);
    hold.release(100);
    drop(worker);
}

//! A task is cancelled by one request, wherever it is.

use crate::bed::Bed;
use futures::StreamExt;
use jiff::SignedDuration;
use serde_json::{Value, json};
use std::time::Duration;

impl Bed {
    /// Asks for a task to be cancelled, until an operator listens.
    async fn cancel(&self, queue: &str, id: &str) -> String {
        let subject = format!("cancel.{}.{queue}.{id}", self.namespace);
        let client = self.nats.client().await;
        let answer = self
            .until("an answer", || async {
                client.request(subject.clone(), "".into()).await.ok()
            })
            .await;
        String::from_utf8(answer.payload.to_vec()).unwrap()
    }

    /// Plays a worker of the group, which says this of every task it is asked about. Returns what it was
    /// asked, with the number of tasks in the queue at that time.
    async fn worker_says(
        &self,
        queue: &str,
        state: &'static str,
    ) -> tokio::sync::mpsc::UnboundedReceiver<(Value, u64)> {
        self.worker_says_after(Duration::ZERO, queue, state).await
    }

    /// The same, by a worker that takes so long.
    async fn worker_says_after(
        &self,
        delay: Duration,
        queue: &str,
        state: &'static str,
    ) -> tokio::sync::mpsc::UnboundedReceiver<(Value, u64)> {
        let client = self.nats.client().await;
        let subject = format!("worker-cancel.{}.{queue}", self.namespace);
        let mut questions = client.subscribe(subject).await.unwrap();
        client.flush().await.unwrap();
        let jetstream = self.nats.jetstream().await;
        let stream = self.stream(queue);
        let (sender, asked) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(question) = questions.next().await {
                let info = jetstream.get_stream(&stream).await;
                let queued = info.map_or(0, |info| info.cached_info().state.messages);
                tokio::time::sleep(delay).await;
                let text = serde_json::from_slice(&question.payload).unwrap();
                let _ = sender.send((text, queued));
                let answer = json!({"state": state}).to_string();
                client.publish(question.reply.unwrap(), answer.into()).await.unwrap();
            }
        });
        asked
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_waits_in_its_queue_or_in_back_off_is_removed_and_no_other() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    bed.until("the relay's consumer", || bed.nats.relay()).await;
    for id in ["1", "1.x", "2"] {
        bed.nats.publish(&bed.subject("acme", id), "").await;
    }
    for id in ["3", "4"] {
        bed.delay("acme", id, SignedDuration::from_hours(1)).await;
    }
    assert_eq!(bed.cancel("acme", "1").await, "queued");
    assert_eq!(bed.cancel("acme", "3").await, "queued");
    assert_eq!(bed.cancel("acme", "1").await, "unknown");
    assert_eq!(bed.cancel("acme", "never").await, "unknown");
    assert_eq!(bed.cancel("nobody", "1").await, "unknown");
    assert_eq!(bed.nats.messages(&bed.stream("acme")).await, 2);
    assert_eq!(bed.nats.messages("TASKGROUP_DELAY").await, 1);
    let answered = bed.metric("taskgroup_operator_cancellations_total{answer=\"queued\"}");
    assert_eq!(answered, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_were_handed_out_before_a_cancelled_one_come_again_when_their_worker_dies() {
    let bed = Bed::new().await;
    bed.made(
        "acme",
        json!({"concurrency": 5, "timeouts": {"task": "1s", "ackWait": "2s"}}),
    )
    .await;
    for id in ["1", "2", "3", "4", "5"] {
        bed.nats.publish(&bed.subject("acme", id), "").await;
    }
    let stream = bed.nats.jetstream().await.get_stream(bed.stream("acme")).await.unwrap();
    let consumer: async_nats::jetstream::consumer::PullConsumer = stream.get_consumer(&bed.consumer()).await.unwrap();
    let take = async |count: usize| {
        let tasks = consumer.batch().max_messages(count).messages().await.unwrap();
        tasks.take(count).map(Result::unwrap).collect::<Vec<_>>().await
    };
    let in_hand = take(5).await;
    assert_eq!(bed.cancel("acme", "3").await, "queued");
    in_hand[3].double_ack().await.unwrap();
    let again = take(3).await;
    let mut again: Vec<_> = again.iter().map(|task| task.subject.to_string()).collect();
    again.sort();
    assert_eq!(again, ["1", "2", "5"].map(|id| bed.subject("acme", id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_leaves_its_queue_with_a_worker_that_is_not_heard_is_not_said_to_be_unknown() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    bed.nats.publish(&bed.subject("acme", "1"), "").await;
    let stream = bed.nats.jetstream().await.get_stream(bed.stream("acme")).await.unwrap();
    let consumer: async_nats::jetstream::consumer::PullConsumer = stream.get_consumer(&bed.consumer()).await.unwrap();
    let task = consumer.batch().max_messages(1).messages().await.unwrap().next().await;
    let subject = format!("worker-cancel.{}.acme", bed.namespace);
    let mut questions = bed.nats.client().await.subscribe(subject).await.unwrap();
    tokio::spawn(async move {
        questions.next().await;
        task.unwrap().unwrap().double_ack().await.unwrap();
    });
    let answer = bed.cancel("acme", "1").await;
    assert!(answer.starts_with("error: the task left its queue"), "{answer}");
    assert_eq!(bed.cancel("acme", "1").await, "unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_workers_are_heard_that_answer_while_it_is_not_known_how_many_there_are() {
    let bed = Bed::new().await;
    // An operator that has just started knows as little of a queue as of one without a TaskGroup.
    let mut asked = bed.worker_says("unheard-of", "none").await;
    let _late = bed
        .worker_says_after(Duration::from_millis(100), "unheard-of", "queued")
        .await;
    assert_eq!(bed.cancel("unheard-of", "1").await, "queued");
    assert!(asked.recv().await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_task_is_cut_off_before_its_slot_is_freed() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    for id in ["1", "2"] {
        bed.nats.publish(&bed.subject("acme", id), "").await;
    }
    let mut asked = bed.worker_says("acme", "running").await;
    assert_eq!(bed.cancel("acme", "2").await, "running");
    let (question, queued) = asked.recv().await.unwrap();
    assert_eq!(question, json!({"id": "2", "upTo": 2}));
    assert_eq!(queued, 2, "the task is still there when the worker is asked");
    assert_eq!(bed.nats.messages(&bed.stream("acme")).await, 1, "and gone afterwards");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ended_is_finished() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    bed.until("the dead letters", || bed.nats.stream("TASKGROUP_DEAD"))
        .await;
    bed.nats.publish(&format!("dead.{}.acme.1", bed.namespace), "").await;
    assert_eq!(bed.cancel("acme", "1").await, "finished", "it is a dead letter");
    let mut asked = bed.worker_says("acme", "finished").await;
    assert_eq!(bed.cancel("acme", "2").await, "finished", "a worker knows of it");
    assert_eq!(asked.recv().await.unwrap().0, json!({"id": "2", "upTo": 0}));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_workers_are_heard() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2, "workers": {"maxInflightPerPod": 1}}))
        .await;
    bed.pods_become_ready("acme").await;
    bed.until_condition("acme", "WorkersReady", "True").await;
    bed.nats.publish(&bed.subject("acme", "1"), "").await;
    let _one = bed.worker_says("acme", "none").await;
    let _other = bed
        .worker_says_after(Duration::from_millis(100), "acme", "running")
        .await;
    assert_eq!(bed.cancel("acme", "1").await, "running");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_names_no_task_is_told_what_to_send() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    bed.nats.publish(&bed.subject("acme", "1"), "").await;
    // A wildcard would remove all tasks. The client library sends none; others do.
    let answer = raw_request(&bed.nats.url(), &format!("cancel.{}.acme.>", bed.namespace));
    assert!(
        answer.contains("send the request to cancel.<namespace>.<queue>.<task-id>"),
        "{answer}"
    );
    let answer = bed.cancel("UPPER", "1").await;
    assert!(answer.starts_with("error: cancel."), "{answer}");
    assert_eq!(bed.nats.messages(&bed.stream("acme")).await, 1);
}

/// A request by the NATS protocol itself: what the server says until an answer came.
fn raw_request(url: &str, subject: &str) -> String {
    use std::io::{BufRead, BufReader, Write};
    let stream = std::net::TcpStream::connect(url.trim_start_matches("nats://")).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let mut lines = BufReader::new(stream).lines();
    write!(
        writer,
        "CONNECT {{\"verbose\":false}}\r\nSUB answer 1\r\nPUB {subject} answer 0\r\n\r\n"
    )
    .unwrap();
    lines
        .find_map(|line| line.ok().filter(|line| line.starts_with("MSG ")))
        .unwrap();
    lines.next().unwrap().unwrap()
}

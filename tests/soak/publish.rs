//! The publishers, and those who cancel.

use crate::{
    bed::Bed,
    checker::{Answer, Event, Task},
    handler,
};
use async_nats::HeaderMap;
use futures::StreamExt;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    sync::{Arc, Mutex, atomic::Ordering::SeqCst},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};

/// How long a confirmation or an answer is waited for.
const ANSWER: Duration = Duration::from_secs(3);

/// Tasks of one group that are being published at once.
const WIDTH: usize = 8;

/// Most tasks that are published at once, so that there is something to wait for.
const BURST: u32 = 60;

/// Tasks that may be worth cancelling.
#[derive(Default)]
pub struct Recent(Mutex<Vec<Task>>);

impl Recent {
    fn add(&self, task: Task) {
        self.0.lock().unwrap().push(task);
    }

    /// One of the last, which is then no longer one.
    fn take(&self, random: &mut StdRng) -> Option<Task> {
        let mut tasks = self.0.lock().unwrap();
        let old = tasks.len().saturating_sub(2000);
        tasks.drain(..old);
        let begin = tasks.len().saturating_sub(200);
        let index = (begin < tasks.len()).then(|| random.random_range(begin..tasks.len()))?;
        Some(tasks.swap_remove(index))
    }
}

/// Publishes so many tasks of a group, in bursts, over so long.
pub async fn publish(bed: Arc<Bed>, recent: Arc<Recent>, group: usize, tasks: u32, time: Duration, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed ^ 0x0070_7562 ^ (group as u64) << 40);
    let begun = Instant::now();
    let mut next = 0;
    while next < tasks {
        let burst = random.random_range(1..=BURST).min(tasks - next);
        let repeats: Vec<_> = (0..burst)
            .map(|_| {
                random
                    .random_bool(0.02)
                    .then(|| Duration::from_millis(random.random_range(0..3000)))
            })
            .collect();
        futures::stream::iter((next..).zip(repeats))
            .for_each_concurrent(WIDTH, |(number, repeat)| {
                let (bed, recent) = (bed.clone(), recent.clone());
                let task = Task { group, number };
                async move {
                    let restarts = bed.restarts.load(SeqCst);
                    bed.record.note(Event::Publish { task });
                    store(&bed, task, restarts).await;
                    bed.record.note(Event::Stored { task });
                    recent.add(task);
                    if let Some(pause) = repeat {
                        tokio::spawn(async move {
                            sleep(pause).await;
                            // NATS forgets the ids of messages that are gone when it is started again.
                            let _up = bed.nats_is_up.read().await;
                            if bed.restarts.load(SeqCst) == restarts {
                                bed.record.count("published again");
                                store(&bed, task, restarts).await;
                            }
                        });
                    }
                }
            })
            .await;
        next += burst;
        tokio::time::sleep_until(begun + time.mul_f64(f64::from(next) / f64::from(tasks))).await;
    }
}

/// Publishes a task until that is confirmed.
async fn store(bed: &Bed, task: Task, restarts: usize) {
    loop {
        let sent = bed.record.now();
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", handler::id(task));
        let stored = async {
            let subject = bed.subject("tasks", task);
            let ack = bed
                .jetstream
                .publish_with_headers(subject, headers, "".into())
                .await
                .ok()?;
            ack.await.ok()
        };
        let stored = timeout(ANSWER, stored).await.ok().flatten();
        if bed.restarts.load(SeqCst) != restarts {
            bed.record.note_at(sent, Event::Repeated { task });
        }
        if stored.is_some() {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// Cancels a task now and then, for as long as it is polled.
pub async fn cancel(bed: Arc<Bed>, recent: Arc<Recent>, every: Duration, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed ^ 0x0063_616e);
    loop {
        sleep(every.mul_f64(random.random_range(0.0..2.0))).await;
        let Some(task) = recent.take(&mut random) else {
            continue;
        };
        let bed = bed.clone();
        tokio::spawn(async move {
            loop {
                let asked = bed.record.now();
                let answer = ask_to_cancel(&bed, task).await;
                bed.record.note(Event::Cancel { task, asked, answer });
                if answer != Answer::None {
                    return;
                }
                sleep(Duration::from_millis(200)).await;
            }
        });
    }
}

async fn ask_to_cancel(bed: &Bed, task: Task) -> Answer {
    let client = bed.jetstream.client();
    let asking = client.request(bed.subject("cancel", task), "".into());
    let Ok(Ok(answer)) = timeout(ANSWER, asking).await else {
        return Answer::None;
    };
    match std::str::from_utf8(&answer.payload) {
        Ok("queued") => Answer::Queued,
        Ok("running") => Answer::Running,
        Ok("finished") => Answer::Finished,
        Ok("unknown") => Answer::Unknown,
        // NATS went away in the middle of it; a part may be done.
        Ok(error) if error.starts_with("error: ") => Answer::None,
        other => {
            bed.record.problem(format!("a cancel was answered {other:?}"));
            Answer::None
        }
    }
}

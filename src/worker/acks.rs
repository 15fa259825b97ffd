//! Tells the broker which tasks are done, without a slot waiting for its answer.
//!
//! A task's slot is free when the task is done, and its ack is sent together with those that are done at the same
//! moment: in one write, where each by itself would cost as much as a task. That they were heard is confirmed for many
//! at once: the connection and the consumer keep the order, so an answer to the last ack is one to all
//! before it. Until then a task stays in hand, and is acked once more after a lost connection; but
//! only while its lease lasts: later, the word would take the slot from the task's new owner.

use super::{Worker, in_hand::Held};
use crate::broker::Acker;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task, time};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

/// How long the answer to one ack is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Acks that one answer confirms at most.
const BATCH: usize = 1024;

/// How long acks are gathered for one answer: each costs the broker as much as a task.
const GATHER: Duration = Duration::from_millis(5);

/// A task that is done.
struct Done {
    acker: Acker,
    held: Held,
    /// Until when it may be acked.
    until: Instant,
    /// The connection that its ack was sent on, once it was.
    sent_on: Option<u64>,
    _token: TaskTrackerToken,
}

/// Where tasks go that are done.
pub struct Acks {
    sender: mpsc::UnboundedSender<Done>,
    unconfirmed: TaskTracker,
}

/// What they wait in until they are acked.
pub struct Unsent(mpsc::UnboundedReceiver<Done>);

/// Both ends.
pub fn channel() -> (Acks, Unsent) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let acks = Acks {
        sender,
        unconfirmed: TaskTracker::new(),
    };
    (acks, Unsent(receiver))
}

impl Acks {
    /// Has the broker know that a task is done, whose lease is held until `until`.
    pub fn done(&self, acker: Acker, held: Held, until: Instant) {
        held.done();
        // Nobody listens any more only when the worker is at its end.
        let _ = self.sender.send(Done {
            acker,
            held,
            until,
            sent_on: None,
            _token: self.unconfirmed.token(),
        });
    }

    /// Returns when all are confirmed, or given up. To be called when no more come.
    pub async fn settled(&self) {
        self.unconfirmed.close();
        self.unconfirmed.wait().await;
    }
}

impl Done {
    async fn send(&mut self, epoch: u64) {
        match self.acker.ack_unconfirmed().await {
            Ok(()) => self.sent_on = Some(epoch),
            Err(error) => tracing::debug!(%error, "an ack could not be sent; trying again"),
        }
    }
}

impl Unsent {
    /// Sends all acks and has them confirmed, for as long as it is polled.
    pub async fn send(mut self, worker: Arc<Worker>) {
        let (mut done, mut sent) = (Vec::new(), Vec::new());
        let mut confirm_at = None;
        loop {
            match confirm_at {
                None if self.0.recv_many(&mut done, BATCH).await == 0 => return,
                None => {}
                Some(at) => {
                    // Whether more came or it is time is looked at below.
                    let _ = time::timeout_at(at, self.0.recv_many(&mut done, BATCH)).await;
                }
            }
            // All tasks that are about to end have their turn first.
            task::yield_now().await;
            while let Ok(more) = self.0.try_recv() {
                done.push(more);
            }
            let (now, epoch) = (time::Instant::now(), worker.broker.epoch());
            for mut done in done.drain(..) {
                if now.into_std() < done.until {
                    done.send(epoch).await;
                }
                sent.push(done);
            }
            let at = *confirm_at.get_or_insert(now + GATHER);
            if now >= at || sent.len() >= BATCH {
                confirm_at = None;
                tokio::spawn(confirm(worker.clone(), std::mem::take(&mut sent)));
            }
        }
    }
}

async fn confirm(worker: Arc<Worker>, mut batch: Vec<Done>) {
    let mut link = worker.broker.link();
    loop {
        let now = Instant::now();
        let (mut held, lapsed): (Vec<_>, Vec<_>) = batch.into_iter().partition(|done| now < done.until);
        for done in lapsed {
            give_up(&worker, done);
        }
        // Those whose ack may be lost with its connection.
        let epoch = link.borrow_and_update().epoch;
        for done in held.iter_mut().filter(|done| done.sent_on != Some(epoch)) {
            done.send(epoch).await;
        }
        let Some(last) = held.last() else { return };
        let heard = time::timeout_at(last.until.into(), last.acker.ack(PATIENCE)).await;
        if matches!(heard, Ok(Ok(()))) && link.borrow().epoch == epoch {
            for done in held {
                done.held.finished();
            }
            return;
        }
        let until = last.until;
        let up = async {
            time::sleep(PATIENCE / 10).await;
            link.wait_for(|link| link.up).await.map(|_| ())
        };
        // Whether it ends by a connection or by the last lease, what is left is looked at above.
        let _ = time::timeout_at(until.into(), up).await;
        batch = held;
    }
}

/// The broker may deliver the task again. While it could come to this worker it stays in hand, so that it
/// is not run again here.
fn give_up(worker: &Arc<Worker>, done: Done) {
    worker.metrics.acks_unconfirmed.inc();
    tracing::warn!(
        call_id = done.held.id(),
        "a task is done, but the broker did not confirm that it heard so: it may run again"
    );
    let ack_wait = worker.terms().map_or(Duration::ZERO, |terms| terms.ack_wait);
    let hurry = worker.hurry.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = time::sleep(ack_wait * 2) => {}
            () = hurry.cancelled() => {}
        }
        let Done { held, .. } = done;
        held.finished();
    });
}

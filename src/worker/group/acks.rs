//! Tells the broker which tasks are done, without a slot waiting for its answer.
//!
//! A task gives its slot back when it is done. Its ack is sent together with those of tasks that are done at the same
//! moment, in one write, where each by itself would cost as much as a task. One answer confirms many acks: the
//! connection and the consumer keep the order, so an answer to the last ack is one to all before it. Until then a task
//! stays in flight, and is acked once more after a lost connection. That is done only while its lease lasts, as a later
//! ack would take the slot from the task's new owner.

use super::{Group, InFlightTask};
use crate::broker::Acker;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, task, time};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

/// How long the worker waits for the answer to one ack.
const PATIENCE: Duration = Duration::from_secs(1);

/// Most acks that one answer confirms.
const BATCH: usize = 1024;

/// How long acks are gathered for one answer. Each answer costs the broker as much as a task.
const GATHER: Duration = Duration::from_millis(5);

/// A task that is done.
struct Done {
    acker: Acker,
    in_flight: InFlightTask,
    /// Until when the task may be acked.
    until: Instant,
    /// The connection that the ack was sent on, once it was.
    sent_on: Option<u64>,
    _token: TaskTrackerToken,
}

/// The acks of the tasks that are done.
pub struct Acks {
    sender: mpsc::UnboundedSender<Done>,
    unconfirmed: TaskTracker,
}

/// The acks that wait to be sent.
pub struct UnsentAcks(mpsc::UnboundedReceiver<Done>);

/// Both ends of the channel that acks go through.
pub fn channel() -> (Acks, UnsentAcks) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let acks = Acks {
        sender,
        unconfirmed: TaskTracker::new(),
    };
    (acks, UnsentAcks(receiver))
}

impl Acks {
    /// Acks a task that is done, whose lease is held until `until`.
    pub fn done(&self, acker: Acker, in_flight: InFlightTask, until: Instant) {
        in_flight.done();
        // Nobody receives only when the process ends.
        let _ = self.sender.send(Done {
            acker,
            in_flight,
            until,
            sent_on: None,
            _token: self.unconfirmed.token(),
        });
    }

    /// Returns when all acks are confirmed, or given up. To be called when no more tasks run.
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

impl UnsentAcks {
    /// Sends all acks and has them confirmed, for as long as it is polled.
    pub async fn send(mut self, group: Arc<Group>) {
        let (mut done, mut sent) = (Vec::new(), Vec::new());
        let mut confirm_at = None;
        loop {
            match confirm_at {
                None if self.0.recv_many(&mut done, BATCH).await == 0 => return,
                None => {}
                Some(at) => {
                    // Whether more acks came or it is time to confirm is looked at below.
                    let _ = time::timeout_at(at, self.0.recv_many(&mut done, BATCH)).await;
                }
            }
            // Tasks that are about to end have their turn first, so that their acks are part of this write.
            task::yield_now().await;
            while let Ok(more) = self.0.try_recv() {
                done.push(more);
            }
            let (now, epoch) = (time::Instant::now(), group.broker().epoch());
            for mut done in done.drain(..) {
                if now.into_std() < done.until {
                    done.send(epoch).await;
                }
                sent.push(done);
            }
            let at = *confirm_at.get_or_insert(now + GATHER);
            if now >= at || sent.len() >= BATCH {
                confirm_at = None;
                tokio::spawn(confirm(group.clone(), std::mem::take(&mut sent)));
            }
        }
    }
}

async fn confirm(group: Arc<Group>, mut batch: Vec<Done>) {
    let mut link = group.broker().link();
    loop {
        let now = Instant::now();
        let (mut leased, lapsed): (Vec<_>, Vec<_>) = batch.into_iter().partition(|done| now < done.until);
        for done in lapsed {
            give_up(&group, done);
        }
        // Acks that may be lost with their connection are sent again.
        let epoch = link.borrow_and_update().epoch;
        for done in leased.iter_mut().filter(|done| done.sent_on != Some(epoch)) {
            done.send(epoch).await;
        }
        let Some(last) = leased.last() else { return };
        let heard = time::timeout_at(last.until.into(), last.acker.ack(PATIENCE)).await;
        if matches!(heard, Ok(Ok(()))) && link.borrow().epoch == epoch {
            for done in leased {
                done.in_flight.finished();
            }
            return;
        }
        let until = last.until;
        let up = async {
            time::sleep(PATIENCE / 10).await;
            link.wait_for(|link| link.up).await.map(|_| ())
        };
        // A connection or the end of the last lease ends the wait. What is left is looked at above.
        let _ = time::timeout_at(until.into(), up).await;
        batch = leased;
    }
}

/// Gives up an ack. The broker may redeliver the task, so it stays in flight for as long as it could come to this worker,
/// which does not run it again then.
fn give_up(group: &Group, done: Done) {
    group.metrics().ack_unconfirmed();
    tracing::warn!(
        call_id = done.in_flight.id(),
        "a task is done, but the broker did not confirm that it heard so: it may run again"
    );
    let ack_wait = group
        .state()
        .config()
        .map_or(Duration::ZERO, |config| config.ack_wait());
    let aborting = group.aborting().clone();
    tokio::spawn(async move {
        tokio::select! {
            () = time::sleep(ack_wait * 2) => {}
            () = aborting.cancelled() => {}
        }
        let Done { in_flight, .. } = done;
        in_flight.finished();
    });
}

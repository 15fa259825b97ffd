//! Pulls a group's tasks, as many as there are free slots, and starts their runs.

use super::{
    conditions::{Conditions, Look},
    pulls::{Pulled, Pulls},
    run,
};
use crate::{
    broker::Delivery,
    worker::{backoff::Backoff, group::Group, runtime::GroupReadiness},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{select, time};

/// How long beyond the time of one attempt the running tasks may take to end after SIGTERM: to store a dead letter, or to
/// have an ack confirmed.
const WIND_UP: Duration = Duration::from_secs(5);

/// How often a restarted server is asked which deliveries it forgot.
const TRIES: usize = 10;

/// Runs the group's tasks until its process stops, and then until none runs any more. Returns by when the process has to
/// end.
pub async fn run(group: Arc<Group>, readiness: GroupReadiness) -> Instant {
    let pull_loop = PullLoop {
        pulls: Pulls::new(group.broker().clone(), group.queue().stream()),
        conditions: Conditions::new(group.clone(), readiness),
        group,
    };
    pull_loop.run().await
}

struct PullLoop {
    group: Arc<Group>,
    pulls: Pulls,
    conditions: Conditions,
}

impl PullLoop {
    async fn run(mut self) -> Instant {
        let mut stop_at = None;
        let mut alarm = Box::pin(time::sleep_until(Instant::now().into()));
        loop {
            let look = self.look();
            self.pulls.give_up();
            self.pulls.finished(self.group.slots().collect_freed());
            if look.withdraw {
                // What was on its way is run. It was pulled with a free slot, and a requeued task has used up an attempt.
                for task in self.pulls.withdraw().await {
                    start(&self.group, look.has_rate, task);
                }
            }
            if look.may_pull {
                let room = self.group.rate().room();
                self.pulls.pull(room, look.ack_wait, self.group.metrics()).await;
            }
            self.group.rate().show();
            let stopping = self.group.runtime().stopping().is_cancelled();
            if stopping {
                let stop_at = *stop_at.get_or_insert_with(|| Instant::now() + look.task_timeout + WIND_UP);
                if self.pulls.running() == 0 {
                    // A task that is done is not run again if the broker confirms its ack.
                    let _ = time::timeout_at(stop_at.into(), self.group.acks().settled()).await;
                    return stop_at;
                }
                if Instant::now() >= stop_at {
                    self.group.aborting().cancel();
                }
            }
            let wake_up = self.pulls.look_again(look.ack_wait);
            let wake_up = stop_at
                .filter(|stop_at| *stop_at > Instant::now())
                .map_or(wake_up, |stop_at| stop_at.min(wake_up))
                .into();
            // Left as it is where it rings too soon, as setting it costs more than a turn for nothing.
            if alarm.is_elapsed() || wake_up < alarm.deadline() {
                alarm.as_mut().reset(wake_up);
            }
            let may_pull = self.pulls.may_pull();
            let arrival = select! {
                // All that may have changed is looked at in each turn anyway.
                biased;
                // A freed slot is of no use while nothing can be pulled.
                () = self.group.slots().freed(), if stopping || may_pull => None,
                arrival = self.pulls.arrival() => Some(arrival),
                () = self.conditions.changed() => None,
                () = self.group.rate().moved() => None,
                () = self.group.runtime().stopping().cancelled(), if !stopping => None,
                () = &mut alarm => None,
            };
            let group = &self.group;
            let then = |pulled| match pulled {
                Pulled::Task(task) => start(group, look.has_rate, task),
                Pulled::ConsumerGone => group.state().suspect(),
            };
            self.pulls.take_in(arrival, look.ack_wait, then).await;
        }
    }

    /// Looks at the conditions, and does what a change of them asks for.
    fn look(&mut self) -> Look {
        let look = self.conditions.look(self.pulls.running());
        if let Some(pause) = look.reconnected {
            self.pulls.reconnected(pause);
        }
        if look.server_restarted {
            tokio::spawn(abort_forgotten(self.group.clone()));
        }
        if let Some((capacity, concurrency)) = look.limits {
            self.pulls.set_capacity(capacity);
            self.group.slots().resize(capacity, concurrency);
        }
        look
    }
}

impl Drop for PullLoop {
    /// Whoever drops the worker without having it stop does not leave its tasks behind.
    fn drop(&mut self) {
        self.group.aborting().cancel();
    }
}

fn start(group: &Arc<Group>, has_rate: bool, task: Box<Delivery>) {
    let group = group.clone();
    let turn = has_rate.then(|| group.rate().line_up());
    tokio::spawn(async move {
        let _slot = group.slots().take();
        run::run(&group, task, turn).await;
    });
}

/// Aborts the tasks that a restarted server does not know to be delivered.
async fn abort_forgotten(group: Arc<Group>) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
    let stream = group.queue().stream();
    for _ in 0..TRIES {
        if let Ok(Some(consumer)) = group.broker().consumer(&stream).await {
            let forgotten = group.in_flight().abort_forgotten(consumer.delivered.stream_seq);
            tracing::info!(
                forgotten,
                "NATS was restarted: tasks that it forgot to have delivered are aborted"
            );
            return;
        }
        time::sleep(backoff.next()).await;
    }
}

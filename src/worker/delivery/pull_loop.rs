//! Pulls a group's tasks, as many as there are free slots, and starts their runs.

use super::{
    conditions::{Conditions, Look, Pulling},
    demand::Demand,
    heartbeat, run,
};
use crate::{
    broker::{Arrival, Delivery, PullOptions, Pulled, Puller},
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

/// How long a pull may wait at the server for tasks. An idle worker renews one this often. A worker that froze with its
/// connection open can swallow tasks for so long, each of which then waits out `ackWait`.
pub const EXPIRES: Duration = Duration::from_secs(10);

/// Most pulls under way at once. Two keep the flow going. Slots that free up meanwhile go into one pull, not into one
/// each. The server holds 512 pulls for a consumer, of all its workers.
const AT_ONCE: usize = 2;

/// For how long nothing is pulled from a server that was restarted. A server that crashed may have forgotten the deliveries
/// of its last moments. Until all workers are connected again (which takes them up to a second) and have aborted those,
/// none shall get another.
const SETTLE: Duration = Duration::from_secs(2);

/// How often a restarted server is asked which deliveries it forgot.
const TRIES: usize = 10;

/// Runs the group's tasks until its process stops, and then until none runs any more. Returns by when the process has to
/// end.
pub async fn run(group: Arc<Group>, readiness: GroupReadiness) -> Instant {
    let options = PullOptions {
        at_once: AT_ONCE,
        expires: EXPIRES,
    };
    let (stream, consumer) = (group.queue().stream(), group.queue().consumer());
    let pull_loop = PullLoop {
        puller: Puller::new(group.broker().clone(), stream, consumer, options),
        demand: Demand::default(),
        conditions: Conditions::new(group.clone(), readiness),
        group,
    };
    pull_loop.run().await
}

struct PullLoop {
    group: Arc<Group>,
    puller: Puller,
    demand: Demand,
    conditions: Conditions,
}

impl PullLoop {
    async fn run(mut self) -> Instant {
        let mut stop_at = None;
        let mut alarm = Box::pin(time::sleep_until(Instant::now().into()));
        loop {
            let look = self.look();
            self.puller.give_up();
            self.demand.finished(self.group.slots().collect_freed());
            match look.pulling {
                Pulling::Allowed => {
                    let batch = self.demand.batch(self.puller.outstanding(), self.group.rate().room());
                    if self.puller.ask(batch, heartbeat::interval(look.ack_wait)).await {
                        self.group.metrics().pull();
                    }
                }
                Pulling::Impossible => {}
                Pulling::Withdrawn => {
                    // What was on its way is run. It was pulled with a free slot, and a requeued task has used up an
                    // attempt.
                    for task in self.puller.withdraw(None).await {
                        self.start(&look, task);
                    }
                }
            }
            self.group.rate().show();
            let stopping = self.group.runtime().stopping().is_cancelled();
            if stopping {
                let stop_at = *stop_at.get_or_insert_with(|| Instant::now() + look.task_timeout + WIND_UP);
                if self.demand.running() == 0 {
                    // A task that is done is not run again if the broker confirms its ack.
                    let _ = time::timeout_at(stop_at.into(), self.group.acks().settled()).await;
                    return stop_at;
                }
                if Instant::now() >= stop_at {
                    self.group.aborting().cancel();
                }
            }
            let longest_silence = heartbeat::longest_silence(look.ack_wait);
            let wake_up = self.puller.wake_up(longest_silence);
            let wake_up = stop_at
                .filter(|stop_at| *stop_at > Instant::now())
                .map_or(wake_up, |stop_at| stop_at.min(wake_up))
                .into();
            // Left as it is where it rings too soon, as setting it costs more than a turn for nothing.
            if alarm.is_elapsed() || wake_up < alarm.deadline() {
                alarm.as_mut().reset(wake_up);
            }
            let may_ask = self.puller.may_ask();
            let arrival = select! {
                // All that may have changed is looked at in each turn anyway.
                biased;
                // A freed slot is of no use while nothing can be pulled.
                () = self.group.slots().freed(), if stopping || may_ask => None,
                arrival = self.puller.next() => Some(arrival),
                () = self.conditions.changed() => None,
                () = self.group.rate().moved() => None,
                () = self.group.runtime().stopping().cancelled(), if !stopping => None,
                () = &mut alarm => None,
            };
            let since = self.puller.heard();
            if self.puller.is_silent(since, longest_silence) {
                tracing::info!(for_ = ?since.elapsed(), "NATS was silent, or this process stood still: asking anew");
                // What is in the socket, or in the network, may have been sent at any time since then. So it is taken
                // out, and a task whose lease has ended is not run.
                for task in self.puller.withdraw(Some(since)).await {
                    self.start(&look, task);
                }
            }
            // All that came meanwhile, as a turn of this loop costs more than a task.
            let mut next = arrival.or_else(|| self.puller.next_now());
            while let Some(arrival) = next {
                self.take_in(&look, arrival, since);
                next = self.puller.next_now();
            }
        }
    }

    /// Takes in what may have come at any time since `since`.
    fn take_in(&mut self, look: &Look, arrival: Arrival, since: Instant) {
        match self.puller.arrived(arrival, since) {
            Pulled::Message(task) => self.start(look, task),
            Pulled::ConsumerGone => self.group.state().suspect(),
            Pulled::Nothing => {}
        }
    }

    fn start(&mut self, look: &Look, task: Box<Delivery>) {
        self.demand.started();
        let group = self.group.clone();
        let turn = look.has_rate.then(|| group.rate().line_up());
        tokio::spawn(async move {
            let _slot = group.slots().take();
            run::run(&group, task, turn).await;
        });
    }

    /// Looks at the conditions, and does what a change of them asks for.
    fn look(&mut self) -> Look {
        let look = self.conditions.look(self.demand.running());
        if self.puller.reconnected(look.epoch) && look.server_restarted {
            self.puller.hold(SETTLE);
            tokio::spawn(abort_forgotten(self.group.clone()));
        }
        if let Some((capacity, concurrency)) = look.limits {
            self.demand.set_capacity(capacity);
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

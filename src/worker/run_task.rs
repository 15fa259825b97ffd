//! One delivered task, from its arrival until the broker knows what became of it.

use super::{
    Worker, attempt,
    callback::{self, End},
    closing, dead,
    handover::{self, HandOver},
    history,
    in_hand::{Cut, Held, State},
    lease::Lease,
    metrics::Reason,
    policy::{self, Verdict},
    rate::{self, Turn},
    watch::{Known, Terms},
};
use crate::{
    broker::{Delivery, LONGEST_CLOSING},
    protocol::{Kind, Origin, cancel, dead_letter::Death, history::History},
};
use jiff::Timestamp;
use std::{sync::Arc, time::Duration};
use tokio::time;

/// How long one answer of the broker is waited for, with the task's slot. It usually takes less than a
/// millisecond; and a broker that crashed does not answer an ack for a delivery that it forgot.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a task is left alone that can neither be handed over nor be done.
const STUCK: Duration = Duration::from_secs(30);

/// What became of a task here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It is done.
    Done,
    /// It waits for its next attempt.
    Retried,
    /// It waits until the group is open again, goes on, or has room.
    PutOff,
    /// Its dead letter is stored.
    DeadLettered,
    /// It is dead, and the group keeps no dead letters.
    Dropped,
    /// Somebody cancelled it.
    Cancelled,
    /// It had gone on elsewhere before it came here.
    GoneOn,
    /// It is another worker's.
    Lost,
    /// It was cut off as this worker has to stop.
    HandedBack,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retried => "retried",
            Self::PutOff => "put_off",
            Self::DeadLettered => "dead_lettered",
            Self::Dropped => "dropped",
            Self::Cancelled => "cancelled",
            Self::GoneOn => "gone_on",
            Self::Lost => "lost",
            Self::HandedBack => "handed_back",
        }
    }
}

/// A task that this worker has in hand.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// Whose it is.
    pub worker: &'a Worker,
    /// The task.
    pub task: &'a Delivery,
    /// Id of the task.
    pub id: &'a str,
    /// Whether the task comes from its publisher or from the delays.
    pub kind: Kind,
    /// That it is in hand.
    pub held: &'a Held,
    /// Its lease.
    pub lease: &'a Lease<'a>,
    /// What the group's workers keep to.
    pub terms: &'a Terms,
}

impl Run<'_> {
    /// The task's message, told from all others.
    pub fn origin(&self) -> Origin {
        self.task.stored().origin(&self.worker.queue.stream())
    }
}

/// Runs `task`, and tells the broker the outcome. Gives up without a word only when the lease is lost:
/// then the broker gives the task to another worker.
pub async fn run(worker: &Worker, task: Box<Delivery>, turn: Option<Turn>) {
    let Some((kind, id)) = worker.queue.task_id(task.subject()) else {
        // The stream has other subjects than the group's own: somebody edited it.
        tracing::error!(
            subject = task.subject(),
            "a task with a foreign subject; it stays in the queue"
        );
        return;
    };
    let Some(terms) = worker.terms() else {
        tracing::error!(
            call_id = id,
            "a task came before the group's settings; it comes again after ackWait"
        );
        return;
    };
    let held = match worker.in_hand.take(task.stored(), id) {
        Ok(held) => held,
        Err(state) => {
            tracing::debug!(
                call_id = id,
                ?state,
                "delivered again while this worker has it in hand; not run again"
            );
            // What the run in hand tells the broker holds for this delivery, too.
            if state == State::Done {
                let _ = task.ack(PATIENCE).await;
            }
            return;
        }
    };
    let lease = Lease::new(&task, terms.ack_wait, &worker.known, &worker.broker);
    let run = Run {
        worker,
        task: &task,
        id,
        kind,
        held: &held,
        lease: &lease,
        terms: &terms,
    };
    let outcome = tokio::select! {
        // What is finished is finished, also when it was to be cut off at the same moment.
        biased;
        outcome = work(&run, turn) => outcome,
        cut = held.cut() => cut_off(&run, cut).await,
        () = lease.lost() => lost(&run),
        () = worker.hurry.cancelled() => {
            tracing::warn!(call_id = id, "not finished before this worker has to stop: the attempt is cut off");
            Box::pin(hand_back(&run)).await
        }
    };
    worker.metrics.task(outcome.as_str());
    match outcome {
        Outcome::Done => {
            let until = lease.until();
            worker.acks.done(task.into_acker(), held, until);
        }
        Outcome::DeadLettered | Outcome::Dropped => held.finished(),
        _ => {}
    }
}

/// All that is done with a task while its lease is held. What most tasks never come to is boxed: each of
/// thousands of tasks takes the room of the largest that is not.
async fn work(run: &Run<'_>, turn: Option<Turn>) -> Outcome {
    let task = run.task;
    if !run.lease.is_held() {
        return lost(run);
    }
    let history = history::of(task, run.kind);
    let attempt = history.attempts.saturating_add(task.delivered());
    if task.delivered() > 1 {
        if !Box::pin(run.lease.confirm()).await {
            return lost(run);
        }
        match Box::pin(handover::was_handed_over(run)).await {
            Some(true) => {
                tracing::info!(
                    call_id = run.id,
                    "the task went on elsewhere before it came here again; not run"
                );
                return leave(run, Outcome::GoneOn).await;
            }
            Some(false) => {}
            None => return lost(run),
        }
        match Box::pin(handover::exceeds_limit(run)).await {
            Some(true) => return Box::pin(put_off(run, &history, attempt, run.worker.now())).await,
            Some(false) => {}
            None => return lost(run),
        }
    }
    if let Some(origin) = &history.origin
        && !Box::pin(handover::remove_predecessors(run, origin)).await
    {
        return lost(run);
    }
    let verdict = match may_start(run, &history, attempt, turn).await {
        Ok(changed) => {
            // What changed while it waited holds for what starts now.
            let terms = changed.as_deref().unwrap_or(run.terms);
            let run = &Run { terms, ..*run };
            if !run.held.start() {
                // Whoever cut it off is heard by `run`.
                return std::future::pending().await;
            }
            let (verdict, end) = attempt::make(run, attempt).await;
            if !run.lease.is_held() {
                return lost(run);
            }
            if verdict == Verdict::Done && !callback::is_wanted(task) {
                return Outcome::Done;
            }
            return Box::pin(settle(run, &history, attempt, verdict, &end)).await;
        }
        Err(NoStart::Cancelled) => return cancelled(run).await,
        Err(NoStart::Stopping) => return Box::pin(hand_back(run)).await,
        Err(NoStart::PutOff(until)) => return Box::pin(put_off(run, &history, attempt, until)).await,
        Err(NoStart::Dead(death)) => Verdict::Dead(death),
    };
    // No handler had a say: its callback says so.
    let end = End {
        status: 500,
        ..End::default()
    };
    Box::pin(settle(run, &history, attempt, verdict, &end)).await
}

/// Why a task is not started.
enum NoStart {
    Cancelled,
    /// The group is closed or suspended; when to try again.
    PutOff(Timestamp),
    /// This worker stops before the group's rate allows a start.
    Stopping,
    Dead(Death),
}

/// Returns when the attempt may start, with the terms that it starts by if they are others than before.
async fn may_start(
    run: &Run<'_>,
    history: &History,
    attempt: u32,
    turn: Option<Turn>,
) -> Result<Option<Arc<Terms>>, NoStart> {
    let worker = run.worker;
    if run.held.was_cancelled() {
        return Err(NoStart::Cancelled);
    }
    if let Some(death) = policy::already_dead(history.attempts, attempt, run.terms.settings.max_attempts) {
        return Err(NoStart::Dead(death));
    }
    {
        let known = worker.known.borrow();
        let changed = in_time(run, history, attempt, &known)?;
        if let Some(until) = worker.is_paused(&known) {
            return Err(paused(worker, until));
        }
        if rate::of(&known).is_none() {
            return Ok(changed);
        }
    }
    let wait = async {
        let turn = turn.unwrap_or_else(|| worker.rate.line_up());
        tokio::select! {
            biased;
            until = worker.paused() => Err(paused(worker, until)),
            () = turn.start() => in_time(run, history, attempt, &worker.known.borrow()),
            () = worker.stopping.cancelled() => Err(NoStart::Stopping),
        }
    };
    Box::pin(wait).await
}

/// Whether the task has not expired by what is `known` now; the terms if they changed.
fn in_time(run: &Run<'_>, history: &History, attempt: u32, known: &Known) -> Result<Option<Arc<Terms>>, NoStart> {
    let changed = known
        .terms
        .as_ref()
        .filter(|terms| !std::ptr::eq(Arc::as_ptr(terms), run.terms));
    let settings = &changed.map_or(run.terms, Arc::as_ref).settings;
    if settings.expire().is_some() && history::has_expired(history, settings, run.worker.now()) {
        return Err(NoStart::Dead(policy::expired(attempt, settings.expire())));
    }
    Ok(changed.cloned())
}

fn paused(worker: &Worker, until: Timestamp) -> NoStart {
    // The broker delivers nothing in a pause: perhaps it is over.
    worker.look_again.notify_one();
    NoStart::PutOff(until)
}

/// Tells the broker what became of the task.
async fn settle(run: &Run<'_>, history: &History, attempt: u32, verdict: Verdict, end: &End) -> Outcome {
    let now = run.worker.now();
    if matches!(verdict, Verdict::Done | Verdict::Dead(_)) && callback::begin(run, end).await == HandOver::Lost {
        return lost(run);
    }
    match verdict {
        Verdict::Done => Outcome::Done,
        Verdict::Retry => {
            let delay = history::retry_delay(&run.terms.settings, attempt);
            let at = now.checked_add(delay).unwrap_or(Timestamp::MAX);
            let handed_over = handover::delay(run, &history.failed(now), attempt, at).await;
            leave_after(run, handed_over, delay, Outcome::Retried).await
        }
        Verdict::Close(wait) => {
            let until = closing::close(run.worker, wait).await;
            put_off(run, history, attempt, until).await
        }
        Verdict::Dead(death) if run.terms.settings.dead_letter => {
            let stored = dead::store(run, history, &death, now).await;
            if stored == HandOver::Stored {
                count_dead(run.worker, &death);
            }
            leave_after(run, stored, STUCK, Outcome::DeadLettered).await
        }
        Verdict::Dead(death) => {
            count_dead(run.worker, &death);
            if let Err(error) = run.task.term(death.reason.as_str(), PATIENCE).await {
                run.worker.metrics.acks_unconfirmed.inc();
                tracing::debug!(call_id = run.id, %error, "the broker did not confirm that the dead task is dropped");
            }
            Outcome::Dropped
        }
    }
}

/// Has the task wait until `until` without having been tried.
async fn put_off(run: &Run<'_>, history: &History, attempt: u32, until: Timestamp) -> Outcome {
    let now = run.worker.now();
    let closed = Duration::try_from(until.duration_since(now)).unwrap_or_default();
    // A suspension ends when somebody says so: it goes back to the queue, which holds it.
    let at = if closed > LONGEST_CLOSING { now } else { until };
    let handed_over = handover::delay(run, history, attempt.saturating_sub(1), at).await;
    leave_after(run, handed_over, PATIENCE, Outcome::PutOff).await
}

async fn leave_after(run: &Run<'_>, handed_over: HandOver, delay: Duration, outcome: Outcome) -> Outcome {
    match handed_over {
        HandOver::Stored => leave(run, outcome).await,
        HandOver::Lost => lost(run),
        // It waits in the queue, and its slot with it: better than to be lost.
        HandOver::TooLarge => {
            let _ = run.task.nak(delay, PATIENCE).await;
            outcome
        }
    }
}

/// The task goes on elsewhere: it leaves its queue. An ack that gets lost does no harm: whoever gets it
/// next finds it there.
async fn leave(run: &Run<'_>, outcome: Outcome) -> Outcome {
    if let Err(error) = run.task.ack(PATIENCE).await {
        run.worker.metrics.acks_unconfirmed.inc();
        tracing::debug!(call_id = run.id, %error, "the task went on, but the broker did not confirm the ack");
    }
    outcome
}

fn count_dead(worker: &Worker, death: &Death) {
    let reason = death.reason.as_str();
    worker.metrics.dead_letters.get_or_create(&Reason { reason }).inc();
}

async fn cut_off(run: &Run<'_>, cut: Cut) -> Outcome {
    match cut {
        Cut::Cancelled => cancelled(run).await,
        Cut::Forgotten => {
            tracing::warn!(
                call_id = run.id,
                "NATS was restarted and forgot this delivery: the attempt is cut off, and the task goes to any worker"
            );
            Outcome::Lost
        }
    }
}

async fn cancelled(run: &Run<'_>) -> Outcome {
    let told = run.task.term(cancel::TERM_REASON, PATIENCE).await;
    tracing::info!(call_id = run.id, confirmed = told.is_ok(), "cancelled");
    Outcome::Cancelled
}

fn lost(run: &Run<'_>) -> Outcome {
    run.worker.metrics.leases_lost.inc();
    tracing::warn!(
        call_id = run.id,
        delivered = run.task.delivered(),
        "the lease could not be renewed in time: the attempt is cut off, and the task goes to another worker"
    );
    Outcome::Lost
}

/// A task that this worker can't run or finish, as it stops, goes to another with the attempts that it had.
async fn hand_back(run: &Run<'_>) -> Outcome {
    let (worker, task) = (run.worker, run.task);
    let history = history::of(task, run.kind);
    let before = history.attempts.saturating_add(task.delivered()).saturating_sub(1);
    let handed_over = async {
        let handed_over = handover::delay(run, &history, before, worker.now()).await;
        (handed_over == HandOver::Stored).then_some(leave(run, Outcome::HandedBack).await)
    };
    let told = match time::timeout(2 * PATIENCE, handed_over).await {
        Ok(Some(_)) => true,
        // Better with an attempt less than later.
        _ if run.lease.is_held() => task.nak(Duration::ZERO, PATIENCE).await.is_ok(),
        _ => false,
    };
    tracing::info!(
        call_id = run.id,
        confirmed = told,
        "handed back: the task goes to another worker"
    );
    Outcome::HandedBack
}

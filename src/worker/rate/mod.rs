//! The group's rate. A task waits here until it may start, whichever worker has it.
//!
//! All workers of a group reserve the times of their starts from one message in JetStream, which they change by
//! compare-and-set. `pace` has the arithmetic, and why it holds in any window. A share of the rate for each pod (with
//! `governor` or its like) would not do: shares don't add up to the limit while pods come and go, and those of idle pods
//! are lost.
//!
//! A pod that is killed wastes the starts that it had reserved: 20 ms of the rate, or one. A pod that ends in good order
//! gives them back. When the rate changes, the waiting tasks reserve anew, and the first start by the new rate is not
//! further away than that rate has it. Windows that began before all workers knew (moments) hold what both rates allow
//! together; later windows hold the new rate. When the rate is removed, all waiting tasks start.
//!
//! A worker that was held up misses starts that come later than `pace` allows. At 1000 per second that is 6 ms with a
//! burst of 1, and a millisecond more with each more of burst. Fast groups on busy nodes need a burst of some 20 ms to
//! reach their rate.
//!
//! Without NATS, or without the stream, nothing can be reserved. The tasks wait and keep their leases.

mod pace;
#[cfg(test)]
mod simulation;

pub use self::pace::Rate;

use self::pace::{Pace, When};
use super::{
    backoff::Backoff,
    runtime::{Clock, RateMetrics},
};
use crate::{
    broker::{Broker, BrokerError, code},
    protocol::{Queue, rate::SharedRate as Shared},
};
use parking_lot::{Mutex, MutexGuard};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, watch},
    time,
};

/// Longest sleep, so that a server's clock that was set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

/// How much a missed start adds to the delay that reservations reckon with, and the longest delay, in nanoseconds.
const SHORTEST_DELAY: u64 = 1_000_000;
const LONGEST_DELAY: u64 = 20_000_000;

/// How often a worker that ends tries to give its reserved starts back.
const LAST_TRIES: usize = 3;

/// Lets the tasks of this worker start, one by one, as the group's rate allows. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct RateGate(Arc<Inner>);

struct Inner {
    stream: RateStream,
    clock: Clock,
    rate: watch::Receiver<Option<Rate>>,
    metrics: RateMetrics,
    line: Line,
    /// The right to reserve. One task reserves for all.
    reserving: tokio::sync::Mutex<()>,
    memory: Mutex<Memory>,
    /// The log says already that nothing can be reserved.
    complained: AtomicBool,
}

/// The group's message in JetStream.
struct RateStream {
    broker: Broker,
    queue: Queue,
}

/// The tasks that wait for their start.
#[derive(Default)]
struct Line {
    waiting: AtomicU32,
    /// Waiting tasks that have no slot yet.
    wanting: AtomicU32,
    /// Wakes the pull loop when fewer tasks wait than before.
    moved: Notify,
    /// Saved-up starts that the metrics show for this group.
    shown: AtomicI64,
}

#[derive(Default)]
struct Memory {
    /// The last known state of the group, and its number; `None` before the first read.
    shared: Option<Shared>,
    number: u64,
    /// The state is the latest as far as this worker knows, so that the next change can be built on it.
    current: bool,
    /// Reserved slots that no task has.
    slots: BTreeSet<u64>,
    /// The interval of the rate that they were reserved by.
    interval: u64,
    /// The time from the request for a slot to the start, about, in nanoseconds.
    delay: u64,
}

/// A task's place among those that wait for their start; until this is dropped, or it starts.
#[must_use]
pub struct Turn(Arc<Inner>);

/// A reserved slot. Dropped unused, it goes to another task.
struct Slot<'a> {
    gate: &'a Inner,
    at: u64,
    interval: u64,
    over: bool,
}

/// Counted until this is dropped.
struct Counted<'a>(&'a AtomicU32);

impl Memory {
    fn took(&mut self, now: impl FnOnce(u64) -> u64) {
        self.delay = now(self.delay).min(LONGEST_DELAY);
    }
}

impl RateGate {
    /// The gate of `queue`, which keeps to `rate` as it is at any time, by `clock`.
    pub fn new(
        broker: Broker,
        queue: Queue,
        clock: Clock,
        rate: watch::Receiver<Option<Rate>>,
        metrics: RateMetrics,
    ) -> Self {
        Self(Arc::new(Inner {
            stream: RateStream { broker, queue },
            clock,
            rate,
            metrics,
            line: Line::default(),
            reserving: tokio::sync::Mutex::default(),
            memory: Mutex::default(),
            complained: AtomicBool::new(false),
        }))
    }

    /// Gives a turn to a task that was delivered just now, in a group with a rate.
    pub fn line_up(&self) -> Turn {
        self.0.line.waiting.fetch_add(1, SeqCst);
        Turn(self.0.clone())
    }

    /// How many tasks may be delivered, or be on their way, to wait for their start.
    pub fn room(&self) -> u32 {
        let Some(rate) = *self.0.rate.borrow() else {
            return u32::MAX;
        };
        let ahead = pace::ahead(rate);
        let room = ahead.saturating_sub(self.0.line.waiting.load(SeqCst));
        // A pull for a few tasks costs as much as a pull for one.
        if room.saturating_mul(4) < ahead { 0 } else { room }
    }

    /// Returns when there may be more room than before.
    pub async fn moved(&self) {
        self.0.line.moved.notified().await;
    }

    /// Brings the metrics up to date.
    pub fn show(&self) {
        let rate = *self.0.rate.borrow();
        let saved_up = rate.map_or(0, |rate| {
            Pace::of(rate).saved_up(self.0.memory().shared.as_ref(), self.0.now())
        });
        let saved_up = i64::try_from(saved_up).unwrap_or(i64::MAX);
        // By the difference, as the gauge is the sum of all groups.
        let before = self.0.line.shown.swap(saved_up, SeqCst);
        if before != saved_up {
            self.0.metrics.saved_up(saved_up - before);
        }
    }

    /// Gives the unused starts back to the other workers, when this one ends. If that fails, they are wasted.
    pub async fn close(&self) {
        let gate = &self.0;
        let Some(rate) = *gate.rate.borrow() else {
            return;
        };
        let pace = Pace::of(rate);
        let _right = gate.reserving.lock().await;
        let slots: Vec<u64> = {
            let mut memory = gate.memory();
            let usable = memory.interval == pace.interval;
            let slots = std::mem::take(&mut memory.slots);
            slots.into_iter().filter(|_| usable).collect()
        };
        if slots.is_empty() {
            return;
        }
        for _ in 0..LAST_TRIES {
            match gate.change(|shared, now| pace.give_back(shared, now, &slots)).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "reserved starts can't be given back"),
            }
        }
    }
}

impl Turn {
    /// Returns when the task may start. Dropping this instead gives its slot to another task.
    pub async fn start(self) {
        let begun = Instant::now();
        let mut rates = self.0.rate.clone();
        loop {
            let now = *rates.borrow_and_update();
            let Some(rate) = now else {
                return;
            };
            let pace = Pace::of(rate);
            tokio::select! {
                // Boxed, as most groups have no rate, and it would be a part of each of their tasks.
                () = Box::pin(self.0.start(&pace)) => break,
                () = changed(&mut rates, rate) => {}
            }
        }
        self.0.metrics.started_after(begun.elapsed());
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.line.waiting.fetch_sub(1, SeqCst);
        self.0.line.moved.notify_one();
    }
}

impl Inner {
    async fn start(&self, pace: &Pace) {
        loop {
            let mut slot = self.slot(pace).await;
            loop {
                let error = u64::try_from(self.clock.error().as_nanos()).unwrap_or(u64::MAX);
                match pace.when(slot.at, self.now(), error) {
                    // The timer wakes up a little late, never early by its own clock. Then our clock is read again.
                    When::In(nanos) => time::sleep(Duration::from_nanos(nanos).min(LONGEST_SLEEP)).await,
                    When::Now => {
                        slot.over = true;
                        return;
                    }
                    When::Never => {
                        slot.over = true;
                        self.metrics.missed();
                        self.memory().took(|before| before * 2 + SHORTEST_DELAY);
                        break;
                    }
                }
            }
        }
    }

    /// A slot for one task.
    async fn slot(&self, pace: &Pace) -> Slot<'_> {
        self.line.wanting.fetch_add(1, SeqCst);
        let _counted = Counted(&self.line.wanting);
        loop {
            if let Some(slot) = self.reserved(pace) {
                return slot;
            }
            let _right = self.reserving.lock().await;
            if let Some(slot) = self.reserved(pace) {
                return slot;
            }
            self.reserve(pace).await;
        }
    }

    /// The first reserved slot that no task has.
    fn reserved(&self, pace: &Pace) -> Option<Slot<'_>> {
        let mut memory = self.memory();
        if memory.interval != pace.interval {
            // The rate changed, so slots by the old one are void.
            *memory = Memory {
                interval: pace.interval,
                delay: memory.delay,
                ..Memory::default()
            };
        }
        Some(Slot {
            gate: self,
            at: memory.slots.pop_first()?,
            interval: pace.interval,
            over: false,
        })
    }

    /// Reserves slots for the tasks that have none.
    async fn reserve(&self, pace: &Pace) {
        self.gather(pace).await;
        let mut contended = Backoff::new(Duration::from_millis(1), Duration::from_millis(20));
        let mut broken = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let mut first = true;
        loop {
            let mut slots = Vec::new();
            let delay = self.memory().delay;
            let asked = Instant::now();
            let changed = self.change(|shared, now| {
                let count = self.line.wanting.load(SeqCst).clamp(1, pace.ahead);
                // Of the slots that are due already, only those that are still good when the answer is here. Else a
                // busy worker would miss one start after another, which makes it busier.
                let (reserved, shared) = pace.reserve(shared, now + delay, count);
                slots = reserved;
                shared
            });
            match changed.await {
                Ok(true) => {
                    self.metrics.reserved();
                    let took = u64::try_from(asked.elapsed().as_nanos()).unwrap_or(u64::MAX);
                    let mut memory = self.memory();
                    memory.took(|before| took.max(before - before / 8));
                    memory.slots.extend(slots);
                    drop(memory);
                    if self.complained.swap(false, SeqCst) {
                        tracing::info!("tasks start again, at the group's rate");
                    }
                    return;
                }
                Ok(false) => {
                    self.metrics.conflict();
                    // The first refusal only says that another worker reserved since this one read.
                    if !std::mem::take(&mut first) {
                        time::sleep(contended.next()).await;
                    }
                }
                Err(error) => {
                    if self.complained.swap(true, SeqCst) {
                        tracing::debug!(%error, "no start can be reserved; trying again");
                    } else {
                        tracing::warn!("tasks wait, as their starts can't be reserved for the group's rate: {error}");
                    }
                    time::sleep(broken.next()).await;
                }
            }
        }
    }

    /// Lets tasks come together, while there is time, to reserve for all of them at once.
    async fn gather(&self, pace: &Pace) {
        let at = self
            .memory()
            .shared
            .as_ref()
            .map_or(0, |shared| pace.reserve_at(shared));
        let pause = Duration::from_nanos(at.saturating_sub(self.now()));
        if !pause.is_zero() {
            time::sleep(pause.min(LONGEST_SLEEP)).await;
        }
    }

    /// Changes the message that the workers share; `false` if another worker changed it meanwhile.
    async fn change(&self, next: impl FnOnce(Option<&Shared>, u64) -> Shared) -> Result<bool, BrokerError> {
        let current = self.memory().current;
        if !current {
            let read = self.stream.broker.rate(&self.stream.queue).await?;
            let mut memory = self.memory();
            let (number, text) = read.unwrap_or_default();
            // A message that can't be read is no state, and the next change replaces it.
            let read = serde_json::from_slice(&text).ok();
            memory.shared = Shared::latest(memory.shared.take(), read);
            memory.number = number;
        }
        let (next, number) = {
            let mut memory = self.memory();
            // Until the answer is there, and also if this future is dropped before.
            memory.current = false;
            (next(memory.shared.as_ref(), self.now()), memory.number)
        };
        // A struct of numbers can always be written.
        let text = serde_json::to_vec(&next).unwrap_or_default();
        let stored = self.stream.broker.store_rate(&self.stream.queue, text.into(), number);
        match stored.await {
            Ok(number) => {
                let mut memory = self.memory();
                memory.shared = Some(next);
                memory.number = number;
                memory.current = true;
                Ok(true)
            }
            Err(error) if error.is(code::WRONG_LAST_SEQUENCE) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.now().as_nanosecond()).unwrap_or(0)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock()
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut memory = self.gate.memory();
        if !self.over && memory.interval == self.interval {
            memory.slots.insert(self.at);
        }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Returns when the rate is another one than `before`.
async fn changed(rate: &mut watch::Receiver<Option<Rate>>, before: Rate) {
    // The sender lives as long as the group. Without it nothing changes any more.
    if rate.wait_for(|rate| *rate != Some(before)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

//! The tasks in flight in this process, and what it remembers of those that ended. A broker that crashed, or whose
//! consumer was made again, forgets its deliveries and delivers the tasks once more. This process does not run them
//! once more.

use crate::protocol::Stored;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How many finished tasks are remembered. They are needed to answer who wants to cancel one, and not to run one again
/// whose ack the broker forgot.
const FINISHED: usize = 1000;

/// For how long a cancelled task is remembered, so that it is not started if it was on its way when it was cancelled.
const CANCELLED: Duration = Duration::from_secs(60);

/// The tasks in flight. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct InFlight(Arc<Mutex<Tasks>>);

#[derive(Debug, Default)]
struct Tasks {
    /// In flight, or finished here and remembered.
    known: HashMap<Stored, Arc<Task>>,
    /// The finished ones, the latest at the end.
    finished: VecDeque<Stored>,
    cancelled: Vec<CancelledTask>,
}

/// A task has a lock of its own, so that most of its steps do not wait for other tasks. Where both locks are needed, that
/// of all tasks is taken first.
#[derive(Debug)]
struct Task {
    id: Box<str>,
    life: Mutex<Life>,
}

#[derive(Debug)]
struct Life {
    progress: Progress,
    abortion: Abortion,
    /// Dropped with the task, or when it is finished, which tells those that wait for its end.
    over: Vec<oneshot::Sender<()>>,
}

/// How far the abortion of a task is.
#[derive(Debug)]
enum Abortion {
    None,
    /// The task is not aborted, and its run listens.
    Awaited(oneshot::Sender<Abort>),
    Aborted(Abort),
}

#[derive(Debug)]
struct CancelledTask {
    id: Box<str>,
    up_to: u64,
    at: Instant,
    /// The message of the task came here afterwards, and was not started.
    met: bool,
}

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It waits for its start.
    Waiting,
    /// It runs, or its failure is being told to the broker.
    Running,
    /// It is done (or dead). The broker may not have heard so, or may have forgotten it.
    Done,
}

/// Why a task is aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// Somebody cancelled it.
    Cancelled,
    /// The broker forgot that it delivered it, and may deliver it to another worker.
    Forgotten,
}

/// What the cancellation of a task found.
#[derive(Debug)]
pub enum Cancellation {
    /// The task waited for its start and will not start. The receiver ends when the task is over.
    Waiting(oneshot::Receiver<()>),
    /// The task ran and is being aborted. The receiver ends when the task is over.
    Running(oneshot::Receiver<()>),
    /// The task was cancelled before, and did not start because of that.
    Removed,
    /// The task is finished.
    Finished,
    /// There is no such task.
    Unknown,
}

/// A task in flight, until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct InFlightTask {
    all: InFlight,
    stored: Stored,
    task: Arc<Task>,
    cancelled: bool,
    /// Remembered beyond the life of this.
    finished: bool,
}

impl InFlight {
    /// Adds a task that was delivered.
    ///
    /// # Errors
    /// The progress of the task, where it is in flight already.
    pub fn add(&self, stored: Stored, id: &str) -> Result<InFlightTask, Progress> {
        let mut all = self.0.lock();
        let task = match all.known.entry(stored) {
            Entry::Occupied(entry) => return Err(entry.get().progress()),
            Entry::Vacant(entry) => entry.insert(Task::new(id)).clone(),
        };
        let cancelled = all.is_cancelled(id, stored.sequence);
        drop(all);
        Ok(InFlightTask {
            all: self.clone(),
            stored,
            task,
            cancelled,
            finished: false,
        })
    }

    /// Aborts the running tasks whose message comes after number `sequence`, as the broker forgot them. Says how many.
    pub fn abort_forgotten(&self, sequence: u64) -> usize {
        let all = self.0.lock();
        let tasks = all.known.iter().filter(|(stored, _)| stored.sequence > sequence);
        tasks.filter(|(_, task)| task.abort(Abort::Forgotten)).count()
    }

    /// Aborts a task, and remembers not to start it where its message has at most the number `up_to`.
    pub fn cancel(&self, id: &str, up_to: u64) -> Cancellation {
        let mut all = self.0.lock();
        all.cancelled.retain(|task| task.at.elapsed() < CANCELLED);
        let removed = all.cancelled.iter().any(|task| task.met && *task.id == *id);
        all.cancelled.push(CancelledTask {
            id: id.into(),
            up_to,
            at: Instant::now(),
            met: false,
        });
        let mut tasks = all.known.values().filter(|task| *task.id == *id);
        let found = tasks.find_map(|task| task.cancel());
        let finished = all.is_finished(id);
        drop(all);
        match found {
            Some(found) => found,
            None if removed => Cancellation::Removed,
            None if finished => Cancellation::Finished,
            None => Cancellation::Unknown,
        }
    }

    /// Whether a task was finished here (done, or dead), as far as this process remembers.
    pub fn is_finished(&self, id: &str) -> bool {
        self.0.lock().is_finished(id)
    }
}

impl Tasks {
    fn is_finished(&self, id: &str) -> bool {
        let mut tasks = self.known.values();
        tasks.any(|task| *task.id == *id && task.progress() == Progress::Done)
    }

    /// Whether a task was cancelled when its message was stored already.
    fn is_cancelled(&mut self, id: &str, sequence: u64) -> bool {
        let mut cancelled = self.cancelled.iter_mut();
        let found = cancelled.find(|task| sequence <= task.up_to && *task.id == *id && task.at.elapsed() < CANCELLED);
        found.is_some_and(|task| {
            task.met = true;
            true
        })
    }
}

impl Task {
    fn new(id: &str) -> Arc<Self> {
        Arc::new(Self {
            id: id.into(),
            life: Mutex::new(Life {
                progress: Progress::Waiting,
                abortion: Abortion::None,
                over: Vec::new(),
            }),
        })
    }

    fn progress(&self) -> Progress {
        self.life.lock().progress
    }

    /// Aborts the task; `false` where there is nothing to abort any more.
    fn abort(&self, abort: Abort) -> bool {
        self.life.lock().abort(abort)
    }

    /// Aborts the task, unless it is done.
    fn cancel(&self) -> Option<Cancellation> {
        let mut life = self.life.lock();
        life.abort(Abort::Cancelled);
        let (over, wait) = oneshot::channel();
        let found = match life.progress {
            Progress::Waiting => Cancellation::Waiting(wait),
            Progress::Running => Cancellation::Running(wait),
            Progress::Done => return None,
        };
        life.over.push(over);
        Some(found)
    }
}

impl Life {
    fn abort(&mut self, abort: Abort) -> bool {
        if self.progress == Progress::Done || matches!(self.abortion, Abortion::Aborted(_)) {
            return false;
        }
        if let Abortion::Awaited(sender) = std::mem::replace(&mut self.abortion, Abortion::Aborted(abort)) {
            let _ = sender.send(abort);
        }
        true
    }
}

impl InFlightTask {
    /// Id of the task.
    pub fn id(&self) -> &str {
        &self.task.id
    }

    /// Whether somebody cancelled the task before it came.
    pub fn was_cancelled(&self) -> bool {
        self.cancelled
    }

    /// Marks the task as running; `false` where it was aborted before.
    pub fn start(&self) -> bool {
        let mut life = self.task.life.lock();
        if matches!(life.abortion, Abortion::Aborted(_)) {
            return false;
        }
        life.progress = Progress::Running;
        true
    }

    /// Returns when the task is to be aborted.
    pub async fn aborted(&self) -> Abort {
        let abort = {
            let mut life = self.task.life.lock();
            if let Abortion::Aborted(abort) = life.abortion {
                return abort;
            }
            let (sender, abort) = oneshot::channel();
            life.abortion = Abortion::Awaited(sender);
            abort
        };
        match abort.await {
            Ok(abort) => abort,
            // The sender lives as long as this.
            Err(_) => std::future::pending().await,
        }
    }

    /// Marks the task as done.
    pub fn done(&self) {
        self.task.life.lock().progress = Progress::Done;
    }

    /// Ends the flight of a task that is finished, and remembers it as such.
    pub fn finished(mut self) {
        self.finished = true;
        let mut all = self.all.0.lock();
        if all.finished.len() >= FINISHED
            && let Some(oldest) = all.finished.pop_front()
        {
            all.known.remove(&oldest);
        }
        all.finished.push_back(self.stored);
        drop(all);
        let mut life = self.task.life.lock();
        life.progress = Progress::Done;
        life.over.clear();
    }
}

impl Drop for InFlightTask {
    fn drop(&mut self) {
        if !self.finished {
            self.all.0.lock().known.remove(&self.stored);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    const TASK: Stored = Stored { sequence: 7, at: 10 };

    #[test]
    fn a_task_is_in_flight_until_its_run_ends() {
        let all = InFlight::default();
        let task = all.add(TASK, "a").expect("it is not in flight");
        assert_eq!(all.add(TASK, "a").err(), Some(Progress::Waiting));
        assert!(task.start());
        assert_eq!(all.add(TASK, "a").err(), Some(Progress::Running));
        task.done();
        assert_eq!(all.add(TASK, "a").err(), Some(Progress::Done));
        // The same number in a stream that was made again is another one.
        assert!(all.add(Stored { at: 20, ..TASK }, "a").is_ok());
        drop(task);
        assert!(all.add(TASK, "a").is_ok());
    }

    #[test]
    fn only_what_the_broker_forgot_is_aborted() {
        let all = InFlight::default();
        let task = all.add(TASK, "a").expect("it is not in flight");
        assert_eq!(all.abort_forgotten(7), 0);
        assert_eq!(task.aborted().now_or_never(), None);
        assert_eq!(all.abort_forgotten(6), 1);
        assert_eq!(task.aborted().now_or_never(), Some(Abort::Forgotten));
        assert_eq!(all.abort_forgotten(6), 0, "once");
    }

    #[test]
    fn who_cancels_a_task_hears_how_far_it_was() {
        let all = InFlight::default();
        assert!(matches!(all.cancel("a", 0), Cancellation::Unknown));
        let task = all.add(TASK, "a").expect("it is not in flight");
        assert!(matches!(all.cancel("a", 7), Cancellation::Waiting(_)));
        assert!(!task.start(), "who was told that it waited must not see it run");
        drop(task);
        let later = Stored { sequence: 8, ..TASK };
        let task = all.add(later, "a").expect("it is not in flight");
        assert!(task.start());
        let Cancellation::Running(mut over) = all.cancel("a", 8) else {
            panic!("it runs");
        };
        assert_eq!(task.aborted().now_or_never(), Some(Abort::Cancelled));
        assert!(matches!(over.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        task.finished();
        assert!(matches!(over.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        assert!(matches!(all.cancel("a", 8), Cancellation::Finished));
        assert_eq!(all.add(later, "a").err(), Some(Progress::Done), "it is not run again");
    }

    #[test]
    fn a_cancelled_task_is_not_started_but_a_later_one_of_its_id_is() {
        let all = InFlight::default();
        let _nothing = all.cancel("a", 7);
        let was_cancelled = |sequence, id| {
            let task = all.add(Stored { sequence, ..TASK }, id).expect("it is not in flight");
            task.was_cancelled()
        };
        assert!(was_cancelled(7, "a"));
        assert!(!was_cancelled(8, "a"));
        assert!(!was_cancelled(7, "b"));
        assert!(matches!(all.cancel("a", 7), Cancellation::Removed));
        assert!(matches!(all.cancel("b", 7), Cancellation::Unknown));
    }
}

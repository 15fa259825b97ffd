//! The tasks that this worker has in hand, and what it remembers of those it had. A broker that crashed,
//! or whose consumer was made again, forgot that it delivered them, and delivers them once more: then
//! they are not run once more here.

use crate::protocol::Stored;
use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// How many finished tasks are remembered: for the answer to who wants to cancel one, and not to run one
/// again that the broker forgot to be done.
const FINISHED: usize = 1000;

/// For how long a cancelled task is not started that was on its way when it was cancelled.
const CANCELLED: Duration = Duration::from_secs(60);

/// The tasks. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct InHand(Arc<Mutex<Books>>);

#[derive(Debug, Default)]
struct Books {
    /// In hand, or finished here and remembered.
    tasks: HashMap<Stored, Arc<Task>>,
    /// The finished ones, the latest at the end.
    finished: VecDeque<Stored>,
    cancelled: Vec<CancelledTask>,
}

/// Has a lock of its own, so that most of what becomes of a task does not wait for others. Taken after that of the
/// books, where both are needed.
#[derive(Debug)]
struct Task {
    id: Box<str>,
    life: Mutex<Life>,
}

#[derive(Debug)]
struct Life {
    state: State,
    cut: CutOff,
    /// Dropped with the task, or when it is finished: tells those that wait for its end.
    over: Vec<oneshot::Sender<()>>,
}

/// Whether a task is cut off.
#[derive(Debug)]
enum CutOff {
    No,
    /// Not yet, and it waits for it.
    Awaited(oneshot::Sender<Cut>),
    Yes(Cut),
}

#[derive(Debug)]
struct CancelledTask {
    id: Box<str>,
    up_to: u64,
    at: Instant,
    /// Its message came here afterwards, and was not started.
    met: bool,
}

/// How far a task in hand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits for its start.
    Waiting,
    /// It runs, or its failure is being told to the broker.
    Running,
    /// It is done (or dead), and the broker may not have heard so, or may have forgotten it.
    Done,
}

/// Why a task is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Somebody cancelled it.
    Cancelled,
    /// The broker forgot that it delivered it, and may deliver it to another worker.
    Forgotten,
}

/// What there is of a task that somebody cancels.
#[derive(Debug)]
pub enum Found {
    /// It waits for its start, and does so no longer; ends when it is over.
    Waiting(oneshot::Receiver<()>),
    /// It runs and is being cut off; ends when it is over.
    Running(oneshot::Receiver<()>),
    /// It was cancelled before, and did not start because of that.
    Removed,
    /// It is finished.
    Finished,
    /// Nothing.
    Nothing,
}

/// A task in hand, until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Held {
    all: InHand,
    stored: Stored,
    task: Arc<Task>,
    cancelled: bool,
    /// It is remembered for longer than this lives.
    finished: bool,
}

impl InHand {
    /// Takes a task in hand.
    ///
    /// # Errors
    /// How far it is, where it is in hand already.
    pub fn take(&self, stored: Stored, id: &str) -> Result<Held, State> {
        let mut books = lock(&self.0);
        let task = match books.tasks.entry(stored) {
            Entry::Occupied(entry) => return Err(entry.get().state()),
            Entry::Vacant(entry) => entry.insert(Task::new(id)).clone(),
        };
        let cancelled = books.is_cancelled(id, stored.sequence);
        drop(books);
        Ok(Held {
            all: self.clone(),
            stored,
            task,
            cancelled,
            finished: false,
        })
    }

    /// Cuts those off that run and whose message comes after number `sequence`; says how many.
    pub fn cut_off_after(&self, sequence: u64) -> usize {
        let books = lock(&self.0);
        let tasks = books.tasks.iter().filter(|(stored, _)| stored.sequence > sequence);
        tasks.filter(|(_, task)| task.cut_off(Cut::Forgotten)).count()
    }

    /// Cuts a task off, and remembers not to start it where its message has at most the number `up_to`.
    pub fn cancel(&self, id: &str, up_to: u64) -> Found {
        let mut books = lock(&self.0);
        books.cancelled.retain(|task| task.at.elapsed() < CANCELLED);
        let removed = books.cancelled.iter().any(|task| task.met && *task.id == *id);
        books.cancelled.push(CancelledTask {
            id: id.into(),
            up_to,
            at: Instant::now(),
            met: false,
        });
        let mut tasks = books.tasks.values().filter(|task| *task.id == *id);
        let found = tasks.find_map(|task| task.cancel());
        let finished = books.is_finished(id);
        drop(books);
        match found {
            Some(found) => found,
            None if removed => Found::Removed,
            None if finished => Found::Finished,
            None => Found::Nothing,
        }
    }

    /// Whether a task was finished here (done, or dead), as far as is remembered.
    pub fn is_finished(&self, id: &str) -> bool {
        lock(&self.0).is_finished(id)
    }
}

impl Books {
    fn is_finished(&self, id: &str) -> bool {
        let mut tasks = self.tasks.values();
        tasks.any(|task| *task.id == *id && task.state() == State::Done)
    }

    /// Whether a task was cancelled when its message was there already.
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
                state: State::Waiting,
                cut: CutOff::No,
                over: Vec::new(),
            }),
        })
    }

    fn state(&self) -> State {
        lock(&self.life).state
    }

    /// Cuts it off, and says whether there was something to cut off.
    fn cut_off(&self, cut: Cut) -> bool {
        lock(&self.life).cut_off(cut)
    }

    /// Cuts it off, unless it is done.
    fn cancel(&self) -> Option<Found> {
        let mut life = lock(&self.life);
        life.cut_off(Cut::Cancelled);
        let (over, wait) = oneshot::channel();
        let found = match life.state {
            State::Waiting => Found::Waiting(wait),
            State::Running => Found::Running(wait),
            State::Done => return None,
        };
        life.over.push(over);
        Some(found)
    }
}

impl Life {
    fn cut_off(&mut self, cut: Cut) -> bool {
        if self.state == State::Done || matches!(self.cut, CutOff::Yes(_)) {
            return false;
        }
        if let CutOff::Awaited(sender) = std::mem::replace(&mut self.cut, CutOff::Yes(cut)) {
            let _ = sender.send(cut);
        }
        true
    }
}

impl Held {
    /// Id of the task.
    pub fn id(&self) -> &str {
        &self.task.id
    }

    /// Whether somebody cancelled it before it came.
    pub fn was_cancelled(&self) -> bool {
        self.cancelled
    }

    /// It starts now; `false` where it was cut off before.
    pub fn start(&self) -> bool {
        let mut life = lock(&self.task.life);
        if matches!(life.cut, CutOff::Yes(_)) {
            return false;
        }
        life.state = State::Running;
        true
    }

    /// Waits until it is to be cut off.
    pub async fn cut(&self) -> Cut {
        let cut = {
            let mut life = lock(&self.task.life);
            if let CutOff::Yes(cut) = life.cut {
                return cut;
            }
            let (sender, cut) = oneshot::channel();
            life.cut = CutOff::Awaited(sender);
            cut
        };
        match cut.await {
            Ok(cut) => cut,
            // Its other end lives as long as this.
            Err(_) => std::future::pending().await,
        }
    }

    /// It is done.
    pub fn done(&self) {
        lock(&self.task.life).state = State::Done;
    }

    /// It is finished, and is remembered as such.
    pub fn finished(mut self) {
        self.finished = true;
        let mut books = lock(&self.all.0);
        if books.finished.len() >= FINISHED
            && let Some(oldest) = books.finished.pop_front()
        {
            books.tasks.remove(&oldest);
        }
        books.finished.push_back(self.stored);
        drop(books);
        let mut life = lock(&self.task.life);
        life.state = State::Done;
        life.over.clear();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.finished {
            lock(&self.all.0).tasks.remove(&self.stored);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    const TASK: Stored = Stored { sequence: 7, at: 10 };

    #[test]
    fn a_task_is_in_hand_until_it_is_let_go() {
        let all = InHand::default();
        let held = all.take(TASK, "a").expect("it is not in hand");
        assert_eq!(all.take(TASK, "a").err(), Some(State::Waiting));
        assert!(held.start());
        assert_eq!(all.take(TASK, "a").err(), Some(State::Running));
        held.done();
        assert_eq!(all.take(TASK, "a").err(), Some(State::Done));
        // The same number in a stream that was made again is another one.
        assert!(all.take(Stored { at: 20, ..TASK }, "a").is_ok());
        drop(held);
        assert!(all.take(TASK, "a").is_ok());
    }

    #[test]
    fn only_what_the_broker_forgot_is_cut_off() {
        let all = InHand::default();
        let held = all.take(TASK, "a").expect("it is not in hand");
        assert_eq!(all.cut_off_after(7), 0);
        assert_eq!(held.cut().now_or_never(), None);
        assert_eq!(all.cut_off_after(6), 1);
        assert_eq!(held.cut().now_or_never(), Some(Cut::Forgotten));
        assert_eq!(all.cut_off_after(6), 0, "once");
    }

    #[test]
    fn who_cancels_a_task_hears_how_far_it_was() {
        let all = InHand::default();
        assert!(matches!(all.cancel("a", 0), Found::Nothing));
        let held = all.take(TASK, "a").expect("it is not in hand");
        assert!(matches!(all.cancel("a", 7), Found::Waiting(_)));
        assert!(!held.start(), "who was told that it waited must not see it run");
        drop(held);
        let later = Stored { sequence: 8, ..TASK };
        let held = all.take(later, "a").expect("it is not in hand");
        assert!(held.start());
        let Found::Running(mut over) = all.cancel("a", 8) else {
            panic!("it runs");
        };
        assert_eq!(held.cut().now_or_never(), Some(Cut::Cancelled));
        assert!(matches!(over.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        held.finished();
        assert!(matches!(over.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        assert!(matches!(all.cancel("a", 8), Found::Finished));
        assert_eq!(all.take(later, "a").err(), Some(State::Done), "it is not run again");
    }

    #[test]
    fn a_cancelled_task_is_not_started_but_a_later_one_of_its_id_is() {
        let all = InHand::default();
        let _nothing = all.cancel("a", 7);
        let was_cancelled = |sequence, id| {
            let held = all.take(Stored { sequence, ..TASK }, id).expect("it is not in hand");
            held.was_cancelled()
        };
        assert!(was_cancelled(7, "a"));
        assert!(!was_cancelled(8, "a"));
        assert!(!was_cancelled(7, "b"));
        assert!(matches!(all.cancel("a", 7), Found::Removed));
        assert!(matches!(all.cancel("b", 7), Found::Nothing));
    }
}

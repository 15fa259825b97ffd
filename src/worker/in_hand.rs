//! The tasks that this worker has in hand, and what it remembers of those it had. A broker that crashed,
//! or whose consumer was made again, forgot that it delivered them, and delivers them once more: then
//! they are not run once more here.

use crate::broker::Stored;
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
    tasks: HashMap<Stored, Task>,
    /// The finished ones, the latest at the end.
    finished: VecDeque<Stored>,
    cancelled: Vec<CancelledTask>,
}

#[derive(Debug)]
struct Task {
    id: Box<str>,
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

impl Task {
    /// Cuts it off, and says whether it was not before.
    fn cut_off(&mut self, cut: Cut) -> bool {
        match std::mem::replace(&mut self.cut, CutOff::Yes(cut)) {
            CutOff::No => true,
            CutOff::Awaited(sender) => {
                let _ = sender.send(cut);
                true
            }
            before @ CutOff::Yes(_) => {
                self.cut = before;
                false
            }
        }
    }
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
    task: Stored,
    /// It is finished: it is remembered for longer than this lives.
    finished: bool,
}

impl InHand {
    /// Takes a task in hand.
    ///
    /// # Errors
    /// How far it is, where it is in hand already.
    pub fn take(&self, task: Stored, id: &str) -> Result<Held, State> {
        let mut books = self.lock();
        match books.tasks.entry(task) {
            Entry::Occupied(entry) => Err(entry.get().state),
            Entry::Vacant(entry) => {
                entry.insert(Task {
                    id: id.into(),
                    state: State::Waiting,
                    cut: CutOff::No,
                    over: Vec::new(),
                });
                Ok(Held {
                    all: self.clone(),
                    task,
                    finished: false,
                })
            }
        }
    }

    /// Cuts those off that run and whose message comes after number `sequence`; says how many.
    pub fn cut_off_after(&self, sequence: u64) -> usize {
        let mut books = self.lock();
        let forgotten = books
            .tasks
            .iter_mut()
            .filter(|(stored, task)| stored.sequence > sequence && task.state != State::Done);
        forgotten
            .filter_map(|(_, task)| task.cut_off(Cut::Forgotten).then_some(()))
            .count()
    }

    /// Cuts a task off, and remembers not to start it where its message has at most the number `up_to`.
    pub fn cancel(&self, id: &str, up_to: u64) -> Found {
        let mut books = self.lock();
        books.cancelled.retain(|task| task.at.elapsed() < CANCELLED);
        let removed = books.cancelled.iter().any(|task| task.met && *task.id == *id);
        books.cancelled.push(CancelledTask {
            id: id.into(),
            up_to,
            at: Instant::now(),
            met: false,
        });
        let running = books
            .tasks
            .values_mut()
            .find(|task| *task.id == *id && task.state != State::Done);
        if let Some(task) = running {
            let (over, wait) = oneshot::channel();
            task.over.push(over);
            task.cut_off(Cut::Cancelled);
            return match task.state {
                State::Waiting => Found::Waiting(wait),
                State::Running | State::Done => Found::Running(wait),
            };
        }
        drop(books);
        if removed {
            Found::Removed
        } else if self.is_finished(id) {
            Found::Finished
        } else {
            Found::Nothing
        }
    }

    /// Whether a task was finished here (done, or dead), as far as is remembered.
    pub fn is_finished(&self, id: &str) -> bool {
        let books = self.lock();
        let mut tasks = books.tasks.values();
        tasks.any(|task| *task.id == *id && task.state == State::Done)
    }

    /// Whether a task was cancelled when its message was there already.
    pub fn is_cancelled(&self, id: &str, sequence: u64) -> bool {
        let mut books = self.lock();
        let mut cancelled = books.cancelled.iter_mut();
        let found = cancelled.find(|task| sequence <= task.up_to && *task.id == *id && task.at.elapsed() < CANCELLED);
        found.is_some_and(|task| {
            task.met = true;
            true
        })
    }

    /// A task in hand starts now.
    pub fn started(&self, task: Stored) {
        self.set(task, State::Running);
    }

    fn set(&self, task: Stored, state: State) {
        if let Some(task) = self.lock().tasks.get_mut(&task) {
            task.state = state;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Waits until it is to be cut off.
    pub async fn cut(&self) -> Cut {
        let cut = match self.all.lock().tasks.get_mut(&self.task) {
            Some(Task {
                cut: CutOff::Yes(cut), ..
            }) => return *cut,
            Some(task) => {
                let (sender, receiver) = oneshot::channel();
                task.cut = CutOff::Awaited(sender);
                Some(receiver)
            }
            None => None,
        };
        if let Some(cut) = cut
            && let Ok(cut) = cut.await
        {
            return cut;
        }
        // The task is there for as long as this.
        std::future::pending().await
    }

    /// It is done.
    pub fn done(&self) {
        self.all.set(self.task, State::Done);
    }

    /// It is finished, and is remembered as such.
    pub fn finished(mut self) {
        let mut books = self.all.lock();
        if let Some(task) = books.tasks.get_mut(&self.task) {
            task.state = State::Done;
            task.over.clear();
            if books.finished.len() >= FINISHED
                && let Some(oldest) = books.finished.pop_front()
            {
                books.tasks.remove(&oldest);
            }
            books.finished.push_back(self.task);
        }
        drop(books);
        self.finished = true;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.finished {
            self.all.lock().tasks.remove(&self.task);
        }
    }
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
        all.started(TASK);
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
        drop(held);
        let held = all.take(TASK, "a").expect("it is not in hand");
        all.started(TASK);
        let Found::Running(mut over) = all.cancel("a", 7) else {
            panic!("it runs");
        };
        assert_eq!(held.cut().now_or_never(), Some(Cut::Cancelled));
        assert!(matches!(over.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        held.finished();
        assert!(matches!(over.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        assert!(matches!(all.cancel("a", 7), Found::Finished));
        assert_eq!(all.take(TASK, "a").err(), Some(State::Done), "it is not run again");
    }

    #[test]
    fn a_cancelled_task_is_not_started_but_a_later_one_of_its_id_is() {
        let all = InHand::default();
        let _nothing = all.cancel("a", 7);
        assert!(all.is_cancelled("a", 7));
        assert!(!all.is_cancelled("a", 8));
        assert!(!all.is_cancelled("b", 7));
        assert!(matches!(all.cancel("a", 7), Found::Removed));
        assert!(matches!(all.cancel("b", 7), Found::Nothing));
    }
}

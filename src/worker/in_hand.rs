//! The tasks that this worker has in hand. A broker that crashed, or whose consumer was made again,
//! forgot that it delivered them, and delivers them once more: then they are not run once more here.

use crate::broker::Stored;
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The tasks. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct InHand(Arc<Mutex<HashMap<Stored, State>>>);

/// How far a task in hand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs, or its failure is being told to the broker.
    Running,
    /// It is done, but the broker has not confirmed that it heard so.
    Done,
}

/// A task in hand, until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Held {
    all: InHand,
    task: Stored,
}

impl InHand {
    /// Takes a task in hand.
    ///
    /// # Errors
    /// How far it is, where it is in hand already.
    pub fn take(&self, task: Stored) -> Result<Held, State> {
        match self.lock().entry(task) {
            Entry::Occupied(entry) => Err(*entry.get()),
            Entry::Vacant(entry) => {
                entry.insert(State::Running);
                Ok(Held {
                    all: self.clone(),
                    task,
                })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Stored, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// It is done.
    pub fn done(&self) {
        self.all.lock().insert(self.task, State::Done);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.lock().remove(&self.task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_in_hand_until_it_is_let_go() {
        let all = InHand::default();
        let task = Stored { sequence: 1, at: 10 };
        let held = all.take(task).expect("it is not in hand");
        assert_eq!(all.take(task).err(), Some(State::Running));
        held.done();
        assert_eq!(all.take(task).err(), Some(State::Done));
        // The first task of a stream that was made again is another one.
        assert!(all.take(Stored { sequence: 1, at: 20 }).is_ok());
        drop(held);
        assert!(all.take(task).is_ok());
    }
}

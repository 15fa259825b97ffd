//! Tasks that are done, while the broker has not confirmed that it heard so. One of them that is
//! delivered again here is not run again.

use crate::broker::Stored;
use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

/// The tasks. Usually none.
#[derive(Debug, Default)]
pub struct Unconfirmed(Mutex<HashSet<Stored>>);

/// Forgets its task when dropped.
#[must_use]
pub struct Remembered<'a> {
    all: &'a Unconfirmed,
    task: Stored,
}

impl Unconfirmed {
    /// Remembers a task for as long as the result lives.
    pub fn remember(&self, task: Stored) -> Remembered<'_> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(task);
        Remembered { all: self, task }
    }

    /// Whether `task` is one of them.
    pub fn contains(&self, task: Stored) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&task)
    }
}

impl Drop for Remembered<'_> {
    fn drop(&mut self) {
        self.all
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.task);
    }
}

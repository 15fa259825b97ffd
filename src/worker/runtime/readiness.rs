//! The readiness of a process, which may run several groups. The process is ready while any of its groups is, as one group
//! without a stream must not keep a pod from serving the others.

use crate::{admin::Health, protocol::Queue};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

/// The readiness of a process. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct ProcessReadiness {
    health: Health,
    /// The reason why each group is not ready; `None` for a group that is.
    groups: Arc<Mutex<BTreeMap<Queue, Option<String>>>>,
}

/// One group's part in the readiness of its process.
pub struct GroupReadiness {
    process: ProcessReadiness,
    queue: Queue,
}

impl ProcessReadiness {
    /// The readiness of a process whose admin server shows `health`.
    pub fn new(health: Health) -> Self {
        Self {
            health,
            groups: Arc::default(),
        }
    }

    /// The part of one group.
    pub fn of(&self, queue: &Queue) -> GroupReadiness {
        GroupReadiness {
            process: self.clone(),
            queue: queue.clone(),
        }
    }

    fn set(&self, queue: &Queue, reason: Option<String>) {
        let mut groups = self.groups.lock();
        groups.insert(queue.clone(), reason);
        let first = groups.values().next().cloned().flatten();
        match first.filter(|_| groups.values().all(Option::is_some)) {
            Some(reason) => self.health.not_ready(reason),
            None => self.health.ready(),
        }
    }
}

impl GroupReadiness {
    /// The group asks for tasks.
    pub fn ready(&self) {
        self.process.set(&self.queue, None);
    }

    /// The group asks for no tasks, because of `reason`.
    pub fn not_ready(&self, reason: &str) {
        self.process.set(&self.queue, Some(reason.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_while_any_of_its_groups_is() {
        let health = Health::starting("starting");
        let process = ProcessReadiness::new(health.clone());
        let (one, other) = (
            process.of(&Queue::new("crawl", "a")),
            process.of(&Queue::new("crawl", "b")),
        );
        one.not_ready("no stream");
        assert_eq!(health.not_ready_because().as_deref(), Some("no stream"));
        other.ready();
        assert_eq!(health.not_ready_because(), None);
        other.not_ready("no connection");
        assert_eq!(
            health.not_ready_because().as_deref(),
            Some("no stream"),
            "that of the first"
        );
        one.ready();
        assert_eq!(health.not_ready_because(), None);
    }
}

//! The TaskGroups that we wrote and the watch has not shown yet. Without them, a reconcile that runs before the watch
//! caught up would write the same once more (client-go calls this a mutation cache).

use super::{Group, index::GroupKey};
use crate::api::TaskGroup;
use kube::{Resource, runtime::watcher};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};

/// TaskGroups as the API server returned them from our writes, until the watch shows them or newer ones.
#[derive(Default)]
pub struct MutationCache(Mutex<HashMap<GroupKey, Arc<TaskGroup>>>);

impl MutationCache {
    /// Remembers what a write returned.
    pub fn remember(&self, group: Arc<TaskGroup>) {
        self.0.lock().insert(GroupKey::of(group.as_ref()), group);
    }

    /// Forgets a group that we let go.
    pub fn forget(&self, key: &GroupKey) {
        self.0.lock().remove(key);
    }

    /// Takes note of what the watch shows: what we wrote before is no news any more.
    pub fn watched(&self, event: &watcher::Event<Group>) {
        match event {
            watcher::Event::Apply(seen) | watcher::Event::InitApply(seen) | watcher::Event::Delete(seen) => {
                let mut written = self.0.lock();
                let key = GroupKey::of(seen);
                if written
                    .get(&key)
                    .is_some_and(|ours| version(ours.as_ref()) <= version(seen))
                {
                    written.remove(&key);
                }
            }
            // The watch does not tell what vanished while it was away.
            watcher::Event::Init => self.0.lock().clear(),
            watcher::Event::InitDone => {}
        }
    }

    /// What we wrote, if it is newer than what the watch shows.
    pub fn newer_than(&self, watched: &Group) -> Option<Arc<TaskGroup>> {
        let written = self.0.lock();
        let ours = written.get(&GroupKey::of(watched))?;
        (version(ours.as_ref()) > version(watched)).then(|| ours.clone())
    }
}

/// Resource versions count up (a promise since Kubernetes 1.35, and how etcd has always made them).
pub fn version(object: &impl Resource) -> Option<u64> {
    object.meta().resource_version.as_ref()?.parse().ok()
}

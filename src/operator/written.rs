//! What we wrote and the watch has not shown yet. Without it, a reconcile that runs before the
//! watch caught up would write the same once more (client-go calls this a mutation cache).

use kube::{Resource, ResourceExt, runtime::watcher};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

type Key = (String, String);

/// Objects as the API server returned them from our writes, until the watch shows them or newer.
pub struct Written<K>(Mutex<HashMap<Key, Arc<K>>>);

impl<K> Default for Written<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Resource<DynamicType = ()>> Written<K> {
    /// Remembers what a write returned. The managed fields go: nobody needs them, and they are large.
    pub fn remember(&self, mut object: K) -> Arc<K> {
        object.managed_fields_mut().clear();
        let object = Arc::new(object);
        self.lock().insert(key(object.as_ref()), object.clone());
        object
    }

    /// Forgets an object that we deleted.
    pub fn forget(&self, object: &K) {
        self.lock().remove(&key(object));
    }

    /// Takes note of what the watch shows: what we wrote before is no news any more.
    pub fn watched(&self, event: &watcher::Event<K>) {
        match event {
            watcher::Event::Apply(seen) | watcher::Event::InitApply(seen) | watcher::Event::Delete(seen) => {
                let mut written = self.lock();
                let key = key(seen);
                if written.get(&key).is_some_and(|ours| !is_newer(ours.as_ref(), seen)) {
                    written.remove(&key);
                }
            }
            // What vanished while the watch was away is not told.
            watcher::Event::Init => self.lock().clear(),
            watcher::Event::InitDone => {}
        }
    }

    /// The newer of what the watch shows and what we wrote.
    pub fn newer(&self, watched: Option<Arc<K>>, namespace: &str, name: &str) -> Option<Arc<K>> {
        let ours = self.lock().get(&(namespace.to_owned(), name.to_owned())).cloned();
        match (watched, ours) {
            (Some(watched), Some(ours)) if is_newer(ours.as_ref(), watched.as_ref()) => Some(ours),
            (None, ours) => ours,
            (watched, _) => watched,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<K>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(object: &impl ResourceExt) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

/// Resource versions count up (a promise since Kubernetes 1.35, and how etcd has always made them).
fn is_newer(one: &impl ResourceExt, other: &impl ResourceExt) -> bool {
    let version = |text: Option<String>| text.and_then(|text| text.parse::<u64>().ok());
    version(one.resource_version()) > version(other.resource_version())
}

//! Which groups use a queue, and which use a handler. The watch of the TaskGroups keeps the index current, so an event
//! about a queue or a handler finds its groups without a walk over all of them.

use parking_lot::RwLock;
use std::{
    collections::{BTreeSet, HashMap},
    fmt,
};

use super::Group;
use crate::protocol::Queue;
use kube::{Resource, ResourceExt, runtime::reflector::ObjectRef};

/// Identifies a TaskGroup: all that the operator keeps about a group is kept under this key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKey {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl GroupKey {
    /// The key of an object, which is a TaskGroup or bears the name of one.
    pub fn of(object: &impl Resource) -> Self {
        Self {
            namespace: object.meta().namespace.clone().unwrap_or_default(),
            name: object.meta().name.clone().unwrap_or_default(),
        }
    }

    /// The TaskGroup, for the controller.
    pub fn reference(&self) -> ObjectRef<Group> {
        ObjectRef::new(&self.name).within(&self.namespace)
    }
}

impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a group refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct References {
    /// `spec.queue`, or the name of the group.
    pub queue: String,
    /// `spec.handlerRef.name`.
    pub handler: String,
}

/// What the `Ready` condition of a group says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The group is ready.
    Ready,
    /// The group is not ready.
    NotReady,
    /// There is no such condition yet.
    Unknown,
}

/// The groups of each queue and of each handler.
#[derive(Default)]
pub struct Index(RwLock<State>);

#[derive(Default)]
struct State {
    maps: Maps,
    /// What a first list or a relist has shown so far.
    relist: Option<Maps>,
}

#[derive(Default)]
struct Maps {
    groups: HashMap<GroupKey, (References, Readiness)>,
    /// Nearly always one per queue.
    by_queue: HashMap<Queue, Vec<GroupKey>>,
    by_handler: HashMap<(String, String), BTreeSet<GroupKey>>,
    counts: [i64; 3],
}

impl Maps {
    fn insert(&mut self, key: GroupKey, references: References, readiness: Readiness) {
        let queue = Queue::new(&key.namespace, &references.queue);
        self.by_queue.entry(queue).or_default().push(key.clone());
        let handler = (key.namespace.clone(), references.handler.clone());
        self.by_handler.entry(handler).or_default().insert(key.clone());
        self.counts[readiness as usize] += 1;
        self.groups.insert(key, (references, readiness));
    }

    fn remove(&mut self, key: &GroupKey) -> Option<References> {
        let (references, readiness) = self.groups.remove(key)?;
        let queue = Queue::new(&key.namespace, &references.queue);
        if let Some(groups) = self.by_queue.get_mut(&queue) {
            groups.retain(|group| group != key);
            if groups.is_empty() {
                self.by_queue.remove(&queue);
            }
        }
        let handler = (key.namespace.clone(), references.handler.clone());
        if let Some(groups) = self.by_handler.get_mut(&handler) {
            groups.remove(key);
            if groups.is_empty() {
                self.by_handler.remove(&handler);
            }
        }
        self.counts[readiness as usize] -= 1;
        Some(references)
    }

    fn of_queue(&self, namespace: &str, queue: &str) -> BTreeSet<GroupKey> {
        let groups = self.by_queue.get(&Queue::new(namespace, queue));
        groups.into_iter().flatten().cloned().collect()
    }

    /// The references of a group that can't be read: those that it had, or else the defaults.
    fn assume(&self, key: &GroupKey) -> References {
        let known = self.groups.get(key).map(|(references, _)| references.clone());
        known.unwrap_or_else(|| References {
            queue: key.name.clone(),
            handler: "default".to_owned(),
        })
    }
}

impl Index {
    /// A list of all groups begins. What the index knows stays until the list is complete.
    pub fn begin_list(&self) {
        self.0.write().relist = Some(Maps::default());
    }

    /// The list shows a group.
    pub fn listed(&self, key: GroupKey, references: Option<References>, readiness: Readiness) {
        let mut state = self.0.write();
        let references = references.unwrap_or_else(|| state.maps.assume(&key));
        if let Some(relist) = &mut state.relist {
            relist.insert(key, references, readiness);
        }
    }

    /// The list is complete: a group that it did not show is gone.
    pub fn end_list(&self) {
        let mut state = self.0.write();
        if let Some(maps) = state.relist.take() {
            state.maps = maps;
        }
    }

    /// A group was made or changed. An unreadable group has no known references and keeps those that it had. Returns the
    /// other groups of the queue that the group has, and of the one that it had.
    pub fn apply(&self, key: &GroupKey, references: Option<References>, readiness: Readiness) -> BTreeSet<GroupKey> {
        let mut state = self.0.write();
        let references = references.unwrap_or_else(|| state.maps.assume(key));
        let before = state.maps.remove(key);
        let mut rivals = BTreeSet::new();
        for queue in before.iter().map(|before| &before.queue).chain([&references.queue]) {
            rivals.extend(state.maps.of_queue(&key.namespace, queue));
        }
        state.maps.insert(key.clone(), references, readiness);
        rivals
    }

    /// A group is gone. Returns the other groups of its queue.
    pub fn delete(&self, key: &GroupKey) -> BTreeSet<GroupKey> {
        let mut state = self.0.write();
        let Some(before) = state.maps.remove(key) else {
            return BTreeSet::new();
        };
        state.maps.of_queue(&key.namespace, &before.queue)
    }

    /// The groups that have or want this queue.
    pub fn groups_of_queue(&self, queue: &Queue) -> BTreeSet<GroupKey> {
        self.0.read().maps.of_queue(&queue.namespace, &queue.name)
    }

    /// The groups of a namespace that refer to this handler.
    pub fn groups_of_handler(&self, namespace: &str, handler: &str) -> BTreeSet<GroupKey> {
        let place = (namespace.to_owned(), handler.to_owned());
        self.0.read().maps.by_handler.get(&place).cloned().unwrap_or_default()
    }

    /// The number of groups that are ready, not ready, and unknown.
    pub fn counts(&self) -> [i64; 3] {
        self.0.read().maps.counts
    }
}

/// The references of a TaskGroup; `None` for one that can't be read.
pub fn references(group: &Group) -> Option<References> {
    let group = group.0.as_ref().ok()?;
    Some(References {
        queue: group.spec.queue.clone().unwrap_or_else(|| group.name_any()),
        handler: group.spec.handler_ref.name.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> GroupKey {
        GroupKey {
            namespace: "crawl".into(),
            name: name.into(),
        }
    }

    fn refers(queue: &str, handler: &str) -> References {
        References {
            queue: queue.into(),
            handler: handler.into(),
        }
    }

    fn names(groups: BTreeSet<GroupKey>) -> Vec<String> {
        groups.into_iter().map(|key| key.name).collect()
    }

    fn of_queue(index: &Index, queue: &str) -> Vec<String> {
        names(index.groups_of_queue(&Queue::new("crawl", queue)))
    }

    #[test]
    fn a_queue_and_a_handler_know_their_groups() {
        let index = Index::default();
        index.apply(&key("a"), Some(refers("q", "h")), Readiness::Unknown);
        index.apply(&key("b"), Some(refers("other", "h")), Readiness::Unknown);
        assert_eq!(of_queue(&index, "q"), ["a"]);
        assert_eq!(names(index.groups_of_handler("crawl", "h")), ["a", "b"]);
        assert!(index.groups_of_handler("elsewhere", "h").is_empty());
        index.delete(&key("a"));
        assert!(of_queue(&index, "q").is_empty());
        assert_eq!(names(index.groups_of_handler("crawl", "h")), ["b"]);
    }

    #[test]
    fn whoever_shares_a_queue_before_or_after_a_change_is_a_rival() {
        let index = Index::default();
        let apply = |name, queue| names(index.apply(&key(name), Some(refers(queue, "h")), Readiness::Unknown));
        assert!(apply("a", "q").is_empty());
        assert_eq!(apply("b", "q"), ["a"]);
        assert!(apply("c", "r").is_empty());
        assert_eq!(apply("a", "r"), ["b", "c"], "the old queue and the new one");
        assert_eq!(names(index.delete(&key("c"))), ["a"]);
        assert!(index.delete(&key("c")).is_empty(), "gone already");
    }

    #[test]
    fn a_list_replaces_what_was_known_when_it_is_complete() {
        let index = Index::default();
        index.apply(&key("gone"), Some(refers("q", "h")), Readiness::Ready);
        index.begin_list();
        index.listed(key("a"), Some(refers("q", "h")), Readiness::NotReady);
        assert_eq!(of_queue(&index, "q"), ["gone"]);
        assert_eq!(index.counts(), [1, 0, 0]);
        index.end_list();
        assert_eq!(of_queue(&index, "q"), ["a"]);
        assert_eq!(index.counts(), [0, 1, 0]);
    }

    #[test]
    fn an_unreadable_group_keeps_its_queue() {
        let index = Index::default();
        index.apply(&key("a"), Some(refers("q", "h")), Readiness::Ready);
        index.apply(&key("a"), None, Readiness::Unknown);
        assert_eq!(of_queue(&index, "q"), ["a"]);
        index.begin_list();
        index.listed(key("a"), None, Readiness::Unknown);
        index.listed(key("new"), None, Readiness::Unknown);
        index.end_list();
        assert_eq!(
            (of_queue(&index, "q"), of_queue(&index, "new")),
            (vec!["a".into()], vec!["new".into()])
        );
        assert_eq!(index.counts(), [0, 0, 2]);
    }
}

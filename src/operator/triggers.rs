//! Triggers reconciles.

use super::{Group, caches::Caches, index::GroupKey, memory::Memory};
use crate::protocol::StreamName;
use kube::runtime::reflector::ObjectRef;
use std::collections::BTreeSet;
use tokio::sync::mpsc::UnboundedSender;

/// Triggers reconciles of groups.
#[derive(Clone)]
pub struct Triggers(UnboundedSender<ObjectRef<Group>>);

impl Triggers {
    /// The controller reconciles what is sent to `sender`.
    pub fn new(sender: UnboundedSender<ObjectRef<Group>>) -> Self {
        Self(sender)
    }

    /// Triggers a reconcile of a group.
    pub fn group(&self, key: &GroupKey) {
        // Nobody listens any more only when the operator stops.
        let _ = self.0.send(key.reference());
    }

    /// Triggers a reconcile of each of these groups.
    pub fn groups(&self, keys: &BTreeSet<GroupKey>) {
        for key in keys {
            self.group(key);
        }
    }

    /// Triggers a reconcile of every group.
    pub fn all(&self, caches: &Caches) {
        for group in caches.all_groups() {
            self.group(&GroupKey::of(group.as_ref()));
        }
    }

    /// Somebody changed this stream, or may have: triggers a reconcile of the groups that have or want it, which then ask
    /// the broker.
    pub fn stream_changed(&self, stream: &StreamName, caches: &Caches, memory: &Memory) {
        let Some(queue) = stream.queue() else { return };
        for key in caches.index().groups_of_queue(&queue) {
            memory.broker_changed(&key);
            self.group(&key);
        }
    }
}

//! The TaskGroup that a reconcile is about, as far as it can be read.

use super::{
    index::GroupKey,
    memory::SpecVersion,
    validate::{self, Invalid},
};
use crate::{
    api::TaskGroup,
    protocol::{
        Queue, StreamName,
        keys::{self, FINALIZER},
    },
};
use kube::ResourceExt;
use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

/// The TaskGroup that a reconcile is about.
pub struct Subject {
    /// Its key.
    pub key: GroupKey,
    /// The TaskGroup. Of an unreadable one, what can be read of it.
    pub group: Arc<TaskGroup>,
    /// Why the TaskGroup can't be read, if so.
    pub unreadable: Option<Invalid>,
}

impl Subject {
    /// A TaskGroup that can be read.
    pub fn new(group: Arc<TaskGroup>) -> Self {
        Self {
            key: GroupKey::of(group.as_ref()),
            group,
            unreadable: None,
        }
    }

    /// Whether somebody deleted the TaskGroup.
    pub fn is_deleted(&self) -> bool {
        self.group.metadata.deletion_timestamp.is_some()
    }

    /// Whether the TaskGroup has our finalizer.
    pub fn has_finalizer(&self) -> bool {
        self.group.finalizers().iter().any(|name| name == FINALIZER)
    }

    /// Whether the operator may take over a stream that is not marked as ours.
    pub fn adopts(&self) -> bool {
        self.says_true(keys::ADOPT)
    }

    /// Whether the deletion may leave behind what is in NATS.
    pub fn is_abandoned(&self) -> bool {
        self.says_true(keys::ABANDON)
    }

    fn says_true(&self, annotation: &str) -> bool {
        self.group
            .annotations()
            .get(annotation)
            .is_some_and(|value| value == "true")
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        self.group.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The queue whose stream the group has. Before it has any, the queue that it wants.
    pub fn queue(&self) -> Queue {
        let status = self.group.status.as_ref();
        status
            .and_then(|status| StreamName::from(status.stream.as_deref()?).queue())
            .unwrap_or_else(|| validate::queue(&self.group))
    }

    /// Identifies the spec.
    pub fn spec_version(&self) -> SpecVersion {
        let mut hasher = DefaultHasher::new();
        (self.uid(), self.group.metadata.generation).hash(&mut hasher);
        SpecVersion(hasher.finish())
    }
}

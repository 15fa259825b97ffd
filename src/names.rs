//! Every name that TaskGroup gives to a thing in NATS or Kubernetes. Nothing else formats one.

use std::fmt;

/// API group of both kinds, and prefix of every label, annotation and metadata key.
pub const API_GROUP: &str = "taskgroup.io";

/// Name of the durable consumer of every group's stream.
pub const CONSUMER: &str = "workers";

/// Stream that keeps the dead letters of all groups.
pub const DEAD_STREAM: &str = "TASKGROUP_DEAD";

/// All subjects of [`DEAD_STREAM`].
pub const DEAD_SUBJECTS: [&str; 2] = ["dead.>", "dead-fence.>"];

/// Stream that keeps the tasks in back-off, and the callbacks to be tried again, of all groups.
pub const DELAY_STREAM: &str = "TASKGROUP_DELAY";

/// Last token of the subjects of fences ([`Queue::fence`]); elsewhere, a number is there.
const FENCE: &str = "fence";

/// All subjects of [`DELAY_STREAM`]: what waits, and what is due.
pub const DELAY_SUBJECTS: [&str; 4] = ["delay.>", "due.>", "callback.>", "callback-due.>"];

/// Subjects of [`DELAY_STREAM`] that its consumer [`RELAY`] reads.
pub const DUE_SUBJECTS: [&str; 2] = ["due.>", "callback-due.>"];

/// Name of the durable consumer of [`DELAY_STREAM`], which all operator replicas share.
pub const RELAY: &str = "relay";

/// Stream that keeps, per group with a rate limit, when the next task may start.
pub const RATE_STREAM: &str = "TASKGROUP_RATE";

/// All subjects of [`RATE_STREAM`].
pub const RATE_SUBJECTS: &str = "rate.>";

/// What the operator listens to for tasks to be cancelled: `cancel.<namespace>.<queue>.<task-id>`.
pub const CANCEL_SUBJECTS: &str = "cancel.>";

/// Longest DNS label (RFC 1123): the bound of a queue's and of a namespace's name.
pub const MAX_LABEL: usize = 63;

/// Finalizer on every TaskGroup that has (or may have) something in NATS.
pub const FINALIZER: &str = "taskgroup.io/pipeline";

/// Field manager of everything the operator applies to Kubernetes.
pub const FIELD_MANAGER: &str = "taskgroup";

/// Keys of annotations, labels and JetStream metadata.
pub mod keys {
    /// Annotation on a TaskGroup: `"true"` takes over a stream that exists and is not marked as ours.
    pub const ADOPT: &str = "taskgroup.io/adopt";
    /// Annotation on a TaskGroup being deleted: `"true"` lets go of what can't be cleaned up in NATS.
    pub const ABANDON: &str = "taskgroup.io/abandon";
    /// Annotation on a worker Deployment: hash of what the operator last applied.
    pub const APPLIED: &str = "taskgroup.io/applied";
    /// Label of a group's worker Deployment and pods: the name of the TaskGroup.
    pub const GROUP: &str = "taskgroup.io/group";
    /// JetStream metadata: the operator installation that owns the stream or consumer.
    pub const INSTANCE: &str = "taskgroup.io/instance";
    /// JetStream metadata: namespace of the owning TaskGroup.
    pub const NAMESPACE: &str = "taskgroup.io/namespace";
    /// JetStream metadata: name of the owning TaskGroup.
    pub const NAME: &str = "taskgroup.io/name";
    /// JetStream metadata: uid of the owning TaskGroup.
    pub const UID: &str = "taskgroup.io/uid";
    /// JetStream metadata of the consumer: [`crate::settings::WorkerSettings`] as JSON.
    pub const SETTINGS: &str = "taskgroup.io/settings";
}

/// Whether `name` is a DNS label (RFC 1123): at most 63 of `a-z`, `0-9` and `-`, with a letter or
/// digit at both ends.
pub fn is_dns_label(name: &str) -> bool {
    let alphanumeric = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = name.as_bytes();
    bytes.len() <= MAX_LABEL
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|c| alphanumeric(c) || *c == b'-')
}

/// The queue of one group: the pair that every name in NATS is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Queue {
    /// Kubernetes namespace of the group.
    pub namespace: String,
    /// `spec.queue`, or the name of the TaskGroup.
    pub name: String,
}

impl Queue {
    /// A queue by its namespace and name; both must be DNS labels for its names to be valid.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The group's stream. `_` is in no Kubernetes name, so no two queues share a stream.
    pub fn stream(&self) -> StreamName {
        StreamName(format!("tg_{}_{}", self.namespace, self.name))
    }

    /// What the group's stream listens to.
    pub fn subjects(&self) -> String {
        format!("tasks.{}.{}.>", self.namespace, self.name)
    }

    /// What the stream of a group listens to that takes no more tasks (it is being deleted).
    /// Publishers to [`Queue::task`] are then told at once that nobody listens.
    pub fn closed_subjects(&self) -> String {
        format!("closed.{}.{}.>", self.namespace, self.name)
    }

    /// Where a publisher puts one task.
    pub fn task(&self, id: &str) -> String {
        format!("tasks.{}.{}.{id}", self.namespace, self.name)
    }

    /// Where the relay puts a task whose queue takes no new ones ([`Queue::closed_subjects`]).
    pub fn closed_task(&self, id: &str) -> String {
        format!("closed.{}.{}.{id}", self.namespace, self.name)
    }

    /// The id of a task by the subject it is stored under, if that subject is of this queue.
    pub fn task_id<'a>(&self, subject: &'a str) -> Option<&'a str> {
        subject
            .strip_prefix("tasks.")
            .or_else(|| subject.strip_prefix("closed."))?
            .strip_prefix(self.namespace.as_str())?
            .strip_prefix('.')?
            .strip_prefix(self.name.as_str())?
            .strip_prefix('.')
            .filter(|id| !id.is_empty())
    }

    /// Where the dead letter of one task goes.
    pub fn dead(&self, id: &str) -> String {
        format!("dead.{}.{}.{id}", self.namespace, self.name)
    }

    /// Where a task in back-off waits. With the number of the message that it continues, as a second
    /// schedule under one subject replaces the first, and two tasks of one id must not.
    pub fn delay(&self, id: &str, sequence: u64) -> String {
        self.shared("delay", id, sequence)
    }

    /// Where a task is whose back-off is over, until the relay has put it into its queue.
    pub fn due(&self, id: &str, sequence: u64) -> String {
        self.shared("due", id, sequence)
    }

    /// What keeps out a hand-over of a task to the delays that comes too late, and where that ends (`delay`, `due`).
    pub fn fence(&self, kind: &str, id: &str, sequence: u64) -> String {
        format!("{}.{FENCE}", self.shared(kind, id, sequence))
    }

    /// Whether a subject is that of a fence in the delays.
    pub fn is_fence(subject: &str) -> bool {
        subject.rsplit_once('.').is_some_and(|(_, last)| last == FENCE)
    }

    /// What keeps out a dead letter that comes too late. Not among the dead letters: users read those.
    pub fn dead_fence(&self, id: &str, sequence: u64) -> String {
        self.shared("dead-fence", id, sequence)
    }

    /// Where a callback waits until it is tried again.
    pub fn callback(&self, id: &str, sequence: u64) -> String {
        self.shared("callback", id, sequence)
    }

    /// Where a callback is that is to be tried again now, until a worker has done so.
    pub fn callback_due(&self, id: &str, sequence: u64) -> String {
        self.shared("callback-due", id, sequence)
    }

    fn shared(&self, kind: &str, id: &str, sequence: u64) -> String {
        format!("{kind}.{}.{}.{id}.{sequence}", self.namespace, self.name)
    }

    /// All subjects of one kind (`delay`, `due`, …) that are about one task.
    pub fn all_of_task(&self, kind: &str, id: &str) -> String {
        format!("{kind}.{}.{}.{id}.*", self.namespace, self.name)
    }

    /// All subjects of one kind (`delay`, `due`, …) that are about this queue.
    pub fn all_of_queue(&self, kind: &str) -> String {
        format!("{kind}.{}.{}.>", self.namespace, self.name)
    }

    /// Where the group's rate is kept.
    pub fn rate(&self) -> String {
        format!("rate.{}.{}", self.namespace, self.name)
    }

    /// Where the operator asks the group's workers whether they run a task, to cut it off.
    pub fn cancel_question(&self) -> String {
        format!("worker-cancel.{}.{}", self.namespace, self.name)
    }

    /// Where the relay asks one of the group's workers to make a callback.
    pub fn callback_request(&self) -> String {
        format!("worker-callback.{}.{}", self.namespace, self.name)
    }

    /// The queue, the task and the number of the message that a subject of [`DELAY_STREAM`] is about.
    pub fn of_delayed<'a>(kind: &str, subject: &'a str) -> Option<(Self, &'a str, u64)> {
        let (queue, rest) = Self::of_subject(kind, subject)?;
        let (id, sequence) = rest.rsplit_once('.')?;
        Some((queue, id, sequence.parse().ok()?))
    }

    /// The queue and the task that a subject `<kind>.<namespace>.<queue>.<task-id>` is about.
    pub fn of_subject<'a>(kind: &str, subject: &'a str) -> Option<(Self, &'a str)> {
        let mut tokens = subject.strip_prefix(kind)?.strip_prefix('.')?.splitn(3, '.');
        let queue = Self::new(tokens.next()?, tokens.next()?);
        tokens.next().map(|id| (queue, id))
    }

    /// Where the operator says that the group's settings changed (plain NATS, not stored).
    pub fn settings_notice(&self) -> String {
        format!("settings.{}.{}", self.namespace, self.name)
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Name of a JetStream stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamName(String);

impl StreamName {
    /// The queue whose stream this is; `None` for a stream that is no group's.
    pub fn queue(&self) -> Option<Queue> {
        let (namespace, name) = self.0.strip_prefix("tg_")?.split_once('_')?;
        (is_dns_label(namespace) && is_dns_label(name)).then(|| Queue::new(namespace, name))
    }

    /// The name as JetStream has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for StreamName {
    fn from(name: &str) -> Self {
        Self(name.to_owned())
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Name of the worker Deployment of a TaskGroup.
pub fn deployment(group: &str) -> String {
    format!("{group}-workers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_name_leads_back_to_its_queue() {
        let queue = Queue::new("crawl-1", "acme");
        assert_eq!(queue.stream().as_str(), "tg_crawl-1_acme");
        assert_eq!(queue.stream().queue(), Some(queue));
        for foreign in ["ORDERS", "tg_", "tg_a", "tg_A_b", "tg_a_b_c", "TASKGROUP_DEAD"] {
            assert_eq!(StreamName::from(foreign).queue(), None, "{foreign}");
        }
    }

    #[test]
    fn a_task_id_is_the_rest_of_the_subject() {
        let queue = Queue::new("crawl", "acme");
        assert_eq!(queue.task_id(&queue.task("42")), Some("42"));
        assert_eq!(queue.task_id("tasks.crawl.acme.a.b"), Some("a.b"));
        assert_eq!(queue.task_id("tasks.crawl.acme2.a"), None);
        assert_eq!(queue.task_id("tasks.crawl.acme."), None);
        assert_eq!(queue.task_id(&queue.closed_task("42")), Some("42"));
        assert_eq!(
            Queue::of_subject("dead", &queue.dead("a.b")),
            Some((queue.clone(), "a.b"))
        );
        assert_eq!(
            Queue::of_delayed("due", &queue.due("a.b", 7)),
            Some((queue.clone(), "a.b", 7))
        );
        assert_eq!(Queue::of_subject("dead", "dead.crawl.acme"), None);
        assert_eq!(Queue::of_subject("due", "dead.crawl.acme.a"), None);
    }

    #[test]
    fn a_dns_label_is_what_rfc_1123_says() {
        for good in ["a", "0", "a-b", &"a".repeat(63)] {
            assert!(is_dns_label(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &"a".repeat(64)] {
            assert!(!is_dns_label(bad), "{bad}");
        }
    }
}

//! Subjects, streams, and consumers: every name that TaskGroup uses in NATS.

use std::fmt;

/// Longest DNS label (RFC 1123): the bound of a queue's and of a namespace's name.
pub const MAX_LABEL: usize = 63;

/// Stream that keeps the dead letters of all groups.
pub const DEAD_STREAM: &str = "TASKGROUP_DEAD";

/// Subjects of [`DEAD_STREAM`].
pub const DEAD_KINDS: [Kind; 2] = [Kind::Dead, Kind::DeadTombstone];

/// Stream that keeps the tasks in back-off of all groups, and the callbacks to be tried again.
pub const DELAY_STREAM: &str = "TASKGROUP_DELAY";

/// Subjects of [`DELAY_STREAM`].
pub const DELAY_KINDS: [Kind; 6] = [
    Kind::Delay,
    Kind::Due,
    Kind::Callback,
    Kind::CallbackDue,
    Kind::DelayTombstone,
    Kind::DueTombstone,
];

/// Subjects of [`DELAY_STREAM`] that its consumer [`RELAY`] reads.
pub const DUE_KINDS: [Kind; 3] = [Kind::Due, Kind::CallbackDue, Kind::DueTombstone];

/// Durable consumer of [`DELAY_STREAM`], which all operator replicas share.
pub const RELAY: &str = "relay";

/// Stream that keeps, per group with a rate limit, when the next task may start.
pub const RATE_STREAM: &str = "TASKGROUP_RATE";

/// Prefix of the name of every group's durable consumer.
const WORKERS: &str = "workers";

/// The kind of a subject: its first token. The namespace and the queue follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `tasks.<namespace>.<queue>.<task-id>`: a task as its publisher sent it.
    Tasks,
    /// `requeue.<namespace>.<queue>.<task-id>`: a task that came back from the delays. Its history is in its headers.
    Requeue,
    /// `delay.<namespace>.<queue>.<task-id>.<sequence>`: a task in back-off.
    Delay,
    /// `due.<namespace>.<queue>.<task-id>.<sequence>`: a task whose back-off is over, until the relay has requeued it.
    Due,
    /// `delay-tombstone.…`: a marker against a transfer to the delays that arrives late.
    DelayTombstone,
    /// `due-tombstone.…`: a [`Kind::DelayTombstone`] that its worker did not remove.
    DueTombstone,
    /// `callback.<namespace>.<queue>.<task-id>.<sequence>`: a callback until it is tried again.
    Callback,
    /// `callback-due.…`: a callback that is to be tried again now.
    CallbackDue,
    /// `dead.<namespace>.<queue>.<task-id>`: a dead letter.
    Dead,
    /// `dead-tombstone.…`: a marker against a dead letter that arrives late. Users read `dead.>` and do not see it.
    DeadTombstone,
    /// `rate.<namespace>.<queue>`: the state of a group's rate.
    Rate,
    /// `cancel.<namespace>.<queue>.<task-id>`: a request to cancel a task. Not stored.
    Cancel,
    /// `settings.<namespace>.<queue>`: a notice that the group's settings changed. Not stored.
    Settings,
    /// `worker-cancel.<namespace>.<queue>`: the operator's question about a cancelled task. Not stored.
    WorkerCancel,
    /// `worker-callback.<namespace>.<queue>`: the relay's request to make a callback. Not stored.
    WorkerCallback,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 15] = [
        Self::Tasks,
        Self::Requeue,
        Self::Delay,
        Self::Due,
        Self::DelayTombstone,
        Self::DueTombstone,
        Self::Callback,
        Self::CallbackDue,
        Self::Dead,
        Self::DeadTombstone,
        Self::Rate,
        Self::Cancel,
        Self::Settings,
        Self::WorkerCancel,
        Self::WorkerCallback,
    ];

    /// The first token of the subject.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tasks => "tasks",
            Self::Requeue => "requeue",
            Self::Delay => "delay",
            Self::Due => "due",
            Self::DelayTombstone => "delay-tombstone",
            Self::DueTombstone => "due-tombstone",
            Self::Callback => "callback",
            Self::CallbackDue => "callback-due",
            Self::Dead => "dead",
            Self::DeadTombstone => "dead-tombstone",
            Self::Rate => "rate",
            Self::Cancel => "cancel",
            Self::Settings => "settings",
            Self::WorkerCancel => "worker-cancel",
            Self::WorkerCallback => "worker-callback",
        }
    }

    /// What follows the queue in a subject of this kind.
    pub fn tail(self) -> Tail {
        match self {
            Self::Tasks | Self::Requeue | Self::Dead | Self::Cancel => Tail::Task,
            Self::Delay
            | Self::Due
            | Self::DelayTombstone
            | Self::DueTombstone
            | Self::Callback
            | Self::CallbackDue
            | Self::DeadTombstone => Tail::Message,
            Self::Rate | Self::Settings | Self::WorkerCancel | Self::WorkerCallback => Tail::Queue,
        }
    }

    /// Every subject of this kind.
    pub fn all(self) -> String {
        format!("{}.>", self.as_str())
    }

    fn read(token: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == token)
    }
}

/// What follows the queue in a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing.
    Queue,
    /// The id of a task.
    Task,
    /// The id of a task, and the sequence number of the message that this one continues. A second schedule under one
    /// subject replaces the first, and two tasks with the same id must not.
    Message,
}

/// Reads a subject whose tail is a task: its kind, queue, and task id.
pub fn parse(subject: &str) -> Option<(Kind, Queue, &str)> {
    let mut tokens = subject.splitn(4, '.');
    let kind = Kind::read(tokens.next()?)?;
    let queue = Queue::new(tokens.next()?, tokens.next()?);
    let rest = tokens.next().filter(|rest| !rest.is_empty())?;
    match kind.tail() {
        Tail::Queue => None,
        Tail::Task => Some((kind, queue, rest)),
        Tail::Message => {
            let (id, sequence) = rest.rsplit_once('.')?;
            sequence.parse::<u64>().ok()?;
            Some((kind, queue, id))
        }
    }
}

/// Reads the queue of a subject of a known kind, which may have any tail.
pub fn queue_of(subject: &str) -> Option<(Kind, Queue)> {
    let mut tokens = subject.splitn(4, '.');
    let kind = Kind::read(tokens.next()?)?;
    Some((kind, Queue::new(tokens.next()?, tokens.next()?)))
}

/// Whether `name` is a DNS label (RFC 1123): at most 63 of `a-z`, `0-9`, and `-`, with a letter or digit at both ends.
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
    /// A queue by its namespace and name. Its names in NATS are valid only if both are DNS labels.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Whether both parts are DNS labels.
    pub fn is_valid(&self) -> bool {
        is_dns_label(&self.namespace) && is_dns_label(&self.name)
    }

    /// The group's stream. No Kubernetes name contains `_`, so no two queues share a stream.
    pub fn stream(&self) -> StreamName {
        StreamName(format!("tg_{}_{}", self.namespace, self.name))
    }

    /// The group's durable consumer: `workers-<namespace>`. NATS permissions have no wildcard inside the token
    /// `tg_<namespace>_<queue>`, so the namespace in the consumer's name is what a permission can grant.
    pub fn consumer(&self) -> String {
        consumer_in(&self.namespace)
    }

    /// Subjects of the group's stream: new tasks, and tasks that come back from the delays.
    pub fn subjects(&self) -> Vec<String> {
        vec![self.all(Kind::Tasks), self.all(Kind::Requeue)]
    }

    /// Subjects of the stream of a draining group. It takes no new tasks, so JetStream refuses publishers at once.
    pub fn draining_subjects(&self) -> Vec<String> {
        vec![self.all(Kind::Requeue)]
    }

    /// Where a publisher puts a task.
    pub fn task(&self, id: &str) -> String {
        self.of_task(Kind::Tasks, id)
    }

    /// Where the relay puts a task that comes back from the delays.
    pub fn requeue(&self, id: &str) -> String {
        self.of_task(Kind::Requeue, id)
    }

    /// Where the dead letter of a task goes.
    pub fn dead(&self, id: &str) -> String {
        self.of_task(Kind::Dead, id)
    }

    /// The kind and the task id of a subject of this group's stream.
    pub fn task_id<'a>(&self, subject: &'a str) -> Option<(Kind, &'a str)> {
        let (kind, rest) = [Kind::Tasks, Kind::Requeue]
            .into_iter()
            .find_map(|kind| Some((kind, subject.strip_prefix(kind.as_str())?)))?;
        let id = rest
            .strip_prefix('.')?
            .strip_prefix(self.namespace.as_str())?
            .strip_prefix('.')?
            .strip_prefix(self.name.as_str())?
            .strip_prefix('.')
            .filter(|id| !id.is_empty())?;
        Some((kind, id))
    }

    /// The subject of `kind` about the task `id`, for a kind with [`Tail::Task`].
    pub fn of_task(&self, kind: Kind, id: &str) -> String {
        format!("{}.{}.{}.{id}", kind.as_str(), self.namespace, self.name)
    }

    /// The subject of `kind` about the message `sequence` of the task `id`, for a kind with [`Tail::Message`].
    pub fn of_message(&self, kind: Kind, id: &str, sequence: u64) -> String {
        format!("{}.{}.{}.{id}.{sequence}", kind.as_str(), self.namespace, self.name)
    }

    /// The subject of `kind` about this queue, for a kind with [`Tail::Queue`].
    pub fn of(&self, kind: Kind) -> String {
        format!("{}.{}.{}", kind.as_str(), self.namespace, self.name)
    }

    /// Every subject of `kind` about one task, for a kind with [`Tail::Message`].
    pub fn all_of_task(&self, kind: Kind, id: &str) -> String {
        format!("{}.{}.{}.{id}.*", kind.as_str(), self.namespace, self.name)
    }

    /// Every subject of `kind` about this queue's tasks.
    pub fn all(&self, kind: Kind) -> String {
        format!("{}.{}.{}.>", kind.as_str(), self.namespace, self.name)
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
    /// The queue whose stream this is; `None` for a stream that belongs to no group.
    pub fn queue(&self) -> Option<Queue> {
        let (namespace, name) = self.parts()?;
        Some(Queue::new(namespace, name))
    }

    /// The durable consumer of a group's stream ([`Queue::consumer`]).
    pub fn consumer(&self) -> String {
        self.parts()
            .map_or_else(|| WORKERS.to_owned(), |(namespace, _)| consumer_in(namespace))
    }

    /// Whether `consumer` is the durable consumer of this stream, which must be a group's.
    pub fn has_consumer(&self, consumer: &str) -> bool {
        let of_namespace = consumer.strip_prefix(WORKERS).and_then(|rest| rest.strip_prefix('-'));
        self.parts()
            .is_some_and(|(namespace, _)| of_namespace == Some(namespace))
    }

    fn parts(&self) -> Option<(&str, &str)> {
        let (namespace, name) = self.0.strip_prefix("tg_")?.split_once('_')?;
        (is_dns_label(namespace) && is_dns_label(name)).then_some((namespace, name))
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

fn consumer_in(namespace: &str) -> String {
    format!("{WORKERS}-{namespace}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_name_leads_back_to_its_queue_and_consumer() {
        let queue = Queue::new("crawl-1", "acme");
        let stream = queue.stream();
        assert_eq!(stream.as_str(), "tg_crawl-1_acme");
        assert_eq!(
            (stream.consumer(), queue.consumer()),
            ("workers-crawl-1".into(), "workers-crawl-1".into())
        );
        assert!(stream.has_consumer("workers-crawl-1"));
        assert!(!stream.has_consumer("workers-crawl") && !stream.has_consumer("workers"));
        assert_eq!(stream.queue(), Some(queue));
        for foreign in ["ORDERS", "tg_", "tg_a", "tg_A_b", "tg_a_b_c", "TASKGROUP_DEAD"] {
            assert_eq!(StreamName::from(foreign).queue(), None, "{foreign}");
            assert!(!StreamName::from(foreign).has_consumer("workers-a"), "{foreign}");
        }
    }

    #[test]
    fn a_subject_leads_back_to_its_kind_queue_and_task() {
        let queue = Queue::new("crawl", "acme");
        for kind in Kind::ALL {
            let subject = match kind.tail() {
                Tail::Queue => queue.of(kind),
                Tail::Task => queue.of_task(kind, "a.b"),
                Tail::Message => queue.of_message(kind, "a.b", 7),
            };
            assert_eq!(queue_of(&subject), Some((kind, queue.clone())), "{subject}");
            let expected = (kind.tail() != Tail::Queue).then(|| (kind, queue.clone(), "a.b"));
            assert_eq!(parse(&subject), expected, "{subject}");
        }
        for none in [
            "dead.crawl.acme",
            "dead.crawl.acme.",
            "due.crawl.acme.a",
            "ORDERS.1",
            "",
        ] {
            assert_eq!(parse(none), None, "{none}");
        }
    }

    #[test]
    fn a_task_id_is_the_rest_of_the_subject() {
        let queue = Queue::new("crawl", "acme");
        assert_eq!(queue.task_id(&queue.task("42")), Some((Kind::Tasks, "42")));
        assert_eq!(queue.task_id("tasks.crawl.acme.a.b"), Some((Kind::Tasks, "a.b")));
        assert_eq!(queue.task_id(&queue.requeue("42")), Some((Kind::Requeue, "42")));
        for foreign in ["tasks.crawl.acme2.a", "tasks.crawl.acme.", "dead.crawl.acme.a"] {
            assert_eq!(queue.task_id(foreign), None, "{foreign}");
        }
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

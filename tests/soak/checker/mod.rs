//! Judges a soak by the log of what was seen from outside: by the publisher, by the handler, by who
//! injected the faults, and in the dead letters. Shares no code with what it judges. Pure.
//!
//! What a handler saw counts: a run goes from the request until the handler answered, or until its
//! connection was closed. The one thing that can't be closed from outside is a run whose worker is
//! frozen (SIGSTOP) beyond its lease: the handler knows of nothing and goes on, and another worker gets
//! the task. (In a pod, the handler is mostly frozen with its worker.) So a frozen worker's runs don't
//! count against the limit while it is frozen, and [`THAW`] longer; then those that still run count again.

mod limits;
mod tasks;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

/// Time since the soak began.
pub type Time = Duration;

/// A change of limits holds for what starts so much later.
pub const LIVE: Duration = Duration::from_secs(1);

/// A worker that thaws may take so long to find out which leases it lost.
pub const THAW: Duration = Duration::from_secs(1);

/// How much later than the worker closed it a handler may see that its connection is closed.
pub const SIGHT: Duration = Duration::from_millis(250);

/// How much later than it was let go a start may reach the handler, on a busy machine.
pub const JITTER: Duration = Duration::from_millis(100);

/// How long after a fault its effects may show.
pub const AFTERMATH: Duration = Duration::from_secs(5);

/// How much of its last moments a broker that was killed may have forgotten.
pub const FORGOTTEN: Duration = Duration::from_secs(3);

/// A task: its group and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Task {
    pub group: usize,
    pub number: u32,
}

/// What a group promises and never changes here.
#[derive(Clone, Debug)]
pub struct Rules {
    pub max_attempts: u32,
    pub timeout: Duration,
    pub expire: Option<Duration>,
    pub dead_letter: bool,
}

/// What a group promises, for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub concurrency: usize,
    pub rate: Option<Rate>,
}

/// At most `tasks + burst` starts in any time of `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub tasks: usize,
    pub per: Duration,
    pub burst: usize,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Answered: done.
    Ok,
    /// Answered or broken off by the handler: to be tried again.
    Failed,
    /// Answered: no further attempt.
    Permanent,
    /// Answered: the group is closed for so long; no attempt is used up.
    Closed(Duration),
    /// The connection was closed before an answer.
    CutOff,
}

/// What a request to cancel a task was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Queued,
    Running,
    Finished,
    Unknown,
    /// None came: the operator or NATS was away.
    None,
}

/// What somebody saw or did.
#[derive(Clone, Debug)]
pub enum Event {
    /// The group has been asked to keep to these limits from now on.
    Limits { group: usize, limits: Limits },
    /// The change is known to be in force at the broker.
    InForce { group: usize },
    /// The publisher is about to publish it for the first time.
    Publish { task: Task },
    /// It is stored for certain.
    Stored { task: Task },
    /// Published again under the same message id, although NATS restarted in between: then it forgets ids
    /// of messages that are gone.
    Repeated { task: Task },
    /// A handler got it.
    Started {
        run: u64,
        task: Task,
        worker: u32,
        attempt: u32,
    },
    /// And is through with it.
    Ended { run: u64, how: How },
    /// A worker was stopped by SIGSTOP.
    Frozen { worker: u32 },
    /// And goes on.
    Thawed { worker: u32 },
    /// Something was done to a worker, or to all (`None`), from then until now.
    Fault {
        worker: Option<u32>,
        kind: &'static str,
        from: Time,
    },
    /// NATS was killed.
    Crashed,
    /// A request to cancel was made then, and answered now.
    Cancel { task: Task, asked: Time, answer: Answer },
    /// Its dead letter was stored.
    Dead { task: Task, reason: String, attempts: u32 },
    /// NATS said that a task of the group was removed, as its last attempt died with its worker.
    WorkerLost { group: usize },
}

/// What happened, and when. In any order.
pub type Log = Vec<(Time, Event)>;

/// What became of all tasks, and what was not as promised.
#[derive(Debug, Default)]
pub struct Verdict {
    pub violations: Vec<String>,
    /// Tasks by how they ended.
    pub ends: BTreeMap<&'static str, usize>,
    pub runs: usize,
    /// Runs after one that did not call for another, by what caused them.
    pub reruns: BTreeMap<&'static str, usize>,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, usize>,
    /// Most runs at once, and the limits' maximum, by group.
    pub peaks: BTreeMap<usize, (usize, usize)>,
    /// Most starts within the time of the rate, and how many were allowed, by group.
    pub rates: BTreeMap<usize, (usize, usize)>,
}

/// One run of a task.
#[derive(Clone, Debug)]
struct Run {
    task: Task,
    worker: u32,
    attempt: u32,
    start: Time,
    /// `None` if it never ended.
    end: Option<(Time, How)>,
}

impl Run {
    fn ended(&self) -> Time {
        self.end.map_or(Time::MAX, |(end, _)| end)
    }
}

/// Something that was done to a worker, or to all.
#[derive(Clone, Debug)]
struct Fault {
    worker: Option<u32>,
    kind: &'static str,
    from: Time,
    until: Time,
}

/// The log, put in order.
struct Seen<'a> {
    log: &'a [(Time, Event)],
    runs: BTreeMap<u64, Run>,
    faults: Vec<Fault>,
    /// The group of each worker that ever ran a task.
    groups: BTreeMap<u32, usize>,
}

impl Seen<'_> {
    /// What was done to this worker in this time, if anything.
    fn fault_of(&self, worker: u32, from: Time, to: Time) -> Option<&Fault> {
        self.faults.iter().find(|fault| {
            fault.worker.is_none_or(|other| other == worker)
                && fault.from <= to
                && from <= fault.until.saturating_add(AFTERMATH)
        })
    }

    /// Whether anything was done to any worker of the group in this time.
    fn disturbed(&self, group: usize, from: Time, to: Time) -> bool {
        self.faults.iter().any(|fault| {
            fault
                .worker
                .is_none_or(|worker| self.groups.get(&worker).is_none_or(|of| *of == group))
                && fault.from <= to
                && from <= fault.until.saturating_add(AFTERMATH)
        })
    }
}

/// Judges a log that is complete: every queue is empty, and no worker runs any more.
pub fn check(mut log: Log, rules: &[Rules]) -> Verdict {
    // Stable: what was logged first of two at the same moment comes first.
    log.sort_by_key(|(time, _)| *time);
    let mut verdict = Verdict::default();
    let mut seen = Seen {
        log: &log,
        runs: BTreeMap::new(),
        faults: Vec::new(),
        groups: BTreeMap::new(),
    };
    for (time, event) in &log {
        match event {
            Event::Started {
                run,
                task,
                worker,
                attempt,
            } => {
                let started = Run {
                    task: *task,
                    worker: *worker,
                    attempt: *attempt,
                    start: *time,
                    end: None,
                };
                if seen.runs.insert(*run, started).is_some() {
                    verdict
                        .violations
                        .push(format!("run {run} started twice: the log is wrong"));
                }
                seen.groups.insert(*worker, task.group);
            }
            Event::Ended { run, how } => match seen.runs.get_mut(run) {
                Some(run) if run.end.is_none() => run.end = Some((*time, *how)),
                _ => verdict
                    .violations
                    .push(format!("run {run} ended and did not run: the log is wrong")),
            },
            Event::Fault { worker, kind, from } => {
                *verdict.faults.entry(kind).or_default() += 1;
                seen.faults.push(Fault {
                    worker: *worker,
                    kind,
                    from: *from,
                    until: *time,
                });
            }
            _ => {}
        }
    }
    verdict.runs = seen.runs.len();
    for group in 0..rules.len() {
        limits::check(&seen, group, &mut verdict);
    }
    tasks::check(&seen, rules, &mut verdict);
    verdict
}

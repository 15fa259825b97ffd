//! What the handlers say they did, and what follows from it.

use super::cluster::Cluster;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// One line of the recorder: what happened to an attempt.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    /// What happened.
    #[serde(rename = "event")]
    pub kind: Kind,
    /// Name of the group.
    pub group: String,
    /// The task.
    pub task: String,
    /// Which attempt of it.
    pub attempt: u32,
    /// The pod that runs it.
    pub pod: String,
    /// When, in microseconds since 1970.
    pub at: u64,
}

/// What happened to an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The handler is about to begin.
    Start,
    /// The work is done, and the worker is about to be told.
    End,
    /// The worker hung up before the work was done.
    Cut,
}

/// Everything the recorder in `namespace` heard, in order.
///
/// # Errors
/// A recorder that can't be reached.
pub fn events(cluster: &Cluster, namespace: &str) -> anyhow::Result<Vec<Event>> {
    let path = format!("/api/v1/namespaces/{namespace}/services/recorder:80/proxy/events");
    let lines = cluster.quietly(&format!("get --raw {path}"))?;
    lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// What one group did.
#[derive(Debug, Default)]
pub struct Tally {
    /// Tasks that were started.
    pub started: BTreeSet<String>,
    /// Tasks that were done.
    pub done: BTreeSet<String>,
    /// Tasks being run now.
    pub running: usize,
    /// Most that were run at once.
    pub most: usize,
    first: Option<u64>,
    last: Option<u64>,
}

impl Tally {
    /// Counts the events of a group.
    pub fn of(events: &[Event], group: &str) -> Self {
        let mut tally = Self::default();
        let mut running = BTreeMap::<_, u32>::new();
        for event in events.iter().filter(|event| event.group == group) {
            let run = (&event.pod, &event.task, event.attempt);
            match event.kind {
                Kind::Start => {
                    *running.entry(run).or_default() += 1;
                    tally.started.insert(event.task.clone());
                    tally.first.get_or_insert(event.at);
                }
                Kind::End | Kind::Cut => {
                    running.remove(&run);
                    if event.kind == Kind::End {
                        tally.done.insert(event.task.clone());
                        tally.last = Some(event.at);
                    }
                }
            }
            tally.running = running.values().map(|runs| *runs as usize).sum();
            tally.most = tally.most.max(tally.running);
        }
        tally
    }

    /// From the first start to the last end.
    pub fn time(&self) -> Duration {
        let micros = self
            .first
            .zip(self.last)
            .map_or(0, |(first, last)| last.saturating_sub(first));
        Duration::from_micros(micros)
    }
}

/// The most of each group that one queue for all would run at once, with `consumers` of it, where
/// all tasks take the same time: the consumers take the next tasks of the list in step.
pub fn most_on_a_shared_queue(list: &[&str], consumers: usize, group: &str) -> usize {
    list.chunks(consumers)
        .map(|taken| taken.iter().filter(|task| **task == group).count())
        .max()
        .unwrap_or(0)
}

//! Counts what the handlers reported to the recorder.

use super::cluster::Cluster;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// One line of the recorder.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    #[serde(rename = "event")]
    pub kind: Kind,
    pub group: String,
    pub task: String,
    pub attempt: u32,
    pub pod: String,
    /// Microseconds since 1970.
    pub at: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The handler is about to start.
    Start,
    /// The work is done, and the handler is about to answer.
    End,
    /// The worker closed the connection before the work was done.
    Cut,
}

/// Returns all events that the recorder in `namespace` received, in order.
pub fn events(cluster: &Cluster, namespace: &str) -> anyhow::Result<Vec<Event>> {
    let path = format!("/api/v1/namespaces/{namespace}/services/recorder:80/proxy/events");
    let lines = cluster.quietly(&format!("get --raw {path}"))?;
    lines.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The counts of one group.
#[derive(Debug, Default)]
pub struct Tally {
    pub started: BTreeSet<String>,
    pub done: BTreeSet<String>,
    /// Tasks that run now.
    pub running: usize,
    /// The most tasks that ran at once.
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

    /// Returns the time from the first start to the last end.
    pub fn time(&self) -> Duration {
        let micros = self
            .first
            .zip(self.last)
            .map_or(0, |(first, last)| last.saturating_sub(first));
        Duration::from_micros(micros)
    }
}

/// Returns how many tasks of `group` would run at once if all groups shared one queue with so many consumers. All tasks take
/// the same time, so the consumers take the next tasks of the list in step.
pub fn most_on_a_shared_queue(list: &[&str], consumers: usize, group: &str) -> usize {
    list.chunks(consumers)
        .map(|taken| taken.iter().filter(|task| **task == group).count())
        .max()
        .unwrap_or(0)
}

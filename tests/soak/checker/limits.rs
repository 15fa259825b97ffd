//! Whether a group ever ran more than it may.

use super::{Event, FORGOTTEN, How, JITTER, LIVE, Limits, SIGHT, Seen, THAW, Time, Verdict};
use std::collections::{BTreeMap, BTreeSet};

pub fn check(seen: &Seen, group: usize, verdict: &mut Verdict) {
    let limits = History::new(seen, group);
    concurrency(seen, group, &limits, verdict);
    rate(seen, group, &limits, verdict);
    closed(seen, group, verdict);
}

/// Which limits were in force from when until when. Around a change, both are.
struct History(Vec<(Time, Time, Limits)>);

impl History {
    fn new(seen: &Seen, group: usize) -> Self {
        let mut all: Vec<(Time, Time, Limits)> = Vec::new();
        for (time, event) in seen.log {
            match event {
                Event::Limits { group: of, limits } if *of == group => all.push((*time, Time::MAX, *limits)),
                Event::InForce { group: of } if *of == group => {
                    // All but the newest are over soon.
                    let older = all.len().saturating_sub(1);
                    for (_, until, _) in &mut all[..older] {
                        *until = (*until).min(*time + LIVE);
                    }
                }
                _ => {}
            }
        }
        Self(all)
    }

    fn between(&self, from: Time, to: Time) -> impl Iterator<Item = &Limits> {
        let within = move |(since, until, _): &&(Time, Time, Limits)| *since <= to && from <= *until;
        self.0.iter().filter(within).map(|(_, _, limits)| limits)
    }

    fn concurrency(&self, at: Time) -> usize {
        self.between(at, at).map(|limits| limits.concurrency).max().unwrap_or(0)
    }
}

/// In the order in which things count that happen at the same moment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    End(u64),
    Frozen(u32),
    Crashed,
    /// What still runs on a worker that thawed counts again.
    Back(u32),
    Start(u64),
}

fn concurrency(seen: &Seen, group: usize, limits: &History, verdict: &mut Verdict) {
    let mut steps = Vec::new();
    for (id, run) in seen.runs.iter().filter(|(_, run)| run.task.group == group) {
        steps.push((run.start, Step::Start(*id)));
        match run.end {
            // The handler sees late that it was cut off.
            Some((end, How::CutOff)) => {
                steps.push((end.saturating_sub(SIGHT).max(run.start), Step::End(*id)));
            }
            Some((end, _)) => steps.push((end, Step::End(*id))),
            None => {}
        }
    }
    for (time, event) in seen.log {
        match event {
            Event::Frozen { worker } => steps.push((*time, Step::Frozen(*worker))),
            Event::Thawed { worker } => steps.push((*time + THAW, Step::Back(*worker))),
            Event::Crashed => steps.push((*time, Step::Crashed)),
            _ => {}
        }
    }
    steps.sort();

    let mut running = BTreeSet::new();
    // What does not count for now, with its worker, and what a crashed broker may know nothing of.
    let (mut frozen, mut forgotten) = (BTreeMap::new(), BTreeSet::<u64>::new());
    let mut ended = BTreeSet::new();
    let (mut peak, mut violations) = (0, 0);
    for (time, step) in steps {
        match step {
            Step::End(run) => {
                ended.insert(run);
                running.remove(&run);
                frozen.remove(&run);
                forgotten.remove(&run);
                continue;
            }
            Step::Frozen(worker) => {
                for run in running.iter().filter(|run| seen.runs[run].worker == worker) {
                    frozen.insert(*run, worker);
                }
                running.retain(|run| !frozen.contains_key(run));
                continue;
            }
            Step::Crashed => {
                forgotten.extend(running.iter().filter(|run| seen.runs[run].start + FORGOTTEN >= time));
                running.retain(|run| !forgotten.contains(run));
                continue;
            }
            Step::Back(worker) => {
                let before = running.len();
                running.extend(frozen.iter().filter(|(_, of)| **of == worker).map(|(run, _)| *run));
                if running.len() == before {
                    continue;
                }
                frozen.retain(|_, of| *of != worker);
            }
            // One that is cut off at once ends first, as the handler sees it late.
            Step::Start(run) if ended.contains(&run) => continue,
            Step::Start(run) => {
                running.insert(run);
            }
        }
        peak = peak.max(running.len());
        let allowed = limits.concurrency(time);
        if running.len() > allowed {
            violations += 1;
            // The first few tell it all.
            if violations <= 3 {
                let runs: Vec<_> = running.iter().map(|run| describe(seen, *run)).collect();
                verdict.violations.push(format!(
                    "group {group} at {time:.3?}: {} run at once, allowed are {allowed}: {}",
                    runs.len(),
                    runs.join(", ")
                ));
            }
        }
    }
    let most = limits.0.iter().map(|(_, _, limits)| limits.concurrency).max();
    verdict.peaks.insert(group, (peak, most.unwrap_or(0)));
}

fn describe(seen: &Seen, run: u64) -> String {
    let found = &seen.runs[&run];
    format!(
        "task {} on worker {} since {:.3?}",
        found.task.number, found.worker, found.start
    )
}

fn rate(seen: &Seen, group: usize, limits: &History, verdict: &mut Verdict) {
    // What a worker let go just before it was frozen reaches the handler when it thaws.
    let thaws: Vec<_> = seen
        .log
        .iter()
        .filter_map(|(time, event)| match event {
            Event::Thawed { worker } => Some((*time, *worker)),
            _ => None,
        })
        .collect();
    let held_up = |start: Time, worker: u32| {
        thaws
            .iter()
            .any(|(thaw, of)| *of == worker && *thaw <= start && start <= *thaw + THAW)
    };
    let mut starts: Vec<_> = seen
        .runs
        .values()
        .filter(|run| run.task.group == group && !held_up(run.start, run.worker))
        .map(|run| run.start)
        .collect();
    starts.sort();
    let mut violations = 0;
    for (first, begin) in starts.iter().enumerate() {
        // Limits of which one is none allow anything.
        let Some(rates) = limits
            .between(*begin, *begin)
            .map(|limits| limits.rate)
            .collect::<Option<Vec<_>>>()
        else {
            continue;
        };
        let Some(per) = rates.iter().map(|rate| rate.per).min() else {
            continue;
        };
        let end = *begin + per;
        let Some(rates) = limits
            .between(*begin, end)
            .map(|limits| limits.rate)
            .collect::<Option<Vec<_>>>()
        else {
            continue;
        };
        let allowed = rates.iter().map(|rate| rate.tasks).max().unwrap_or(0)
            + rates.iter().map(|rate| rate.burst).max().unwrap_or(0);
        let within = end.saturating_sub(JITTER);
        let count = starts[first..].iter().take_while(|start| **start < within).count();
        let most = verdict.rates.entry(group).or_default();
        if count > most.0 {
            *most = (count, allowed);
        }
        if count > allowed {
            violations += 1;
            if violations <= 3 {
                verdict.violations.push(format!(
                    "group {group}: {count} starts within {per:?} from {begin:.3?}, allowed are {allowed}"
                ));
            }
        }
    }
}

/// A handler that says `Retry-After` is left alone for so long, from when every worker can know it.
fn closed(seen: &Seen, group: usize, verdict: &mut Verdict) {
    let closings = seen.runs.values().filter_map(|run| match run.end {
        Some((end, How::Closed(time))) if run.task.group == group => Some((end, time)),
        _ => None,
    });
    let mut violations = 0;
    for (from, length) in closings {
        let (begin, end) = (from + LIVE, (from + length).saturating_sub(JITTER));
        if seen.disturbed(group, from, begin) {
            continue;
        }
        let early = seen
            .runs
            .values()
            .find(|run| run.task.group == group && begin < run.start && run.start < end);
        if let Some(run) = early {
            violations += 1;
            if violations <= 3 {
                verdict.violations.push(format!(
                    "group {group}: closed at {from:.3?} for {length:?}, and task {} started at {:.3?}",
                    run.task.number, run.start
                ));
            }
        }
    }
}

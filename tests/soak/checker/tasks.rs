//! What became of each task, and whether each of its runs was called for.

use super::{AFTERMATH, Answer, Event, How, LIVE, Rules, Run, SIGHT, Seen, Task, Time, Verdict};
use std::collections::BTreeMap;

/// All that is known of a task.
#[derive(Default)]
struct Story<'a> {
    publish: Option<Time>,
    stored: Option<Time>,
    repeated: Vec<Time>,
    /// In the order of their starts.
    runs: Vec<&'a Run>,
    /// When it was cancelled, asked and answered.
    cancelled: Vec<(Time, Time, Answer)>,
    dead: Vec<(Time, &'a str, u32)>,
}

/// When tasks were dropped whose last attempt died with its worker, by group. NATS does not say which tasks.
type Drops = BTreeMap<usize, Vec<Time>>;

pub fn check(seen: &Seen, rules: &[Rules], verdict: &mut Verdict) {
    let mut stories: BTreeMap<Task, Story> = BTreeMap::new();
    let mut drops: Drops = BTreeMap::new();
    for (time, event) in seen.log {
        match event {
            Event::Publish { task } => stories.entry(*task).or_default().publish = Some(*time),
            Event::Stored { task } => stories.entry(*task).or_default().stored = Some(*time),
            Event::Repeated { task } => stories.entry(*task).or_default().repeated.push(*time),
            Event::Cancel { task, asked, answer } => {
                let story = stories.entry(*task).or_default();
                story.cancelled.push((*asked, *time, *answer));
            }
            Event::Dead { task, reason, attempts } => {
                stories.entry(*task).or_default().dead.push((*time, reason, *attempts));
            }
            Event::WorkerLost { group } => drops.entry(*group).or_default().push(*time),
            Event::Started { run, task, .. } => stories.entry(*task).or_default().runs.push(&seen.runs[run]),
            _ => {}
        }
    }
    for (task, story) in &stories {
        let judge = Judge {
            seen,
            rules: &rules[task.group],
            task: *task,
            story,
        };
        judge.runs(verdict);
        judge.end(&mut drops, verdict);
    }
}

struct Judge<'a> {
    seen: &'a Seen<'a>,
    rules: &'a Rules,
    task: Task,
    story: &'a Story<'a>,
}

impl Judge<'_> {
    fn wrong(&self, verdict: &mut Verdict, what: &str) {
        let runs: Vec<_> = self
            .story
            .runs
            .iter()
            .map(|run| {
                format!(
                    "attempt {} on worker {} {:.3?}..{:.3?} {:?}",
                    run.attempt,
                    run.worker,
                    run.start,
                    run.ended(),
                    run.end.map(|(_, how)| how)
                )
            })
            .collect();
        verdict.violations.push(format!(
            "task {} of group {}, stored at {:.3?}, {what}; runs: [{}], dead letters: {:.3?}, cancels: {:.3?}",
            self.task.number,
            self.task.group,
            self.story.stored.unwrap_or_default(),
            runs.join("; "),
            self.story.dead,
            self.story.cancelled
        ));
    }

    /// Why the connection of a run was closed; a word, or `None` if there is no reason for it.
    fn why_cut(&self, run: &Run) -> Option<&'static str> {
        let end = run.ended();
        if self.timed_out(run) {
            return Some("timeout");
        }
        let cancelled = self.story.cancelled.iter().any(|(asked, answered, answer)| {
            // One without an answer may have been heard all the same.
            let late = if *answer == Answer::None { AFTERMATH } else { SIGHT };
            *asked <= end && end <= *answered + late
        });
        if cancelled {
            return Some("cancel");
        }
        self.fault(run)
    }

    /// What was done to the worker of a run while it ran or just after, if anything.
    fn fault(&self, run: &Run) -> Option<&'static str> {
        let after = run.ended().saturating_add(LIVE);
        self.seen.fault_of(run.worker, run.start, after).map(|fault| fault.kind)
    }

    /// Whether a run ended in a way that calls for another, and counts as an attempt.
    fn failed(&self, run: &Run) -> bool {
        match run.end {
            Some((_, How::Failed)) => true,
            Some((_, How::CutOff)) => self.timed_out(run),
            _ => false,
        }
    }

    /// The worker's clock started a little before the handler got the task.
    fn timed_out(&self, run: &Run) -> bool {
        run.ended() + SIGHT >= run.start + self.rules.timeout
    }

    fn runs(&self, verdict: &mut Verdict) {
        let (mut before, mut failures) = (None::<&Run>, 0);
        for run in &self.story.runs {
            if run.end.is_none() {
                self.wrong(verdict, "has a run that never ended");
            }
            if matches!(run.end, Some((_, How::CutOff))) && self.why_cut(run).is_none() {
                self.wrong(verdict, "was cut off for no reason");
            }
            if run.attempt > self.rules.max_attempts {
                self.wrong(verdict, "was tried too often");
            }
            if let Some(before) = before {
                self.follows(verdict, before, run);
            }
            let begun = self.story.publish.unwrap_or_default();
            if run.attempt != failures + 1 && !self.seen.disturbed(self.task.group, begun, run.start) {
                self.wrong(verdict, "has attempts that are counted wrongly");
            }
            failures += u32::from(self.failed(run));
            before = Some(run);
        }
        let first = self.story.runs.first().map(|run| run.start);
        if let (Some(expire), Some(stored), Some(first)) = (self.rules.expire, self.story.stored, first)
            && first > stored + expire + LIVE
        {
            self.wrong(verdict, "started after it had expired");
        }
        if self.story.publish.is_none() {
            self.wrong(verdict, "was never published");
        }
    }

    /// Whether a run may follow the one before.
    fn follows(&self, verdict: &mut Verdict, before: &Run, run: &Run) {
        let fault = self.fault(before);
        let ended = before.ended();
        let overlaps = match before.end {
            // Seen late.
            Some((end, How::CutOff)) => end.saturating_sub(SIGHT) > run.start,
            _ => ended > run.start,
        };
        // A worker that is frozen, or a broker that forgot: see the module's words.
        if overlaps && !fault.is_some_and(|kind| ["freeze", "NATS crash"].contains(&kind)) {
            return self.wrong(verdict, "ran twice at once");
        }
        let called_for = !overlaps
            && match before.end {
                Some((_, How::Failed | How::Closed(_))) => true,
                Some((_, How::CutOff)) => self.failed(before),
                _ => false,
            };
        if called_for {
            return;
        }
        let repeated = self.story.repeated.iter().any(|repeated| *repeated <= run.start);
        match fault.or(repeated.then_some("published again after a restart of NATS")) {
            Some(kind) => *verdict.reruns.entry(kind).or_default() += 1,
            None => self.wrong(verdict, "ran again, and nothing called for it"),
        }
    }

    /// The one way in which it ended.
    fn end(&self, drops: &mut Drops, verdict: &mut Verdict) {
        let story = self.story;
        let done = story.runs.iter().find(|run| matches!(run.end, Some((_, How::Ok))));
        let cancelled = story
            .cancelled
            .iter()
            .find(|(_, _, answer)| matches!(answer, Answer::Queued | Answer::Running));
        if story.dead.len() > 1 {
            self.wrong(verdict, "has several dead letters");
        }
        let dead = story.dead.first();
        if let Some((_, answered, _)) = cancelled {
            if story.runs.iter().any(|run| run.start > *answered + SIGHT) {
                self.wrong(verdict, "started after it was cancelled");
            }
            if dead.is_some_and(|(at, ..)| *at > *answered + SIGHT) {
                self.wrong(verdict, "has a dead letter although it was cancelled");
            }
        }
        if let (Some(done), Some((at, reason, _))) = (done, dead)
            && (self.fault(done).is_none() || *at + AFTERMATH < done.start)
        {
            self.wrong(verdict, &format!("is done, and has a dead letter ({reason})"));
        }
        // Finished at the moment it was cancelled is cancelled.
        let done_before = |(asked, ..): &(Time, Time, Answer)| done.is_some_and(|run| run.ended() + SIGHT < *asked);
        for (asked, answered, answer) in &story.cancelled {
            if matches!(answer, Answer::Finished | Answer::Unknown)
                && story.stored.is_some_and(|stored| stored < *asked)
                && story.runs.iter().any(|run| run.start > *answered + SIGHT)
                && !self.seen.disturbed(self.task.group, *asked, *answered)
            {
                self.wrong(verdict, "started although a cancel was told that it was not there");
            }
        }
        let unanswered = story.cancelled.iter().any(|(.., answer)| *answer == Answer::None);
        let end = match (cancelled, done, dead) {
            (Some(cancel), ..) if !done_before(cancel) => "cancelled",
            (_, Some(_), _) => "done",
            (_, None, Some(dead)) => self.dead(verdict, dead),
            (_, None, None) if !self.rules.dead_letter && (self.gave_up() || self.died(drops)) => "dropped",
            (_, None, None) if unanswered => "cancelled",
            (_, None, None) => {
                if story.stored.is_some() {
                    self.wrong(verdict, "is lost");
                    "lost"
                } else {
                    "never stored"
                }
            }
        };
        *verdict.ends.entry(end).or_default() += 1;
    }

    /// Whether its dead letter is right.
    fn dead(&self, verdict: &mut Verdict, (at, reason, attempts): &(Time, &str, u32)) -> &'static str {
        let last = self.story.runs.last();
        if !self.rules.dead_letter {
            self.wrong(verdict, "has a dead letter in a group that keeps none");
        }
        if last.is_some_and(|run| run.start > *at) {
            self.wrong(verdict, "started after its dead letter was stored");
        }
        match *reason {
            "Expired" => {
                let early = match (self.rules.expire, self.story.publish) {
                    (Some(expire), Some(publish)) => *at + SIGHT < publish + expire,
                    _ => true,
                };
                if early {
                    self.wrong(verdict, "expired too early");
                }
                "expired"
            }
            "Permanent" => {
                if !last.is_some_and(|run| matches!(run.end, Some((_, How::Permanent)))) {
                    self.wrong(verdict, "is dead as permanent, and its handler did not say so");
                }
                "dead"
            }
            "MaxAttempts" => {
                if *attempts != self.rules.max_attempts || !last.is_some_and(|run| self.failed(run)) {
                    self.wrong(verdict, "is dead too early");
                }
                "dead"
            }
            "WorkerLost" => {
                let begun = self.story.publish.unwrap_or_default();
                if *attempts != self.rules.max_attempts || !self.seen.disturbed(self.task.group, begun, *at) {
                    self.wrong(verdict, "is dead as its worker was lost, and none was");
                }
                "dead"
            }
            _ => {
                self.wrong(verdict, "is dead for a reason that does not fit");
                "dead"
            }
        }
    }

    /// Whether its last run was one that no other follows.
    fn gave_up(&self) -> bool {
        self.story.runs.last().is_some_and(|run| match run.end {
            Some((_, How::Permanent)) => true,
            Some((_, How::Failed | How::CutOff)) => run.attempt == self.rules.max_attempts && self.failed(run),
            _ => false,
        })
    }

    /// Whether its last attempt may have died with its worker, perhaps before the handler saw it: one drop for that
    /// reason is used up. Where dead letters are kept, such a task has one with the reason `WorkerLost`.
    fn died(&self, drops: &mut Drops) -> bool {
        let begun = self.story.publish.unwrap_or_default();
        let drops = drops.entry(self.task.group).or_default();
        let seen = self.story.runs.last().map_or(begun, |run| run.ended());
        let index = drops
            .iter()
            .position(|at| seen <= *at && self.seen.disturbed(self.task.group, begun, *at));
        index.map(|index| drops.remove(index)).is_some()
    }
}

//! Logs with one violation each, which the checker must find, beside the same logs without it.

use super::{Answer, Event, How, Limits, Log, Rate, Rules, Task, Time, Verdict, check};
use std::time::Duration;

const TASK: Task = Task { group: 0, number: 1 };

fn ms(ms: u64) -> Time {
    Duration::from_millis(ms)
}

/// A log in the making: group 0 may run two at once, with two attempts of at most 10 s each.
struct Story {
    log: Log,
    rules: Rules,
    runs: u64,
}

impl Story {
    fn new() -> Self {
        let story = Self {
            log: Vec::new(),
            rules: Rules {
                max_attempts: 2,
                timeout: ms(10_000),
                expire: None,
                dead_letter: true,
            },
            runs: 0,
        };
        story.limits(0, 2, None)
    }

    fn at(mut self, at: u64, event: Event) -> Self {
        self.log.push((ms(at), event));
        self
    }

    fn limits(self, at: u64, concurrency: usize, rate: Option<Rate>) -> Self {
        let limits = Limits { concurrency, rate };
        self.at(at, Event::Limits { group: 0, limits })
    }

    fn in_force(self, at: u64) -> Self {
        self.at(at, Event::InForce { group: 0 })
    }

    fn stored(self, number: u32, at: u64) -> Self {
        let task = Task { group: 0, number };
        self.at(at, Event::Publish { task }).at(at, Event::Stored { task })
    }

    /// A run of task 1.
    fn run(self, worker: u32, attempt: u32, from: u64, to: u64, how: How) -> Self {
        self.run_of(1, worker, attempt, from, to, how)
    }

    fn run_of(mut self, number: u32, worker: u32, attempt: u32, from: u64, to: u64, how: How) -> Self {
        self.runs += 1;
        let run = self.runs;
        let task = Task { group: 0, number };
        let started = Event::Started {
            run,
            task,
            worker,
            attempt,
        };
        self.at(from, started).at(to, Event::Ended { run, how })
    }

    /// A task that is published and done by worker 1.
    fn done(self, number: u32, from: u64, to: u64) -> Self {
        self.stored(number, from).run_of(number, 1, 1, from, to, How::Ok)
    }

    fn fault(self, worker: impl Into<Option<u32>>, kind: &'static str, from: u64, until: u64) -> Self {
        let worker = worker.into();
        self.at(
            until,
            Event::Fault {
                worker,
                kind,
                from: ms(from),
            },
        )
    }

    fn cancel(self, asked: u64, answered: u64, answer: Answer) -> Self {
        self.at(
            answered,
            Event::Cancel {
                task: TASK,
                asked: ms(asked),
                answer,
            },
        )
    }

    fn dead(self, at: u64, reason: &str, attempts: u32) -> Self {
        let reason = reason.to_owned();
        self.at(
            at,
            Event::Dead {
                task: TASK,
                reason,
                attempts,
            },
        )
    }

    fn worker_lost(self, at: u64) -> Self {
        self.at(at, Event::WorkerLost { group: 0 })
    }

    fn no_dead_letters(mut self) -> Self {
        self.rules.dead_letter = false;
        self
    }

    fn expire(mut self, after: u64) -> Self {
        self.rules.expire = Some(ms(after));
        self
    }

    fn check(self) -> Verdict {
        check(self.log, &[self.rules])
    }
}

/// Every case is (what it is about, the log, a part of the one violation or nothing).
fn judge(cases: Vec<(&str, Story, Option<&str>)>) {
    for (case, story, expected) in cases {
        let found = story.check().violations;
        match expected {
            None => assert!(found.is_empty(), "{case}: {found:#?}"),
            Some(words) => assert!(
                found.len() == 1 && found[0].contains(words),
                "{case}: wanted one with {words:?}, found {found:#?}"
            ),
        }
    }
}

#[test]
fn a_concurrency_that_is_exceeded_is_found() {
    let new = Story::new;
    let three = Some("3 run at once, allowed are 2");
    judge(vec![
        (
            "two of two",
            new().done(1, 0, 100).done(2, 50, 150).done(3, 100, 200),
            None,
        ),
        (
            "three of two",
            new().done(1, 0, 100).done(2, 50, 150).done(3, 90, 200),
            three,
        ),
        (
            "raised before",
            new()
                .limits(40, 3, None)
                .done(1, 0, 100)
                .done(2, 50, 150)
                .done(3, 90, 200),
            None,
        ),
        (
            "lowered to one: the old limit holds for a second",
            new()
                .limits(10, 1, None)
                .in_force(20)
                .done(1, 900, 3000)
                .done(2, 1000, 3000),
            None,
        ),
        (
            "lowered to one: what runs may finish",
            new()
                .limits(10, 1, None)
                .in_force(20)
                .done(1, 5, 3000)
                .done(2, 6, 4000)
                .done(3, 4001, 4010),
            None,
        ),
        (
            "lowered to one: nothing new while one runs",
            new()
                .limits(10, 1, None)
                .in_force(20)
                .done(1, 5, 3000)
                .done(2, 6, 4000)
                .done(3, 3500, 4010),
            Some("2 run at once, allowed are 1"),
        ),
        (
            "lowered to one, and never in force",
            new().limits(10, 1, None).done(1, 2000, 3000).done(2, 2000, 3000),
            None,
        ),
        (
            "one that is cut off is seen late",
            new()
                .done(2, 0, 1000)
                .stored(1, 0)
                .run(1, 1, 0, 500, How::CutOff)
                .fault(1, "cut", 100, 200)
                .run(2, 2, 600, 700, How::Ok)
                .done(3, 400, 450),
            None,
        ),
        (
            "one that is cut off too late",
            new()
                .done(2, 0, 1000)
                .stored(1, 0)
                .run(1, 1, 0, 700, How::CutOff)
                .fault(1, "cut", 100, 200)
                .run(2, 2, 800, 900, How::Ok)
                .done(3, 400, 420),
            three,
        ),
    ]);
}

#[test]
fn what_runs_on_a_frozen_worker_counts_again_after_it_thaws() {
    // Worker 1 runs two when it is frozen; worker 2 gets both, and another.
    let frozen = |end: u64| {
        Story::new()
            .stored(1, 0)
            .run(1, 1, 0, end, How::CutOff)
            .at(100, Event::Frozen { worker: 1 })
            .at(5000, Event::Thawed { worker: 1 })
            .fault(1, "freeze", 100, 5000)
            .run(2, 2, 4000, 7000, How::Ok)
            .stored(2, 0)
            .run_of(2, 2, 1, 4000, 7000, How::Ok)
    };
    judge(vec![
        ("cut off when it thaws", frozen(5500), None),
        ("never cut off", frozen(6500), Some("3 run at once, allowed are 2")),
        (
            "another worker is not excused",
            frozen(5500).stored(3, 0).run_of(3, 3, 1, 4500, 4600, How::Ok),
            Some("3 run at once, allowed are 2"),
        ),
    ]);
}

#[test]
fn a_killed_broker_may_forget_its_last_moments_and_no_more() {
    let crash = |begun: u64| {
        Story::new()
            .stored(1, 0)
            .run(1, 1, begun, 9000, How::Ok)
            .at(5000, Event::Crashed)
            .fault(None, "NATS crash", 5000, 6000)
            .done(2, 6100, 6300)
            .done(3, 6200, 6400)
    };
    judge(vec![
        ("begun just before", crash(4000), None),
        ("begun long before", crash(1000), Some("3 run at once, allowed are 2")),
    ]);
}

#[test]
fn a_rate_that_is_exceeded_is_found() {
    let rate = |tasks| {
        Some(Rate {
            tasks,
            per: ms(1000),
            burst: 1,
        })
    };
    // Three starts within 900 ms.
    let starts = |story: Story, third: u64| story.done(1, 5000, 5001).done(2, 5500, 5501).done(3, third, third + 1);
    let new = |tasks| Story::new().limits(0, 2, rate(tasks)).in_force(0);
    let found = Some("3 starts within 1s from 5.000s, allowed are 2");
    judge(vec![
        ("as many as allowed", starts(new(1), 5900), None),
        ("one more", starts(new(1), 5899), found),
        ("no rate", starts(Story::new(), 5899), None),
        ("a higher one", starts(new(2), 5899), None),
        (
            "a higher one until just now",
            starts(new(2).limits(3000, 2, rate(1)).in_force(4500), 5899),
            None,
        ),
        (
            "a higher one until then",
            starts(new(2).limits(3000, 2, rate(1)).in_force(3500), 5899),
            found,
        ),
        (
            "a higher one from then",
            starts(new(1).limits(5800, 2, rate(2)), 5899),
            None,
        ),
        (
            "held up in a frozen worker",
            starts(
                new(1)
                    .at(5100, Event::Frozen { worker: 1 })
                    .at(5300, Event::Thawed { worker: 1 }),
                5899,
            ),
            None,
        ),
    ]);
}

#[test]
fn a_closed_group_in_which_something_starts_is_found() {
    let closed = || {
        Story::new()
            .stored(1, 0)
            .run(1, 1, 100, 200, How::Closed(ms(3000)))
            .run(1, 1, 3300, 3400, How::Ok)
    };
    judge(vec![
        ("it waits", closed(), None),
        ("others may not know yet", closed().done(2, 1100, 1300), None),
        (
            "another starts",
            closed().done(2, 1300, 1400),
            Some("closed at 200.000ms for 3s, and task 2 started"),
        ),
        (
            "NATS was away",
            closed().done(2, 1300, 1400).fault(None, "NATS restart", 300, 400),
            None,
        ),
    ]);
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn a_task_that_does_not_end_exactly_once_is_found() {
    let new = || Story::new().stored(1, 0);
    let ok = |story: Story, from| story.run(1, 1, from, from + 100, How::Ok);
    judge(vec![
        ("done", ok(new(), 0), None),
        ("lost", new(), Some("is lost")),
        (
            "lost after a failure",
            new().run(1, 1, 0, 100, How::Failed),
            Some("is lost"),
        ),
        ("never published", ok(Story::new(), 0), Some("was never published")),
        (
            "dead",
            new().run(1, 1, 0, 100, How::Permanent).dead(110, "Permanent", 1),
            None,
        ),
        (
            "dead and done",
            ok(new(), 0).dead(110, "Permanent", 1),
            Some("is done, and has a dead letter (Permanent)"),
        ),
        (
            "dead twice",
            new()
                .run(1, 1, 0, 100, How::Permanent)
                .dead(110, "Permanent", 1)
                .dead(120, "Permanent", 1),
            Some("several dead letters"),
        ),
        (
            "dead for a wrong reason",
            new().run(1, 1, 0, 100, How::Failed).dead(110, "Permanent", 1),
            Some("is dead as permanent"),
        ),
        (
            "all attempts failed",
            new()
                .run(1, 1, 0, 100, How::Failed)
                .run(1, 2, 200, 10_200, How::CutOff)
                .dead(10_210, "MaxAttempts", 2),
            None,
        ),
        (
            "dead too early",
            new().run(1, 1, 0, 100, How::Failed).dead(110, "MaxAttempts", 1),
            Some("is dead too early"),
        ),
        (
            "a dead letter in a group without",
            new()
                .no_dead_letters()
                .run(1, 1, 0, 100, How::Permanent)
                .dead(110, "Permanent", 1),
            Some("keeps none"),
        ),
        (
            "dropped",
            new().no_dead_letters().run(1, 1, 0, 100, How::Permanent),
            None,
        ),
        (
            "dropped, as the last attempt died with its worker before the handler saw it",
            new()
                .no_dead_letters()
                .run(1, 1, 0, 100, How::Failed)
                .fault(2, "kill", 200, 200)
                .worker_lost(2000),
            None,
        ),
        (
            "the same, and nobody says so",
            new()
                .no_dead_letters()
                .run(1, 1, 0, 100, How::Failed)
                .fault(2, "kill", 200, 200),
            Some("is lost"),
        ),
        (
            "dropped as its worker was lost, and none was",
            new().no_dead_letters().run(1, 1, 0, 100, How::Failed).worker_lost(2000),
            Some("is lost"),
        ),
        (
            "dropped, as the last attempt died with its worker",
            new()
                .no_dead_letters()
                .run(1, 1, 0, 100, How::Failed)
                .run(1, 2, 200, 300, How::CutOff)
                .fault(1, "kill", 300, 300)
                .worker_lost(2000),
            None,
        ),
        (
            "dropped too early",
            new().no_dead_letters().run(1, 1, 0, 100, How::Failed),
            Some("is lost"),
        ),
        (
            "its workers died",
            new()
                .run(1, 1, 0, 100, How::CutOff)
                .fault(1, "kill", 100, 100)
                .dead(5000, "WorkerLost", 2),
            None,
        ),
        (
            "no worker died",
            new()
                .run(1, 1, 0, 100, How::Failed)
                .run(1, 2, 200, 300, How::Failed)
                .dead(5000, "WorkerLost", 2),
            Some("none was"),
        ),
        ("expired", new().expire(1000).dead(1200, "Expired", 0), None),
        (
            "expired too early",
            new().expire(1000).dead(700, "Expired", 0),
            Some("expired too early"),
        ),
        (
            "started after it expired",
            ok(new().expire(1000), 2500),
            Some("started after it had expired"),
        ),
        (
            "started after its dead letter",
            new().run(1, 1, 500, 600, How::Permanent).dead(400, "Permanent", 1),
            Some("started after its dead letter"),
        ),
    ]);
    let endless = new().at(
        5,
        Event::Started {
            run: 9,
            task: TASK,
            worker: 1,
            attempt: 1,
        },
    );
    let found = endless.check().violations;
    assert!(
        found.iter().any(|violation| violation.contains("never ended")),
        "{found:#?}"
    );
}

#[test]
fn a_run_that_nothing_called_for_is_found() {
    let new = || Story::new().stored(1, 0);
    let again = Some("ran again, and nothing called for it");
    let twice = |story: Story| story.run(1, 1, 0, 100, How::Ok).run(2, 2, 4000, 4100, How::Ok);
    let overlapping = |story: Story| story.run(1, 1, 0, 5000, How::Ok).run(2, 2, 4000, 4100, How::Ok);
    judge(vec![
        (
            "after a failure",
            new().run(1, 1, 0, 100, How::Failed).run(2, 2, 4000, 4100, How::Ok),
            None,
        ),
        (
            "after a timeout",
            new()
                .run(1, 1, 0, 9_900, How::CutOff)
                .run(2, 2, 10_000, 10_100, How::Ok),
            None,
        ),
        (
            "cut off for no reason",
            new()
                .run(1, 1, 0, 100, How::CutOff)
                .fault(2, "kill", 0, 50)
                .dead(9000, "WorkerLost", 2),
            Some("was cut off for no reason"),
        ),
        (
            "when its worker was killed",
            twice(new().fault(1, "kill", 100, 100)),
            None,
        ),
        (
            "when another was killed",
            twice(new().fault(2, "kill", 100, 100)),
            again,
        ),
        (
            "published again after a restart",
            twice(new().at(3000, Event::Repeated { task: TASK }).fault(3, "kill", 0, 1)),
            None,
        ),
        (
            "twice at once on a frozen worker",
            overlapping(new().fault(1, "freeze", 100, 4500)),
            None,
        ),
        (
            "twice at once on one that was cut off",
            overlapping(new().fault(1, "cut", 100, 4500)),
            Some("ran twice at once"),
        ),
        (
            "too often",
            new()
                .run(1, 1, 0, 100, How::Failed)
                .run(1, 2, 200, 300, How::Failed)
                .run(1, 3, 400, 500, How::Ok),
            Some("was tried too often"),
        ),
        (
            "attempts that are counted wrongly",
            new().run(1, 1, 0, 100, How::Failed).run(1, 1, 200, 300, How::Ok),
            Some("attempts that are counted wrongly"),
        ),
        (
            "a closed group costs no attempt",
            new()
                .run(1, 1, 0, 100, How::Closed(ms(10)))
                .run(1, 1, 200, 300, How::Ok),
            None,
        ),
    ]);
}

#[test]
fn a_cancelled_task_that_lives_on_is_found() {
    let new = || Story::new().stored(1, 0);
    judge(vec![
        ("queued", new().cancel(100, 110, Answer::Queued), None),
        (
            "running",
            new().run(1, 1, 50, 105, How::CutOff).cancel(100, 110, Answer::Running),
            None,
        ),
        (
            "finished at the same moment",
            new().run(1, 1, 50, 105, How::Ok).cancel(100, 110, Answer::Running),
            None,
        ),
        (
            "started after",
            new().cancel(100, 110, Answer::Queued).run(1, 1, 500, 600, How::Ok),
            Some("started after it was cancelled"),
        ),
        (
            "dead after",
            new()
                .cancel(100, 110, Answer::Queued)
                .dead(1000, "Expired", 0)
                .expire(10),
            Some("dead letter although it was cancelled"),
        ),
        ("no answer", new().cancel(100, 110, Answer::None), None),
        (
            "said to be unknown",
            new().cancel(100, 110, Answer::Unknown).run(1, 1, 500, 600, How::Ok),
            Some("told that it was not there"),
        ),
        (
            "finished",
            new().run(1, 1, 50, 60, How::Ok).cancel(100, 110, Answer::Finished),
            None,
        ),
    ]);
}

#[test]
fn the_tally_counts_every_task_once_and_every_rerun_with_its_cause() {
    let verdict = Story::new()
        .done(2, 0, 10)
        .stored(1, 0)
        .run(1, 1, 0, 400, How::CutOff)
        .fault(1, "kill", 400, 400)
        .run(2, 2, 4000, 4100, How::Ok)
        .check();
    assert!(verdict.violations.is_empty(), "{:#?}", verdict.violations);
    assert_eq!(verdict.runs, 3);
    assert_eq!(verdict.ends, [("done", 2)].into());
    assert_eq!(verdict.reruns, [("kill", 1)].into());
    assert_eq!(verdict.faults, [("kill", 1)].into());
    assert_eq!(verdict.peaks, [(0, (2, 2))].into());
}

//! A long run of everything at once, with faults at random: 20 groups with mixed limits on a real
//! operator, kube-apiserver and NATS, and worker processes in the place of pods. At the end a checker
//! that knows nothing of the worker goes through all that was seen from outside.
//!
//! `SOAK_SECONDS` (default 120), `SOAK_TASKS` (default 100,000 in 10 minutes, and fewer in less) and
//! `SEED` (default random) say what is run. `make soak` runs it for 10 minutes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test panics where it can't go on"
)]

#[path = "../support/mod.rs"]
mod support;

mod bed;
mod checker;
mod faults;
mod handler;
mod plan;
mod publish;
mod record;
mod standstill;
mod worker;

use bed::Bed;
use checker::Verdict;
use handler::Handler;
use plan::{GROUPS, Group};
use publish::Recent;
use rand::{SeedableRng, rngs::StdRng};
use record::Record;
use std::{collections::BTreeMap, env, fmt::Debug, sync::Arc, time::Duration};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

/// A fault, and a cancelled task, about every so often.
const FAULT_EVERY: Duration = Duration::from_secs(1);
const CANCEL_EVERY: Duration = Duration::from_millis(500);

/// Between two lines of progress.
const LINE: Duration = Duration::from_secs(10);

fn number(key: &str) -> Option<u64> {
    let text = env::var(key).ok().filter(|text| !text.is_empty())?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{key}={text:?}: write a whole number")),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_task_ends_exactly_once_and_no_limit_is_ever_exceeded_whatever_happens() {
    let seconds = number("SOAK_SECONDS").unwrap_or(120).max(10);
    let tasks = number("SOAK_TASKS").unwrap_or(seconds * 100_000 / 600);
    let seed = number("SEED").unwrap_or_else(rand::random);
    let again = format!("SEED={seed} SOAK_SECONDS={seconds} SOAK_TASKS={tasks} make soak");
    println!("soak: {tasks} tasks in {seconds} s; to run it again: {again}");

    let record = Arc::new(Record::new());
    standstill::watch(&record);
    let groups = Group::all(&mut StdRng::seed_from_u64(seed));
    let (kill, to_kill) = mpsc::unbounded_channel();
    let handler = Arc::new(Handler::start(record.clone(), groups.clone(), seed, kill).await);
    let logs = bed::log_dir();
    println!("logs: {}", logs.display());
    let bed = Arc::new(Bed::start(groups, handler, record.clone(), logs).await);
    println!(
        "{GROUPS} groups and {} workers run after {:.1?}",
        bed.workers.len(),
        record.now()
    );

    let time = Duration::from_secs(seconds);
    let recent = Arc::new(Recent::default());
    let progress = tokio::spawn(show_progress(bed.clone()));
    let cancels = tokio::spawn(publish::cancel(bed.clone(), recent.clone(), CANCEL_EVERY, seed));
    let faults = faults::inject(
        bed.clone(),
        FAULT_EVERY,
        Instant::now() + time.mul_f64(0.95),
        seed,
        to_kill,
    );
    let faults = tokio::spawn(faults);
    let mut publishers = JoinSet::new();
    let each = u32::try_from(tasks / GROUPS as u64).unwrap();
    for group in 0..GROUPS {
        publishers.spawn(publish::publish(
            bed.clone(),
            recent.clone(),
            group,
            each,
            time.mul_f64(0.9),
            seed,
        ));
    }
    publishers.join_all().await;
    faults.await.unwrap();
    cancels.abort();
    println!("all tasks are published and all faults over after {:.1?}", record.now());
    drain(&bed).await;
    progress.abort();
    bed.note_dead_letters().await;
    bed.note_drops().await;
    bed.stop().await;

    let rules: Vec<_> = bed.groups.iter().map(|group| group.rules.clone()).collect();
    let (log, problems) = record.take();
    let verdict = checker::check(log, &rules);
    report(&verdict, &problems, &record);
    let passed = verdict.violations.is_empty() && problems.is_empty();
    println!("{}; to run it again: {again}", if passed { "PASS" } else { "FAIL" });
    assert!(passed, "see above, and the logs in {}", bed::LOGS);
}

/// Waits until every queue is empty, for as long as there is some progress.
async fn drain(bed: &Bed) {
    let (mut before, mut since) = (None, Instant::now());
    loop {
        let waiting = bed.waiting().await;
        if waiting == Some(0) && bed.record.running() == 0 {
            return;
        }
        let now = (waiting, bed.record.counted("runs"));
        if before != Some(now) {
            (before, since) = (Some(now), Instant::now());
        }
        if since.elapsed() > Duration::from_secs(60) {
            bed.record.problem(format!(
                "{waiting:?} tasks wait for ever, and {} run: {}",
                bed.record.running(),
                bed.whereabouts().await
            ));
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn show_progress(bed: Arc<Bed>) {
    loop {
        tokio::time::sleep(LINE).await;
        let counts: Vec<_> = bed
            .record
            .counts()
            .into_iter()
            .map(|(what, count)| format!("{what} {count}"))
            .collect();
        let waiting = bed
            .waiting()
            .await
            .map_or_else(|| "?".to_owned(), |waiting| waiting.to_string());
        println!("{:>4.0?}  waiting {waiting}, {}", bed.record.now(), counts.join(", "));
    }
}

fn report(verdict: &Verdict, problems: &[String], record: &Record) {
    fn lines(what: &str, counts: &BTreeMap<impl Debug, usize>) {
        let all: Vec<_> = counts.iter().map(|(what, count)| format!("{what:?} {count}")).collect();
        println!("{what}: {}", all.join(", "));
    }
    let tasks: usize = verdict.ends.values().sum();
    println!("tasks: {tasks}, runs: {}", verdict.runs);
    lines("  ended as", &verdict.ends);
    lines("  run again because of", &verdict.reruns);
    lines("  faults", &verdict.faults);
    lines("  seen and done", &record.counts());
    let pairs = |pairs: &BTreeMap<usize, (usize, usize)>| {
        let all: Vec<_> = pairs
            .iter()
            .map(|(group, (most, allowed))| format!("{group}: {most}/{allowed}"))
            .collect();
        all.join(", ")
    };
    println!(
        "  most at once, of the highest limit, by group: {}",
        pairs(&verdict.peaks)
    );
    println!(
        "  most starts in a second, of those allowed, by group: {}",
        pairs(&verdict.rates)
    );
    for problem in problems {
        println!("problem: {problem}");
    }
    for violation in verdict.violations.iter().take(50) {
        println!("violation: {violation}");
    }
    if verdict.violations.len() > 50 {
        println!("and {} more", verdict.violations.len() - 50);
    }
}

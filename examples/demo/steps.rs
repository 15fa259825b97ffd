//! The demo's story, step by step. Each step returns what was off.

use super::{
    NAMESPACE,
    cluster::{Cluster, until},
    install::{clear, publish},
    records::{Tally, events, most_on_a_shared_queue},
    report::{self, Group},
};
use std::time::{Duration, Instant};
use taskgroup::{
    broker::Broker,
    protocol::{Queue, keys},
};

/// The list of the problem, and how often it is published.
const LIST: [&str; 9] = ["a", "b", "c", "c", "c", "c", "a", "a", "b"];
const TIMES: usize = 6;

/// The groups of `deploy/samples` with their limits.
const LIMITS: [(&str, usize); 3] = [("a", 2), ("b", 1), ("c", 2)];

/// Less than this much of the ideal throughput is not as promised.
const ENOUGH: f64 = 0.8;

/// Step 2. Starts from nothing, also where an earlier demo left its groups.
pub async fn apply_samples(cluster: &Cluster) -> anyhow::Result<()> {
    clear(cluster, NAMESPACE).await?;
    println!("# deploy/samples, with a recorder that the handlers tell when they start and end a task:");
    cluster.show("apply -k examples/demo")?;
    cluster.wait(NAMESPACE, "rollout status deployment/recorder --timeout=120s")?;
    cluster.wait(NAMESPACE, "wait --for=condition=Ready taskgroup --all --timeout=120s")?;
    cluster.show("-n demo get taskgroups")
}

/// Step 3. Every group at its limit, whatever the others have queued.
pub async fn run_mixed_list(cluster: &Cluster, broker: &Broker) -> anyhow::Result<Vec<String>> {
    let list = LIST.repeat(TIMES);
    let consumers = LIMITS.iter().map(|(_, limit)| limit).sum();
    let groups = LIMITS.map(|(name, limit)| Group {
        name,
        limit,
        shared: most_on_a_shared_queue(&list, consumers, name),
        published: list.iter().filter(|task| **task == name).count(),
    });
    for (number, group) in list.iter().enumerate() {
        publish(broker, NAMESPACE, group, &format!("mixed-{number}")).await?;
    }
    println!(
        "Published {} tasks of one second each, {TIMES} times {}.\n",
        list.len(),
        LIST.join(" ")
    );

    let ideal = groups.iter().map(Group::ideal_seconds).max().unwrap_or(0);
    let limit = Duration::from_secs(3 * ideal as u64 + 30);
    let start = Instant::now();
    let tallies = loop {
        let events = events(cluster, NAMESPACE)?;
        let tallies = groups.map(|group| (group, Tally::of(&events, group.name)));
        let second = start.elapsed().as_secs();
        report::progress(second, &tallies);
        let finished = tallies
            .iter()
            .all(|(group, tally)| tally.done.len() >= group.published && tally.running == 0);
        if finished || start.elapsed() > limit {
            break tallies;
        }
        if second == ideal as u64 / 2 {
            println!();
            cluster.show("-n demo get taskgroups")?;
        }
        tokio::time::sleep((Duration::from_secs(second + 1)).saturating_sub(start.elapsed())).await;
    };
    report::table(&tallies);
    Ok(tallies
        .iter()
        .flat_map(|(group, tally)| what_is_off(group, tally))
        .collect())
}

fn what_is_off(group: &Group, tally: &Tally) -> Vec<String> {
    let mut off = Vec::new();
    let name = group.name;
    if tally.most > group.limit {
        off.push(format!(
            "group {name}: {} tasks at once, and its limit is {}",
            tally.most, group.limit
        ));
    }
    if tally.most < group.limit {
        off.push(format!(
            "group {name}: never more than {} at once, and its limit is {}",
            tally.most, group.limit
        ));
    }
    if tally.done.len() != group.published {
        off.push(format!(
            "group {name}: {} of {} tasks done",
            tally.done.len(),
            group.published
        ));
    }
    if group.share(tally) < ENOUGH {
        off.push(format!(
            "group {name}: {:.0}% of the ideal throughput",
            group.share(tally) * 100.0
        ));
    }
    off
}

/// Step 4. A new limit takes effect without a new pod.
pub async fn raise_a_limit(cluster: &Cluster, broker: &Broker) -> anyhow::Result<Vec<String>> {
    let (before, after) = (1, 3);
    let pods = "-n demo get pods -l taskgroup.io/group=b --no-headers \
         -o custom-columns=POD:.metadata.name,STARTED:.status.startTime,RESTARTS:.status.containerStatuses[*].restartCount";
    let seen = events(cluster, NAMESPACE)?.len();
    let tally = || Ok::<_, anyhow::Error>(Tally::of(&events(cluster, NAMESPACE)?[seen..], "b"));
    let pods_before = cluster.quietly(pods)?;
    let tasks = 12;
    for number in 0..tasks {
        publish(broker, NAMESPACE, "b", &format!("scaled-{number}")).await?;
    }
    println!("Published {tasks} tasks to group b, whose limit is {before}.\n");
    let minute = Duration::from_secs(60);
    until("two tasks of group b done", minute, async || {
        Ok((tally()?.done.len() >= 2).then_some(()))
    })
    .await?;
    let most_before = tally()?.most;
    println!("# So far, {most_before} at once.");
    // The same by `kubectl scale taskgroup/b --replicas=3`, or by a changed manifest.
    let start = Instant::now();
    cluster.show(&format!(
        "-n demo patch taskgroup b --type=merge -p '{{\"spec\":{{\"concurrency\":{after}}}}}'"
    ))?;
    let reached = until("three tasks of group b at once", minute, async || {
        Ok((tally()?.running >= after).then(|| start.elapsed()))
    })
    .await?;
    println!(
        "# {after} at once, {:.1} s after the command was typed.",
        reached.as_secs_f64()
    );
    until("all tasks of group b done", minute, async || {
        Ok((tally()?.done.len() >= tasks).then_some(()))
    })
    .await?;
    let tally = tally()?;
    cluster.show("-n demo get taskgroup b")?;
    cluster.show(pods)?;

    let mut off = Vec::new();
    if most_before > before {
        off.push(format!(
            "group b: {most_before} at once before its limit was raised from {before}"
        ));
    }
    if tally.most > after {
        off.push(format!("group b: {} at once, and its new limit is {after}", tally.most));
    }
    let pods_after = cluster.quietly(pods)?;
    if pods_before == pods_after {
        println!("The pod is the same as before, and never restarted.");
    } else {
        off.push(format!(
            "group b: a new limit changed the pods from\n{pods_before}to\n{pods_after}"
        ));
    }
    Ok(off)
}

/// Step 5. Nothing of a deleted group stays.
pub async fn delete_a_group(cluster: &Cluster, broker: &Broker) -> anyhow::Result<Vec<String>> {
    let stream = Queue::new(NAMESPACE, "c").stream();
    let mut off = Vec::new();
    if broker.stream(&stream).await?.is_none() || broker.consumer(&stream).await?.is_none() {
        off.push(format!(
            "group c: no stream {stream} or no consumer before it was deleted"
        ));
    }
    cluster.show("-n demo delete taskgroup c --timeout=60s")?;
    let minute = Duration::from_secs(60);
    for (what, get) in [
        ("Deployment", format!("-n demo deployment/{}", keys::deployment("c"))),
        ("pods", "-n demo pods -l taskgroup.io/group=c".to_owned()),
    ] {
        until(&format!("group c's {what} gone"), minute, async || {
            Ok(cluster.is_gone(&get)?.then_some(()))
        })
        .await?;
        println!("  {what}: gone   (kubectl get {get})");
    }
    let consumer = broker.consumer(&stream).await?;
    let stream_left = broker.stream(&stream).await?;
    for (what, left) in [("stream", stream_left.is_some()), ("consumer", consumer.is_some())] {
        println!(
            "  {what}: {}   (of {stream} in NATS)",
            if left { "still there" } else { "gone" }
        );
        if left {
            off.push(format!(
                "group c: the {what} of {stream} is still there after it was deleted"
            ));
        }
    }
    println!();
    cluster.show("-n demo get taskgroups")?;
    Ok(off)
}

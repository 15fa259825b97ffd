//! The whole of it on real pods: the operator runs as its pod with the rights of `deploy/`, the
//! workers and handlers run as theirs, and what happened is counted from what the handlers say.
//!
//! Needs the cluster of `make cluster-up` with the images loaded; `make test` sees to both.

#![allow(clippy::expect_used)]

#[path = "../examples/demo/cluster.rs"]
#[allow(dead_code)]
mod cluster;
#[path = "../examples/demo/install.rs"]
mod install;
#[path = "../examples/demo/pods.rs"]
mod pods;
#[path = "../examples/demo/records.rs"]
#[allow(dead_code)]
mod records;

use cluster::{Cluster, Forward, until};
use records::{Kind, Tally};
use std::{collections::BTreeSet, fs, process::Command, time::Duration};
use taskgroup::{broker::Broker, protocol::Queue};
use tokio::sync::OnceCell;

/// Ends a test that hangs.
const LIMIT: Duration = Duration::from_secs(180);

/// The samples with a recorder in a namespace of their own; removed by the next run, and with the cluster.
struct Samples {
    cluster: Cluster,
    namespace: &'static str,
    broker: Broker,
    _forward: Forward,
}

impl Samples {
    /// `None`, and says so, where there is no cluster.
    async fn in_namespace(namespace: &'static str) -> Option<Self> {
        static INSTALLED: OnceCell<()> = OnceCell::const_new();
        let Some(cluster) = Cluster::find() else {
            println!("SKIPPED: no cluster is up; run `make test`, or `make cluster-up` first");
            return None;
        };
        INSTALLED
            .get_or_init(async || install::operator(&cluster).expect("the operator is installed"))
            .await;
        let (broker, forward) = install::connect(&cluster).await.expect("NATS is reached");
        let samples = Self {
            cluster,
            namespace,
            broker,
            _forward: forward,
        };
        install::clear(&samples.cluster, namespace)
            .await
            .expect("an earlier run is removed");
        let dir = cluster::root().join("target/e2e").join(namespace);
        fs::create_dir_all(&dir).expect("target is writable");
        let kustomization = format!("namespace: {namespace}\nresources:\n- ../../../examples/demo\n");
        fs::write(dir.join("kustomization.yaml"), kustomization).expect("target is writable");
        samples
            .cluster
            .run(&format!("apply -k target/e2e/{namespace}"))
            .expect("the samples are applied");
        samples.kubectl("rollout status deployment/recorder --timeout=120s");
        samples.wait_until_ready();
        Some(samples)
    }

    fn kubectl(&self, command: &str) -> String {
        self.cluster
            .run(&format!("-n {} {command}", self.namespace))
            .expect("kubectl succeeds")
    }

    /// Gives the handler of all groups another way to run a task, and waits until a group's pods have it.
    /// `mark` is where kubectl finds something in the Deployment that only the new way has.
    async fn run_by(&self, spec: &str, group: &str, mark: &str) {
        self.kubectl(&format!(
            "patch taskhandler default --type=merge -p '{{\"spec\":{spec}}}'"
        ));
        until("the Deployment follows its handler", LIMIT, async || {
            let path = format!("jsonpath={{.spec.template.spec.{mark}}}");
            let found = self.quietly(&format!("get deployment {group}-workers -o {path}"))?;
            Ok((!found.is_empty()).then_some(()))
        })
        .await
        .expect("the operator applies it");
        self.kubectl(&format!("rollout status deployment/{group}-workers --timeout=120s"));
        until("the old pod gone", LIMIT, async || {
            Ok((self.pods_of(group).len() == 1).then_some(()))
        })
        .await
        .expect("the old pod ends");
    }

    fn quietly(&self, command: &str) -> anyhow::Result<String> {
        self.cluster.quietly(&format!("-n {} {command}", self.namespace))
    }

    fn wait_until_ready(&self) {
        self.kubectl("wait --for=condition=Ready taskgroup --all --timeout=120s");
    }

    fn patch(&self, group: &str, spec: &str) {
        self.kubectl(&format!(
            "patch taskgroup {group} --type=merge -p '{{\"spec\":{spec}}}'"
        ));
    }

    /// Publishes that many tasks, and returns their ids.
    async fn publish(&self, group: &str, tasks: usize) -> BTreeSet<String> {
        let ids: BTreeSet<_> = (0..tasks).map(|number| format!("{group}-{number}")).collect();
        for id in &ids {
            install::publish(&self.broker, self.namespace, group, id)
                .await
                .expect("the queue takes the task");
        }
        ids
    }

    fn events(&self) -> anyhow::Result<Vec<records::Event>> {
        records::events(&self.cluster, self.namespace)
    }

    /// Waits until the group's tally is as `wanted`.
    async fn tally_where(&self, group: &str, what: &str, wanted: impl Fn(&Tally) -> bool) -> Tally {
        let found = until(what, LIMIT, async || {
            let tally = Tally::of(&self.events()?, group);
            Ok(wanted(&tally).then_some(tally))
        })
        .await;
        found.unwrap_or_else(|error| {
            let said = self
                .cluster
                .quietly(&format!("-n {} describe taskgroup {group}", self.namespace));
            panic!("{error:#}\n{}", said.unwrap_or_default())
        })
    }

    async fn all_done(&self, group: &str, ids: &BTreeSet<String>) -> Tally {
        self.tally_where(group, "all tasks done", |tally| {
            tally.done.is_superset(ids) && tally.running == 0
        })
        .await
    }

    /// Kills the worker, which is in this container of the pod.
    fn kill_worker(&self, pod: &str, container: &str) {
        let killed = Command::new(cluster::root().join("tests/cluster/kill"))
            .args([self.namespace, pod, container])
            .status()
            .expect("the script runs");
        assert!(killed.success(), "the worker is killed");
    }

    fn pods_of(&self, group: &str) -> BTreeSet<String> {
        self.kubectl(&format!("get pods -l taskgroup.io/group={group} -o name"))
            .lines()
            .map(|line| line.trim_start_matches("pod/").to_owned())
            .collect()
    }
}

/// Says so where they can't.
fn containers_can_be_killed() -> bool {
    let kind = fs::read_to_string(cluster::root().join("target/cluster/kind-of-cluster")).unwrap_or_default();
    let can = kind.trim() != "existing";
    if !can {
        println!("SKIPPED: a container in a cluster of your own can't be killed from here");
    }
    can
}

#[tokio::test(flavor = "multi_thread")]
async fn every_group_runs_its_tasks_at_its_limit_and_leaves_nothing_when_deleted() {
    let Some(samples) = Samples::in_namespace("e2e-limits").await else {
        return;
    };
    let groups = [("a", 2), ("b", 1), ("c", 2)];
    let mut published = Vec::new();
    for (group, limit) in groups {
        published.push(samples.publish(group, 6 * limit).await);
    }
    for ((group, limit), ids) in groups.into_iter().zip(&published) {
        let tally = samples.all_done(group, ids).await;
        assert_eq!(tally.most, limit, "group {group}");
        assert_eq!(tally.done, *ids, "group {group}");
    }

    let table = samples.kubectl("get taskgroups");
    let rows: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        rows[0],
        [
            "NAME",
            "QUEUE",
            "CONCURRENCY",
            "INFLIGHT",
            "PENDING",
            "DEAD",
            "WORKERS",
            "READY",
            "AGE"
        ],
        "{table}"
    );
    assert_eq!(
        (rows[1][1], rows[1][2], rows[1][6], rows[1][7]),
        ("a", "2", "1/1", "True"),
        "{table}"
    );

    let stream = Queue::new(samples.namespace, "a").stream();
    assert!(samples.broker.consumer(&stream).await.expect("NATS answers").is_some());
    samples.kubectl("delete taskgroup a --timeout=60s");
    until("the Deployment and its pods gone", LIMIT, async || {
        let gone = |object| samples.cluster.is_gone(&format!("-n {} {object}", samples.namespace));
        Ok((gone("deployment/a-workers")? && gone("pods -l taskgroup.io/group=a")?).then_some(()))
    })
    .await
    .expect("the workers go with their group");
    assert_eq!(samples.broker.consumer(&stream).await, Ok(None));
    assert_eq!(samples.broker.stream(&stream).await, Ok(None));
    assert_eq!(samples.pods_of("b").len(), 1, "another group's pod stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_in_the_middle_loses_no_task_and_breaks_no_limit() {
    let Some(samples) = Samples::in_namespace("e2e-crash").await else {
        return;
    };
    if !containers_can_be_killed() {
        return;
    }
    samples.patch("a", r#"{"concurrency":3,"timeouts":{"ackWait":"4s"}}"#);
    samples.wait_until_ready();
    let ids = samples.publish("a", 24).await;
    samples
        .tally_where("a", "three tasks running", |tally| {
            tally.running == 3 && tally.done.len() >= 3
        })
        .await;
    let pod = samples.pods_of("a").pop_first().expect("the group has a pod");
    samples.kill_worker(&pod, "taskgroup-worker");

    let tally = samples.all_done("a", &ids).await;
    assert_eq!(tally.most, 3);
    let second_attempts: BTreeSet<_> = samples
        .events()
        .expect("the recorder answers")
        .into_iter()
        .filter(|event| event.attempt > 1)
        .map(|event| event.task)
        .collect();
    assert!(
        (1..=3).contains(&second_attempts.len()),
        "only what ran was run again: {second_attempts:?}"
    );
    let restarts = samples.kubectl(&format!(
        "get pod {pod} -o jsonpath={{.status.containerStatuses[?(@.name==\"taskgroup-worker\")].restartCount}}"
    ));
    assert_eq!(restarts, "1", "the worker was really killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_update_of_a_busy_group_loses_no_task_and_breaks_no_limit() {
    let Some(samples) = Samples::in_namespace("e2e-update").await else {
        return;
    };
    let before = samples.pods_of("c");
    let ids = samples.publish("c", 60).await;
    samples
        .tally_where("c", "two tasks running", |tally| {
            tally.running == 2 && tally.done.len() >= 2
        })
        .await;
    let update = samples.events().expect("the recorder answers").len();
    samples.patch("c", r#"{"env":[{"name":"VERSION","value":"2"}]}"#);
    samples
        .tally_where("c", "tasks on the new pod", |_| {
            let events = samples.events().unwrap_or_default();
            events
                .iter()
                .any(|event| event.group == "c" && event.kind == Kind::End && !before.contains(&event.pod))
        })
        .await;
    let tally = samples.all_done("c", &ids).await;
    assert_eq!(tally.most, 2);
    until("the old pod gone", LIMIT, async || {
        Ok(samples.pods_of("c").is_disjoint(&before).then_some(()))
    })
    .await
    .expect("the old pod ends");
    let events = samples.events().expect("the recorder answers");
    let cut: Vec<_> = events.iter().filter(|event| event.kind == Kind::Cut).collect();
    assert!(cut.is_empty(), "the old pod finishes what it runs: {cut:?}");
    let used = used_slots(&events, update, "c") / 2.0;
    println!("{:.0} % of the slots' time were used from the update on", used * 100.0);
    assert!(used >= 0.5, "throughput stays above half: {used}");
}

/// How many tasks of a group ran on average, from the event number `first` on until the last start.
#[allow(clippy::cast_precision_loss, reason = "a ratio of times below 2^52 microseconds")]
fn used_slots(events: &[records::Event], first: usize, group: &str) -> f64 {
    let begin = events[first].at;
    let starts = events
        .iter()
        .filter(|event| event.group == group && event.kind == Kind::Start);
    let end = starts.map(|event| event.at).max().expect("a start");
    // Each start adds a running task from then on, and each end takes one away.
    let time = |event: &records::Event| (end - event.at.clamp(begin, end)) as f64;
    let of = |kind: Kind| {
        events
            .iter()
            .filter(move |event| event.group == group && event.kind == kind)
    };
    let ran = of(Kind::Start).map(time).sum::<f64>() - of(Kind::End).map(time).sum::<f64>();
    ran / (end - begin) as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_in_an_image_without_the_worker_runs_each_task_as_a_process() {
    let Some(samples) = Samples::in_namespace("e2e-exec").await else {
        return;
    };
    // The image of the handler holds one program and nothing else.
    samples
        .run_by(
            r#"{"http":null,"exec":{"command":["/app","task"]}}"#,
            "a",
            "initContainers[0].name",
        )
        .await;
    let ids = samples.publish("a", 12).await;
    let tally = samples.all_done("a", &ids).await;
    assert_eq!((tally.most, &tally.done), (2, &ids));
    let pod = samples.pods_of("a").pop_first().expect("the group has a pod");
    let containers = samples.kubectl(&format!("get pod {pod} -o jsonpath={{.spec.containers[*].name}}"));
    assert_eq!(containers, "handler", "the worker is in the user's container");

    // Its exit code is its word: with 1 it is tried again, and with 65 never.
    let failing = ["fail-065-a", "fail-001-b"];
    samples.patch("a", r#"{"retry":{"maxAttempts":2,"maxDelay":"1s"}}"#);
    samples.wait_until_ready();
    for id in failing {
        install::publish(&samples.broker, samples.namespace, "a", id)
            .await
            .expect("the queue takes the task");
    }
    let attempts = |events: &[records::Event], id: &str| {
        let ends = events
            .iter()
            .filter(|event| event.task == id && event.kind == Kind::End);
        ends.count()
    };
    until("both are dead", LIMIT, async || {
        let dead = samples.quietly("get taskgroup a -o jsonpath={.status.deadLettered}")?;
        Ok((dead == "2").then_some(()))
    })
    .await
    .expect("both become dead letters");
    let events = samples.events().expect("the recorder answers");
    assert_eq!(failing.map(|id| attempts(&events, id)), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_processes_of_a_worker_that_is_killed_die_with_it() {
    let Some(samples) = Samples::in_namespace("e2e-exec-crash").await else {
        return;
    };
    if !containers_can_be_killed() {
        return;
    }
    samples
        .run_by(
            r#"{"http":null,"exec":{"command":["/app","task"]}}"#,
            "a",
            "initContainers[0].name",
        )
        .await;
    samples.patch("a", r#"{"timeouts":{"ackWait":"4s"}}"#);
    samples.wait_until_ready();
    let ids = samples.publish("a", 10).await;
    samples
        .tally_where("a", "two tasks running", |tally| {
            tally.running == 2 && tally.done.len() >= 2
        })
        .await;
    let pod = samples.pods_of("a").pop_first().expect("the group has a pod");
    samples.kill_worker(&pod, "handler");
    samples
        .tally_where("a", "all tasks done", |tally| tally.done.is_superset(&ids))
        .await;
    let events = samples.events().expect("the recorder answers");
    assert!(events.iter().any(|event| event.attempt > 1), "some ran again");
    for id in &ids {
        let ends = events
            .iter()
            .filter(|event| event.task == *id && event.kind == Kind::End);
        assert_eq!(
            ends.count(),
            1,
            "{id}: the first run of it did not go on without its worker"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_speaks_jetstream_itself_keeps_to_the_groups_limit() {
    let Some(samples) = Samples::in_namespace("e2e-native").await else {
        return;
    };
    let container = r#"{"name":"handler","image":"localhost/taskgroup-native:dev","env":[{"name":"TASK_TIME","value":"1s"},{"name":"RECORDER_URL","value":"http://recorder/events"}]}"#;
    let spec = format!(r#"{{"http":null,"native":{{}},"template":{{"spec":{{"containers":[{container}]}}}}}}"#);
    let mark = r#"containers[0].env[?(@.name=="MAX_INFLIGHT")].value"#;
    samples.run_by(&spec, "a", mark).await;
    let pods = samples.pods_of("a");
    let ids = samples.publish("a", 10).await;
    let tally = samples.all_done("a", &ids).await;
    assert_eq!((tally.most, &tally.done), (2, &ids));

    samples.patch("a", r#"{"concurrency":4}"#);
    samples.wait_until_ready();
    let ids: BTreeSet<_> = (0..16).map(|number| format!("a-more-{number}")).collect();
    for id in &ids {
        install::publish(&samples.broker, samples.namespace, "a", id)
            .await
            .expect("the queue takes the task");
    }
    let tally = samples.all_done("a", &ids).await;
    assert_eq!(tally.most, 4, "the new limit is reached");
    assert!(samples.pods_of("a").is_subset(&pods), "and no pod was restarted for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_has_the_rights_it_needs_and_no_others() {
    let Some(samples) = Samples::in_namespace("e2e-rights").await else {
        return;
    };
    let may = |what: &str| {
        let user = "--as=system:serviceaccount:taskgroup-system:taskgroup-operator";
        // Exit code 1 is `no`.
        samples
            .cluster
            .quietly(&format!("auth can-i {what} -A {user}"))
            .is_ok_and(|answer| answer.trim() == "yes")
    };
    for needed in [
        "patch taskgroups.taskgroup.io",
        "create deployments.apps",
        "create events.events.k8s.io",
    ] {
        assert!(may(needed), "{needed}");
    }
    for refused in [
        "get secrets",
        "get configmaps",
        "create pods",
        "delete taskgroups.taskgroup.io",
        "patch nodes",
        "create clusterroles",
    ] {
        assert!(!may(refused), "{refused}");
    }
    let log = samples
        .cluster
        .quietly("-n taskgroup-system logs deployment/taskgroup-operator")
        .expect("it logs");
    assert!(!log.is_empty());
    let refusals: Vec<_> = log
        .lines()
        .filter(|line| line.to_lowercase().contains("forbidden"))
        .collect();
    assert!(refusals.is_empty(), "{refusals:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifests_for_a_real_cluster_are_accepted() {
    let Some(samples) = Samples::in_namespace("e2e-deploy").await else {
        return;
    };
    // Elsewhere than in taskgroup-system, where deploy/local has put a NATS without a volume.
    let dir = cluster::root().join("target/e2e/deploy");
    fs::create_dir_all(&dir).expect("target is writable");
    let kustomization = format!("namespace: {}\nresources:\n- ../../../deploy\n", samples.namespace);
    fs::write(dir.join("kustomization.yaml"), kustomization).expect("target is writable");
    let validate = install::validation(&samples.cluster).expect("the server has a version");
    let applied = samples
        .cluster
        .run(&format!("apply --dry-run=server {validate} -k target/e2e/deploy"));
    let applied = applied.expect("every manifest is accepted");
    for object in [
        "deployment.apps/taskgroup-operator",
        "statefulset.apps/nats",
        "customresourcedefinition",
    ] {
        assert!(applied.contains(object), "{object} in {applied}");
    }
}

//! The counting, as a limit that was broken must not go unseen; and what is said about pods that do not start.

use super::{
    pods::{Stuck, stuck},
    records::{Event, Kind, Tally, most_on_a_shared_queue},
};
use serde_json::{Value, json};

/// Events of group a, one every 10 µs: `(kind, task, attempt)`.
fn events(happened: &[(Kind, &str, u32)]) -> Vec<Event> {
    let mut at = 0;
    happened
        .iter()
        .map(|(kind, task, attempt)| {
            at += 10;
            Event {
                at,
                kind: *kind,
                group: "a".into(),
                task: (*task).into(),
                attempt: *attempt,
                pod: "pod".into(),
            }
        })
        .collect()
}

#[test]
fn the_most_at_once_is_counted_from_starts_and_ends() {
    use Kind::{End, Start};
    let events = events(&[
        (Start, "1", 1),
        (Start, "2", 1),
        (End, "1", 1),
        (Start, "3", 1),
        (End, "3", 1),
        (End, "2", 1),
    ]);
    let tally = Tally::of(&events, "a");
    assert_eq!((tally.most, tally.running, tally.done.len()), (2, 0, 3));
    assert_eq!(tally.time().as_micros(), 50);
    assert_eq!(Tally::of(&events, "b").most, 0);
}

#[test]
fn a_task_run_twice_at_once_counts_twice() {
    use Kind::{Cut, End, Start};
    let tally = Tally::of(&events(&[(Start, "1", 1), (Start, "1", 2), (End, "1", 2)]), "a");
    assert_eq!((tally.most, tally.running, tally.done.len()), (2, 1, 1));
    let tally = Tally::of(&events(&[(Start, "1", 1), (Cut, "1", 1), (Start, "1", 2)]), "a");
    assert_eq!((tally.most, tally.running, tally.done.len()), (1, 1, 0));
}

#[test]
fn a_shared_queue_runs_what_comes_next() {
    let list = ["a", "b", "c", "c", "c", "c", "a", "a", "b"];
    let most = ["a", "b", "c"].map(|group| most_on_a_shared_queue(&list, 4, group));
    assert_eq!(most, [2, 1, 2]);
    assert_eq!(most_on_a_shared_queue(&list, 5, "c"), 3);
}

/// A pod of the Deployment `operator`, of the update `hash`, made in a second of the day, with the status of its
/// container.
fn pod(hash: &str, second: u32, container: &Value) -> Value {
    json!({
        "metadata": {
            "name": format!("operator-{hash}-x"),
            "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z"),
            "ownerReferences": [{"kind": "ReplicaSet", "name": format!("operator-{hash}")}],
        },
        "status": {"containerStatuses": [container]},
    })
}

fn waiting(reason: &str, message: &str) -> Value {
    json!({"name": "operator", "state": {"waiting": {"reason": reason, "message": message}}})
}

fn stuck_of(pods: &[Value]) -> Option<Stuck> {
    stuck(&serde_json::from_value(json!({"items": pods})).unwrap())
}

#[test]
fn a_pod_that_starts_or_runs_is_not_stuck() {
    let running = json!({"name": "operator", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}});
    let restarted = json!({
        "name": "operator",
        "state": {"running": {}},
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}},
    });
    let ended = json!({"name": "operator", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}});
    for container in [
        waiting("ContainerCreating", ""),
        waiting("PodInitializing", ""),
        running,
        restarted,
        ended,
    ] {
        assert_eq!(stuck_of(&[pod("1", 0, &container)]), None, "{container}");
    }
    let unscheduled = json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}});
    assert_eq!(stuck_of(&[unscheduled]), None);
    assert_eq!(stuck_of(&[]), None);
}

#[test]
fn a_pod_that_can_not_start_is_stuck_with_what_kubernetes_says() {
    for (reason, message) in [
        (
            "ErrImageNeverPull",
            "Container image \"a\" is not present with pull policy of Never",
        ),
        ("ErrImagePull", "no such host"),
        ("ImagePullBackOff", "Back-off pulling image \"a\""),
        ("InvalidImageName", "couldn't parse image reference"),
        ("CreateContainerConfigError", "secret \"a\" not found"),
        ("CreateContainerError", "no command specified"),
        ("RunContainerError", "exec /app: exec format error"),
    ] {
        let stuck = stuck_of(&[pod("1", 0, &waiting(reason, message))]).unwrap();
        assert_eq!(
            stuck.to_string(),
            format!("container operator of pod operator-1-x does not start: {reason} ({message})")
        );
        assert!(!stuck.ran, "{reason}: there is no log to show");
    }
}

#[test]
fn a_container_that_crashes_is_reported_with_its_exit_code_and_has_a_log() {
    let mut container = waiting("CrashLoopBackOff", "back-off 10s restarting failed container");
    container["lastState"] = json!({"terminated": {
        "exitCode": 128, "reason": "StartError", "message": "exec /app: no such file or directory\n",
    }});
    let stuck = stuck_of(&[pod("1", 0, &container)]).unwrap();
    assert_eq!(
        stuck.to_string(),
        "container operator of pod operator-1-x does not start: \
         CrashLoopBackOff (back-off 10s restarting failed container)\n  \
         exit code 128: StartError (exec /app: no such file or directory)"
    );
    assert!(stuck.ran);
}

#[test]
fn an_init_container_can_be_stuck_too() {
    let mut init = pod("1", 0, &waiting("PodInitializing", ""));
    init["status"]["initContainerStatuses"] =
        json!([{"name": "worker", "state": {"waiting": {"reason": "ErrImageNeverPull"}}}]);
    let stuck = stuck_of(&[init]).unwrap();
    assert_eq!(
        (stuck.container.as_str(), stuck.why.as_str()),
        ("worker", "ErrImageNeverPull")
    );
}

#[test]
fn what_an_update_replaces_and_what_is_deleted_is_not_looked_at() {
    let broken = waiting("CrashLoopBackOff", "");
    let fine = json!({"name": "operator", "state": {"running": {}}});
    assert_eq!(stuck_of(&[pod("1", 0, &broken), pod("2", 1, &fine)]), None);
    let stuck = stuck_of(&[pod("1", 0, &fine), pod("2", 1, &broken)]).unwrap();
    assert_eq!(stuck.pod, "operator-2-x");
    let mut deleted = pod("1", 0, &broken);
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert_eq!(stuck_of(&[deleted]), None);
    // Two Deployments are two updates.
    let mut other = pod("1", 0, &broken);
    other["metadata"]["ownerReferences"][0]["name"] = "nats-1".into();
    assert!(stuck_of(&[other, pod("2", 1, &fine)]).is_some());
}

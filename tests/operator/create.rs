//! A manifest becomes a pipeline.

use crate::bed::{Bed, workers};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_becomes_a_stream_a_consumer_and_a_deployment() {
    let bed = Bed::new().await;
    bed.make(
        "acme",
        json!({"concurrency": 250, "env": [{"name": "KEY", "value": "v"}]}),
    )
    .await;

    bed.until_condition("acme", "ConsumerReady", "True").await;
    let stream = bed.nats.stream(&bed.stream("acme")).await.unwrap();
    assert_eq!(
        stream["subjects"],
        json!([bed.subject("acme", ">"), bed.requeued("acme", ">")])
    );
    assert_eq!(stream["retention"], "workqueue");
    assert_eq!(stream["discard"], "new");
    assert_eq!(stream["max_msg_size"], 1 << 20);
    assert_eq!(stream["metadata"]["taskgroup.io/name"], "acme");
    assert_eq!(stream["metadata"]["taskgroup.io/instance"], "test");
    let consumer = bed.nats.consumer(&bed.stream("acme")).await.unwrap();
    assert_eq!(consumer["config"]["max_ack_pending"], 250);
    assert_eq!(consumer["config"]["ack_wait"], 30_000_000_000_u64);
    assert_eq!(consumer["config"]["max_deliver"], -1);

    let deployment = bed
        .until("the Deployment", || async {
            bed.deployments().get_opt(&workers("acme")).await.unwrap()
        })
        .await;
    let spec = deployment.spec.unwrap();
    assert_eq!(spec.replicas, Some(3), "250 tasks at 100 per pod");
    let pod = spec.template.spec.unwrap();
    let names: Vec<_> = pod.containers.iter().map(|container| container.name.as_str()).collect();
    assert_eq!(names, ["handler", "taskgroup-worker"]);
    let env = pod.containers[0].env.as_ref().unwrap();
    assert_eq!((env[0].name.as_str(), env[0].value.as_deref()), ("KEY", Some("v")));
    let owner = &deployment.metadata.owner_references.unwrap()[0];
    assert_eq!(
        (owner.kind.as_str(), owner.name.as_str(), owner.controller),
        ("TaskGroup", "acme", Some(true))
    );

    bed.until_reason("acme", "RollingOut").await;
    bed.pods_become_ready("acme").await;
    bed.until_condition("acme", "Ready", "True").await;
    let status = bed.status("acme").await;
    assert_eq!(status.stream, Some(bed.stream("acme")));
    assert_eq!((status.replicas, status.workers.as_deref()), (Some(3), Some("3/3")));
    assert_eq!((status.concurrency, status.max_inflight), (Some(250), Some(100)));
    assert_eq!(
        (status.pending, status.in_flight, status.dead_lettered),
        (Some(0), Some(0), Some(0))
    );
    let events = bed
        .until("an Event", || async {
            Some(bed.events("acme").await).filter(|all| !all.is_empty())
        })
        .await;
    assert!(
        events[0].starts_with("Ready: the pipeline runs up to 250 tasks at once"),
        "{events:?}"
    );
}

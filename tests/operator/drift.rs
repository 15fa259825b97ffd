//! What is deleted or edited by hand is put back; and where nothing changed, nothing is written.

use crate::{
    bed::{Bed, workers},
    support::requests::Request,
};
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_stream_consumer_or_deployment_is_made_again() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 3})).await;
    let stream = bed.stream("acme");

    bed.nats
        .api(&format!("CONSUMER.DELETE.{stream}.{}", bed.consumer()), json!({}))
        .await;
    bed.until_consumer("acme", "max_ack_pending", json!(3)).await;

    bed.nats.api(&format!("STREAM.DELETE.{stream}"), json!({})).await;
    bed.until_consumer("acme", "max_ack_pending", json!(3)).await;

    let uid = bed.deployments().get(&workers("acme")).await.unwrap().metadata.uid;
    bed.deployments()
        .delete(&workers("acme"), &DeleteParams::default())
        .await
        .unwrap();
    bed.until("another Deployment", || async {
        let again = bed.deployments().get_opt(&workers("acme")).await.unwrap()?;
        (again.metadata.uid != uid).then_some(())
    })
    .await;
    bed.until("an Event tells it", || async {
        bed.events("acme")
            .await
            .iter()
            .any(|event| event.starts_with("Repaired: "))
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_stream_consumer_or_deployment_is_put_back() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 3})).await;
    let stream = bed.stream("acme");

    let mut config = bed.nats.consumer(&stream).await.unwrap()["config"].clone();
    config["max_ack_pending"] = json!(99);
    let edit = json!({"stream_name": stream, "config": config, "action": "update"});
    let edited = bed
        .nats
        .api(&format!("CONSUMER.CREATE.{stream}.{}", bed.consumer()), edit)
        .await;
    assert_eq!(edited["config"]["max_ack_pending"], 99);
    bed.until_consumer("acme", "max_ack_pending", json!(3)).await;

    bed.nats
        .api(
            &format!("CONSUMER.PAUSE.{stream}.{}", bed.consumer()),
            json!({"pause_until": "2100-01-01T00:00:00Z"}),
        )
        .await;
    bed.until("deliveries go on", || async {
        (bed.nats.consumer(&stream).await?["paused"] != true).then_some(())
    })
    .await;

    let mut config = bed.nats.stream(&stream).await.unwrap();
    config["max_msgs"] = json!(7);
    config["description"] = json!("mine");
    let edited = bed.nats.api(&format!("STREAM.UPDATE.{stream}"), config).await;
    assert_eq!(edited["config"]["max_msgs"], 7);
    bed.until_stream("acme", "max_msgs", json!(-1)).await;
    bed.until_stream("acme", "description", json!("mine")).await;

    let edit = json!({"spec": {"replicas": 7, "template": {"spec": {"containers": [
        {"name": "taskgroup-worker", "image": "evil:latest"},
    ]}}}});
    bed.deployments()
        .patch(&workers("acme"), &PatchParams::default(), &Patch::Strategic(edit))
        .await
        .unwrap();
    bed.until("the Deployment as it was", || async {
        let spec = bed.deployments().get(&workers("acme")).await.unwrap().spec.unwrap();
        let image = spec.template.spec.unwrap().containers[1].image.clone();
        (spec.replicas == Some(1) && image.as_deref() == Some("taskgroup:test")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_made_while_the_operator_was_away_is_put_back() {
    let mut bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 3})).await;
    bed.stop_operator().await;
    let stream = bed.stream("acme");
    bed.nats
        .api(&format!("CONSUMER.DELETE.{stream}.{}", bed.consumer()), json!({}))
        .await;
    let edit = json!({"spec": {"replicas": 7}});
    bed.deployments()
        .patch(&workers("acme"), &PatchParams::default(), &Patch::Merge(edit))
        .await
        .unwrap();
    bed.start_operator();
    bed.until_consumer("acme", "max_ack_pending", json!(3)).await;
    bed.until("the Deployment as it was", || async {
        (bed.deployments().get(&workers("acme")).await.unwrap().spec?.replicas == Some(1)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reconcile_without_a_change_writes_nothing() {
    let mut bed = Bed::new().await;
    bed.made(
        "acme",
        json!({"concurrency": 3, "env": [{"name": "KEY", "value": "v"}]}),
    )
    .await;
    bed.pods_become_ready("acme").await;
    bed.until_condition("acme", "Ready", "True").await;
    bed.until("its Event", || async {
        (!bed.events("acme").await.is_empty()).then_some(())
    })
    .await;
    let group = bed.groups().get("acme").await.unwrap();
    let deployment = bed.deployments().get(&workers("acme")).await.unwrap();
    let audit = bed.nats.audit().await;
    let before = written(&bed);

    // Each of these causes a reconcile: a label on the group, on its handler, on its Deployment, and a
    // request about its consumer that changes nothing.
    let touch = Patch::Merge(json!({"metadata": {"labels": {"touched": "1"}}}));
    bed.groups()
        .patch("acme", &PatchParams::default(), &touch)
        .await
        .unwrap();
    bed.handlers()
        .patch("default", &PatchParams::default(), &touch)
        .await
        .unwrap();
    bed.deployments()
        .patch(&workers("acme"), &PatchParams::default(), &touch)
        .await
        .unwrap();
    let reconciles = |bed: &Bed| {
        let text = bed.admin("/metrics").unwrap_or_default();
        let line = text
            .lines()
            .find(|line| line.starts_with("taskgroup_operator_reconciles_total{result=\"success\"}"));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
    };
    let consumer = bed.nats.consumer(&bed.stream("acme")).await.unwrap();
    let so_far = reconciles(&bed);
    let same = json!({"stream_name": bed.stream("acme"), "config": consumer["config"], "action": "update"});
    bed.nats
        .api(
            &format!("CONSUMER.CREATE.{}.{}", bed.stream("acme"), bed.consumer()),
            same,
        )
        .await;
    // It looks at once, and once more when the request must be through.
    bed.until("it was looked at", || async {
        (reconciles(&bed) >= so_far + 2).then_some(())
    })
    .await;
    assert_eq!(written(&bed), before, "writes to Kubernetes");
    let hand_made = format!("CONSUMER.CREATE.{}.{}", bed.stream("acme"), bed.consumer());
    let mut writes = audit.writes().await;
    writes.retain(|subject| *subject != hand_made);
    assert_eq!(writes, Vec::<String>::new(), "writes to NATS");

    // Nor does a restart of the operator write anything.
    bed.stop_operator().await;
    bed.start_operator();
    bed.until("it is looked at again", || async {
        (bed.admin("/readyz")?.contains("200 OK") && reconciles(&bed) > 0).then_some(())
    })
    .await;
    assert_eq!(written(&bed), before, "writes to Kubernetes after a restart");
    let mut writes = audit.writes().await;
    writes.retain(|subject| *subject != hand_made);
    assert_eq!(writes, Vec::<String>::new(), "writes to NATS after a restart");
    let now = bed.groups().get("acme").await.unwrap();
    assert_eq!(now.status, group.status);
    let now = bed.deployments().get(&workers("acme")).await.unwrap();
    assert_eq!(now.metadata.generation, deployment.metadata.generation);
}

/// All writes of the operator to Kubernetes, from the API server's audit log.
fn written(bed: &Bed) -> Vec<String> {
    let requests = bed
        .api
        .requests_of(&bed.user_agent())
        .into_iter()
        .filter(Request::is_write);
    requests
        .map(|request| {
            format!(
                "{} {}/{} {}",
                request.verb, request.resource, request.subresource, request.code
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backlog_reaches_the_status() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    for id in 0..5 {
        bed.nats.publish(&bed.subject("acme", &id.to_string()), "").await;
    }
    bed.nats
        .publish(&format!("dead.{}.acme.7", bed.namespace), "a dead one")
        .await;
    let stream = bed.nats.jetstream().await.get_stream(bed.stream("acme")).await.unwrap();
    let consumer: async_nats::jetstream::consumer::PullConsumer = stream.get_consumer(&bed.consumer()).await.unwrap();
    let _running = consumer.fetch().max_messages(2).messages().await.unwrap();
    bed.until("the numbers arrive", || async {
        let status = bed.status("acme").await;
        ((status.pending, status.in_flight, status.dead_lettered) == (Some(3), Some(2), Some(1))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_was_made_to_deliver_only_some_tasks_is_put_back() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 3})).await;
    let (stream, consumer) = (bed.stream("acme"), bed.consumer());
    let new_tasks = format!("tasks.{}.acme.>", bed.namespace);
    // JetStream names the filter in the subject of the request, if there is one.
    for (field, filter, suffix) in [
        ("filter_subject", json!(new_tasks), format!(".{new_tasks}")),
        (
            "filter_subjects",
            json!([new_tasks, format!("requeue.{}.acme.a", bed.namespace)]),
            String::new(),
        ),
    ] {
        let mut config = bed.nats.consumer(&stream).await.unwrap()["config"].clone();
        config[field] = filter.clone();
        let edit = json!({"stream_name": stream, "config": config, "action": "update"});
        let request = format!("CONSUMER.CREATE.{stream}.{consumer}{suffix}");
        let edited = bed.nats.api(&request, edit).await;
        assert_eq!(edited["config"][field], filter, "{edited}");
        bed.until("it delivers all again", || async {
            let config = bed.nats.consumer(&stream).await?["config"].clone();
            config.get(field).is_none().then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_another_name_in_the_way_is_named() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 3})).await;
    let (stream, consumer) = (bed.stream("acme"), bed.consumer());
    let mut config = bed.nats.consumer(&stream).await.unwrap()["config"].clone();
    config["name"] = json!("workers");
    config["durable_name"] = json!("workers");
    let other = json!({"stream_name": stream, "config": config, "action": "create"});
    bed.until("the other one is there", || async {
        bed.nats
            .api(&format!("CONSUMER.DELETE.{stream}.{consumer}"), json!({}))
            .await;
        let made = bed
            .nats
            .api(&format!("CONSUMER.CREATE.{stream}.workers"), other.clone())
            .await;
        made.get("error").is_none().then_some(())
    })
    .await;
    let (reason, message) = bed.until_condition("acme", "ConsumerReady", "False").await;
    assert_eq!(reason, "JetStreamRefused");
    assert!(
        message.contains("multiple non-filtered consumers not allowed") && message.contains("nats consumer rm"),
        "{message}"
    );
    bed.nats
        .api(&format!("CONSUMER.DELETE.{stream}.workers"), json!({}))
        .await;
    bed.until_condition("acme", "ConsumerReady", "True").await;
}

//! What the operator depends on fails, and comes back: each group says what is wrong and what to do,
//! and recovers by itself.

use crate::{
    bed::{Bed, Server, http_handler},
    support::{apiserver::ApiServer, nats::NatsServer},
};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_group_made_while_nats_is_down_says_so_and_gets_its_pipeline_when_nats_is_back() {
    let bed = Bed::new().await;
    bed.nats.stop();
    bed.make("acme", json!({"concurrency": 2})).await;
    let message = bed.until_says("acme", "Ready", "False", "NatsUnreachable").await;
    assert!(
        message.contains(&bed.nats.url()[7..]) && message.contains("check that it runs"),
        "{message}"
    );
    bed.until_says("acme", "StreamReady", "Unknown", "NatsUnreachable")
        .await;
    bed.until_says("acme", "Stalled", "False", "NatsUnreachable").await;
    assert!(bed.deployment("acme").await.is_none(), "no worker without a stream");

    bed.nats.resume().await;
    bed.until_consumer("acme", "max_ack_pending", json!(2)).await;
    bed.until_deployment("acme").await;
    bed.pods_become_ready("acme").await;
    bed.until_condition("acme", "Ready", "True").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_made_while_nats_is_down_is_applied_when_nats_is_back() {
    let bed = Bed::new().await;
    let before = bed.made("acme", json!({"concurrency": 2})).await.status.unwrap();
    bed.nats.publish(&bed.subject("acme", "1"), "").await;
    bed.nats.stop();
    bed.patch_spec(
        "acme",
        json!({"concurrency": 7, "env": [{"name": "KEY", "value": "v"}]}),
    )
    .await;
    bed.until_says("acme", "Ready", "False", "NatsUnreachable").await;
    let status = bed.status("acme").await;
    assert_eq!(
        status.concurrency,
        Some(2),
        "the limit in force is said, not the one wished for"
    );
    assert_eq!(status.stream, before.stream);
    // What does not need NATS is done meanwhile.
    bed.until("the new env in the Deployment", || async {
        let pod = bed.deployment("acme").await?.spec?.template.spec?;
        pod.containers[0]
            .env
            .as_ref()?
            .iter()
            .any(|variable| variable.name == "KEY")
            .then_some(())
    })
    .await;

    bed.nats.resume().await;
    bed.until_consumer("acme", "max_ack_pending", json!(7)).await;
    bed.until_condition("acme", "ConsumerReady", "True").await;
    assert_eq!(bed.status("acme").await.concurrency, Some(7));
    assert_eq!(
        bed.nats.messages(&bed.stream("acme")).await,
        1,
        "the queued task is there"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_deleted_while_nats_is_down_stays_until_its_stream_is_cleaned_up() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    bed.nats.stop();
    bed.delete("acme").await;
    let message = bed.until_says("acme", "Ready", "False", "NatsUnreachable").await;
    assert!(message.contains("taskgroup.io/abandon: \"true\""), "{message}");
    assert!(message.contains(&bed.stream("acme")), "{message}");

    bed.nats.resume().await;
    bed.until_gone("acme").await;
    assert_eq!(bed.group_streams().await, [""; 0]);
    assert!(bed.deployment("acme").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_nats_is_gone_for_good_is_let_go_once_it_is_abandoned() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    bed.nats.stop();
    bed.delete("acme").await;
    bed.until_reason("acme", "NatsUnreachable").await;
    bed.annotate("acme", "taskgroup.io/abandon", "true").await;
    bed.until_gone("acme").await;
    assert!(bed.deployment("acme").await.is_none());

    bed.nats.resume().await;
    bed.until_admin("/readyz", 200).await;
    assert!(
        bed.nats.stream(&bed.stream("acme")).await.is_some(),
        "what was let go is left alone"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_made_again_in_a_nats_server_that_lost_all_its_data() {
    let bed = Bed::new().await;
    let names: Vec<String> = (0..10).map(|number| format!("group-{number}")).collect();
    for (name, concurrency) in names.iter().zip(1..) {
        bed.made(name, json!({"concurrency": concurrency, "suspend": concurrency == 1}))
            .await;
    }
    let deployment = bed.deployment("group-3").await.unwrap();

    bed.nats.wipe().await;
    for (name, concurrency) in names.iter().zip(1..) {
        bed.until_consumer(name, "max_ack_pending", json!(concurrency)).await;
        let stream = bed.nats.stream(&bed.stream(name)).await.unwrap();
        assert_eq!(stream["metadata"]["taskgroup.io/name"], *name);
    }
    for shared in ["TASKGROUP_DEAD", "TASKGROUP_DELAY", "TASKGROUP_RATE"] {
        bed.until(shared, || bed.nats.stream(shared)).await;
    }
    bed.until("the relay has its consumer back", || async {
        (bed.nats.relay().await?["config"]["max_ack_pending"] == -1).then_some(())
    })
    .await;
    bed.until("the suspended group is suspended", || async {
        (bed.nats.consumer(&bed.stream("group-0")).await?["paused"] == true).then_some(())
    })
    .await;
    bed.nats.publish(&bed.subject("group-9", "1"), "").await;
    let now = bed.deployment("group-3").await.unwrap();
    assert_eq!(
        now.metadata.generation, deployment.metadata.generation,
        "the pods are left alone"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_goes_on_after_a_restart_of_the_api_server() {
    let api = ApiServer::start().await;
    api.install_crds().await;
    let mut bed = Bed::on(Server::Own(Box::new(api)), NatsServer::start().await).await;
    bed.make_handler("default", http_handler()).await;
    bed.start_operator();
    bed.made("old", json!({"concurrency": 2})).await;

    bed.api.restart().await;
    bed.patch_spec("old", json!({"concurrency": 3})).await;
    bed.until_consumer("old", "max_ack_pending", json!(3)).await;
    bed.made("new", json!({"concurrency": 4})).await;
    let mut handler = http_handler();
    handler["template"]["spec"]["containers"][0]["image"] = json!("handler:2");
    bed.change_handler("default", handler).await;
    for group in ["old", "new"] {
        bed.until("the new image", || async {
            let pod = bed.deployment(group).await?.spec?.template.spec?;
            (pod.containers[0].image.as_deref() == Some("handler:2")).then_some(())
        })
        .await;
    }
    bed.delete("old").await;
    bed.until_gone("old").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jetstream_without_the_space_is_said_and_a_smaller_queue_recovers() {
    let bed = Bed::with_nats(NatsServer::start_with("jetstream { max_file_store: 1MB }").await).await;
    bed.make("acme", json!({"concurrency": 2, "storage": {"maxBytes": "10Mi"}}))
        .await;
    let message = bed.until_says("acme", "StreamReady", "False", "OutOfSpace").await;
    assert!(message.contains("lower spec.storage.maxBytes"), "{message}");
    bed.until_reason("acme", "OutOfSpace").await;
    assert!(bed.deployment("acme").await.is_none());

    bed.patch_spec("acme", json!({"storage": {"maxBytes": "100Ki"}})).await;
    bed.until_condition("acme", "ConsumerReady", "True").await;
    bed.until_deployment("acme").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_without_space_gets_its_stream_by_itself_once_another_gives_its_space_up() {
    let bed = Bed::with_nats(NatsServer::start_with("jetstream { max_file_store: 1MB }").await).await;
    bed.made("large", json!({"concurrency": 1, "storage": {"maxBytes": "900k"}}))
        .await;
    bed.make("late", json!({"concurrency": 1, "storage": {"maxBytes": "900k"}}))
        .await;
    bed.until_reason("late", "OutOfSpace").await;
    bed.delete("large").await;
    bed.until_condition("late", "ConsumerReady", "True").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_copies_than_nats_has_servers_are_refused_with_the_fix() {
    let bed = Bed::new().await;
    bed.make("acme", json!({"concurrency": 2, "storage": {"replicas": 3}}))
        .await;
    let message = bed
        .until_says("acme", "StreamReady", "False", "ReplicasNotSupported")
        .await;
    assert!(message.contains("lower spec.storage.replicas"), "{message}");
    bed.until_says("acme", "Stalled", "True", "ReplicasNotSupported").await;
    bed.patch_spec("acme", json!({"storage": {"replicas": 1}})).await;
    bed.until_condition("acme", "ConsumerReady", "True").await;
}

/// The rules of an operator's Role, but for those that a test leaves out.
fn rules(groups: &[&str], deployments: &[&str]) -> Value {
    let mut rules = json!([
        {"apiGroups": ["taskgroup.io"], "resources": ["taskgroups"], "verbs": groups},
        {"apiGroups": ["taskgroup.io"], "resources": ["taskgroups/status"], "verbs": ["patch"]},
        {"apiGroups": ["taskgroup.io"], "resources": ["taskhandlers"], "verbs": ["list", "watch"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": deployments},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch"]},
    ]);
    rules.as_array_mut().unwrap().retain(|rule| rule["verbs"] != json!([]));
    rules
}

/// Gives the user `operator` a Role with these rules in the namespace of a test.
async fn grant(bed: &Bed, name: &str, rules: Value) {
    let role = serde_json::from_value::<Role>(json!({"metadata": {"name": name}, "rules": rules}));
    let binding = serde_json::from_value::<RoleBinding>(json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "operator"}],
    }));
    let params = PostParams::default();
    Api::namespaced(bed.client.clone(), &bed.namespace)
        .create(&params, &role.unwrap())
        .await
        .unwrap();
    Api::namespaced(bed.client.clone(), &bed.namespace)
        .create(&params, &binding.unwrap())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_deployment_is_said_and_made_once_it_is_granted() {
    let mut bed = Bed::without_operator(NatsServer::start().await).await;
    bed.make_handler("default", http_handler()).await;
    grant(&bed, "half", rules(&["list", "watch", "patch"], &["list", "watch"])).await;
    bed.start_operator_with(bed.api.client_as("operator"), bed.operator_args());
    bed.make("acme", json!({"concurrency": 2})).await;
    let message = bed.until_says("acme", "WorkersReady", "False", "Forbidden").await;
    assert!(message.contains("cannot patch resource \"deployments\""), "{message}");
    assert!(message.contains("kubectl apply -k deploy/"), "{message}");
    bed.until_reason("acme", "Forbidden").await;
    bed.nats
        .publish(&bed.subject("acme", "1"), "the queue accepts tasks")
        .await;

    grant(&bed, "rest", rules(&[], &["patch", "create"])).await;
    bed.until_deployment("acme").await;
    bed.until_reason("acme", "RollingOut").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_finalizer_is_said_and_set_once_it_is_granted() {
    let mut bed = Bed::without_operator(NatsServer::start().await).await;
    bed.make_handler("default", http_handler()).await;
    grant(
        &bed,
        "half",
        rules(&["list", "watch"], &["list", "watch", "create", "patch"]),
    )
    .await;
    bed.start_operator_with(bed.api.client_as("operator"), bed.operator_args());
    bed.make("acme", json!({"concurrency": 2})).await;
    let message = bed.until_says("acme", "Ready", "False", "Forbidden").await;
    assert!(message.contains("cannot patch resource \"taskgroups\""), "{message}");
    assert!(message.contains("kubectl apply -k deploy/"), "{message}");
    assert_eq!(
        bed.nats.stream(&bed.stream("acme")).await,
        None,
        "nothing is made that could be left behind"
    );

    grant(&bed, "rest", rules(&["patch"], &[])).await;
    bed.until_deployment("acme").await;
    bed.until_reason("acme", "RollingOut").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_crds_or_roles_the_operator_waits_and_says_what_to_install() {
    let api = ApiServer::start().await;
    let mut bed = Bed::on(Server::Own(Box::new(api)), NatsServer::start().await).await;
    bed.start_operator_with(bed.api.client_as("operator"), bed.operator_args());
    // Without roles nothing may even be looked at.
    let text = bed.until_admin("/readyz", 503).await;
    assert!(text.contains("starting") || text.contains("may not list"), "{text}");
    bed.until("it says that roles are missing", || async {
        bed.admin("/readyz")?.contains("may not list taskgroups").then_some(())
    })
    .await;
    grant(&bed, "most", rules(&["list", "watch", "patch"], &[])).await;
    bed.until("it says that the CRDs are missing", || async {
        let text = bed.admin("/readyz")?;
        (text.contains("taskgroups.taskgroup.io is not installed") && text.contains("kubectl apply -k deploy/"))
            .then_some(())
    })
    .await;
    bed.until_admin("/livez", 200).await;
    bed.api.install_crds().await;
    bed.until("it says that a role is missing", || async {
        bed.admin("/readyz")?.contains("may not list deployments").then_some(())
    })
    .await;
    grant(&bed, "rest", rules(&[], &["list", "watch", "patch", "create"])).await;
    bed.until_admin("/readyz", 200).await;
    bed.make_handler("default", http_handler()).await;
    bed.made("acme", json!({"concurrency": 2})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_noticed_while_the_shared_streams_can_not_be_made() {
    let no_room = "accounts { A { users: [{user: a, password: a}], jetstream: {max_streams: 1} } }\nno_auth_user: a";
    let bed = Bed::with_nats(NatsServer::start_with(no_room).await).await;
    bed.until("it says why it is not ready", || async {
        bed.admin("/readyz")?
            .contains("maximum number of streams")
            .then_some(())
    })
    .await;
    bed.nats.stop();
    bed.until("it says that NATS is away", || async {
        bed.admin("/readyz")?.contains("can't be reached").then_some(())
    })
    .await;
    assert_eq!(bed.metric("taskgroup_operator_nats_up"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_nats_the_operator_waits_and_says_so() {
    let nats = NatsServer::start().await;
    nats.stop();
    let mut bed = Bed::without_operator(nats).await;
    bed.make_handler("default", http_handler()).await;
    bed.make("early", json!({"concurrency": 2})).await;
    bed.start_operator();
    bed.until("it says that NATS is missing", || async {
        let text = bed.admin("/readyz")?;
        (text.starts_with("HTTP/1.0 503") && text.contains("can't be reached") && text.contains(&bed.nats.url()[7..]))
            .then_some(())
    })
    .await;
    bed.until_admin("/livez", 200).await;
    bed.until_reason("early", "NatsUnreachable").await;

    bed.nats.resume().await;
    bed.until_admin("/readyz", 200).await;
    bed.until_deployment("early").await;
    bed.nats.stop();
    bed.until_admin("/readyz", 503).await;
    bed.until_admin("/livez", 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_can_be_read_and_count_reconciles() {
    let bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    let samples = bed.metrics();
    assert!(
        samples["taskgroup_operator_reconciles_total{result=\"success\"}"] >= 1.0,
        "{samples:?}"
    );
    assert!(
        samples["taskgroup_operator_reconcile_duration_seconds_count"] >= 1.0,
        "{samples:?}"
    );
    assert_eq!(
        samples["taskgroup_operator_nats_up"].to_bits(),
        1.0_f64.to_bits(),
        "{samples:?}"
    );
    bed.nats.stop();
    bed.until("the metric says that NATS is down", || async {
        (bed.metrics()["taskgroup_operator_nats_up"] < 0.5).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_stopped_finishes_the_groups_it_works_on() {
    const GROUPS: usize = 40;
    let mut bed = Bed::without_operator(NatsServer::start().await).await;
    bed.make_handler("default", http_handler()).await;
    for number in 0..GROUPS {
        bed.make(&format!("group-{number}"), json!({"concurrency": 1})).await;
    }
    bed.start_operator();
    bed.until("it is in the middle of its work", || async {
        (bed.nats.streams().await.len() > 5).then_some(())
    })
    .await;
    bed.stop_operator().await;

    let mut whole = 0;
    for number in 0..GROUPS {
        let name = format!("group-{number}");
        let group = bed.groups().get(&name).await.unwrap();
        let parts = [
            bed.nats.stream(&bed.stream(&name)).await.is_some(),
            bed.nats.consumer(&bed.stream(&name)).await.is_some(),
            bed.deployment(&name).await.is_some(),
            group.metadata.finalizers.is_some(),
            group
                .status
                .is_some_and(|status| status.observed_generation == group.metadata.generation),
        ];
        assert!(
            parts.iter().all(|part| *part == parts[0]),
            "{name} is half done: {parts:?}"
        );
        whole += usize::from(parts[0]);
    }
    println!("{whole} of {GROUPS} groups were done");
    assert!(whole < GROUPS, "it was stopped after the work, not in the middle of it");
}

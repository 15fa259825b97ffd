//! A TaskGroup or TaskHandler that does not parse is reported, can be deleted, and does not stop the others. Such an object
//! gets in while the CustomResourceDefinition is looser than ours, for example an older one.

use crate::{
    bed::{Bed, Server, http_handler},
    delete::run_all,
    support::{apiserver::ApiServer, nats::NatsServer},
};
use kube::{
    Api,
    api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use taskgroup::api::{TaskGroup, TaskHandler};

/// A running operator on an API server whose CRDs accept anything.
async fn bed() -> Bed {
    let api = ApiServer::start().await;
    api.install_loose_crds().await;
    let mut bed = Bed::on(Server::Own(Box::new(api)), NatsServer::start().await).await;
    bed.make_handler("default", http_handler()).await;
    bed.start_operator();
    bed
}

impl Bed {
    fn raw<K: kube::Resource<DynamicType = ()>>(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.namespace, &ApiResource::erase::<K>(&()))
    }

    async fn make_raw<K: kube::Resource<DynamicType = ()>>(&self, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": "taskgroup.io/v1alpha1", "kind": K::kind(&()),
            "metadata": {"name": name}, "spec": spec,
        });
        let object = serde_json::from_value(object).unwrap();
        self.raw::<K>().create(&PostParams::default(), &object).await.unwrap();
    }

    async fn patch_raw(&self, name: &str, spec: Value) {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.raw::<TaskGroup>()
            .patch(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    /// Waits until `Ready` of a group that may not parse has this reason, and returns its message.
    async fn until_raw_reason(&self, name: &str, reason: &str) -> String {
        self.until(&format!("{name} is not ready because of {reason}"), || async {
            let group = self.raw::<TaskGroup>().get(name).await.unwrap();
            let status = &group.data["status"];
            let conditions = status["conditions"].as_array()?;
            let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
            (ready["reason"] == reason && status["observedGeneration"] == json!(group.metadata.generation))
                .then(|| ready["message"].as_str().unwrap().to_owned())
        })
        .await
    }

    async fn until_raw_gone(&self, name: &str) {
        self.until(&format!("{name} is gone"), || async {
            self.raw::<TaskGroup>()
                .get_opt(name)
                .await
                .unwrap()
                .is_none()
                .then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_can_not_be_read_says_so_and_leaves_the_others_alone() {
    let mut bed = bed().await;
    bed.made("good", json!({"concurrency": 2})).await;
    bed.make_raw::<TaskGroup>("bad", json!({"concurrency": "four"})).await;
    let message = bed.until_raw_reason("bad", "InvalidSpec").await;
    assert!(
        message.contains("spec.concurrency: can't be read") && message.contains(r#""four""#),
        "{message}"
    );
    assert_eq!(bed.nats.stream(&bed.stream("bad")).await, None);
    bed.made("later", json!({"concurrency": 2})).await;

    // The first list shows it, too.
    bed.stop_operator().await;
    bed.start_operator();
    bed.patch_raw("good", json!({"concurrency": 5})).await;
    bed.until_consumer("good", "max_ack_pending", json!(5)).await;

    bed.patch_raw("bad", json!({"concurrency": 4})).await;
    bed.until_condition("bad", "ConsumerReady", "True").await;
    bed.until_condition("bad", "Stalled", "False").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_can_not_be_read_any_more_keeps_its_pipeline_and_can_be_deleted() {
    let bed = bed().await;
    bed.made("acme", json!({"concurrency": 2, "deletionPolicy": "Drain"}))
        .await;
    bed.nats.publish(&bed.subject("acme", "1"), "").await;
    bed.patch_raw("acme", json!({"timeouts": 7})).await;
    let message = bed.until_raw_reason("acme", "InvalidSpec").await;
    assert!(message.contains("spec.timeouts: can't be read"), "{message}");
    assert!(bed.deployment("acme").await.is_some());

    let _ = bed
        .raw::<TaskGroup>()
        .delete("acme", &DeleteParams::default())
        .await
        .unwrap();
    let message = bed.until_raw_reason("acme", "NotEmpty").await;
    assert!(
        message.contains("holds 1 tasks") && message.contains("spec.timeouts: can't be read"),
        "{message}"
    );
    run_all(&bed).await;
    bed.until_raw_gone("acme").await;
    assert_eq!(bed.group_streams().await, [""; 0]);
    assert!(bed.deployment("acme").await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_policy_that_can_not_be_read_keeps_the_tasks() {
    let bed = bed().await;
    bed.made("acme", json!({"concurrency": 2})).await;
    bed.nats.publish(&bed.subject("acme", "1"), "").await;
    bed.patch_raw("acme", json!({"deletionPolicy": "Burn"})).await;
    bed.until_raw_reason("acme", "InvalidSpec").await;
    let _ = bed
        .raw::<TaskGroup>()
        .delete("acme", &DeleteParams::default())
        .await
        .unwrap();
    bed.until_raw_gone("acme").await;
    assert_eq!(bed.nats.messages(&bed.stream("acme")).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_can_not_be_read_is_named_by_its_groups_only() {
    let bed = bed().await;
    bed.made("good", json!({"concurrency": 2})).await;
    bed.make_raw::<TaskHandler>("bad", json!({"http": {"port": "eighty"}}))
        .await;
    bed.make("acme", json!({"concurrency": 2, "handlerRef": {"name": "bad"}}))
        .await;
    let message = bed.until_says("acme", "HandlerFound", "False", "InvalidHandler").await;
    assert!(message.contains("TaskHandler bad can't be used"), "{message}");
    let mut handler = http_handler();
    handler["template"]["spec"]["containers"][0]["image"] = json!("handler:2");
    bed.change_handler("default", handler).await;
    bed.until("the new image", || async {
        let pod = bed.deployment("good").await?.spec?.template.spec?;
        (pod.containers[0].image.as_deref() == Some("handler:2")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_the_schema_does_not_allow_any_more_can_be_deleted() {
    let bed = bed().await;
    // Unreadable, and readable but out of bounds.
    for (name, spec) in [
        ("four", json!({"concurrency": "four"})),
        ("zero", json!({"concurrency": 0})),
    ] {
        bed.made(name, json!({"concurrency": 2, "storage": {"type": "Memory"}}))
            .await;
        bed.patch_raw(name, spec).await;
        bed.until_raw_reason(name, "InvalidSpec").await;
    }
    // An upgrade installs the current CRDs. A server before Kubernetes 1.30 then refuses every change of the object.
    bed.api.install_crds().await;
    let broken = json!({
        "apiVersion": "taskgroup.io/v1alpha1", "kind": "TaskGroup",
        "metadata": {"name": "another"}, "spec": {"concurrency": 0},
    });
    let broken = serde_json::from_value(broken).unwrap();
    bed.until("the server knows the schema", || async {
        let dry = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        bed.raw::<TaskGroup>().create(&dry, &broken).await.err()
    })
    .await;
    for name in ["four", "zero"] {
        let _ = bed
            .raw::<TaskGroup>()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
        bed.until_raw_gone(name).await;
    }
    assert_eq!(bed.group_streams().await, [""; 0]);
}

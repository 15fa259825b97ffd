//! The floor: the same objects from a bare loop, with no controller.

use crate::bed::{self, Bed, Namespace, group_name};
use futures::{StreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use std::time::Instant;
use taskgroup::{
    broker::{Broker, ConsumerConfig},
    operator::{
        desired::{self, PodSettings},
        validate::{self, ValidGroup, ValidHandler},
    },
    protocol::{Queue, StreamName},
};

/// Deletes under way at once, after the measuring.
const WIDTH: usize = 16;

/// A status as the operator writes it, for the floor to write the same.
pub struct Status {
    text: String,
    namespace: String,
}

impl Status {
    /// The status of the first group of a namespace.
    pub async fn like(namespace: &Namespace) -> Self {
        let group = namespace.groups().get(&group_name(0)).await.unwrap();
        Self {
            text: json!({"status": group.status.unwrap()}).to_string(),
            namespace: namespace.name.clone(),
        }
    }

    fn of(&self, namespace: &str, group: &str) -> Value {
        let text = self.text.replace(&self.namespace, namespace);
        serde_json::from_str(&text.replace(&group_name(0), group)).unwrap()
    }
}

/// A namespace that no operator watches.
pub struct Floor<'a> {
    pub namespace: Namespace,
    pub broker: &'a Broker,
    status: &'a Status,
    handler: ValidHandler,
    pods: PodSettings,
}

impl<'a> Floor<'a> {
    pub async fn new(bed: &'a Bed, status: &'a Status) -> Self {
        Self {
            namespace: bed.namespace().await,
            broker: &bed.broker,
            status,
            handler: validate::handler(&bed::handler()).unwrap(),
            pods: PodSettings {
                image: "taskgroup:latest".into(),
                nats_url: bed.nats.url(),
                nats_creds_secret: None,
                log_format: "text",
            },
        }
    }

    /// Makes so many groups, `width` at a time. Returns the seconds from the first until all are done.
    pub async fn run(&self, groups: usize, width: usize) -> f64 {
        let seen = self.namespace.watch(groups).await;
        let start = Instant::now();
        stream::iter(0..groups)
            .for_each_concurrent(width, |index| self.make(index))
            .await;
        let end = seen.all(|| "the loop is through".into()).await;
        self.namespace.verify(groups, self.broker).await;
        (end - start).as_secs_f64()
    }

    async fn make(&self, index: usize) {
        let group = self.namespace.make_group(index).await;
        let valid = validate::group(&group).unwrap();
        self.broker
            .create_stream(&desired::stream(&valid, "bench", false))
            .await
            .unwrap();
        self.broker
            .create_consumer(&self.stream(index), &consumer(&valid))
            .await
            .unwrap();
        let deployment = desired::deployment(&valid, &self.handler, &self.pods);
        let deployment: Deployment = serde_json::from_value(deployment).unwrap();
        self.namespace
            .deployments()
            .create(&PostParams::default(), &deployment)
            .await
            .unwrap();
        let name = group.name_any();
        let status = self.status.of(&self.namespace.name, &name);
        self.namespace
            .groups()
            .patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }

    pub fn stream(&self, index: usize) -> StreamName {
        Queue::new(&self.namespace.name, group_name(index)).stream()
    }

    /// Removes all that was made.
    pub async fn delete_all(self, groups: usize) {
        let delete = async |index| self.broker.delete_stream(&self.stream(index)).await.unwrap();
        stream::iter(0..groups).for_each_concurrent(WIDTH, delete).await;
        bed::delete_each(&self.namespace.groups()).await;
        bed::delete_each(&self.namespace.deployments()).await;
        self.namespace.verify(0, self.broker).await;
    }
}

/// The consumer of a group.
pub fn consumer(group: &ValidGroup) -> ConsumerConfig {
    desired::consumer(group, "bench", &[])
}

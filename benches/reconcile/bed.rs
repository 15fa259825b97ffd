//! The servers, and the namespaces that everything is measured in: a fresh one each time.

use crate::{
    seen::Seen,
    servers::{apiserver::ApiServer, nats::NatsServer},
};
use futures::{StreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use taskgroup::{
    api::{TaskGroup, TaskHandler},
    broker::{Broker, NatsArgs},
};

/// A real Kubernetes API server and a real NATS server.
pub struct Bed {
    pub api: ApiServer,
    pub nats: NatsServer,
    pub broker: Broker,
}

impl Bed {
    pub async fn start() -> Self {
        let (api, nats) = tokio::join!(ApiServer::start(), NatsServer::start());
        api.install_crds().await;
        let args = NatsArgs {
            nats_url: vec![nats.url()],
            nats_creds: None,
        };
        let broker = Broker::connect(&args, "bench").await.unwrap();
        broker.link().wait_for(|link| link.up).await.unwrap();
        Self { api, nats, broker }
    }

    /// A namespace with the TaskHandler `default`.
    pub async fn namespace(&self) -> Namespace {
        let namespace = Namespace {
            name: self.api.namespace().await,
            client: self.api.client_named("bench"),
        };
        let handlers: Api<TaskHandler> = Api::namespaced(namespace.client.clone(), &namespace.name);
        handlers.create(&PostParams::default(), &handler()).await.unwrap();
        namespace
    }
}

/// One namespace, through a client of the bench.
pub struct Namespace {
    pub name: String,
    client: Client,
}

impl Namespace {
    pub fn groups(&self) -> Api<TaskGroup> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    pub fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    pub async fn make_group(&self, index: usize) -> TaskGroup {
        let group = json!({
            "apiVersion": "taskgroup.io/v1alpha1",
            "kind": "TaskGroup",
            "metadata": {"name": group_name(index)},
            "spec": {"concurrency": 2},
        });
        let group = serde_json::from_value(group).unwrap();
        self.groups().create(&PostParams::default(), &group).await.unwrap()
    }

    /// Starts to watch until so many groups have a status about their present spec.
    pub async fn watch(&self, groups: usize) -> Seen {
        Seen::start(self.groups(), groups).await
    }

    /// Makes sure that what was measured was really made.
    pub async fn verify(&self, groups: usize, broker: &Broker) {
        let prefix = format!("tg_{}_", self.name);
        let mut streams = broker.streams().await.unwrap();
        streams.retain(|stream| stream.name().as_str().starts_with(&prefix));
        assert_eq!(streams.len(), groups, "streams in {}", self.name);
        for stream in streams {
            assert_eq!(stream.state.consumer_count, 1, "consumers of {}", stream.name());
        }
        let deployments = self.deployments().list_metadata(&ListParams::default()).await.unwrap();
        assert_eq!(deployments.items.len(), groups, "Deployments in {}", self.name);
    }
}

/// Deletes under way at once.
const WIDTH: usize = 32;

/// Deletes all objects one by one. Deleting thousands as a collection exceeds the API server's limit for one request.
pub async fn delete_each<K: Resource + Clone + DeserializeOwned + std::fmt::Debug>(api: &Api<K>) {
    let all = api.list_metadata(&ListParams::default()).await.unwrap();
    stream::iter(all)
        .for_each_concurrent(WIDTH, |object| async move {
            let _ = api.delete(&object.name_any(), &DeleteParams::default()).await.unwrap();
        })
        .await;
}

/// Counts objects without listing all of them.
pub async fn count<K: Resource + Clone + DeserializeOwned + std::fmt::Debug>(api: &Api<K>) -> usize {
    let page = api.list_metadata(&ListParams::default().limit(1)).await.unwrap();
    let more = page.metadata.remaining_item_count.unwrap_or(0);
    page.items.len() + usize::try_from(more).unwrap()
}

/// Names are the same in every namespace.
pub fn group_name(index: usize) -> String {
    format!("group-{index:04}")
}

/// The handler that all groups use.
pub fn handler() -> TaskHandler {
    let container = json!({
        "name": "handler",
        "image": "handler:bench",
        "ports": [{"containerPort": 8080}],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
    });
    let spec: Value = json!({"http": {"port": 8080}, "template": {"spec": {"containers": [container]}}});
    serde_json::from_value(json!({
        "apiVersion": "taskgroup.io/v1alpha1",
        "kind": "TaskHandler",
        "metadata": {"name": "default"},
        "spec": spec,
    }))
    .unwrap()
}

//! Waits until the operator can watch what it needs, and says what is missing.

use super::error::plain;
use crate::{
    admin::Health,
    api::{TaskGroup, TaskHandler},
};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{Api, Client, api::ListParams, core::NamespaceResourceScope};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, time::Duration};

/// Pause between two attempts.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Waits until the operator can list everything that it watches.
pub async fn wait_for_crds(client: &Client, namespace: Option<&str>, health: &Health) {
    let mut said = String::new();
    loop {
        let mut missing = missing::<TaskGroup>(client, namespace, "taskgroups").await;
        if missing.is_none() {
            missing = self::missing::<TaskHandler>(client, namespace, "taskhandlers").await;
        }
        if missing.is_none() {
            missing = self::missing::<Deployment>(client, namespace, "deployments").await;
        }
        let Some(missing) = missing else { return };
        if said != missing {
            tracing::warn!("waiting: {missing}");
            health.not_ready(missing.clone());
            said = missing;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Why the operator can't list a kind; `None` if it can.
async fn missing<K>(client: &Client, namespace: Option<&str>, plural: &str) -> Option<String>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = scoped(client, namespace);
    let error = api.list_metadata(&ListParams::default().limit(1)).await.err()?;
    Some(match &error {
        kube::Error::Api(status) if status.code == 404 => {
            format!("the CustomResourceDefinition {plural}.taskgroup.io is not installed: kubectl apply -k deploy/")
        }
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => format!(
            "the operator may not list {plural}: {}; install its roles with kubectl apply -k deploy/",
            status.message
        ),
        error => format!(
            "the Kubernetes API can't be used: {}; the operator tries again by itself",
            plain(error)
        ),
    })
}

/// The API of one namespace, or of all.
pub fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

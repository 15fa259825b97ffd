//! What the operator keeps of each worker Deployment. A whole Deployment with its pod template takes some 10 kB, so the
//! cache keeps only what a reconcile reads, and the spec only until it was compared with what is desired.

use super::mutation_cache::version;
use crate::protocol::keys;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};
use kube::{ResourceExt, runtime::watcher};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{collections::HashMap, sync::Arc};
use tokio::sync::watch;

/// A worker Deployment as a reconcile sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedDeployment {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// The uid of the object that controls it.
    pub owner: Option<String>,
    /// The hash of what the operator applied last: [`keys::APPLIED`].
    pub applied: Option<String>,
    /// Labels and spec as JSON; `None` once they were seen to be what the hash stands for.
    pub content: Option<Box<str>>,
    /// `spec.replicas`.
    pub wanted: i32,
    /// How far the pods are; `None` before Kubernetes says anything.
    pub rollout: Option<Rollout>,
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// `metadata.resourceVersion`.
    pub version: Option<u64>,
}

/// How far the pods of a Deployment are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rollout {
    /// Whether Kubernetes has seen the newest spec.
    pub is_current: bool,
    /// All pods.
    pub replicas: i32,
    /// Pods of the newest template.
    pub updated: i32,
    /// Ready pods.
    pub ready: i32,
    /// Why Kubernetes can't make the pods.
    pub failure: Option<String>,
    /// Why the rollout makes no progress.
    pub stuck: Option<String>,
}

impl ObservedDeployment {
    /// What is kept of a Deployment.
    pub fn of(deployment: &Deployment) -> Self {
        let meta = &deployment.metadata;
        let owner = deployment.owner_references().iter();
        let spec = deployment.spec.as_ref();
        let content = json!({"metadata": {"labels": meta.labels}, "spec": spec});
        Self {
            name: deployment.name_any(),
            uid: meta.uid.clone().unwrap_or_default(),
            owner: owner
                .filter(|owner| owner.controller == Some(true))
                .map(|owner| owner.uid.clone())
                .next(),
            applied: deployment.annotations().get(keys::APPLIED).cloned(),
            content: Some(content.to_string().into()),
            wanted: spec.and_then(|spec| spec.replicas).unwrap_or(1),
            rollout: deployment
                .status
                .as_ref()
                .map(|status| Rollout::of(status, meta.generation)),
            generation: meta.generation,
            version: version(deployment),
        }
    }

    /// Labels and spec, if they are still to be compared.
    pub fn content(&self) -> Option<Value> {
        serde_json::from_str(self.content.as_deref()?).ok()
    }
}

impl Rollout {
    fn of(status: &DeploymentStatus, generation: Option<i64>) -> Self {
        let message = |type_: &str, value: &str| {
            let conditions = status.conditions.as_deref().unwrap_or_default();
            conditions
                .iter()
                .find(|condition| condition.type_ == type_ && condition.status == value)
                .map(|condition| condition.message.clone().unwrap_or_default())
        };
        Self {
            is_current: status.observed_generation >= generation,
            replicas: status.replicas.unwrap_or(0),
            updated: status.updated_replicas.unwrap_or(0),
            ready: status.ready_replicas.unwrap_or(0),
            failure: message("ReplicaFailure", "True"),
            stuck: message("Progressing", "False"),
        }
    }
}

type Key = (String, String);

/// The worker Deployments: as the watch shows them, or as our own newer writes returned them.
pub struct DeploymentCache {
    state: Mutex<State>,
    shown: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    deployments: HashMap<Key, Arc<ObservedDeployment>>,
    /// What a first list or a relist has shown so far, and what we wrote meanwhile.
    relist: Option<HashMap<Key, Arc<ObservedDeployment>>>,
}

impl Default for DeploymentCache {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            shown: watch::Sender::new(false),
        }
    }
}

impl DeploymentCache {
    /// Takes note of what the watch shows.
    pub fn watched(&self, event: &watcher::Event<Deployment>) {
        let mut state = self.state.lock();
        let state = &mut *state;
        match event {
            watcher::Event::Apply(seen) => insert(&mut state.deployments, seen, false),
            watcher::Event::Delete(seen) => {
                let key = key(seen);
                let known = state.deployments.get(&key);
                // One that we made anew since then stays.
                if known
                    .is_some_and(|known| known.version <= version(seen) || known.uid == seen.uid().unwrap_or_default())
                {
                    state.deployments.remove(&key);
                }
            }
            watcher::Event::Init => state.relist = Some(HashMap::new()),
            watcher::Event::InitApply(seen) => {
                let Some(relist) = &mut state.relist else { return };
                let key = key(seen);
                if let Some(known) = state.deployments.get(&key)
                    && !relist.contains_key(&key)
                {
                    relist.insert(key, known.clone());
                }
                insert(relist, seen, false);
            }
            watcher::Event::InitDone => {
                if let Some(relist) = state.relist.take() {
                    state.deployments = relist;
                }
                self.shown.send_replace(true);
            }
        }
    }

    /// Waits until the watch has shown all Deployments.
    pub async fn shown(&self) {
        // The sender lives as long as the cache.
        let _ = self.shown.subscribe().wait_for(|shown| *shown).await;
    }

    /// A Deployment by its namespace and name.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<ObservedDeployment>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.state.lock().deployments.get(&key).cloned()
    }

    /// Remembers what our apply returned, which is therefore as desired.
    pub fn applied(&self, deployment: &Deployment) {
        let mut state = self.state.lock();
        insert(&mut state.deployments, deployment, true);
        if let Some(relist) = &mut state.relist {
            insert(relist, deployment, true);
        }
    }

    /// Forgets the content of a Deployment that was compared and is as desired.
    pub fn in_step(&self, namespace: &str, deployment: &ObservedDeployment) {
        let mut state = self.state.lock();
        let known = state
            .deployments
            .get_mut(&(namespace.to_owned(), deployment.name.clone()));
        if let Some(known) = known.filter(|known| known.is_same_spec(deployment)) {
            Arc::make_mut(known).content = None;
        }
    }

    /// Forgets a Deployment that we deleted.
    pub fn deleted(&self, namespace: &str, deployment: &ObservedDeployment) {
        let mut state = self.state.lock();
        let key = (namespace.to_owned(), deployment.name.clone());
        if state
            .deployments
            .get(&key)
            .is_some_and(|known| known.uid == deployment.uid)
        {
            state.deployments.remove(&key);
        }
    }
}

impl ObservedDeployment {
    fn is_same_spec(&self, other: &Self) -> bool {
        self.uid == other.uid && self.generation == other.generation && self.applied == other.applied
    }
}

/// Inserts a Deployment, unless a newer one is there. The content of a spec that was compared before is left out.
fn insert(deployments: &mut HashMap<Key, Arc<ObservedDeployment>>, deployment: &Deployment, as_desired: bool) {
    let key = key(deployment);
    let known = deployments.get(&key);
    if known.is_some_and(|known| known.version > version(deployment)) {
        return;
    }
    let mut observed = ObservedDeployment::of(deployment);
    if as_desired || known.is_some_and(|known| known.content.is_none() && known.is_same_spec(&observed)) {
        observed.content = None;
    }
    deployments.insert(key, Arc::new(observed));
}

fn key(deployment: &Deployment) -> Key {
    (deployment.namespace().unwrap_or_default(), deployment.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use watcher::Event;

    fn deployment(version: u64, generation: i64, ready: i32) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {
                "namespace": "crawl", "name": "acme-workers", "uid": "1",
                "resourceVersion": version.to_string(), "generation": generation,
                "annotations": {keys::APPLIED: "hash"},
            },
            "spec": {"replicas": 1, "selector": {}, "template": {}},
            "status": {"observedGeneration": generation, "readyReplicas": ready},
        }))
        .expect("a Deployment")
    }

    fn ready(cache: &DeploymentCache) -> Option<(i32, bool)> {
        let found = cache.get("crawl", "acme-workers")?;
        Some((found.rollout.as_ref()?.ready, found.content.is_some()))
    }

    #[test]
    fn our_own_writes_count_until_the_watch_shows_newer_ones() {
        let cache = DeploymentCache::default();
        cache.applied(&deployment(5, 2, 0));
        cache.watched(&Event::Apply(deployment(4, 1, 9)));
        assert_eq!(ready(&cache), Some((0, false)), "an old event");
        cache.watched(&Event::Apply(deployment(6, 2, 1)));
        assert_eq!(
            ready(&cache),
            Some((1, false)),
            "the pods are ready, the spec is as we applied it"
        );
        cache.watched(&Event::Delete(deployment(7, 2, 1)));
        assert_eq!(ready(&cache), None);
    }

    #[test]
    fn a_spec_is_kept_until_it_was_compared_and_again_after_a_change() {
        let cache = DeploymentCache::default();
        cache.watched(&Event::Apply(deployment(1, 1, 0)));
        assert_eq!(ready(&cache), Some((0, true)));
        let seen = cache.get("crawl", "acme-workers").expect("it");
        cache.in_step("crawl", &seen);
        assert_eq!(ready(&cache), Some((0, false)));
        cache.watched(&Event::Apply(deployment(2, 1, 1)));
        assert_eq!(ready(&cache), Some((1, false)), "only the status changed");
        cache.watched(&Event::Apply(deployment(3, 2, 1)));
        assert_eq!(ready(&cache), Some((1, true)), "somebody changed the spec");
        cache.in_step("crawl", &seen);
        assert_eq!(ready(&cache), Some((1, true)), "another spec was compared");
    }

    #[test]
    fn a_list_replaces_what_was_known_but_not_what_we_wrote_meanwhile() {
        let cache = DeploymentCache::default();
        cache.watched(&Event::Apply(deployment(1, 1, 1)));
        cache.watched(&Event::Init);
        assert_eq!(ready(&cache), Some((1, true)));
        cache.watched(&Event::InitDone);
        assert_eq!(ready(&cache), None, "it vanished while the watch was away");
        cache.watched(&Event::Init);
        cache.applied(&deployment(2, 1, 0));
        cache.watched(&Event::InitDone);
        assert_eq!(ready(&cache), Some((0, false)));
    }
}

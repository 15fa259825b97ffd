//! Why a pod does not start, as soon as Kubernetes says so.

use serde::Deserialize;
use std::{collections::BTreeMap, fmt};

/// A container that waits for one of these reasons starts by itself. Any other reason (`CrashLoopBackOff`,
/// `ErrImageNeverPull`, `CreateContainerConfigError`, …) needs somebody to do something.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// The answer of `kubectl get pods -o json`, as far as it matters here.
#[derive(Deserialize)]
pub struct Pods {
    items: Vec<Pod>,
}

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    creation_timestamp: String,
    deletion_timestamp: Option<String>,
    #[serde(default)]
    owner_references: Vec<Owner>,
}

#[derive(Deserialize)]
struct Owner {
    kind: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    init_container_statuses: Vec<Container>,
    container_statuses: Vec<Container>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    #[serde(default)]
    state: State,
    #[serde(default)]
    last_state: State,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct State {
    waiting: Option<Waiting>,
    terminated: Option<Terminated>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Waiting {
    reason: String,
    message: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Terminated {
    exit_code: i32,
    reason: String,
    message: String,
}

/// A pod that does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    pub pod: String,
    pub container: String,
    /// What Kubernetes says about it.
    pub why: String,
    /// Whether the container ran at all, so that it may have written a log.
    pub ran: bool,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "container {} of pod {} does not start: {}",
            self.container, self.pod, self.why
        )
    }
}

/// The first container that does not start, if there is one. A pod that an update is about to replace is left out, and
/// so is one that is being deleted.
pub fn stuck(pods: &Pods) -> Option<Stuck> {
    let mut newest = BTreeMap::<&str, &Metadata>::new();
    for pod in &pods.items {
        let newest = newest.entry(pod.metadata.workload()).or_insert(&pod.metadata);
        if pod.metadata.creation_timestamp > newest.creation_timestamp {
            *newest = &pod.metadata;
        }
    }
    pods.items
        .iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .filter(|pod| newest[pod.metadata.workload()].owner() == pod.metadata.owner())
        .find_map(Pod::stuck)
}

impl Metadata {
    /// The name of the `ReplicaSet` or `StatefulSet`, or that of a pod without one.
    fn owner(&self) -> &str {
        self.owner_references.first().map_or(&self.name, |owner| &owner.name)
    }

    /// The name of the Deployment, which is that of its `ReplicaSet` without the hash at the end, or the owner's.
    fn workload(&self) -> &str {
        let of_deployment = self
            .owner_references
            .first()
            .filter(|owner| owner.kind == "ReplicaSet")
            .and_then(|owner| owner.name.rsplit_once('-'));
        of_deployment.map_or(self.owner(), |(deployment, _hash)| deployment)
    }
}

impl Pod {
    fn stuck(&self) -> Option<Stuck> {
        let containers = self.status.init_container_statuses.iter();
        containers.chain(&self.status.container_statuses).find_map(|container| {
            let waiting = container.state.waiting.as_ref()?;
            if waiting.reason.is_empty() || STARTING.contains(&waiting.reason.as_str()) {
                return None;
            }
            let mut why = told(&waiting.reason, &waiting.message);
            let ended = container.last_state.terminated.as_ref();
            if let Some(ended) = ended {
                let code = ended.exit_code;
                why = format!("{why}\n  exit code {code}: {}", told(&ended.reason, &ended.message));
            }
            Some(Stuck {
                pod: self.metadata.name.clone(),
                container: container.name.clone(),
                why,
                ran: ended.is_some(),
            })
        })
    }
}

/// A reason with its message, if there is one.
fn told(reason: &str, message: &str) -> String {
    let message = message.trim();
    if message.is_empty() {
        reason.to_owned()
    } else {
        format!("{reason} ({message})")
    }
}

//! Pure, and can't fail: what a group's stream, consumer, Deployment, and finalizer should be.

mod json;
mod pod;
#[cfg(test)]
mod tests;

use self::json::merge;
use super::{
    context::Settings,
    lifecycle::{Intake, Lifecycle},
    refusal::Refusal,
    requeue::Requeue,
    validate::{Checked, HandlerCheck, ValidGroup, ValidHandler},
};
use crate::{
    api::RateLimit,
    broker::{ConsumerConfig, Discard, Retention, StreamConfig},
    protocol::{keys, settings::WorkerSettings},
};
use serde::Serialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, hash::Hasher, time::Duration};

/// A deletion that waits for its queue looks at it this often.
const DELETION_WAITS: Duration = Duration::from_secs(2);

/// What a group should have.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Our finalizer on the TaskGroup.
    pub finalizer: Goal<()>,
    /// The stream.
    pub stream: Goal<DesiredStream>,
    /// The consumer.
    pub consumer: Goal<DesiredConsumer>,
    /// The worker Deployment.
    pub deployment: Goal<Value>,
    /// Why the group as a whole is not ready, whatever its parts are.
    pub refusal: Option<Refusal>,
    /// When the group is reconciled again, if all goes well.
    pub requeue: Requeue,
}

/// What one part of a group should be.
#[derive(Clone, Debug, PartialEq)]
pub enum Goal<T> {
    /// The part should be like this.
    Present(T),
    /// The part should be there, but nobody can tell yet how it should be.
    Undecided,
    /// The part should not be there.
    Absent,
    /// The part stays as it is.
    AsIs,
}

/// What a stream should be.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum DesiredStream {
    /// All of its fields that are ours.
    Whole(StreamConfig),
    /// Only what it listens to; an absent stream stays absent.
    Intake {
        /// Its subjects.
        subjects: Vec<String>,
    },
}

/// What a consumer should be.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredConsumer {
    /// Its fields that are ours.
    pub config: ConsumerConfig,
    /// Whether it holds back its deliveries.
    pub paused: bool,
}

/// Says what a group should have at this point of its life.
pub fn desired(lifecycle: &Lifecycle, checked: &Checked, settings: &Settings) -> Desired {
    match (lifecycle, &checked.group) {
        (Lifecycle::Active, Some(group)) => pipeline(group, &checked.handler, Intake::Open, settings),
        (Lifecycle::Waiting { intake, why }, Some(group)) => {
            let pipeline = match &checked.problem {
                None => pipeline(group, &checked.handler, *intake, settings),
                Some(_) => Desired {
                    stream: Goal::Present(DesiredStream::Intake {
                        subjects: subjects(group, *intake),
                    }),
                    ..as_it_is(None, Requeue::Resync)
                },
            };
            Desired {
                refusal: Some(why.clone()),
                requeue: Requeue::After(DELETION_WAITS),
                ..pipeline
            }
        }
        (Lifecycle::Leaving { stream }, _) => Desired {
            finalizer: Goal::Absent,
            stream: if *stream { Goal::Absent } else { Goal::AsIs },
            consumer: Goal::AsIs,
            deployment: Goal::Absent,
            refusal: None,
            requeue: Requeue::Rest,
        },
        (Lifecycle::Refused { why, requeue }, _) => as_it_is(Some(why.clone()), *requeue),
        (Lifecycle::Blocked(why), _) => as_it_is(Some(why.clone()), Requeue::BackOff),
        // Whatever is active or waits can be built.
        (Lifecycle::Active | Lifecycle::Waiting { .. }, None) => as_it_is(None, Requeue::BackOff),
    }
}

fn as_it_is(refusal: Option<Refusal>, requeue: Requeue) -> Desired {
    Desired {
        finalizer: Goal::AsIs,
        stream: Goal::AsIs,
        consumer: Goal::AsIs,
        deployment: Goal::AsIs,
        refusal,
        requeue,
    }
}

fn pipeline(group: &ValidGroup, handler: &HandlerCheck, intake: Intake, settings: &Settings) -> Desired {
    Desired {
        finalizer: Goal::Present(()),
        stream: Goal::Present(DesiredStream::Whole(stream(
            group,
            &settings.instance,
            intake == Intake::Draining,
        ))),
        consumer: Goal::Present(DesiredConsumer {
            config: consumer(group, &settings.instance, &settings.callback_allow),
            paused: group.suspend,
        }),
        deployment: match handler {
            HandlerCheck::Usable(handler) => Goal::Present(deployment(group, handler, &settings.pods)),
            HandlerCheck::Missing | HandlerCheck::Invalid(_) => Goal::Undecided,
        },
        refusal: None,
        requeue: Requeue::Resync,
    }
}

fn subjects(group: &ValidGroup, intake: Intake) -> Vec<String> {
    match intake {
        Intake::Open => group.queue.subjects(),
        Intake::Draining => group.queue.draining_subjects(),
    }
}

/// What all worker pods of this installation have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSettings {
    /// Image of the worker's and the installing container.
    pub image: String,
    /// URLs of NATS for the pods.
    pub nats_url: String,
    /// Secret with the NATS credentials, in the group's namespace.
    pub nats_creds_secret: Option<String>,
    /// Log format of the workers.
    pub log_format: &'static str,
}

/// Pods that a group needs at its limit: `concurrency / maxInflightPerPod`, rounded up.
pub fn replicas(group: &ValidGroup) -> i32 {
    let per_pod = group.max_inflight_per_pod.max(1);
    // A rule of `api::bounds` keeps the result at 500 or less.
    i32::try_from((group.concurrency + per_pod - 1) / per_pod).unwrap_or(i32::MAX)
}

/// Most tasks of one pod. This is more than the pod's even share, so that the other pods reach the group's limit while one
/// is away. The broker holds that limit over all of them.
pub fn max_inflight(group: &ValidGroup) -> i64 {
    group.max_inflight_per_pod.min(group.concurrency)
}

/// A rate limit for people: `2/1s`, or `2/1s+10` with more than one start saved up.
pub fn rate(rate: &RateLimit) -> String {
    let per = jiff::SignedDuration::try_from(rate.per.checked()).unwrap_or(jiff::SignedDuration::MAX);
    let burst = if rate.burst > 1 {
        format!("+{}", rate.burst)
    } else {
        String::new()
    };
    format!("{}/{per:#}{burst}", rate.tasks)
}

/// The metadata that marks a stream or consumer as the group's.
pub fn owner_metadata(group: &ValidGroup, instance: &str) -> BTreeMap<String, String> {
    BTreeMap::from([
        (keys::INSTANCE.into(), instance.into()),
        (keys::NAMESPACE.into(), group.queue.namespace.clone()),
        (keys::NAME.into(), group.name.clone()),
        (keys::UID.into(), group.uid.clone()),
    ])
}

/// The stream of a group. A `draining` one takes no new tasks.
pub fn stream(group: &ValidGroup, instance: &str, draining: bool) -> StreamConfig {
    let storage = &group.storage;
    StreamConfig {
        name: group.queue.stream().as_str().into(),
        shared: None,
        subjects: subjects(group, if draining { Intake::Draining } else { Intake::Open }),
        retention: Retention::WorkQueue,
        storage: storage.storage,
        discard: Discard::New,
        num_replicas: storage.replicas,
        max_msgs: storage.max_tasks,
        max_bytes: storage.max_bytes,
        max_msg_size: storage.max_task_size,
        duplicate_window: storage.duplicate_window,
        metadata: owner_metadata(group, instance),
    }
}

/// The consumer of a group.
pub fn consumer(group: &ValidGroup, instance: &str, callback_allow: &[String]) -> ConsumerConfig {
    let mut metadata = owner_metadata(group, instance);
    metadata.insert(keys::SETTINGS.into(), settings(group, callback_allow).to_json());
    ConsumerConfig::workers(group.queue.consumer(), group.concurrency, group.ack_wait, metadata)
}

/// The settings of a group's workers: those of its spec, and those that depend on more than the spec.
fn settings(group: &ValidGroup, callback_allow: &[String]) -> WorkerSettings {
    WorkerSettings {
        max_inflight: u32::try_from(max_inflight(group)).unwrap_or(u32::MAX),
        callback_allow: callback_allow.to_vec(),
        ..group.settings.clone()
    }
}

/// Labels that select the worker pods of a group.
pub fn selector(group: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(keys::GROUP.into(), group.into())])
}

/// The worker Deployment of a group, for a server-side apply.
pub fn deployment(group: &ValidGroup, handler: &ValidHandler, pods: &PodSettings) -> Value {
    let mut labels = json!({
        "app.kubernetes.io/name": "taskgroup-worker",
        "app.kubernetes.io/managed-by": keys::FIELD_MANAGER,
    });
    merge(&mut labels, &json!(selector(&group.name)));
    let mut deployment = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": keys::deployment(&group.name),
            "namespace": group.queue.namespace,
            "labels": labels,
            "ownerReferences": [{
                "apiVersion": "taskgroup.io/v1alpha1",
                "kind": "TaskGroup",
                "name": group.name,
                "uid": group.uid,
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
        "spec": {
            "replicas": replicas(group),
            // There may be thousands of groups, each with its old ReplicaSets.
            "revisionHistoryLimit": 2,
            "selector": {"matchLabels": selector(&group.name)},
            "template": pod::template(group, handler, pods, &labels),
        },
    });
    let hash = hash(&deployment);
    merge(
        &mut deployment,
        &json!({"metadata": {"annotations": {keys::APPLIED: hash}}}),
    );
    deployment
}

/// The same for the same content in every version of this program (objects are kept sorted).
fn hash(value: &Value) -> String {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(value.to_string().as_bytes());
    format!("{:016x}", hasher.finish())
}

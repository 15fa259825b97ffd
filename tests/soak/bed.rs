//! The servers, the operator, the groups and their workers.

use crate::{
    checker::{Event, Limits, Task},
    handler::{self, Handler},
    plan::Group,
    record::Record,
    support::{apiserver::ApiServer, nats::NatsServer, process::Process},
    worker::Worker,
};
use async_nats::jetstream::{self, stream::LastRawMessageErrorKind};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use taskgroup::{
    api::{TaskGroup, TaskHandler},
    protocol::subject::{DEAD_STREAM, DELAY_STREAM},
};
use tokio::sync::{Mutex, RwLock};

/// Workers of each group.
const PODS: usize = 2;

/// Stream in which NATS keeps what it says about tasks that are removed without being done.
const TERMINATED: &str = "TERMINATED";

/// How long anything may take that takes a moment.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Bed {
    api: ApiServer,
    pub nats: NatsServer,
    /// Held for reading by who must not see NATS go.
    pub nats_is_up: RwLock<()>,
    /// How often NATS was stopped.
    pub restarts: AtomicUsize,
    pub jetstream: jetstream::Context,
    pub namespace: String,
    pub groups: Vec<Group>,
    /// One fault at a time for each.
    pub workers: Vec<Mutex<Worker>>,
    /// One change of limits at a time for each.
    changes: Vec<Mutex<()>>,
    operator: Mutex<Option<Process>>,
    pub record: Arc<Record>,
    logs: PathBuf,
}

impl Bed {
    pub async fn start(groups: Vec<Group>, handler: Arc<Handler>, record: Arc<Record>, logs: PathBuf) -> Self {
        let (api, nats) = tokio::join!(ApiServer::start(), NatsServer::start());
        api.install_crds().await;
        let namespace = api.namespace().await;
        let client = async_nats::ConnectOptions::new()
            .reconnect_delay_callback(|_| Duration::from_millis(50))
            .connect(nats.url())
            .await
            .unwrap();
        let mut jetstream = jetstream::new(client);
        jetstream.set_timeout(Duration::from_secs(2));
        let mut bed = Self {
            api,
            nats,
            nats_is_up: RwLock::default(),
            restarts: AtomicUsize::new(0),
            jetstream,
            namespace,
            workers: Vec::new(),
            changes: groups.iter().map(|_| Mutex::default()).collect(),
            groups,
            operator: Mutex::default(),
            record,
            logs,
        };
        bed.hear_of_drops().await;
        bed.start_operator().await;
        bed.make_groups().await;
        for group in &bed.groups {
            for _ in 0..PODS {
                let (url, logs) = (bed.nats.url(), bed.logs.clone());
                let (handler, record) = (handler.clone(), bed.record.clone());
                let worker = Worker::start(&url, &bed.namespace, &group.name, handler, record, logs).await;
                bed.workers.push(Mutex::new(worker));
            }
        }
        bed
    }

    pub async fn start_operator(&self) {
        let args = [
            format!("KUBECONFIG={}", self.api.kubeconfig().display()),
            env!("CARGO_BIN_EXE_taskgroup").into(),
            "operator".into(),
            format!("--nats-url={}", self.nats.url()),
            format!("--watch-namespace={}", self.namespace),
            "--admin-addr=127.0.0.1:0".into(),
            "--instance=soak".into(),
            "--log=taskgroup=debug".into(),
        ];
        let process = Process::start(Path::new("/usr/bin/env"), &args, &self.logs.join("operator.log"));
        *self.operator.lock().await = Some(process);
    }

    /// Ends the operator and starts it again: in good order, or with SIGKILL.
    pub async fn restart_operator(&self, kill: bool) {
        let Some(mut operator) = self.operator.lock().await.take() else {
            return;
        };
        if !kill {
            operator.terminate();
            let ended = Self::until(|| std::future::ready(operator.ended()));
            match ended.await {
                Some(status) if status.success() => {}
                status => self
                    .record
                    .problem(format!("the operator ended with {status:?} on SIGTERM")),
            }
        }
        drop(operator);
        self.start_operator().await;
    }

    async fn make_groups(&self) {
        let handlers: Api<TaskHandler> = Api::namespaced(self.api.client(), &self.namespace);
        let handler = json!({
            "apiVersion": "taskgroup.io/v1alpha1",
            "kind": "TaskHandler",
            "metadata": {"name": "default"},
            // The pods are processes of ours, which know better.
            "spec": {"upstream": {"url": "http://handler.soak.svc/"}},
        });
        let handler = serde_json::from_value(handler).unwrap();
        handlers.create(&PostParams::default(), &handler).await.unwrap();
        for (index, group) in self.groups.iter().enumerate() {
            let limits = group.first;
            self.record.note(Event::Limits { group: index, limits });
            let made = serde_json::from_value(json!({
                "apiVersion": "taskgroup.io/v1alpha1",
                "kind": "TaskGroup",
                "metadata": {"name": group.name},
                "spec": group.spec(limits),
            }));
            let made = made.unwrap();
            self.task_groups().create(&PostParams::default(), &made).await.unwrap();
        }
        for index in 0..self.groups.len() {
            let name = &self.groups[index].name;
            if !self.in_force(index, 1).await {
                let group = self.task_groups().get(name).await.unwrap();
                panic!("the operator makes no pipeline of {name}, see its log: {group:#?}");
            }
            self.pods_are_ready(index).await;
            self.record.note(Event::InForce { group: index });
        }
    }

    fn task_groups(&self) -> Api<TaskGroup> {
        Api::namespaced(self.api.client(), &self.namespace)
    }

    /// Waits until the operator has done what this generation of a group says.
    async fn in_force(&self, group: usize, generation: i64) -> bool {
        let (groups, name) = (self.task_groups(), &self.groups[group].name);
        let done = Self::until(|| async {
            let status = groups.get(name).await.ok()?.status?;
            let observed = status.observed_generation? >= generation;
            let mut conditions = status.conditions.iter();
            let ready = conditions.any(|condition| condition.type_ == "ConsumerReady" && condition.status == "True");
            (observed && ready).then_some(())
        });
        done.await.is_some()
    }

    /// Plays the controller manager: says that all pods are there.
    async fn pods_are_ready(&self, group: usize) {
        let deployments: Api<Deployment> = Api::namespaced(self.api.client(), &self.namespace);
        let status = json!({"status": {
            "replicas": PODS, "readyReplicas": PODS, "updatedReplicas": PODS, "availableReplicas": PODS,
        }});
        let name = format!("{}-workers", self.groups[group].name);
        let patched = Self::until(|| async {
            let patch = Patch::Merge(&status);
            deployments
                .patch_status(&name, &PatchParams::default(), &patch)
                .await
                .ok()
        });
        assert!(patched.await.is_some(), "{name} is not there");
    }

    /// Gives a group other limits, and returns when they are in force.
    pub async fn change(&self, group: usize, limits: Limits) {
        let _only = self.changes[group].lock().await;
        self.record.note(Event::Limits { group, limits });
        let spec = self.groups[group].spec(limits);
        let changed = self
            .task_groups()
            .patch(
                &self.groups[group].name,
                &PatchParams::default(),
                &Patch::Merge(json!({"spec": spec})),
            )
            .await
            .unwrap();
        if self
            .in_force(group, changed.metadata.generation.unwrap_or_default())
            .await
        {
            self.record.note(Event::InForce { group });
        } else {
            let name = &self.groups[group].name;
            self.record
                .problem(format!("{name}: {limits:?} is not in force after {PATIENCE:?}"));
        }
    }

    /// Stops NATS, in good order or with SIGKILL, and starts it again after a while.
    pub async fn restart_nats(&self, kill: bool, away: Duration) {
        let _alone = self.nats_is_up.write().await;
        self.restarts.fetch_add(1, SeqCst);
        let from = self.record.now();
        if kill {
            self.nats.stop();
            self.record.note(Event::Crashed);
        } else {
            self.nats.stop_gracefully().await;
        }
        tokio::time::sleep(away).await;
        self.nats.resume().await;
        let kind = if kill { "NATS crash" } else { "NATS restart" };
        let worker = None;
        self.record.note(Event::Fault { worker, kind, from });
    }

    pub fn subject(&self, kind: &str, task: Task) -> String {
        let queue = &self.groups[task.group].name;
        format!("{kind}.{}.{queue}.{}", self.namespace, handler::id(task))
    }

    /// Tasks in the queues and in back-off; `None` when NATS does not say.
    pub async fn waiting(&self) -> Option<u64> {
        let mut sum = self.messages(DELAY_STREAM).await?;
        for group in &self.groups {
            sum += self.messages(&self.stream(group)).await?;
        }
        Some(sum)
    }

    /// Where tasks still wait, and what their consumers say.
    pub async fn whereabouts(&self) -> String {
        let consumer = format!("workers-{}", self.namespace);
        let queues = self.groups.iter().map(|group| (self.stream(group), consumer.as_str()));
        let mut found = Vec::new();
        for (stream, consumer) in queues.chain([(DELAY_STREAM.to_owned(), "relay")]) {
            let request = json!({"subjects_filter": ">"});
            let info: Result<Value, _> = self.jetstream.request(format!("STREAM.INFO.{stream}"), &request).await;
            let subjects = info.map(|info| info["state"]["subjects"].clone()).unwrap_or_default();
            if subjects.is_null() {
                continue;
            }
            let consumer: Result<Value, _> = self
                .jetstream
                .request(format!("CONSUMER.INFO.{stream}.{consumer}"), &json!({}))
                .await;
            found.push(format!("{stream}: {consumer:?}"));
            let Ok(stream) = self.jetstream.get_stream(&stream).await else {
                continue;
            };
            for subject in subjects.as_object().into_iter().flat_map(serde_json::Map::keys) {
                if let Ok(message) = stream.get_last_raw_message_by_subject(subject).await {
                    found.push(format!("  {subject} {} {}", message.sequence, message.time));
                }
            }
        }
        found.join("\n  ")
    }

    async fn messages(&self, stream: &str) -> Option<u64> {
        let answer: Value = self
            .jetstream
            .request(format!("STREAM.INFO.{stream}"), &json!({}))
            .await
            .ok()?;
        answer["state"]["messages"].as_u64()
    }

    /// Has NATS keep what it says about tasks that are removed without being done.
    async fn hear_of_drops(&self) {
        let config = jetstream::stream::Config {
            name: TERMINATED.into(),
            subjects: vec!["$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.>".into()],
            ..Default::default()
        };
        self.jetstream.create_stream(config).await.unwrap();
    }

    /// Writes down which of them were dropped as their worker was lost.
    pub async fn note_drops(&self) {
        let stream = self.jetstream.get_stream(TERMINATED).await.unwrap();
        for sequence in 1..=stream.cached_info().state.last_sequence {
            let message = stream.get_raw_message(sequence).await.unwrap();
            let advisory: Value = serde_json::from_slice(&message.payload).unwrap();
            if advisory["reason"] != "WorkerLost" {
                continue;
            }
            let of_advisory = |group: &Group| advisory["stream"] == self.stream(group).as_str();
            let group = self.groups.iter().position(of_advisory).unwrap();
            let at = u64::try_from(message.time.unix_timestamp_nanos()).unwrap();
            self.record
                .note_at(self.record.by_the_clock(at), Event::WorkerLost { group });
        }
    }

    fn stream(&self, group: &Group) -> String {
        format!("tg_{}_{}", self.namespace, group.name)
    }

    /// Writes all dead letters down.
    pub async fn note_dead_letters(&self) {
        let stream = self.jetstream.get_stream(DEAD_STREAM).await.unwrap();
        let mut from = 1;
        loop {
            // There are gaps: workers keep late letters out by messages that they remove again.
            let letter = match stream.get_first_raw_message_by_subject("dead.>", from).await {
                Ok(letter) => letter,
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return,
                Err(error) => panic!("the dead letters from {from} on: {error}"),
            };
            from = letter.sequence + 1;
            let header = |name: &str| {
                letter
                    .headers
                    .get(name)
                    .map_or_else(String::new, |value| value.as_str().to_owned())
            };
            let id = letter.subject.rsplit('.').next().unwrap_or_default();
            let Some(task) = handler::task(id) else {
                self.record
                    .problem(format!("a dead letter of no task: {}", letter.subject));
                continue;
            };
            let at = u64::try_from(letter.time.unix_timestamp_nanos()).unwrap();
            self.record.note_at(
                self.record.by_the_clock(at),
                Event::Dead {
                    task,
                    reason: header("X-Dead-Reason"),
                    attempts: header("X-Dead-Attempts").parse().unwrap_or(0),
                },
            );
        }
    }

    /// Ends all workers, then the operator.
    pub async fn stop(&self) {
        let stop = async |worker: &Mutex<Worker>| worker.lock().await.terminate().await;
        futures::future::join_all(self.workers.iter().map(stop)).await;
        self.operator.lock().await.take();
    }

    /// Looks until there is something to see; `None` where there never is.
    async fn until<T, F: Future<Output = Option<T>>>(mut look: impl FnMut() -> F) -> Option<T> {
        let begun = Instant::now();
        loop {
            if let Some(found) = look().await {
                return Some(found);
            }
            if begun.elapsed() > PATIENCE {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Where the logs are, which stay for whoever wants to know.
pub const LOGS: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/soak");

/// An empty directory for the logs.
pub fn log_dir() -> PathBuf {
    let dir = PathBuf::from(LOGS);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    dir
}

//! What a test of the operator needs: a namespace, a nats-server, an operator that watches the one
//! and uses the other, and ways to look at all of it.

use crate::support::{apiserver::ApiServer, nats::NatsServer, process::Process};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{apps::v1::Deployment, events::v1::Event};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    net::SocketAddr,
    ops::Deref,
    path::Path,
    time::{Duration, Instant},
};
use taskgroup::{
    admin::ServeArgs,
    api::{TaskGroup, TaskGroupStatus, TaskHandler},
    broker::NatsArgs,
    operator,
    telemetry::{self, LogFormat},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a condition may take to come true before the test fails. Far more than it takes.
const PATIENCE: Duration = Duration::from_secs(180);

/// The API server of a test: the one that all share, or its own to do with as it likes.
pub enum Server {
    Shared(&'static ApiServer),
    Own(Box<ApiServer>),
}

impl Deref for Server {
    type Target = ApiServer;

    fn deref(&self) -> &ApiServer {
        match self {
            Self::Shared(server) => server,
            Self::Own(server) => server,
        }
    }
}

pub struct Bed {
    pub api: Server,
    pub nats: NatsServer,
    pub client: Client,
    pub namespace: String,
    pub admin: SocketAddr,
    operator: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Bed {
    /// A namespace with a TaskHandler `default`, a nats-server and a running operator.
    pub async fn new() -> Self {
        Self::with_nats(NatsServer::start().await).await
    }

    /// The same with this nats-server.
    pub async fn with_nats(nats: NatsServer) -> Self {
        let mut bed = Self::without_operator(nats).await;
        bed.make_handler("default", http_handler()).await;
        bed.start_operator();
        bed
    }

    /// The same, without a TaskHandler and with no operator yet.
    pub async fn without_operator(nats: NatsServer) -> Self {
        Self::on(Server::Shared(ApiServer::shared_with_crds().await), nats).await
    }

    /// A namespace on an API server, where no operator runs yet.
    pub async fn on(api: Server, nats: NatsServer) -> Self {
        if let Ok(filter) = std::env::var("RUST_LOG") {
            let _ = telemetry::init(LogFormat::Text, &filter);
        }
        let admin = format!("127.0.0.1:{}", crate::support::tools::free_port())
            .parse()
            .unwrap();
        Self {
            client: api.client(),
            namespace: api.namespace().await,
            api,
            nats,
            admin,
            operator: None,
        }
    }

    /// What the operator calls itself towards the API server, to count its requests.
    pub fn user_agent(&self) -> String {
        format!("operator-{}", self.namespace)
    }

    pub fn operator_args(&self) -> operator::Args {
        operator::Args {
            nats: NatsArgs {
                nats_url: vec![self.nats.url()],
                nats_creds: None,
            },
            serve: ServeArgs {
                admin_addr: self.admin,
                log_format: LogFormat::Text,
                log: "info".into(),
            },
            instance: "test".into(),
            watch_namespace: Some(self.namespace.clone()),
            worker_image: "taskgroup:test".into(),
            worker_nats_url: Vec::new(),
            worker_nats_creds_secret: None,
            concurrency: 16,
            backlog_interval: 10,
            resync_interval: 600,
            shared_stream_replicas: 1,
            callback_allow: Vec::new(),
        }
    }

    pub fn start_operator(&mut self) {
        let args = self.operator_args();
        let client = self.api.client_named(&self.user_agent());
        self.start_operator_with(client, args);
    }

    pub fn start_operator_with(&mut self, client: Client, args: operator::Args) {
        let stop = CancellationToken::new();
        let running = tokio::spawn({
            let stop = stop.clone();
            async move { operator::run_with(client, args, stop).await.unwrap() }
        });
        self.operator = Some((stop, running));
    }

    /// The operator as the real program, with the real environment: to kill or to freeze it.
    pub fn start_binary(&self) -> Process {
        let mut args: Vec<String> = [
            ("KUBECONFIG", self.api.kubeconfig().display().to_string()),
            ("NATS_URL", self.nats.url()),
            ("WATCH_NAMESPACE", self.namespace.clone()),
            ("ADMIN_ADDR", self.admin.to_string()),
            ("TASKGROUP_INSTANCE", "test".into()),
        ]
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
        args.extend([env!("CARGO_BIN_EXE_taskgroup").into(), "operator".into()]);
        Process::start(Path::new("/usr/bin/env"), &args, &self.nats.dir().join("operator.log"))
    }

    /// Stops the operator as SIGTERM does, and waits for its end.
    pub async fn stop_operator(&mut self) {
        let (stop, running) = self.operator.take().unwrap();
        stop.cancel();
        running.await.unwrap();
    }

    pub fn groups(&self) -> Api<TaskGroup> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn handlers(&self) -> Api<TaskHandler> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn stream(&self, queue: &str) -> String {
        format!("tg_{}_{queue}", self.namespace)
    }

    /// Name of the durable consumer of every group's stream.
    pub fn consumer(&self) -> String {
        format!("workers-{}", self.namespace)
    }

    pub fn subject(&self, queue: &str, id: &str) -> String {
        format!("tasks.{}.{queue}.{id}", self.namespace)
    }

    /// Where a task is once it came back from the delays.
    pub fn requeued(&self, queue: &str, id: &str) -> String {
        format!("requeue.{}.{queue}.{id}", self.namespace)
    }

    /// Puts a task into back-off, as a worker does.
    pub async fn delay(&self, queue: &str, id: &str, time: SignedDuration) {
        let until = Timestamp::now().checked_add(time).unwrap();
        let due = format!("due.{}.{queue}.{id}.1", self.namespace);
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Schedule", format!("@at {until}"));
        headers.insert("Nats-Schedule-Target", due.as_str());
        headers.insert("Taskgroup-Origin", format!("{}:{id}:1", self.stream(queue)));
        headers.insert("Taskgroup-Attempts", "1");
        let jetstream = self.nats.jetstream().await;
        let ack = jetstream.publish_with_headers(due.replacen("due.", "delay.", 1), headers, "".into());
        ack.await.unwrap().await.unwrap();
    }

    /// The streams of groups, in order: not those that all share.
    pub async fn group_streams(&self) -> Vec<String> {
        let mut streams = self.nats.streams().await;
        streams.retain(|stream| !stream.starts_with("TASKGROUP_"));
        streams.sort();
        streams
    }

    pub async fn make(&self, name: &str, spec: Value) -> TaskGroup {
        let group = serde_json::from_value(json!({
            "apiVersion": "taskgroup.io/v1alpha1",
            "kind": "TaskGroup",
            "metadata": {"name": name},
            "spec": spec,
        }));
        self.groups()
            .create(&PostParams::default(), &group.unwrap())
            .await
            .unwrap()
    }

    pub async fn make_handler(&self, name: &str, spec: Value) {
        let handler = serde_json::from_value(json!({
            "apiVersion": "taskgroup.io/v1alpha1",
            "kind": "TaskHandler",
            "metadata": {"name": name},
            "spec": spec,
        }));
        self.handlers()
            .create(&PostParams::default(), &handler.unwrap())
            .await
            .unwrap();
    }

    /// A group with concurrency 2, and its pipeline in place.
    pub async fn made(&self, name: &str, spec: Value) -> TaskGroup {
        self.make(name, spec).await;
        self.until_condition(name, "ConsumerReady", "True").await;
        self.until("its Deployment is made", || async {
            self.deployments().get_opt(&workers(name)).await.unwrap()
        })
        .await;
        self.groups().get(name).await.unwrap()
    }

    pub async fn patch(&self, name: &str, patch: Value) -> TaskGroup {
        self.groups()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap()
    }

    pub async fn patch_spec(&self, name: &str, spec: Value) -> TaskGroup {
        self.patch(name, json!({"spec": spec})).await
    }

    pub async fn annotate(&self, name: &str, key: &str, value: &str) {
        self.patch(name, json!({"metadata": {"annotations": {key: value}}}))
            .await;
    }

    pub async fn delete(&self, name: &str) {
        self.groups().delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub async fn status(&self, name: &str) -> TaskGroupStatus {
        self.groups()
            .get_opt(name)
            .await
            .unwrap()
            .and_then(|group| group.status)
            .unwrap_or_default()
    }

    /// Polls until `look` finds something.
    pub async fn until<T, F: Future<Output = Option<T>>>(&self, what: &str, look: impl Fn() -> F) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look().await {
                return found;
            }
            if Instant::now() > deadline {
                let groups = self.groups().list(&ListParams::default()).await;
                let groups: Vec<_> = groups
                    .iter()
                    .flatten()
                    .map(|group| (group.name_any(), &group.status))
                    .collect();
                panic!("in vain: {what}; {groups:#?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for a condition of a group, and returns its reason and message.
    pub async fn until_condition(&self, name: &str, type_: &str, status: &str) -> (String, String) {
        self.until(&format!("{name} has {type_}={status}"), || async {
            let group = self.groups().get_opt(name).await.unwrap()?;
            let state = group.status?;
            if state.observed_generation != group.metadata.generation {
                return None;
            }
            let condition = state
                .conditions
                .into_iter()
                .find(|condition| condition.type_ == type_)?;
            (condition.status == status).then_some((condition.reason, condition.message))
        })
        .await
    }

    /// Waits until a condition of a group has this status and reason, and returns its message.
    pub async fn until_says(&self, name: &str, type_: &str, status: &str, reason: &str) -> String {
        self.until(&format!("{name} has {type_}={status} because of {reason}"), || async {
            let group = self.groups().get_opt(name).await.unwrap()?;
            let state = group.status?;
            let mut conditions = state.conditions.into_iter();
            let found = conditions.find(|condition| condition.type_ == type_)?;
            (state.observed_generation == group.metadata.generation && found.status == status && found.reason == reason)
                .then_some(found.message)
        })
        .await
    }

    /// Waits until `Ready` has this reason, and returns its message.
    pub async fn until_reason(&self, name: &str, reason: &str) -> String {
        self.until(&format!("{name} is not ready because of {reason}"), || async {
            let group = self.groups().get_opt(name).await.unwrap()?;
            let state = group.status?;
            if state.observed_generation != group.metadata.generation {
                return None;
            }
            let ready = state
                .conditions
                .into_iter()
                .find(|condition| condition.type_ == "Ready")?;
            (ready.reason == reason).then_some(ready.message)
        })
        .await
    }

    pub async fn until_gone(&self, name: &str) {
        self.until(&format!("{name} is gone"), || async {
            self.groups().get_opt(name).await.unwrap().is_none().then_some(())
        })
        .await;
    }

    /// Waits until a field of the consumer's configuration has this value.
    pub async fn until_consumer(&self, queue: &str, field: &str, value: Value) {
        let stream = self.stream(queue);
        self.until(&format!("{field} of the consumer of {queue} is {value}"), || async {
            let consumer = self.nats.consumer(&stream).await?;
            (consumer["config"][field] == value).then_some(())
        })
        .await;
    }

    /// Waits until a field of the stream's configuration has this value.
    pub async fn until_stream(&self, queue: &str, field: &str, value: Value) {
        let stream = self.stream(queue);
        self.until(&format!("{field} of the stream of {queue} is {value}"), || async {
            (self.nats.stream(&stream).await?[field] == value).then_some(())
        })
        .await;
    }

    pub async fn deployment(&self, group: &str) -> Option<Deployment> {
        self.deployments().get_opt(&workers(group)).await.unwrap()
    }

    /// Waits for the Deployment of a group.
    pub async fn until_deployment(&self, group: &str) -> Deployment {
        self.until(&format!("the Deployment of {group}"), || self.deployment(group))
            .await
    }

    /// Replaces the spec of a TaskHandler.
    pub async fn change_handler(&self, name: &str, spec: Value) {
        let mut handler = self.handlers().get(name).await.unwrap();
        handler.spec = serde_json::from_value(spec).unwrap();
        self.handlers()
            .replace(name, &PostParams::default(), &handler)
            .await
            .unwrap();
    }

    /// Waits until a page of the admin server answers with this status, and returns the page.
    pub async fn until_admin(&self, path: &str, status: u16) -> String {
        self.until(&format!("{path} answers {status}"), || async {
            let answer = self.admin(path)?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            head.starts_with(&format!("HTTP/1.0 {status} "))
                .then(|| body.to_owned())
        })
        .await
    }

    /// The operator's metrics: value by name with labels.
    pub fn metrics(&self) -> HashMap<String, f64> {
        let answer = self.admin("/metrics").unwrap();
        let (head, text) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.0 200") && head.contains("application/openmetrics-text"),
            "{head}"
        );
        samples(text)
    }

    /// One of the operator's metrics that is a whole number; 0 where it was never counted.
    pub fn metric(&self, name: &str) -> u64 {
        let value = self.metrics().get(name).copied().unwrap_or(0.0);
        format!("{value:.0}").parse().unwrap()
    }

    /// The Events about a group, as `Reason: note`.
    pub async fn events(&self, name: &str) -> Vec<String> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let events = api.list(&ListParams::default()).await.unwrap();
        events
            .into_iter()
            .filter(|event| event.regarding.as_ref().and_then(|object| object.name.as_deref()) == Some(name))
            .map(|event| {
                format!(
                    "{}: {}",
                    event.reason.unwrap_or_default(),
                    event.note.unwrap_or_default()
                )
            })
            .collect()
    }

    /// A page of the operator's admin server: status and text.
    pub fn admin(&self, path: &str) -> Option<String> {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(self.admin).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text)
    }

    /// Plays the controller manager and the kubelet: says that all pods of a Deployment are ready.
    pub async fn pods_become_ready(&self, group: &str) {
        let deployment = self.deployments().get(&workers(group)).await.unwrap();
        let replicas = deployment.spec.unwrap().replicas;
        let status = json!({"status": {
            "observedGeneration": deployment.metadata.generation,
            "replicas": replicas,
            "readyReplicas": replicas,
            "updatedReplicas": replicas,
            "availableReplicas": replicas,
        }});
        self.deployments()
            .patch_status(&workers(group), &PatchParams::default(), &Patch::Merge(status))
            .await
            .unwrap();
    }
}

/// Reads metrics in the format of `OpenMetrics`.
fn samples(text: &str) -> HashMap<String, f64> {
    let text = text.strip_suffix("# EOF\n").expect("the metrics are complete");
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
            (
                name.to_owned(),
                value.parse().unwrap_or_else(|_| panic!("no number: {line}")),
            )
        })
        .collect()
}

/// Name of a group's Deployment.
pub fn workers(group: &str) -> String {
    format!("{group}-workers")
}

/// A handler that the API server accepts.
pub fn http_handler() -> Value {
    json!({
        "http": {"port": 8080},
        "template": {"spec": {"containers": [{"name": "handler", "image": "handler:test"}]}},
    })
}

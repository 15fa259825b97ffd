//! A real nats-server with JetStream, and a client of our own to look at it and to edit by hand.

use super::{
    process::Process,
    scratch::Scratch,
    tools::{Tool, free_port},
};
use async_nats::jetstream;
use futures::StreamExt;
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use taskgroup::protocol::StreamName;

/// How long the server may take to become ready; it takes about 0.1 s.
const PATIENCE: Duration = Duration::from_secs(30);

/// nats-server on loopback ports, killed when this is dropped or the test process ends.
pub struct NatsServer {
    port: u16,
    monitor: u16,
    extra: Vec<String>,
    server: Mutex<Option<Process>>,
    stores: AtomicUsize,
    dir: Scratch,
}

impl NatsServer {
    /// Starts a server with an empty store, and returns when it answers.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// Starts a server with these lines in its configuration file, for example the limits of JetStream.
    pub async fn start_with(config: &str) -> Self {
        for _ in 0..3 {
            let server = Self::new(config);
            if server.resume_or_fail().await {
                return server;
            }
        }
        panic!("nats-server does not start: {}", Self::new(config).last_words().await);
    }

    fn new(config: &str) -> Self {
        let dir = Scratch::new();
        let mut extra = Vec::new();
        if !config.is_empty() {
            let file = dir.path().join("nats.conf");
            std::fs::write(&file, config).unwrap();
            extra = vec!["-c".into(), file.display().to_string()];
        }
        Self {
            port: free_port(),
            monitor: free_port(),
            extra,
            server: Mutex::default(),
            stores: AtomicUsize::new(0),
            dir,
        }
    }

    async fn last_words(&self) -> String {
        self.resume_or_fail().await;
        self.server
            .lock()
            .unwrap()
            .as_ref()
            .map(Process::last_words)
            .unwrap_or_default()
    }

    /// Where clients connect to.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Where its store and its log are; gone when this is dropped.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Kills the server with SIGKILL; its store stays.
    pub fn stop(&self) {
        self.server.lock().unwrap().take();
    }

    /// Stops the server in good order, as an upgrade does; its store stays.
    pub async fn stop_gracefully(&self) {
        let Some(mut server) = self.server.lock().unwrap().take() else {
            return;
        };
        server.terminate();
        let deadline = Instant::now() + PATIENCE;
        while server.ended().is_none() {
            assert!(
                Instant::now() < deadline,
                "nats-server does not end: {}",
                server.last_words()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts the server again, on the same port.
    ///
    /// # Panics
    /// If it does not become ready.
    pub async fn resume(&self) {
        assert!(self.resume_or_fail().await, "nats-server does not start again");
    }

    /// Kills it and starts it again with the same store.
    pub async fn restart(&self) {
        self.stop();
        self.resume().await;
    }

    /// Kills it and starts it again with an empty store: all streams are lost.
    pub async fn wipe(&self) {
        self.stop();
        self.stores.fetch_add(1, Ordering::SeqCst);
        self.resume().await;
    }

    async fn resume_or_fail(&self) -> bool {
        let store = self
            .dir
            .path()
            .join(format!("store-{}", self.stores.load(Ordering::SeqCst)));
        let mut args: Vec<String> = ["-a", "127.0.0.1", "-js", "-sd"].map(Into::into).into();
        args.push(store.display().to_string());
        args.extend([
            "-p".into(),
            self.port.to_string(),
            "-m".into(),
            self.monitor.to_string(),
        ]);
        args.extend(self.extra.iter().cloned());
        let process = Process::start(&Tool::NatsServer.path(), &args, &self.dir.path().join("nats.log"));
        *self.server.lock().unwrap() = Some(process);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self
                .server
                .lock()
                .unwrap()
                .as_mut()
                .is_none_or(|server| server.ended().is_some())
            {
                return false;
            }
            if self.monitor("/healthz").is_ok_and(|text| text.contains("ok")) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    /// A page of the monitoring port, for example `/jsz`.
    pub fn monitor(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.monitor))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// A client of our own.
    pub async fn client(&self) -> async_nats::Client {
        async_nats::connect(self.url()).await.unwrap()
    }

    /// JetStream, by a client of our own.
    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client().await)
    }

    /// One request of the JetStream API, as a person with the `nats` tool would make it.
    pub async fn api(&self, subject: &str, body: Value) -> Value {
        self.jetstream().await.request(subject.to_owned(), &body).await.unwrap()
    }

    /// The configuration of a stream; `None` where there is none.
    pub async fn stream(&self, name: &str) -> Option<Value> {
        let answer = self.api(&format!("STREAM.INFO.{name}"), json!({})).await;
        answer.get("config").cloned()
    }

    /// Messages in a stream.
    pub async fn messages(&self, name: &str) -> u64 {
        let answer = self.api(&format!("STREAM.INFO.{name}"), json!({})).await;
        answer["state"]["messages"].as_u64().unwrap_or(0)
    }

    /// The workers' consumer of a group's stream; `None` where there is none.
    pub async fn consumer(&self, stream: &str) -> Option<Value> {
        let consumer = StreamName::from(stream).consumer();
        let answer = self.api(&format!("CONSUMER.INFO.{stream}.{consumer}"), json!({})).await;
        answer.get("config").is_some().then_some(answer)
    }

    /// The consumer `relay` of the delay stream; `None` where there is none.
    pub async fn relay(&self) -> Option<Value> {
        let answer = self.api("CONSUMER.INFO.TASKGROUP_DELAY.relay", json!({})).await;
        answer.get("config").is_some().then_some(answer)
    }

    /// How many messages a stream has under `subjects`.
    pub async fn count(&self, stream: &str, subjects: &str) -> u64 {
        let answer = self
            .api(&format!("STREAM.INFO.{stream}"), json!({"subjects_filter": subjects}))
            .await;
        let subjects = answer["state"]["subjects"].as_object().cloned().unwrap_or_default();
        subjects.values().filter_map(Value::as_u64).sum()
    }

    /// Names of all streams.
    pub async fn streams(&self) -> Vec<String> {
        let answer = self.api("STREAM.NAMES", json!({})).await;
        let names = answer["streams"].as_array().cloned().unwrap_or_default();
        names.iter().filter_map(|name| name.as_str().map(Into::into)).collect()
    }

    /// Publishes a task and waits for the confirmation.
    pub async fn publish(&self, subject: &str, payload: &str) {
        let jetstream = self.jetstream().await;
        let ack = jetstream
            .publish(subject.to_owned(), payload.to_owned().into())
            .await
            .unwrap();
        ack.await
            .unwrap_or_else(|error| panic!("{subject} takes no task: {error}"));
    }

    /// Writes down every request of the JetStream API from now on.
    pub async fn audit(&self) -> Audit {
        let client = self.client().await;
        let mut subscription = client.subscribe("$JS.EVENT.ADVISORY.API").await.unwrap();
        client.flush().await.unwrap();
        let subjects = Arc::new(Mutex::new(Vec::new()));
        let written = subjects.clone();
        tokio::spawn(async move {
            while let Some(message) = subscription.next().await {
                let advisory: Value = serde_json::from_slice(&message.payload).unwrap();
                written
                    .lock()
                    .unwrap()
                    .push(advisory["subject"].as_str().unwrap_or_default().to_owned());
            }
        });
        Audit { client, subjects }
    }
}

/// The requests of the JetStream API, as the server tells them.
pub struct Audit {
    client: async_nats::Client,
    subjects: Arc<Mutex<Vec<String>>>,
}

impl Audit {
    /// All requests so far, by their subjects without `$JS.API.`.
    pub async fn requests(&self) -> Vec<String> {
        // What the server sent before this is answered has arrived when it is answered.
        self.client.flush().await.unwrap();
        let subjects = self.subjects.lock().unwrap();
        subjects
            .iter()
            .map(|subject| subject.trim_start_matches("$JS.API.").to_owned())
            .collect()
    }

    /// Those of them that could change something.
    pub async fn writes(&self) -> Vec<String> {
        let reads = ["INFO", "LIST", "NAMES"];
        let mut requests = self.requests().await;
        requests.retain(|subject| !subject.split('.').any(|token| reads.contains(&token)));
        requests
    }
}

//! A worker as a process of its own, which can be killed.

use crate::{bed::until, support::worker};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use taskgroup::protocol::Queue;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// `taskgroup worker` as a process of its own. Killed when dropped, and when the test ends.
pub struct Worker {
    child: Child,
    admin: SocketAddr,
    log: Arc<Mutex<String>>,
}

impl Worker {
    /// Starts it for the handler at a URL, and returns when it says where its admin server is.
    pub async fn start(nats_url: &str, queue: &Queue, handler_url: &str) -> Self {
        Self::start_with(nats_url, queue, &["--handler-url", handler_url], &[]).await
    }

    /// Starts it with these arguments (first) and environment variables beside the usual ones.
    pub async fn start_with(nats_url: &str, queue: &Queue, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut child = worker::command(args, nats_url, &queue.namespace, &queue.name)
            .args(["--log-format", "json"])
            .envs(env.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .expect(worker::NEEDS);
        let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
        let log: Arc<Mutex<String>> = Arc::default();
        let written = log.clone();
        let (sender, started) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let mut sender = Some(sender);
            while let Some(Ok(line)) = lines.next() {
                if let Ok(entry) = serde_json::from_str::<Value>(&line)
                    && let Some(admin) = entry["admin"].as_str()
                    && let Some(sender) = sender.take()
                {
                    let _ = sender.send(admin.parse().expect("an address"));
                }
                let mut log = written.lock().expect("the log");
                log.push_str(&line);
                log.push('\n');
            }
        });
        let admin = started.await.expect("the worker says where its admin server is");
        Self { child, admin, log }
    }

    /// Waits until it is ready.
    pub async fn ready(&self) {
        until("the worker is ready", async || self.get("/readyz").await.0 == 200).await;
    }

    /// Waits until it is not ready, for a reason that contains `words`.
    pub async fn not_ready(&self, words: &str) {
        until(&format!("the worker is not ready: {words}"), async || {
            let (status, text) = self.get("/readyz").await;
            status == 503 && text.contains(words)
        })
        .await;
    }

    /// A page of its admin server; status 0 where there is none.
    pub async fn get(&self, path: &str) -> (u16, String) {
        get(self.admin, path).await.unwrap_or_default()
    }

    /// A page of its admin server, asked for now and awaited later.
    pub fn ask(&self, path: &'static str) -> tokio::task::JoinHandle<(u16, String)> {
        let admin = self.admin;
        tokio::spawn(async move { get(admin, path).await.unwrap_or_default() })
    }

    /// One sample of its metrics.
    pub async fn metric(&self, sample: &str) -> f64 {
        let (_, text) = self.get("/metrics").await;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a number"))
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// SIGSTOP: returns once the worker stands still, with all its connections. On a busy machine, a thread may run on for
    /// milliseconds after the signal was sent.
    pub fn freeze(&self) {
        self.signal("-STOP");
        let begun = Instant::now();
        while !self.is_stopped() {
            assert!(begun.elapsed() < Duration::from_secs(60), "the worker does not stop");
            std::thread::yield_now();
        }
    }

    /// Whether every thread of the worker is stopped.
    fn is_stopped(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("the worker lives");
        threads.flatten().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The state follows the name, which is in parentheses.
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        })
    }

    /// SIGCONT: it goes on.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.expect("kill can be run").success(), "the worker was gone already");
    }

    /// Waits for its end.
    pub async fn exit(&mut self) -> ExitStatus {
        let mut status = None;
        until("the worker ends", async || {
            status = self.child.try_wait().expect("its state");
            status.is_some()
        })
        .await;
        status.expect("a status")
    }

    /// Ends it without a chance to say a word: kill -9.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What it logged so far.
    pub fn log_entries(&self) -> Vec<Value> {
        let log = self.log.lock().expect("the log");
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// How often `words` are in its log so far.
    pub fn logged(&self, words: &str) -> usize {
        self.log.lock().expect("the log").matches(words).count()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- a worker's log:\n{}", self.log.lock().expect("the log"));
        }
    }
}

async fn get(addr: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(addr).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

//! The worker: in this process with a function for a handler, or in one of its own.

use crate::{
    bed::{Group, until},
    floor::Work,
    servers::{process::Process, scratch::Scratch},
    support::usage::{Usage, WITH_PID},
};
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use taskgroup::worker::{self, AttemptResult, InProcess, Output};
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// A worker in this process.
pub struct Embedded {
    worker: JoinHandle<anyhow::Result<()>>,
    shutdown: CancellationToken,
}

impl Embedded {
    fn start<F>(run: impl FnOnce(CancellationToken) -> F) -> Self
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let shutdown = CancellationToken::new();
        let worker = tokio::spawn(run(shutdown.clone()));
        Self { worker, shutdown }
    }

    /// Has it finish what runs, and returns when it has ended.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.worker.await.unwrap().unwrap();
    }
}

/// A worker of the group with a function for a handler.
pub fn in_process(group: &Group<'_>, work: Work) -> Embedded {
    let handler: InProcess = Arc::new(move |attempt| {
        let work = work(attempt.payload.clone());
        Box::pin(async move {
            work.await;
            AttemptResult::Answered {
                status: 200,
                retry_after: None,
                body: Output::default(),
            }
        })
    });
    let args = group.worker_args("http://none/");
    Embedded::start(|shutdown| worker::run_with(args, handler, shutdown))
}

/// A worker of the group in this process, for the handler at `url`.
pub fn http(group: &Group<'_>, url: &str) -> Embedded {
    let args = group.worker_args(url);
    Embedded::start(|shutdown| worker::run(args, shutdown))
}

/// The worker's own binary.
pub struct Own {
    pub usage: Usage,
    _process: Process,
    _dir: Scratch,
}

impl Own {
    /// Starts it, and returns when it is ready.
    pub async fn start(group: &Group<'_>, url: &str) -> Self {
        let dir = Scratch::new();
        let port = crate::servers::tools::free_port();
        let pid_file = dir.path().join("pid");
        let args = [
            "-c".to_owned(),
            WITH_PID.into(),
            "sh".into(),
            pid_file.display().to_string(),
            env!("CARGO_BIN_EXE_taskgroup-worker").into(),
            "worker".into(),
            format!("--nats-url={}", group.nats_url()),
            format!("--namespace={}", group.queue.namespace),
            format!("--queue={}", group.queue.name),
            format!("--handler-url={url}"),
            format!("--admin-addr=127.0.0.1:{port}"),
        ];
        let mut process = Process::start(Path::new("sh"), &args, &dir.path().join("log"));
        until("the worker is ready", async || {
            assert!(process.ended().is_none(), "{}", process.last_words());
            is_ready(port).await
        })
        .await;
        Self {
            usage: Usage::of(&pid_file),
            _process: process,
            _dir: dir,
        }
    }
}

async fn is_ready(port: u16) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let request = b"GET /readyz HTTP/1.0\r\n\r\n";
        stream.write_all(request).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        answer.split(' ').nth(1).map(|status| status == "200")
    };
    ask.await.unwrap_or(false)
}

/// Share of one core that each worker takes, in percent, over `window`.
pub async fn cpu_percent(workers: &[Own], window: Duration) -> Vec<f64> {
    let (before, start): (Vec<_>, _) = (
        workers.iter().map(|worker| worker.usage.cpu()).collect(),
        Instant::now(),
    );
    tokio::time::sleep(window).await;
    let wall = start.elapsed().as_secs_f64();
    let used = workers.iter().zip(before);
    used.map(|(worker, before)| (worker.usage.cpu() - before) / wall * 100.0)
        .collect()
}

//! The worker: in this process with a function for a handler, or in one of its own.

use crate::{
    bed::{Group, until},
    floor::Work,
    servers::{process::Process, scratch::Scratch},
};
use std::{
    fs,
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

/// Writes its process id where we find it, then becomes the worker: its use is read from /proc.
const WITH_PID: &str = r#"echo $$ >"$1"; shift; exec "$@""#;

/// The worker's own binary.
pub struct Own {
    pid: u32,
    process: Process,
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
        let pid = fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
        Self {
            pid,
            process,
            _dir: dir,
        }
    }

    /// Its resident memory in MB (10^6 bytes).
    pub fn memory(&self) -> f64 {
        self.status("VmRSS:")
    }

    /// The part of that which is its own: the rest is the program's file, which all workers of a node share.
    pub fn own_memory(&self) -> f64 {
        self.status("RssAnon:")
    }

    fn status(&self, field: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))
            .unwrap_or_else(|_| panic!("{}", self.process.last_words()));
        let kibibytes: f64 = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB"))
            .and_then(|number| number.parse().ok())
            .expect("/proc tells the resident memory");
        kibibytes * 1024.0 / 1e6
    }

    /// Processor time that it took so far.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        // The name before the last bracket may have blanks in it; utime and stime are the 14th and 15th.
        let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11..=12].iter().map(|field| field.parse::<u64>().unwrap()).sum();
        // USER_HZ is 100 on every Linux there is.
        Duration::from_millis(ticks * 10)
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
    let (before, start): (Vec<_>, _) = (workers.iter().map(Own::cpu).collect(), Instant::now());
    tokio::time::sleep(window).await;
    let wall = start.elapsed().as_secs_f64();
    let used = workers
        .iter()
        .zip(before)
        .map(|(worker, before)| worker.cpu().saturating_sub(before));
    used.map(|used| used.as_secs_f64() / wall * 100.0).collect()
}

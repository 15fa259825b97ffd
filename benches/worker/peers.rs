//! What one might pick instead: Celery and `BullMQ`, each with a fresh Redis of its own. `benches/peers/run`
//! installs them and says by environment variables where they are.

use crate::servers::{process::Process, scratch::Scratch, tools::free_port};
use std::{
    env, fs,
    net::TcpStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Ways to run Celery's worker on 2 cores, with its concurrency: processes, and green threads.
pub const CELERY: [(&str, usize); 2] = [("prefork", 2), ("gevent", 100)];

/// How long one measurement may take: Celery puts 8,000 tasks into its queue in about 10 s.
const PATIENCE: Duration = Duration::from_secs(300);

/// Tasks per second of a Celery worker.
pub async fn celery(tasks: usize, pool: &str, concurrency: usize) -> f64 {
    let args = [tasks.to_string(), pool.to_owned(), concurrency.to_string()];
    rate(&variable("PEERS_PYTHON"), "celery_bench.py", &args).await
}

/// Tasks per second of a `BullMQ` worker.
pub async fn bullmq(tasks: usize, concurrency: usize) -> f64 {
    let args = [tasks.to_string(), concurrency.to_string()];
    rate(Path::new("/usr/bin/env"), "bullmq_bench.js", &args).await
}

/// Runs a script beside a Redis that keeps nothing on disk, and returns the number that it prints.
async fn rate(program: &Path, script: &str, args: &[String]) -> f64 {
    let (dir, port) = (Scratch::new(), free_port());
    let redis = format!("--bind 127.0.0.1 --port {port} --save  --appendonly no --dir");
    let mut redis: Vec<String> = redis.split(' ').map(Into::into).collect();
    redis.push(dir.path().display().to_string());
    let mut redis = Process::start(&variable("REDIS_SERVER"), &redis, &dir.path().join("redis.log"));
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(
            redis.ended().is_none() && begun.elapsed() < PATIENCE,
            "{}",
            redis.last_words()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let script = variable("PEERS").join(script).display().to_string();
    let mut all = vec![script, port.to_string()];
    if program.ends_with("env") {
        all.insert(0, "node".into());
    }
    all.extend_from_slice(args);
    let output = dir.path().join("output");
    let mut process = Process::start(program, &all, &output);
    let status = loop {
        if let Some(status) = process.ended() {
            break status;
        }
        assert!(begun.elapsed() < PATIENCE, "{}", process.last_words());
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(status.success(), "{}", process.last_words());
    let text = fs::read_to_string(&output).unwrap();
    let number = text.lines().rev().find_map(|line| line.trim().parse().ok());
    number.unwrap_or_else(|| panic!("no number: {text}"))
}

fn variable(key: &str) -> PathBuf {
    env::var_os(key)
        .unwrap_or_else(|| panic!("{key} is not set: run `make bench-peers`"))
        .into()
}

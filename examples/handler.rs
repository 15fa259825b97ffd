//! The sample handler of the demo and of the end-to-end test: takes a task, takes its time, answers.
//!
//! Environment:
//! - `PORT`: where it listens, on all addresses; 8080 by default.
//! - `TASK_TIME`: how long a task takes, for example `200ms` or `1m30s`; `1s` by default.
//! - `RECORDER_URL`: where the begin and the end of every attempt are POSTed to, as
//!   `{"event": "start" | "end" | "cut", "group", "task", "attempt", "pod", "at": <microseconds since 1970>}`,
//!   so that somebody can count what ran at once over all pods; `cut` is the end of an attempt that the
//!   worker hung up on. An attempt that can't be recorded fails with 503 rather than run uncounted.
//!   Without it nothing is recorded. `handler recorder` listens for such events.
//!   `handler task` does one task and ends, as a TaskHandler with `exec` wants it.
//! - `HOSTNAME`: what it calls itself as `pod`; Kubernetes sets it.
//!
//! A task may ask for another fate, by its payload:
//! `{"sleep": "10s"}` takes that long; `{"fail": 503}` fails with that status (or exit code); with `"until": 3` only the
//! attempts before the third do. Or by its id: `fail-400-…` fails with status 400.
//!
//! `GET /healthz` answers `ok`.

mod recorder;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::get,
};
use bytes::Bytes;
use recorder::client::{Attempt, Recorder};
use serde::Deserialize;
use std::{io::Read, process::ExitCode, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

struct Handler {
    task_time: Duration,
    recorder: Option<Recorder>,
}

/// What a task may ask for.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Wishes {
    sleep: Option<String>,
    fail: Option<u16>,
    until: Option<u32>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    taskgroup::telemetry::init(taskgroup::telemetry::LogFormat::Text, "info")?;
    let port: u16 = variable("PORT", "8080")
        .parse()
        .map_err(|_| anyhow::anyhow!("PORT is no port: write for example 8080"))?;
    let task_time = variable("TASK_TIME", "1s");
    let task_time =
        duration(&task_time).ok_or_else(|| anyhow::anyhow!("TASK_TIME {task_time:?} is no duration: write 200ms"))?;
    let recorder = Recorder::from_env();
    let handler = Handler {
        task_time,
        recorder: recorder.clone(),
    };
    let shutdown = CancellationToken::new();
    tokio::spawn(taskgroup::telemetry::cancel_on_signal(shutdown.clone()));
    let app = match std::env::args().nth(1).as_deref() {
        Some("task") => return Ok(run_one(&handler).await),
        Some("recorder") => {
            tracing::info!(port, "recording");
            recorder::app()
        }
        _ => {
            tracing::info!(port, ?task_time, "taking tasks");
            Router::new().fallback(handle).with_state(Arc::new(handler))
        }
    };
    let app = app.route("/healthz", get(|| async { "ok\n" }));
    let listener = tokio::net::TcpListener::bind(("0.0.0.0", port)).await?;
    axum::serve(listener, app)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await?;
    if let Some(recorder) = recorder {
        recorder.finish().await;
    }
    Ok(ExitCode::SUCCESS)
}

async fn handle(State(handler): State<Arc<Handler>>, headers: HeaderMap, payload: Bytes) -> (StatusCode, String) {
    let attempt = attempt_of(&headers);
    match handler.run(attempt.clone(), &payload).await {
        Ok(Some(status)) => (
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            format!("attempt {} fails as asked\n", attempt.number),
        ),
        Ok(None) => (StatusCode::OK, format!("{} is done\n", attempt.task)),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("can't be recorded: {error}\n")),
    }
}

impl Handler {
    /// Takes the time of a task, and returns how it wishes to fail, if it does.
    async fn run(&self, attempt: Attempt, payload: &[u8]) -> Result<Option<u16>, String> {
        let mut running = match &self.recorder {
            Some(recorder) => Some(recorder.start(attempt.clone()).await?),
            None => None,
        };
        let wishes: Wishes = serde_json::from_slice(payload).unwrap_or_default();
        let time = wishes.sleep.as_deref().and_then(duration);
        tokio::time::sleep(time.unwrap_or(self.task_time)).await;
        if let Some(running) = &mut running {
            running.end().await;
        }
        let by_id = || attempt.task.strip_prefix("fail-")?.get(..3)?.parse().ok();
        let fails = wishes.fail.or_else(by_id);
        Ok(fails.filter(|_| wishes.until.is_none_or(|until| attempt.number < until)))
    }
}

/// The attempt that a request is about.
fn attempt_of(headers: &HeaderMap) -> Attempt {
    let text = |name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    Attempt {
        group: text("X-Task-Group"),
        task: text("X-Call-Id"),
        number: text("X-Attempt").parse().unwrap_or(1),
    }
}

/// The one task of this process, which the environment describes; the answer is the exit code.
async fn run_one(handler: &Handler) -> ExitCode {
    let attempt = Attempt {
        group: variable("X_TASK_GROUP", ""),
        task: variable("X_CALL_ID", ""),
        number: variable("X_ATTEMPT", "1").parse().unwrap_or(1),
    };
    let mut payload = Vec::new();
    if let Err(error) = std::io::stdin().read_to_end(&mut payload) {
        eprintln!("the task can't be read: {error}");
        return ExitCode::FAILURE;
    }
    match handler.run(attempt.clone(), &payload).await {
        Ok(None) => {
            println!("{} is done", attempt.task);
            ExitCode::SUCCESS
        }
        Ok(Some(code)) => {
            eprintln!("attempt {} fails as asked", attempt.number);
            u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Err(error) => {
            eprintln!("can't be recorded: {error}");
            ExitCode::FAILURE
        }
    }
}

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn duration(text: &str) -> Option<Duration> {
    text.parse::<jiff::SignedDuration>().ok()?.try_into().ok()
}

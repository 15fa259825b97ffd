//! The sample handler of the demo and of the end-to-end test. It takes a task, takes its time, and answers.
//!
//! Environment:
//! - `PORT` is the port to listen on, on all addresses; 8080 by default.
//! - `TASK_TIME` is the duration of a task, for example `200ms` or `1m30s`; `1s` by default.
//! - `RECORDER_URL` receives a POST at the start and at the end of every attempt:
//!   `{"event": "start" | "end" | "cut", "group", "task", "attempt", "pod", "at": <microseconds since 1970>}`.
//!   A reader can thus count what ran at once across all pods. `cut` ends an attempt whose connection the worker closed.
//!   An attempt that can't be recorded fails with 503 instead of running uncounted. Without `RECORDER_URL`, nothing is
//!   recorded. `handler recorder` receives such events.
//! - `HOSTNAME` is reported as `pod`. Kubernetes sets it.
//!
//! `handler task` runs one task and exits, as a TaskHandler with `exec` expects.
//!
//! The payload of a task can request another outcome. `{"sleep": "10s"}` takes that long. `{"fail": 503}` fails with that
//! status or exit code. With `"until": 3`, only the attempts before the third fail. A task with the id `fail-400-…` fails
//! with status 400.
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

/// The outcome that a task's payload requests.
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
    /// Takes the task's time, and returns the failure that the task requests, if any.
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

/// Reads the attempt from the request's headers.
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

/// Runs the one task of this process, which the environment describes, and returns the exit code.
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

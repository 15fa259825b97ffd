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
//! - `HOSTNAME`: what it calls itself as `pod`; Kubernetes sets it.
//!
//! A task may ask for another fate, by its payload:
//! `{"sleep": "10s"}` takes that long; `{"fail": 503}` fails with that status; with `"until": 3` only the
//! attempts before the third do. Or by its id: `fail-400-…` fails with status 400.
//!
//! `GET /healthz` answers `ok`.

mod recorder;

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, Request, StatusCode, header},
    routing::get,
};
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Deserialize;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

struct Handler {
    task_time: Duration,
    recorder: Option<Recorder>,
}

#[derive(Clone)]
struct Recorder {
    url: String,
    pod: String,
    client: Client<HttpConnector, Full<Bytes>>,
    /// News of attempts that the worker cut off, on their way.
    ends: TaskTracker,
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
async fn main() -> anyhow::Result<()> {
    taskgroup::telemetry::init(taskgroup::telemetry::LogFormat::Text, "info")?;
    let port: u16 = variable("PORT", "8080")
        .parse()
        .map_err(|_| anyhow::anyhow!("PORT is no port: write for example 8080"))?;
    let task_time = variable("TASK_TIME", "1s");
    let task_time =
        duration(&task_time).ok_or_else(|| anyhow::anyhow!("TASK_TIME {task_time:?} is no duration: write 200ms"))?;
    let ends = TaskTracker::new();
    let recorder = std::env::var("RECORDER_URL").ok().map(|url| Recorder {
        url,
        pod: variable("HOSTNAME", "unnamed"),
        client: Client::builder(TokioExecutor::new()).build_http(),
        ends: ends.clone(),
    });
    let shutdown = CancellationToken::new();
    tokio::spawn(taskgroup::telemetry::cancel_on_signal(shutdown.clone()));
    let app = if std::env::args().nth(1).as_deref() == Some("recorder") {
        tracing::info!(port, "recording");
        recorder::app()
    } else {
        tracing::info!(port, ?task_time, "taking tasks");
        Router::new()
            .fallback(handle)
            .with_state(Arc::new(Handler { task_time, recorder }))
    };
    let app = app.route("/healthz", get(|| async { "ok\n" }));
    let listener = tokio::net::TcpListener::bind(("0.0.0.0", port)).await?;
    axum::serve(listener, app)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await?;
    ends.close();
    ends.wait().await;
    Ok(())
}

async fn handle(State(handler): State<Arc<Handler>>, headers: HeaderMap, payload: Bytes) -> (StatusCode, String) {
    let attempt = Attempt::of(&headers);
    let mut running = match &handler.recorder {
        Some(recorder) => match recorder.start(attempt.clone()).await {
            Ok(running) => Some(running),
            Err(error) => return (StatusCode::SERVICE_UNAVAILABLE, format!("can't be recorded: {error}\n")),
        },
        None => None,
    };
    let wishes: Wishes = serde_json::from_slice(&payload).unwrap_or_default();
    let time = wishes.sleep.as_deref().and_then(duration);
    tokio::time::sleep(time.unwrap_or(handler.task_time)).await;
    let by_id = || attempt.task.strip_prefix("fail-")?.get(..3)?.parse().ok();
    let fails = wishes.fail.or_else(by_id);
    if let Some(running) = &mut running {
        running.end().await;
    }
    match fails.and_then(|status| StatusCode::from_u16(status).ok()) {
        Some(status) if wishes.until.is_none_or(|until| attempt.number < until) => {
            (status, format!("attempt {} fails as asked\n", attempt.number))
        }
        _ => (StatusCode::OK, format!("{} is done\n", attempt.task)),
    }
}

#[derive(Clone)]
struct Attempt {
    group: String,
    task: String,
    number: u32,
}

impl Attempt {
    fn of(headers: &HeaderMap) -> Self {
        let text = |name: &str| {
            let value = headers.get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        Self {
            group: text("X-Task-Group"),
            task: text("X-Call-Id"),
            number: text("X-Attempt").parse().unwrap_or(1),
        }
    }
}

impl Recorder {
    async fn start(&self, attempt: Attempt) -> Result<Running, String> {
        self.tell("start", &attempt, now()).await?;
        Ok(Running {
            recorder: self.clone(),
            attempt,
            ended: false,
        })
    }

    async fn tell(&self, event: &str, attempt: &Attempt, at: u64) -> Result<(), String> {
        let body = json!({
            "event": event,
            "group": attempt.group,
            "task": attempt.task,
            "attempt": attempt.number,
            "pod": self.pod,
            "at": at,
        });
        let request = Request::post(&self.url)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body.to_string()))
            .map_err(|error| error.to_string())?;
        match self.client.request(request).await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("the recorder answers {}", answer.status())),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// An attempt that the recorder knows of.
struct Running {
    recorder: Recorder,
    attempt: Attempt,
    ended: bool,
}

impl Running {
    /// Recorded before the worker is answered: when the next task starts, this one has ended.
    async fn end(&mut self) {
        said(self.recorder.tell("end", &self.attempt, now()).await, &self.attempt);
        self.ended = true;
    }
}

impl Drop for Running {
    /// The worker hung up, and the server dropped the request.
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (recorder, attempt, at) = (self.recorder.clone(), self.attempt.clone(), now());
        self.recorder
            .ends
            .spawn(async move { said(recorder.tell("cut", &attempt, at).await, &attempt) });
    }
}

fn said(result: Result<(), String>, attempt: &Attempt) {
    if let Err(error) = result {
        tracing::warn!(
            error,
            task = attempt.task,
            "the end of an attempt could not be recorded"
        );
    }
}

/// Microseconds since 1970.
fn now() -> u64 {
    let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(at.unwrap_or_default().as_micros()).unwrap_or(u64::MAX)
}

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn duration(text: &str) -> Option<Duration> {
    text.parse::<jiff::SignedDuration>().ok()?.try_into().ok()
}

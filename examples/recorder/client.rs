//! Reports the start and the end of each attempt to the recorder, so that a reader can count what ran at once.

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::json;
use tokio_util::task::TaskTracker;

#[derive(Clone)]
pub struct Recorder {
    url: String,
    pod: String,
    client: Client<HttpConnector, Full<Bytes>>,
    /// Reports about aborted attempts that are being sent.
    ends: TaskTracker,
}

#[derive(Clone)]
pub struct Attempt {
    pub group: String,
    pub task: String,
    /// Counts from 1.
    pub number: u32,
}

impl Recorder {
    /// Returns the recorder of `RECORDER_URL`, if it is set. `HOSTNAME` becomes the name of the pod.
    pub fn from_env() -> Option<Self> {
        Some(Self {
            url: std::env::var("RECORDER_URL").ok()?,
            pod: std::env::var("HOSTNAME").unwrap_or_else(|_| "unnamed".to_owned()),
            client: Client::builder(TokioExecutor::new()).build_http(),
            ends: TaskTracker::new(),
        })
    }

    /// Reports the start of an attempt.
    pub async fn start(&self, attempt: Attempt) -> Result<Running, String> {
        self.tell("start", &attempt, now()).await?;
        Ok(Running {
            recorder: self.clone(),
            attempt,
            ended: false,
        })
    }

    /// Waits until every report is sent.
    pub async fn finish(&self) {
        self.ends.close();
        self.ends.wait().await;
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

/// An attempt whose start was reported.
pub struct Running {
    recorder: Recorder,
    attempt: Attempt,
    ended: bool,
}

impl Running {
    /// Reports the end. Call this before the task finishes, so that the recorder sees the end before the next start.
    pub async fn end(&mut self) {
        said(self.recorder.tell("end", &self.attempt, now()).await, &self.attempt);
        self.ended = true;
    }
}

impl Drop for Running {
    /// Reports an attempt that was aborted, because the worker closed the connection or the lease was lost.
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

//! `GET /drained` answers once this worker was asked to stop *and* has finished all its tasks.
//!
//! The kubelet stops the containers of a pod at the same time. A `preStop` hook of the handler's container that gets this
//! page keeps the handler alive for as long as the worker needs it. A hook that comes before the worker was asked to
//! stop waits. A hook that comes late finds the worker still here for a moment.

use axum::{Router, extract::State, routing::get};
use std::{sync::Arc, time::Duration};
use tokio::{sync::Notify, time};
use tokio_util::sync::CancellationToken;

/// How long the worker stays for a hook that comes a little later than SIGTERM.
const LINGER: Duration = Duration::from_millis(500);

/// Tells the page that the worker has finished all its tasks. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Drained {
    finished: CancellationToken,
    asked: Arc<Notify>,
}

impl Drained {
    pub fn page(&self) -> Router {
        Router::new().route("/drained", get(wait)).with_state(self.clone())
    }

    /// Lets the page answer, and returns once somebody asked for it, or nobody did for a moment. What
    /// was asked is answered when the admin server is shut down gracefully.
    pub async fn finish(&self) {
        self.finished.cancel();
        // Nobody there is no failure: a worker without a handler beside it has no hook.
        let _ = time::timeout(LINGER, self.asked.notified()).await;
    }
}

async fn wait(State(drained): State<Drained>) -> &'static str {
    drained.asked.notify_one();
    drained.finished.cancelled().await;
    "drained\n"
}

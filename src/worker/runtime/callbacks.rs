//! Bounds the callbacks that this process makes at once, and waits for the last ones.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

/// Callbacks that one process makes at once. Those beyond it wait in the delays.
const AT_ONCE: usize = 64;

/// The callbacks under way.
pub struct Callbacks {
    free: Arc<Semaphore>,
    running: TaskTracker,
}

impl Default for Callbacks {
    fn default() -> Self {
        Self {
            free: Arc::new(Semaphore::new(AT_ONCE)),
            running: TaskTracker::new(),
        }
    }
}

impl Callbacks {
    /// The right to make one callback; `None` while as many as allowed are under way.
    pub fn permit(&self) -> Option<OwnedSemaphorePermit> {
        self.free.clone().try_acquire_owned().ok()
    }

    /// Makes a callback in the background.
    pub fn spawn(&self, permit: OwnedSemaphorePermit, callback: impl Future<Output = ()> + Send + 'static) {
        self.running.spawn(async move {
            let _permit = permit;
            callback.await;
        });
    }

    /// Returns when no callback is under way. To be called when no more begin.
    pub async fn finished(&self) {
        self.running.close();
        self.running.wait().await;
    }
}

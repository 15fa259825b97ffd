//! Runs the services of a process, and stops the process when one of them fails.
//!
//! A process that goes on without one of its services looks healthy and is not: a worker that no longer renews
//! leases, an operator that no longer hears of changes. So a service that ends before the process is asked to stop
//! ends the whole process, and Kubernetes starts it anew.

use crate::admin::Health;
use anyhow::anyhow;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use tokio::{
    task::{Id, JoinError, JoinSet},
    time,
};
use tokio_util::sync::CancellationToken;

/// How long the remaining services may take to wind up after one of them failed.
const WIND_UP: Duration = Duration::from_secs(5);

/// When a service ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// The supervisor stops it after the graceful services have ended.
    Stopped,
    /// The service ends by itself soon after the shutdown.
    Graceful,
}

/// The services of a process.
pub struct Supervisor {
    health: Health,
    shutdown: CancellationToken,
    services: JoinSet<anyhow::Result<()>>,
    running: HashMap<Id, (&'static str, Ending)>,
}

impl Supervisor {
    /// Supervises no service yet. `shutdown` tells that the process is asked to stop. A failed service cancels it,
    /// too, and `health` then reports the process as dead.
    pub fn new(health: Health, shutdown: CancellationToken) -> Self {
        Self {
            health,
            shutdown,
            services: JoinSet::new(),
            running: HashMap::new(),
        }
    }

    /// Starts a service that runs until the supervisor stops it, after all graceful services have ended.
    pub fn background(
        &mut self,
        name: &'static str,
        service: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let id = self.services.spawn(service).id();
        self.running.insert(id, (name, Ending::Stopped));
    }

    /// Starts a service that ends by itself after the shutdown. The process waits for that.
    pub fn graceful(&mut self, name: &'static str, service: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        let id = self.services.spawn(service).id();
        self.running.insert(id, (name, Ending::Graceful));
    }

    /// Runs the services until the process is asked to stop and the graceful ones have ended.
    ///
    /// # Errors
    /// A service that panicked, or ended before the process was asked to stop. The error names it.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let mut failure = None;
        let mut give_up = None;
        while !self.shutdown.is_cancelled() || self.waits_for_graceful() {
            tokio::select! {
                Some(ended) = self.services.join_next_with_id() => {
                    if let Some(error) = self.judge(ended) {
                        tracing::error!("{error:#}; the process stops");
                        self.health.dead(format!("{error:#}"));
                        failure.get_or_insert(error);
                        give_up.get_or_insert_with(|| Instant::now() + WIND_UP);
                        self.shutdown.cancel();
                    }
                }
                () = self.shutdown.cancelled(), if !self.shutdown.is_cancelled() => {}
                () = sleep_until(give_up) => break,
            }
        }
        self.services.shutdown().await;
        failure.map_or(Ok(()), Err)
    }

    fn waits_for_graceful(&self) -> bool {
        self.running.values().any(|(_, ending)| *ending == Ending::Graceful)
    }

    /// Returns the failure, if the end of this service is one.
    fn judge(&mut self, ended: Result<(Id, anyhow::Result<()>), JoinError>) -> Option<anyhow::Error> {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let (name, _) = self.running.remove(&id)?;
        match ended {
            Err(error) => Some(anyhow!("the service \"{name}\" failed: {error}")),
            Ok((_, result)) if self.shutdown.is_cancelled() => {
                if let Err(error) = result {
                    tracing::warn!("the service \"{name}\" ended with an error: {error:#}");
                }
                None
            }
            Ok((_, Err(error))) => Some(error.context(format!("the service \"{name}\" failed"))),
            Ok((_, Ok(()))) => Some(anyhow!("the service \"{name}\" ended unexpectedly")),
        }
    }
}

/// Sleeps until `time`; for ever without one.
async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        future::pending,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };

    fn supervisor() -> (Supervisor, Health, CancellationToken) {
        let (health, shutdown) = (Health::starting("test"), CancellationToken::new());
        (Supervisor::new(health.clone(), shutdown.clone()), health, shutdown)
    }

    #[tokio::test]
    async fn a_service_that_ends_ends_the_process_and_is_named() {
        let (mut supervisor, health, shutdown) = supervisor();
        supervisor.background("events", async { Ok(()) });
        supervisor.background("sweep", pending());
        let error = supervisor.run().await.expect_err("a failure");
        assert_eq!(error.to_string(), "the service \"events\" ended unexpectedly");
        assert_eq!(health.dead_because(), Some(error.to_string()));
        assert!(shutdown.is_cancelled());
    }

    #[tokio::test]
    async fn a_service_that_panics_ends_the_process_and_is_named() {
        let (mut supervisor, health, _) = supervisor();
        supervisor.graceful("relay", async { panic!("no such luck") });
        let error = supervisor.run().await.expect_err("a failure").to_string();
        assert!(
            error.starts_with("the service \"relay\" failed") && error.contains("no such luck"),
            "{error}"
        );
        assert_eq!(health.dead_because(), Some(error));
    }

    #[tokio::test]
    async fn the_error_of_a_service_is_told() {
        let (mut supervisor, ..) = supervisor();
        supervisor.background("cancel", async { Err(anyhow!("can't subscribe")) });
        let error = format!("{:#}", supervisor.run().await.expect_err("a failure"));
        assert_eq!(error, "the service \"cancel\" failed: can't subscribe");
    }

    #[tokio::test]
    async fn a_shutdown_waits_for_graceful_services_while_the_others_go_on() {
        let (mut supervisor, health, shutdown) = supervisor();
        let wound_up = Arc::new(AtomicBool::new(false));
        let (token, done) = (shutdown.clone(), wound_up.clone());
        let (ask, mut asked) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<()>>(1);
        supervisor.background("server", async move {
            while let Some(answer) = asked.recv().await {
                let _ = answer.send(());
            }
            Ok(())
        });
        supervisor.graceful("client", async move {
            token.cancelled().await;
            let (sender, answer) = tokio::sync::oneshot::channel();
            ask.send(sender).await?;
            answer.await?;
            done.store(true, Ordering::SeqCst);
            Ok(())
        });
        shutdown.cancel();
        supervisor.run().await.expect("a clean end");
        assert!(wound_up.load(Ordering::SeqCst));
        assert_eq!(health.dead_because(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_process_does_not_wait_for_ever_for_the_others() {
        let (mut supervisor, ..) = supervisor();
        supervisor.background("events", async { Ok(()) });
        supervisor.graceful("controller", pending());
        supervisor.run().await.expect_err("a failure");
    }
}

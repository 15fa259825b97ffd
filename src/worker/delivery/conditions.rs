//! The conditions under which a group's tasks are pulled: a connection, a consumer with settings, a handler that is there,
//! and a process that goes on.

use crate::{
    broker::Link,
    worker::{
        group::{Group, GroupSnapshot},
        runtime::GroupReadiness,
    },
};
use std::{sync::Arc, time::Duration};
use tokio::{select, sync::watch};

/// All conditions together.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// Nobody has looked yet.
    Unknown,
    /// Tasks may be pulled.
    Ready,
    /// The process shuts down.
    Stopping,
    /// The handler takes no connections.
    Handler(String),
    /// The broker is away, or has no consumer for the group.
    Broker(String),
}

/// The use of pulls at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulling {
    /// Tasks may be pulled.
    Allowed,
    /// The broker is away, or has no consumer. It has no pulls, either.
    Impossible,
    /// A task that comes could not run. What was asked for is to be taken back.
    Withdrawn,
}

/// The conditions of one group.
pub struct Conditions {
    group: Arc<Group>,
    readiness: GroupReadiness,
    state: watch::Receiver<GroupSnapshot>,
    handler: watch::Receiver<Option<String>>,
    link: watch::Receiver<Link>,
    /// The number of the connection, and the server at its other end.
    epoch: u64,
    server: Option<String>,
    /// The standing that was logged last.
    said: Standing,
}

/// The conditions at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub pulling: Pulling,
    /// The number of the connection.
    pub epoch: u64,
    /// The connection is the first one to a restarted server, which may have forgotten deliveries.
    pub server_restarted: bool,
    /// Whether tasks start by a rate.
    pub has_rate: bool,
    /// The group's `ackWait`; the longest time there is before it is known.
    pub ack_wait: Duration,
    /// The longest time of one attempt.
    pub task_timeout: Duration,
    /// Most tasks in this process at once, and the limit of the group, once they are known.
    pub limits: Option<(u32, u32)>,
}

impl Conditions {
    /// The conditions of `group`, which are shown by `readiness`.
    pub fn new(group: Arc<Group>, readiness: GroupReadiness) -> Self {
        Self {
            state: group.state().subscribe(),
            handler: group.runtime().gate().unavailable(),
            link: group.broker().link(),
            group,
            readiness,
            epoch: 0,
            server: None,
            said: Standing::Unknown,
        }
    }

    /// Returns when a condition changed since the last look.
    pub async fn changed(&mut self) {
        // The senders live as long as the group.
        select! {
            biased;
            Ok(()) = self.state.changed() => {}
            Ok(()) = self.link.changed() => {}
            Ok(()) = self.handler.changed() => {}
            else => std::future::pending().await,
        }
    }

    /// Looks at all conditions, and says what is new, with `running` tasks.
    pub fn look(&mut self, running: u32) -> Look {
        let link = *self.link.borrow_and_update();
        let mut server_restarted = false;
        if link.epoch != self.epoch {
            self.epoch = link.epoch;
            let server = Some(self.group.broker().server_id());
            server_restarted = self.server.is_some() && self.server != server;
            self.server = server;
        }
        let state = self.state.borrow_and_update();
        let handler = self.handler.borrow_and_update().clone();
        let stopping = self.group.runtime().stopping().is_cancelled();
        let standing = if stopping {
            Standing::Stopping
        } else if let Some(reason) = state.missing() {
            Standing::Broker(reason.to_owned())
        } else if !link.up {
            let servers = self.group.broker().servers();
            Standing::Broker(format!("no connection to NATS at {servers}; trying again"))
        } else {
            handler.map_or(Standing::Ready, Standing::Handler)
        };
        let config = state.config();
        let look = Look {
            pulling: match standing {
                Standing::Ready => Pulling::Allowed,
                Standing::Unknown | Standing::Broker(_) => Pulling::Impossible,
                Standing::Stopping | Standing::Handler(_) => Pulling::Withdrawn,
            },
            epoch: link.epoch,
            server_restarted,
            has_rate: state.rate().is_some(),
            ack_wait: config.map_or(Duration::MAX, |config| config.ack_wait()),
            task_timeout: config.map_or(Duration::ZERO, |config| config.settings().timeouts.task.checked()),
            limits: config.map(|config| (config.capacity(), config.concurrency())),
        };
        drop(state);
        if self.said != standing {
            self.say(&standing, running);
            self.said = standing;
        }
        look
    }

    fn say(&self, standing: &Standing, running: u32) {
        match standing {
            Standing::Unknown => {}
            Standing::Ready => {
                tracing::info!("ready: asking for tasks");
                self.readiness.ready();
            }
            Standing::Stopping => {
                tracing::info!(running, "shutting down: no new tasks, finishing what runs");
                self.readiness.not_ready("shutting down");
            }
            Standing::Handler(reason) | Standing::Broker(reason) => {
                tracing::info!("not asking for tasks: {reason}");
                self.readiness.not_ready(reason);
            }
        }
    }
}

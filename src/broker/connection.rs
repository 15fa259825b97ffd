//! The connection to NATS, and whether it stands.

use super::{args::NatsArgs, error::BrokerError};
use async_nats::{Client, ConnectOptions, Event, connection::State, jetstream};
use std::{ops::Deref, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

/// How long one request may take before NATS counts as unreachable.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest pause between two attempts to connect again: an outage's end is noticed soon.
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// Silence after which a connection is given up (two missed answers).
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Oldest version that has all we build on: scheduled messages came with 2.12.
const OLDEST: (i64, i64, i64) = (2, 12, 0);

/// Whether the connection stands, and how often it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether it stands.
    pub up: bool,
    /// How often it was made: a new number means that anything may have changed meanwhile.
    pub epoch: u64,
    /// Since when it stands, or does not.
    pub since: Instant,
}

/// A connection to NATS with JetStream. Cheap to clone: each task has one.
#[derive(Clone)]
pub struct Broker(Arc<Connection>);

/// What the clones share.
pub struct Connection {
    pub(super) client: Client,
    pub(super) jetstream: jetstream::Context,
    servers: String,
    inbox_prefix: String,
    link: watch::Receiver<Link>,
}

impl Deref for Broker {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl Broker {
    /// Starts to connect, and goes on trying for as long as the broker lives: requests fail with
    /// [`BrokerError::Unreachable`] until it succeeds. `role` names us in the server's lists.
    ///
    /// # Errors
    /// URLs or credentials that can't be read.
    pub async fn connect(args: &NatsArgs, role: &str) -> anyhow::Result<Self> {
        // Unique, as we tell our own requests from others' by it.
        let inbox_prefix = format!("_INBOX.taskgroup-{role}-{:016x}", rand::random::<u64>());
        let servers = args.nats_url.join(",");
        let (sender, link) = watch::channel(Link {
            up: false,
            epoch: 0,
            since: Instant::now(),
        });
        let mut options = ConnectOptions::new()
            .name(format!("taskgroup-{role}"))
            .custom_inbox_prefix(&inbox_prefix)
            .retry_on_initial_connect()
            .max_reconnects(None)
            .ping_interval(PING_INTERVAL)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .reconnect_delay_callback(|attempt| {
                let exponent = u32::try_from(attempt.min(10)).unwrap_or(10);
                (Duration::from_millis(5) * 2_u32.pow(exponent)).min(RECONNECT_MAX)
            })
            .event_callback(move |event| {
                let sender = sender.clone();
                async move { on_event(&event, &sender) }
            });
        if let Some(path) = &args.nats_creds {
            let text = std::fs::read_to_string(path).map_err(|error| {
                anyhow::anyhow!(
                    "--nats-creds: {} can't be read: {error}; name a NATS credentials file",
                    path.display()
                )
            })?;
            options = options.credentials(&text).map_err(|error| {
                anyhow::anyhow!("--nats-creds: {} is no NATS credentials file: {error}", path.display())
            })?;
        }
        let client = options.connect(args.nats_url.as_slice()).await.map_err(|error| {
            anyhow::anyhow!("--nats-url: can't use {servers:?}: {error}; write for example nats://nats:4222")
        })?;
        let mut jetstream = jetstream::new(client.clone());
        jetstream.set_timeout(REQUEST_TIMEOUT);
        Ok(Self(Arc::new(Connection {
            client,
            jetstream,
            servers,
            inbox_prefix,
            link,
        })))
    }
}

impl Connection {
    /// Whether the connection stands; changes can be awaited.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    /// How often the connection was made: [`Link::epoch`].
    pub fn epoch(&self) -> u64 {
        self.link.borrow().epoch
    }

    /// What the subjects begin with that our requests are answered on.
    pub(super) fn inboxes(&self) -> String {
        format!("{}.", self.inbox_prefix)
    }

    /// The servers as they were given.
    pub fn servers(&self) -> &str {
        &self.servers
    }

    /// The server we are connected to, as it names itself since it was started.
    pub fn server_id(&self) -> String {
        self.client.server_info().server_id
    }

    /// Waits until the connection stands, or has been down for `grace`: most outages are a restart.
    pub async fn settled(&self, grace: Duration) {
        let mut link = self.link.clone();
        let since = link.borrow().since;
        // Neither an end of the wait nor a closed connection changes what comes next.
        let _ = tokio::time::timeout_at(since + grace, link.wait_for(|link| link.up)).await;
    }

    /// Fails at once, instead of after a timeout, while there is no connection, or one to a server
    /// that is too old.
    pub fn check(&self) -> Result<(), BrokerError> {
        self.check_connected()?;
        let (major, minor, patch) = OLDEST;
        if self.client.is_server_compatible(major, minor, patch) {
            return Ok(());
        }
        Err(BrokerError::TooOld {
            servers: self.servers.clone(),
            version: self.client.server_info().version,
        })
    }

    /// The same for what needs no answer about the server's version: it delivered a task.
    pub(super) fn check_connected(&self) -> Result<(), BrokerError> {
        if self.client.connection_state() == State::Connected {
            Ok(())
        } else {
            Err(self.unreachable("no connection"))
        }
    }

    /// Sends what is still in the buffer and closes the connection.
    pub async fn close(&self) {
        if let Err(error) = self.client.drain().await {
            tracing::debug!(%error, "the NATS connection was closed already");
        }
    }

    #[allow(clippy::needless_pass_by_value, reason = "so that it fits map_err")]
    pub(super) fn unreachable(&self, cause: impl ToString) -> BrokerError {
        BrokerError::Unreachable {
            servers: self.servers.clone(),
            cause: cause.to_string(),
        }
    }

    pub(super) fn no_jetstream(&self) -> BrokerError {
        BrokerError::NoJetStream {
            servers: self.servers.clone(),
        }
    }
}

fn on_event(event: &Event, link: &watch::Sender<Link>) {
    match event {
        Event::Connected => {
            tracing::info!("connected to NATS");
            link.send_modify(|link| {
                link.up = true;
                link.epoch += 1;
                link.since = Instant::now();
            });
        }
        Event::Disconnected | Event::Closed => {
            tracing::warn!("the connection to NATS is down; trying again");
            link.send_if_modified(|link| {
                let was_up = std::mem::replace(&mut link.up, false);
                if was_up {
                    link.since = Instant::now();
                }
                was_up
            });
        }
        Event::ClientError(error) => tracing::warn!(%error, "NATS connection"),
        Event::ServerError(error) => tracing::warn!(%error, "NATS server"),
        other => tracing::debug!(event = %other, "NATS connection"),
    }
}

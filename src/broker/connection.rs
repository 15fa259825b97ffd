//! The connection to NATS, and its state.

use super::{args::NatsArgs, error::BrokerError};
use async_nats::{Client, ConnectOptions, Event, connection::State};
use std::{ops::Deref, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

/// Longest time of one request. After it, NATS counts as unreachable.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest pause between two attempts to reconnect, so that the end of an outage is noticed soon.
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// Interval of the client's pings. It gives a connection up after two missed answers.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// Oldest version of nats-server that has scheduled messages, which TaskGroup needs.
const OLDEST: (i64, i64, i64) = (2, 12, 0);

/// The state of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether the connection stands.
    pub up: bool,
    /// Number of the connection. A new number means that anything may have changed in between.
    pub epoch: u64,
    /// Since when the connection stands, or is down.
    pub since: Instant,
}

/// A connection to NATS with JetStream. Cheap to clone: each task has a clone.
#[derive(Clone)]
pub struct Broker(Arc<Connection>);

/// The part of a [`Broker`] that its clones share.
pub struct Connection {
    pub(super) client: Client,
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
    /// Starts to connect, and keeps trying for as long as the broker lives. Until it succeeds, requests fail with
    /// [`BrokerError::Unreachable`]. `role` names the client in the server's lists.
    ///
    /// # Errors
    /// URLs or credentials that can't be read.
    pub async fn connect(args: &NatsArgs, role: &str) -> anyhow::Result<Self> {
        // Unique, so that our own requests can be told from those of others.
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
        Ok(Self(Arc::new(Connection {
            client,
            servers,
            inbox_prefix,
            link,
        })))
    }
}

impl Connection {
    /// The state of the connection, as a channel that reports changes.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.link.clone()
    }

    /// Number of the connection: [`Link::epoch`].
    pub fn epoch(&self) -> u64 {
        self.link.borrow().epoch
    }

    /// Prefix of the subjects on which our requests are answered.
    pub(super) fn inboxes(&self) -> String {
        format!("{}.", self.inbox_prefix)
    }

    /// The server URLs as they were given.
    pub fn servers(&self) -> &str {
        &self.servers
    }

    /// Id of the connected server. nats-server chooses a new one at each start.
    pub fn server_id(&self) -> String {
        self.client.server_info().server_id
    }

    /// Waits until the connection stands, or has been down for `grace`. Most outages are a restart.
    pub async fn settled(&self, grace: Duration) {
        let mut link = self.link.clone();
        let since = link.borrow().since;
        // A timeout or a closed connection changes nothing: the caller goes on.
        let _ = tokio::time::timeout_at(since + grace, link.wait_for(|link| link.up)).await;
    }

    /// Fails at once, instead of after a timeout, while there is no connection, or one to a server that is too old.
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

    /// Fails at once while there is no connection. The server's version does not matter to a task that it delivered.
    pub(super) fn check_connected(&self) -> Result<(), BrokerError> {
        if self.client.connection_state() == State::Connected {
            Ok(())
        } else {
            Err(self.unreachable("no connection"))
        }
    }

    /// Sends what is still in the buffer, and closes the connection.
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

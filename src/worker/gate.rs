//! Whether the handler takes connections. While it does not (its container still starts, or crashed),
//! no tasks are asked for: none shall use up an attempt on a handler that is not there.

use super::backoff::Backoff;
use http::Uri;
use std::time::Duration;
use tokio::{net::TcpStream, sync::watch, time};

/// How long one try to connect may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the handler takes connections. Closed at first.
pub struct Gate {
    host: String,
    port: u16,
    closed: watch::Sender<Option<String>>,
}

impl Gate {
    /// The gate of the handler at `url`, which has a host.
    pub fn new(url: &Uri) -> Self {
        let port = url
            .port_u16()
            .unwrap_or(if url.scheme_str() == Some("https") { 443 } else { 80 });
        // A literal IPv6 address has brackets in a URL, and none elsewhere.
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let reason = format!("waiting for the handler to take connections on {host}:{port}");
        Self {
            host,
            port,
            closed: watch::Sender::new(Some(reason)),
        }
    }

    /// One that stays open: for a handler without an address, which is always there.
    pub fn open() -> Self {
        Self {
            host: String::new(),
            port: 0,
            closed: watch::Sender::new(None),
        }
    }

    /// Why it is closed, `None` while it is open; changes can be awaited.
    pub fn closed(&self) -> watch::Receiver<Option<String>> {
        self.closed.subscribe()
    }

    /// A task found the handler gone. [`Gate::keep`] opens the gate again.
    pub fn refused(&self, why: &str) {
        self.closed.send_if_modified(|closed| {
            let closes = closed.is_none() && !self.host.is_empty();
            if closes {
                *closed = Some(format!(
                    "the handler on {}:{} takes no connections ({why}): look at the handler's log",
                    self.host, self.port
                ));
            }
            closes
        });
    }

    /// Opens the gate when the handler takes a connection, for as long as it is polled.
    pub async fn keep(&self) {
        let mut closed = self.closed();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            if closed.wait_for(Option::is_some).await.is_err() {
                return;
            }
            match time::timeout(PATIENCE, TcpStream::connect((self.host.as_str(), self.port))).await {
                Ok(Ok(_)) => {
                    backoff.reset();
                    self.closed.send_replace(None);
                }
                Ok(Err(error)) => tracing::debug!(%error, "the handler takes no connections yet"),
                Err(_) => tracing::debug!("the handler does not answer yet"),
            }
            // Also after a success: a handler that goes up and down is not asked in a tight loop.
            time::sleep(backoff.next()).await;
        }
    }
}

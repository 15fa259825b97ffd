//! Whether the handler is there. While it is not (its container still starts, or crashed; its program is
//! missing), no tasks are asked for: none shall use up an attempt on a handler that is not there.

use super::{backoff::Backoff, exec};
use http::Uri;
use std::{fmt, time::Duration};
use tokio::{net::TcpStream, sync::watch, time};

/// How long one try to connect may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Whether the handler is there. Closed at first.
pub struct Gate {
    behind: Behind,
    closed: watch::Sender<Option<String>>,
}

/// What is behind the gate.
enum Behind {
    /// A server, which has to take connections.
    Server { host: String, port: u16 },
    /// A program, which has to be a file that can be run.
    Program(String),
}

impl Gate {
    /// The gate of the handler at `url`, which has a host.
    pub fn of_server(url: &Uri) -> Self {
        let port = url
            .port_u16()
            .unwrap_or(if url.scheme_str() == Some("https") { 443 } else { 80 });
        // A literal IPv6 address has brackets in a URL, and none elsewhere.
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let reason = format!("waiting for the handler to take connections on {host}:{port}");
        Self::new(Behind::Server { host, port }, reason)
    }

    /// The gate of a program that is started for each task.
    pub fn of_program(program: &str) -> Self {
        let reason = format!("looking for the handler's program {program}");
        Self::new(Behind::Program(program.to_owned()), reason)
    }

    fn new(behind: Behind, reason: String) -> Self {
        let closed = watch::Sender::new(Some(reason));
        Self { behind, closed }
    }

    /// Why it is closed, `None` while it is open; changes can be awaited.
    pub fn closed(&self) -> watch::Receiver<Option<String>> {
        self.closed.subscribe()
    }

    /// A task found the handler gone. [`Gate::keep`] opens the gate again.
    pub fn refused(&self, why: &str) {
        self.closed.send_if_modified(|closed| {
            let was_open = closed.is_none();
            if was_open {
                *closed = Some(self.behind.gone(why));
            }
            was_open
        });
    }

    /// Opens the gate when the handler is there, for as long as it is polled.
    pub async fn keep(&self) {
        let mut closed = self.closed();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            if closed.wait_for(Option::is_some).await.is_err() {
                return;
            }
            match self.behind.try_it().await {
                Ok(()) => {
                    backoff.reset();
                    self.closed.send_replace(None);
                }
                Err(why) => {
                    match self.behind {
                        Behind::Server { .. } => tracing::debug!(why, "the handler takes no connections yet"),
                        Behind::Program(_) => tracing::debug!(why, "the handler's program is not there yet"),
                    }
                    self.behind.wait(&self.closed, &why);
                }
            }
            // Also after a success: a handler that goes up and down is not asked in a tight loop.
            time::sleep(backoff.next()).await;
        }
    }
}

impl Behind {
    /// Whether it is there, and if not, why.
    async fn try_it(&self) -> Result<(), String> {
        match self {
            Self::Server { host, port } => {
                match time::timeout(PATIENCE, TcpStream::connect((host.as_str(), *port))).await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err("no answer".to_owned()),
                }
            }
            Self::Program(program) => exec::find(program).map(drop),
        }
    }

    /// Says why the gate stays closed, where that says more than that a container still starts.
    fn wait(&self, closed: &watch::Sender<Option<String>>, why: &str) {
        if let Self::Program(_) = self {
            let reason = Some(self.gone(why));
            closed.send_if_modified(|closed| {
                let new = *closed != reason;
                closed.clone_from(&reason);
                new
            });
        }
    }

    fn gone(&self, why: &str) -> String {
        match self {
            Self::Server { .. } => format!("{self} takes no connections ({why}): look at the handler's log"),
            Self::Program(_) => format!(
                "{self} can't be started ({why}): look at spec.exec.command of the TaskHandler, and at the image of its \
                 container handler"
            ),
        }
    }
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server { host, port } => write!(f, "the handler on {host}:{port}"),
            Self::Program(program) => write!(f, "the handler's program {program}"),
        }
    }
}

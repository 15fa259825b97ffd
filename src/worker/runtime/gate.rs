//! Whether the handler is there. While it is not (its container still starts, or crashed; its program is missing), the
//! worker asks for no tasks, as each would use up an attempt.

use crate::worker::{
    backoff::Backoff,
    handler::{Absent, Door, Handler, find_program},
};
use std::{fmt, time::Duration};
use tokio::{sync::watch, time};

/// How long one try to connect may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The gate before the handler. It is closed until the handler was found.
pub struct Gate {
    behind: Behind,
    closed: watch::Sender<Option<String>>,
}

/// What is behind the gate.
enum Behind {
    /// A server, which has to take connections.
    Server(Door),
    /// A program, which has to be a file that can be run.
    Program(String),
    /// A function of this process, which is always there.
    Function,
}

impl Gate {
    /// The gate before a handler.
    pub fn before(handler: &Handler) -> Self {
        let (behind, closed) = match handler {
            Handler::Http(handler) => {
                let door = handler.door();
                let reason = format!("waiting for the handler to take connections on {}", door.place());
                (Behind::Server(door), Some(reason))
            }
            Handler::Exec(handler) => {
                let program = handler.program().to_owned();
                let reason = format!("looking for the handler's program {program}");
                (Behind::Program(program), Some(reason))
            }
            Handler::InProcess(_) => (Behind::Function, None),
        };
        Self {
            behind,
            closed: watch::Sender::new(closed),
        }
    }

    /// Why the gate is closed, or `None` while it is open; changes can be awaited.
    pub fn closed(&self) -> watch::Receiver<Option<String>> {
        self.closed.subscribe()
    }

    /// Closes the gate, as a task found the handler gone. [`Gate::keep`] opens it again.
    pub fn refused(&self, why: &str) {
        self.closed.send_if_modified(|closed| {
            let closes = closed.is_none() && !matches!(self.behind, Behind::Function);
            if closes {
                *closed = Some(self.behind.gone(why));
            }
            closes
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
            match self.behind.look().await {
                Ok(()) => {
                    backoff.reset();
                    self.closed.send_replace(None);
                }
                Err(Absent::NotYet(why)) => tracing::debug!(why, "the handler takes no connections yet"),
                Err(Absent::Wrong(why)) => self.say(self.behind.gone(&why)),
            }
            // Also after a success: a handler that goes up and down is not asked in a tight loop.
            time::sleep(backoff.next()).await;
        }
    }

    /// Keeps the gate closed for another reason. Whoever waits for a change logs it, so the same reason is no change.
    fn say(&self, reason: String) {
        let reason = Some(reason);
        self.closed.send_if_modified(|closed| {
            let new = *closed != reason;
            *closed = reason;
            new
        });
    }
}

impl Behind {
    async fn look(&self) -> Result<(), Absent> {
        match self {
            Self::Server(door) => time::timeout(PATIENCE, door.knock())
                .await
                .unwrap_or_else(|_| Err(Absent::NotYet("no answer".to_owned()))),
            Self::Program(program) => find_program(program).map(drop).map_err(Absent::Wrong),
            Self::Function => Ok(()),
        }
    }

    fn gone(&self, why: &str) -> String {
        match self {
            Self::Server(_) | Self::Function => {
                format!("{self} takes no connections ({why}): look at the handler's log")
            }
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
            Self::Server(door) => write!(f, "the handler on {}", door.place()),
            Self::Program(program) => write!(f, "the handler's program {program}"),
            Self::Function => f.write_str("the handler"),
        }
    }
}

//! The gate before the handler. While the handler is unavailable (its container still starts, or crashed; its program is
//! missing), the worker pulls no tasks, as each would use up an attempt.

use crate::worker::{
    backoff::Backoff,
    handler::{Absent, Door, Handler, find_program},
};
use std::{fmt, time::Duration};
use tokio::{sync::watch, time};

/// How long one try to connect may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The gate before the handler. The handler counts as unavailable until it was found.
pub struct Gate {
    behind: Behind,
    unavailable: watch::Sender<Option<String>>,
}

/// A handler as the gate sees it.
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
        let (behind, unavailable) = match handler {
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
            unavailable: watch::Sender::new(unavailable),
        }
    }

    /// Tells why the handler is unavailable, or `None` while it is there. Changes can be awaited.
    pub fn unavailable(&self) -> watch::Receiver<Option<String>> {
        self.unavailable.subscribe()
    }

    /// A task found the handler gone. [`Gate::keep`] looks for it from now on.
    pub fn refused(&self, why: &str) {
        self.unavailable.send_if_modified(|unavailable| {
            let is_news = unavailable.is_none() && !matches!(self.behind, Behind::Function);
            if is_news {
                *unavailable = Some(self.behind.gone(why));
            }
            is_news
        });
    }

    /// Looks for a handler that is unavailable, for as long as this is polled.
    pub async fn keep(&self) {
        let mut unavailable = self.unavailable();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            if unavailable.wait_for(Option::is_some).await.is_err() {
                return;
            }
            match self.behind.look().await {
                Ok(()) => {
                    backoff.reset();
                    self.unavailable.send_replace(None);
                }
                Err(Absent::NotYet(why)) => tracing::debug!(why, "the handler takes no connections yet"),
                Err(Absent::Wrong(why)) => self.say(self.behind.gone(&why)),
            }
            // Also after a success: a handler that goes up and down is not asked in a tight loop.
            time::sleep(backoff.next()).await;
        }
    }

    /// The handler stays unavailable for this reason. Whoever waits for a change logs it, so the same reason is no change.
    fn say(&self, reason: String) {
        let reason = Some(reason);
        self.unavailable.send_if_modified(|unavailable| {
            let is_news = *unavailable != reason;
            *unavailable = reason;
            is_news
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

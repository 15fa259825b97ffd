//! What can go wrong between us and the broker.

use serde::Deserialize;

/// Error codes of the JetStream API that we tell apart
/// (nats-server, `server/jetstream_errors_generated.go`).
pub mod code {
    /// Ours, not JetStream's: no stream listens to the subject of a message.
    pub const NO_LISTENER: u64 = 1;
    /// Ours, not JetStream's: the message is larger than the server takes.
    pub const TOO_LARGE: u64 = 2;
    /// The consumer does not exist.
    pub const CONSUMER_NOT_FOUND: u64 = 10014;
    /// The account or server has no memory or disk left within its limits.
    pub const INSUFFICIENT_RESOURCES: u64 = 10023;
    /// The account has as many consumers as it may have.
    pub const MAXIMUM_CONSUMERS: u64 = 10026;
    /// The account has as many streams as it may have.
    pub const MAXIMUM_STREAMS: u64 = 10027;
    /// The account's storage limit is reached.
    pub const ACCOUNT_RESOURCES_EXCEEDED: u64 = 10002;
    /// JetStream is off in this account.
    pub const NOT_ENABLED_FOR_ACCOUNT: u64 = 10039;
    /// The server's memory limit is reached.
    pub const MEMORY_EXCEEDED: u64 = 10028;
    /// The server's disk limit is reached.
    pub const STORAGE_EXCEEDED: u64 = 10047;
    /// Another message came before this one, which was to be stored only after a certain one.
    pub const WRONG_LAST_SEQUENCE: u64 = 10071;
    /// Another stream listens to these subjects.
    pub const SUBJECT_OVERLAP: u64 = 10065;
    /// A stream of this name exists with another configuration.
    pub const STREAM_NAME_IN_USE: u64 = 10058;
    /// The stream does not exist.
    pub const STREAM_NOT_FOUND: u64 = 10059;
    /// Copies were asked for, but the server stands alone.
    pub const REPLICAS_NOT_SUPPORTED: u64 = 10074;
    /// There is no message under this subject or number.
    pub const MESSAGE_NOT_FOUND: u64 = 10037;
    /// There is no message with this number to be deleted.
    pub const SEQUENCE_NOT_FOUND: u64 = 10043;
    /// The message is larger than the stream takes.
    pub const MESSAGE_TOO_LARGE: u64 = 10054;
    /// The stream is full and refuses new messages.
    pub const STREAM_FULL: u64 = 10077;
    /// The cluster has fewer suitable servers than copies were asked for.
    pub const NO_PEERS: u64 = 10005;
    /// A message could not be removed.
    pub const DELETE_FAILED: u64 = 10057;
}

/// How JetStream says that it refuses a request.
#[derive(Deserialize)]
pub(super) struct Refusal {
    /// One of [`code`], or any other of JetStream's.
    #[serde(default)]
    pub(super) err_code: u64,
    /// In the server's words.
    #[serde(default)]
    pub(super) description: String,
}

/// What can go wrong between us and the broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// No connection, or no answer in time.
    #[error("NATS at {servers} can't be reached ({cause}): check that it runs and that this address is right")]
    Unreachable {
        /// Where we look for it.
        servers: String,
        /// What happened.
        cause: String,
    },
    /// NATS answers, but not to JetStream requests.
    #[error("NATS at {servers} has no JetStream: start nats-server with -js, or enable JetStream for this account")]
    NoJetStream {
        /// Where we look for it.
        servers: String,
    },
    /// NATS is older than what we build on.
    #[error(
        "NATS at {servers} is version {version}, and 2.12 or newer is needed (it lacks scheduled messages): upgrade nats-server"
    )]
    TooOld {
        /// Where we look for it.
        servers: String,
        /// What runs there.
        version: String,
    },
    /// JetStream refused.
    #[error("JetStream refused {request}: {description} (error {code})")]
    Refused {
        /// What we asked for.
        request: String,
        /// One of [`code`], or any other of JetStream's.
        code: u64,
        /// In the server's words.
        description: String,
    },
    /// An answer we can't read.
    #[error("JetStream's answer to {request} can't be read: {cause}")]
    Unreadable {
        /// What we asked for.
        request: String,
        /// What is wrong with the answer.
        cause: String,
    },
}

impl BrokerError {
    /// Whether JetStream refused with this code.
    pub fn is(&self, wanted: u64) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted)
    }

    /// Whether the broker has no room (disk, memory, number of streams or consumers) for what we asked.
    pub fn is_out_of_space(&self) -> bool {
        [
            code::INSUFFICIENT_RESOURCES,
            code::MAXIMUM_CONSUMERS,
            code::MAXIMUM_STREAMS,
            code::ACCOUNT_RESOURCES_EXCEEDED,
            code::MEMORY_EXCEEDED,
            code::STORAGE_EXCEEDED,
        ]
        .iter()
        .any(|code| self.is(*code))
    }
}

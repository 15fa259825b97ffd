//! Errors between TaskGroup and the broker.

use serde::Deserialize;

/// Error codes of the JetStream API that TaskGroup handles (nats-server, `server/jetstream_errors_generated.go`).
pub mod code {
    /// Not JetStream's but ours: no stream listens to the subject of a message.
    pub const NO_LISTENER: u64 = 1;
    /// Not JetStream's but ours: the message is larger than the server takes.
    pub const TOO_LARGE: u64 = 2;
    /// Another consumer of the work queue takes all subjects.
    pub const CONSUMER_NOT_ALONE: u64 = 10099;
    /// Another consumer of the work queue takes some of the same subjects.
    pub const CONSUMER_NOT_UNIQUE: u64 = 10100;
    /// The consumer does not exist.
    pub const CONSUMER_NOT_FOUND: u64 = 10014;
    /// The account or server has no memory or disk left within its limits.
    pub const INSUFFICIENT_RESOURCES: u64 = 10023;
    /// The account has reached its limit of consumers.
    pub const MAXIMUM_CONSUMERS: u64 = 10026;
    /// The account has reached its limit of streams.
    pub const MAXIMUM_STREAMS: u64 = 10027;
    /// The account has reached its storage limit.
    pub const ACCOUNT_RESOURCES_EXCEEDED: u64 = 10002;
    /// JetStream is off in this account.
    pub const NOT_ENABLED_FOR_ACCOUNT: u64 = 10039;
    /// The server has reached its memory limit.
    pub const MEMORY_EXCEEDED: u64 = 10028;
    /// The server has reached its disk limit.
    pub const STORAGE_EXCEEDED: u64 = 10047;
    /// Another message was stored since the one that this message expected to be the last.
    pub const WRONG_LAST_SEQUENCE: u64 = 10071;
    /// Another stream listens to these subjects.
    pub const SUBJECT_OVERLAP: u64 = 10065;
    /// A stream with this name exists with another configuration.
    pub const STREAM_NAME_IN_USE: u64 = 10058;
    /// The stream does not exist.
    pub const STREAM_NOT_FOUND: u64 = 10059;
    /// The request asks for copies, but the server stands alone.
    pub const REPLICAS_NOT_SUPPORTED: u64 = 10074;
    /// No message has this subject or sequence number.
    pub const MESSAGE_NOT_FOUND: u64 = 10037;
    /// No message with this sequence number can be deleted.
    pub const SEQUENCE_NOT_FOUND: u64 = 10043;
    /// The message is larger than the stream takes.
    pub const MESSAGE_TOO_LARGE: u64 = 10054;
    /// The stream is full and refuses new messages.
    pub const STREAM_FULL: u64 = 10077;
    /// The cluster has fewer suitable servers than the request asks for copies.
    pub const NO_PEERS: u64 = 10005;
    /// JetStream could not delete a message.
    pub const DELETE_FAILED: u64 = 10057;
}

/// A refusal of JetStream.
#[derive(Deserialize)]
pub(super) struct Refusal {
    /// One of [`code`], or any other of JetStream's codes.
    #[serde(default)]
    pub(super) err_code: u64,
    /// The server's explanation.
    #[serde(default)]
    pub(super) description: String,
}

/// An error between TaskGroup and the broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// There is no connection, or no answer in time.
    #[error("NATS at {servers} can't be reached ({cause}): check that it runs and that this address is right")]
    Unreachable {
        /// Configured servers.
        servers: String,
        /// The cause.
        cause: String,
    },
    /// NATS answers, but not to JetStream requests.
    #[error("NATS at {servers} has no JetStream: start nats-server with -js, or enable JetStream for this account")]
    NoJetStream {
        /// Configured servers.
        servers: String,
    },
    /// NATS is too old.
    #[error(
        "NATS at {servers} is version {version}, and 2.12 or newer is needed (it lacks scheduled messages): upgrade nats-server"
    )]
    TooOld {
        /// Configured servers.
        servers: String,
        /// Version of the server.
        version: String,
    },
    /// JetStream refused a request.
    #[error("JetStream refused {request}: {description} (error {code})")]
    Refused {
        /// The request.
        request: String,
        /// One of [`code`], or any other of JetStream's codes.
        code: u64,
        /// The server's explanation.
        description: String,
    },
    /// TaskGroup can't read an answer.
    #[error("JetStream's answer to {request} can't be read: {cause}")]
    Unreadable {
        /// The request.
        request: String,
        /// The defect of the answer.
        cause: String,
    },
}

impl BrokerError {
    /// Whether JetStream refused with this code.
    pub fn is(&self, wanted: u64) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted)
    }

    /// Whether the broker has no room (disk, memory, number of streams or consumers) for the request.
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

//! What was asked of an API server, from its audit log.

use serde_json::Value;
use std::{collections::HashSet, fs, path::Path};

/// One request that the API server answered or, if it is a watch, began to answer.
#[derive(Clone, Debug)]
pub struct Request {
    /// What the client calls itself; empty if it does not. See [`super::apiserver::ApiServer::client_named`].
    pub user_agent: String,
    /// The user in force, so the impersonated one.
    pub user: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: String,
    /// For example `deployments`; empty for paths such as `/readyz`.
    pub resource: String,
    /// For example `status`; mostly empty.
    pub subresource: String,
    /// Empty for what is in no namespace.
    pub namespace: String,
    /// Empty for lists and for creates with a generated name.
    pub name: String,
    /// HTTP status of the answer.
    pub code: u16,
}

impl Request {
    /// Whether it could change something.
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }
}

/// The requests in an audit log, each once.
pub fn read(log: &Path) -> Vec<Request> {
    let text = fs::read_to_string(log).unwrap_or_default();
    // The last line may still be being written.
    let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
    let events = complete
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    // A watch is in there twice: when it begins and when it ends.
    let mut seen = HashSet::new();
    events
        .filter(|event| seen.insert(event["auditID"].to_string()))
        .map(|event| request(&event))
        .collect()
}

fn request(event: &Value) -> Request {
    let text = |pointer| {
        let value = event.pointer(pointer).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    let user = event.get("impersonatedUser").unwrap_or(&event["user"]);
    let code = event["responseStatus"]["code"].as_u64();
    Request {
        user_agent: text("/userAgent"),
        user: user["username"].as_str().unwrap_or_default().to_owned(),
        verb: text("/verb"),
        resource: text("/objectRef/resource"),
        subresource: text("/objectRef/subresource"),
        namespace: text("/objectRef/namespace"),
        name: text("/objectRef/name"),
        code: code.and_then(|code| code.try_into().ok()).unwrap_or_default(),
    }
}

//! One attempt of one task, as an HTTP request to the handler.

use super::{policy::AttemptResult, watch::Terms};
use crate::{broker::Delivery, task::headers};
use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use jiff::Timestamp;
use std::{error::Error, sync::Arc, time::Duration};
use tokio::time;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections unused for longer are closed. Shorter than the keep-alive of usual servers (2 s and
/// more), so that a request does not meet a server that is just closing its end.
const IDLE_TIMEOUT: Duration = Duration::from_millis(1500);

/// Most connections kept for reuse: as many as a pod may run tasks.
const MAX_IDLE: usize = 1000;

/// What of an answer is kept, as the reason of a failure: 1 KiB.
const KEPT: usize = 1024;

/// What of an answer is read at most, so that the connection can be used again; a larger answer
/// closes it.
const READ: usize = 256 * 1024;

/// Headers that are about one connection (RFC 9110, 7.6.1) or that HTTP itself sets.
const NOT_PASSED_ON: [HeaderName; 11] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

/// The way to the handler.
pub struct Handler {
    url: Uri,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Handler {
    /// A client for the handler at `url` (http or https).
    ///
    /// # Errors
    /// A URL that is none, or https where the system has no CA certificates.
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let bad = || format!("--handler-url: {url:?} can't be used; write for example http://127.0.0.1:8080/");
        let uri: Uri = url.parse().with_context(bad)?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => anyhow::bail!("{}: it must begin with http:// or https://", bad()),
        };
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?;
        let tls = if secure {
            tls.with_native_roots().context(
                "--handler-url: https needs the CA certificates of the system, and there are none; \
                 mount them into the worker and name the file in SSL_CERT_FILE",
            )?
        } else {
            tls.with_root_certificates(rustls::RootCertStore::empty())
        };
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls.with_no_client_auth())
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE)
            .build(connector);
        Ok(Self { url: uri, client })
    }

    /// Where it is.
    pub fn url(&self) -> &Uri {
        &self.url
    }

    /// Runs one attempt of `task`; when this future is dropped, the request is aborted.
    pub async fn call(&self, task: &Delivery, id: &str, attempt: u32, terms: &Terms) -> AttemptResult {
        let mut request = Request::new(Full::new(task.payload()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.clone();
        *request.headers_mut() = request_headers(task.headers(), id, attempt, terms, Timestamp::now());
        match time::timeout(terms.settings.task_timeout(), self.exchange(request)).await {
            Ok(result) => result,
            Err(_) => AttemptResult::TimedOut,
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> AttemptResult {
        let answer = match self.client.request(request).await {
            Ok(answer) => answer,
            Err(error) if error.is_connect() => return AttemptResult::NoConnection(innermost(&error)),
            Err(error) => return AttemptResult::Broken(innermost(&error)),
        };
        let status = answer.status().as_u16();
        match beginning(answer.into_body()).await {
            Ok(body) => AttemptResult::Answered { status, body },
            Err(error) => AttemptResult::Broken(innermost(&error)),
        }
    }
}

/// The headers of a request: the publisher's, then ours, which win.
fn request_headers<'a>(
    publishers: impl Iterator<Item = (&'a str, &'a str)>,
    id: &str,
    attempt: u32,
    terms: &Terms,
    now: Timestamp,
) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(8);
    for (name, value) in publishers {
        let is_nats = name.get(..5).is_some_and(|prefix| prefix.eq_ignore_ascii_case("nats-"));
        // NATS allows more in a header than HTTP does; what HTTP can't carry stays behind.
        if let (false, Ok(name), Ok(value)) = (
            is_nats,
            HeaderName::try_from(name),
            HeaderValue::from_bytes(value.as_bytes()),
        ) && !NOT_PASSED_ON.contains(&name)
        {
            map.append(name, value);
        }
    }
    let settings = &terms.settings;
    let deadline = now
        .checked_add(settings.task_timeout())
        .unwrap_or(Timestamp::MAX)
        .to_string();
    for (name, value) in [
        (headers::CALL_ID, id),
        (headers::TASK_GROUP, settings.group.as_str()),
        (headers::ATTEMPT, attempt.to_string().as_str()),
        (headers::MAX_ATTEMPTS, settings.max_attempts.to_string().as_str()),
        (headers::DEADLINE, deadline.as_str()),
    ] {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes())) {
            map.insert(name, value);
        }
    }
    map.entry(header::USER_AGENT)
        .or_insert(HeaderValue::from_static(concat!(
            "taskgroup/",
            env!("CARGO_PKG_VERSION")
        )));
    map.entry(header::CONTENT_TYPE)
        .or_insert(HeaderValue::from_static("application/octet-stream"));
    map
}

/// The first [`KEPT`] bytes of a body as text. The rest is read, up to [`READ`], and thrown away.
async fn beginning(mut body: Incoming) -> Result<String, hyper::Error> {
    let mut kept = Vec::new();
    let mut read = 0;
    while read < READ
        && !body.is_end_stream()
        && let Some(frame) = body.frame().await
    {
        if let Some(data) = frame?.data_ref() {
            read += data.len();
            kept.extend_from_slice(&data[..data.len().min(KEPT - kept.len())]);
        }
    }
    Ok(String::from_utf8_lossy(&kept).trim().to_owned())
}

/// The error at the root: "connection refused" says more than "client error (Connect)".
fn innermost(error: &dyn Error) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::WorkerSettings;

    #[test]
    fn a_request_has_the_publishers_headers_and_ours_win() {
        let terms = Terms {
            settings: WorkerSettings {
                group: "acme".into(),
                max_inflight: 1,
                task_timeout_ms: 30_000,
                max_attempts: 5,
                dead_letter: true,
            },
            ack_wait: Duration::from_secs(30),
            concurrency: 1,
        };
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().expect("a time");
        let publishers = [
            ("Content-Type", "application/json"),
            ("traceparent", "00-1-2-01"),
            ("X-Mine", "1"),
            ("X-Mine", "2"),
            ("X-Call-Id", "forged"),
            ("Nats-Msg-Id", "42"),
            ("nats-expected-stream", "s"),
            ("Connection", "close"),
            ("Transfer-Encoding", "chunked"),
            ("Content-Length", "1"),
            ("Host", "elsewhere"),
            ("not a name", "x"),
        ];
        let map = request_headers(publishers.into_iter(), "a.b", 2, &terms, now);
        let mut found: Vec<_> = map
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
            .collect();
        found.sort();
        assert_eq!(
            found,
            [
                "content-type: application/json",
                "traceparent: 00-1-2-01",
                &format!("user-agent: taskgroup/{}", env!("CARGO_PKG_VERSION")),
                "x-attempt: 2",
                "x-call-id: a.b",
                "x-deadline: 2026-11-21T10:00:30Z",
                "x-max-attempts: 5",
                "x-mine: 1",
                "x-mine: 2",
                "x-task-group: acme",
            ]
        );
    }

    #[test]
    fn a_handler_url_that_is_none_is_refused_with_an_example() {
        for bad in ["", "127.0.0.1:8080", "ftp://a/", "http://", "/path"] {
            let error = Handler::new(bad)
                .err()
                .map(|error| format!("{error:#}"))
                .unwrap_or_default();
            assert!(
                error.contains("write for example http://127.0.0.1:8080/"),
                "{bad:?}: {error}"
            );
        }
    }
}

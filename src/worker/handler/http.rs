//! One attempt of one task, as an HTTP request to the handler.

use super::{
    Attempt, AttemptResult, Output,
    client::{Door, HttpClient, innermost},
    retry_after,
    trace::Trace,
};
use crate::{protocol::headers, worker::HandlerArgs};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use jiff::Timestamp;

/// How much of an answer is read, so that the connection can be used again. A larger answer closes it.
const READ: usize = 256 * 1024;

/// Headers that are about one connection (RFC 9110, 7.6.1), or that HTTP itself sets.
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

/// A handler that listens for HTTP.
pub struct HttpHandler(HttpClient);

impl HttpHandler {
    /// The handler at `url` (http or https), reached as `args` say.
    ///
    /// # Errors
    /// A URL that is none, or certificates that can't be read.
    pub fn new(url: &str, args: &HandlerArgs) -> anyhow::Result<Self> {
        HttpClient::new(url, args).map(Self)
    }

    /// Address of the handler.
    pub fn url(&self) -> &Uri {
        self.0.url()
    }

    /// The handler's door, to find out whether it takes connections.
    pub fn door(&self) -> Door {
        self.0.door()
    }

    /// Makes one attempt. Dropping this future aborts the request.
    pub async fn call(&self, attempt: &Attempt<'_>) -> AttemptResult {
        let mut request = Request::new(Full::new(attempt.payload.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.0.url().clone();
        *request.headers_mut() = request_headers(attempt, Timestamp::now());
        self.exchange(request, attempt.keep).await
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, keep: usize) -> AttemptResult {
        let answer = match self.0.send(request).await {
            Ok(answer) => answer,
            Err(error) if error.is_connect() => return AttemptResult::NoConnection(innermost(&error)),
            Err(error) => return AttemptResult::Broken(innermost(&error)),
        };
        let response = answer.response;
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|value| retry_after::parse(value.to_str().ok()?, Timestamp::now()));
        match beginning(response.into_body(), keep).await {
            Ok(body) => AttemptResult::Answered {
                status,
                retry_after,
                body,
            },
            Err(error) => AttemptResult::Broken(innermost(&error)),
        }
    }
}

/// The headers of a request: the publisher's, then ours, which win.
fn request_headers(attempt: &Attempt<'_>, now: Timestamp) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(8);
    for (name, value) in &attempt.headers {
        // NATS allows more in a header than HTTP does. What HTTP can't carry stays behind.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(*name), HeaderValue::from_bytes(value.as_bytes()))
            && !NOT_PASSED_ON.contains(&name)
            && !Trace::has(name.as_str())
        {
            map.append(name, value);
        }
    }
    let settings = attempt.settings;
    let deadline = now
        .checked_add(settings.timeouts.task.checked())
        .unwrap_or(Timestamp::MAX)
        .to_string();
    for (name, value) in [
        (headers::CALL_ID, attempt.id),
        (headers::TASK_GROUP, settings.group.as_str()),
        (headers::ATTEMPT, attempt.number.to_string().as_str()),
        (headers::MAX_ATTEMPTS, settings.retry.max_attempts.to_string().as_str()),
        (headers::DEADLINE, deadline.as_str()),
        (headers::TRACEPARENT, attempt.trace.parent().as_str()),
        (headers::TRACESTATE, attempt.trace.state().unwrap_or_default()),
    ] {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes()))
            && !value.is_empty()
        {
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

/// Keeps the first `keep` bytes of a body. The rest is read, up to [`READ`], and thrown away.
async fn beginning(mut body: Incoming, keep: usize) -> Result<Output, hyper::Error> {
    let mut output = Output::default();
    let mut kept = BytesMut::new();
    let mut read = 0;
    while read < READ.max(keep)
        && !body.is_end_stream()
        && let Some(frame) = body.frame().await
    {
        if let Ok(data) = frame?.into_data() {
            read += data.len();
            if output.bytes.is_empty() && kept.is_empty() && data.len() <= keep {
                // Most bodies are one piece, which is kept as it came.
                output.bytes = data;
                continue;
            }
            if kept.is_empty() {
                kept.extend_from_slice(&std::mem::take(&mut output.bytes));
            }
            let room = keep - kept.len();
            kept.extend_from_slice(&data[..data.len().min(room)]);
        }
    }
    if !kept.is_empty() {
        output.bytes = kept.freeze();
    }
    output.truncated = read > output.bytes.len() || !body.is_end_stream();
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::handler::tests;

    #[test]
    fn a_request_has_the_publishers_headers_and_ours_win() {
        let settings = tests::acme();
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().expect("a time");
        let publishers = [
            ("Content-Type", "application/json"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("tracestate", "a=1"),
            ("X-Mine", "1"),
            ("X-Mine", "2"),
            ("X-Call-Id", "forged"),
            ("Connection", "close"),
            ("Transfer-Encoding", "chunked"),
            ("Content-Length", "1"),
            ("Host", "elsewhere"),
            ("not a name", "x"),
        ];
        let attempt = tests::attempt(&settings, &publishers);
        let map = request_headers(&attempt, now);
        let mut found: Vec<_> = map
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
            .collect();
        found.sort();
        assert_eq!(
            found,
            [
                "content-type: application/json",
                &format!("traceparent: {}", attempt.trace.parent()),
                "tracestate: a=1",
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
            let error = HttpHandler::new(bad, &HandlerArgs::default())
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

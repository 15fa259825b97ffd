//! One request of a callback: over a connection of its own, to an address that was checked. Not by the
//! pooled client of the handler, which would resolve the name once more, perhaps to another address.

use super::target::Target;
use crate::{protocol::callback as names, worker::roots};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
};
use tokio_rustls::TlsConnector;

/// Redirects that are followed. Only those that keep method and body (307, 308).
const REDIRECTS: usize = 3;

/// What of an answer is read before its connection is closed.
const READ: usize = 64 * 1024;

/// What came of a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// The other side took it.
    Yes,
    /// It may succeed later; what went wrong.
    NotYet(String),
    /// It can't succeed; why.
    Never(String),
}

/// Sends a callback to the URL among its headers.
pub async fn send(headers: &[(String, String)], body: Bytes, allow: &[String]) -> Made {
    let url = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(names::URL))
        .map_or("", |(_, url)| url.as_str());
    let mut target = match Target::read(url) {
        Ok(target) => target,
        Err(why) => return Made::Never(why.to_string()),
    };
    for _ in 0..=REDIRECTS {
        let stream = match connect(&target, allow).await {
            Ok(stream) => stream,
            Err(made) => return made,
        };
        let request = request(&target, headers, body.clone());
        let answer = if target.url.scheme_str() == Some("https") {
            match secure(stream, &target).await {
                Ok(stream) => exchange(stream, request).await,
                Err(why) => Err(why),
            }
        } else {
            exchange(stream, request).await
        };
        let (status, location) = match answer {
            Ok(answer) => answer,
            Err(why) => return Made::NotYet(why),
        };
        match status {
            StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {
                match location.and_then(|location| redirected(&target, &location)) {
                    Some(next) => target = next,
                    None => return Made::Never(format!("status {status} without a usable Location")),
                }
            }
            status => return judge(status),
        }
    }
    Made::Never(format!("more than {REDIRECTS} redirects"))
}

fn judge(status: StatusCode) -> Made {
    match status.as_u16() {
        200..300 => Made::Yes,
        408 | 425 | 429 | 500.. => Made::NotYet(format!("status {status}")),
        _ => Made::Never(format!("status {status}")),
    }
}

fn redirected(from: &Target, location: &str) -> Option<Target> {
    if let Some(path) = location.strip_prefix('/')
        && !path.starts_with('/')
    {
        let mut parts = from.url.clone().into_parts();
        parts.path_and_query = Some(location.parse().ok()?);
        return Target::read(&Uri::from_parts(parts).ok()?.to_string()).ok();
    }
    Target::read(location).ok()
}

async fn connect(target: &Target, allow: &[String]) -> Result<TcpStream, Made> {
    let found = lookup_host((target.host.as_str(), target.port)).await;
    let found = found.map_err(|error| Made::NotYet(format!("{} can't be resolved: {error}", target.host)))?;
    let addresses: Vec<_> = found.map(|address| address.ip()).collect();
    let allowed = target
        .allowed(&addresses, allow)
        .map_err(|why| Made::Never(why.to_string()))?;
    let mut last = format!("{} has no address", target.host);
    for address in allowed {
        match TcpStream::connect(SocketAddr::new(address, target.port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("no connection to {} ({address}): {error}", target.host),
        }
    }
    Err(Made::NotYet(last))
}

async fn secure(
    stream: TcpStream,
    target: &Target,
) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>, String> {
    let config = roots::client_config().map_err(|error| error.to_string())?;
    let name = target.host.clone().try_into();
    let name = name.map_err(|_| format!("{} is no name that a certificate could have", target.host))?;
    let connector = TlsConnector::from(Arc::new(config));
    connector
        .connect(name, stream)
        .await
        .map_err(|error| format!("TLS: {error}"))
}

fn request(target: &Target, headers: &[(String, String)], body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    let path = target.url.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse().unwrap_or_default();
    let map = request.headers_mut();
    for (name, value) in headers {
        let is_own = name.eq_ignore_ascii_case(names::URL);
        if let (false, Ok(name), Ok(value)) = (is_own, name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            map.insert(name, value);
        }
    }
    let host = target.url.authority().map(http::uri::Authority::as_str);
    for (name, value) in [
        (header::HOST, host.unwrap_or_default()),
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::USER_AGENT, concat!("taskgroup/", env!("CARGO_PKG_VERSION"))),
    ] {
        if let Ok(value) = value.parse() {
            map.insert(name, value);
        }
    }
    request
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Option<String>), String> {
    let broken = |error: hyper::Error| format!("the connection broke: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        let status = answer.status();
        let location = answer.headers().get(header::LOCATION);
        let location = location.and_then(|value| value.to_str().ok()).map(ToOwned::to_owned);
        let mut body = answer.into_body();
        let mut read = 0;
        while read < READ
            && let Some(Ok(frame)) = body.frame().await
        {
            read += frame.data_ref().map_or(0, Bytes::len);
        }
        Ok((status, location))
    };
    // The connection ends with this future, whatever the other side goes on to send.
    tokio::select! {
        answer = exchange => answer,
        Err(error) = connection => Err(broken(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_another_path_or_another_checked_url() {
        let from = Target::read("https://a.example.com/x?y=z").expect("a URL");
        for (location, expected) in [
            ("/other", Some("https://a.example.com/other")),
            ("https://b.example.com/", Some("https://b.example.com/")),
            ("http://b.example.com/", Some("http://b.example.com/")),
            ("//evil.example.com/", None),
            ("ftp://b.example.com/", None),
            ("other", None),
        ] {
            let found = redirected(&from, location).map(|target| target.url.to_string());
            assert_eq!(found.as_deref(), expected, "{location}");
        }
    }

    #[test]
    fn only_answers_that_may_change_are_worth_another_try() {
        let judge = |code| judge(StatusCode::from_u16(code).expect("a status"));
        assert_eq!(judge(204), Made::Yes);
        for code in [408, 425, 429, 500, 503] {
            assert!(matches!(judge(code), Made::NotYet(_)), "{code}");
        }
        for code in [301, 302, 400, 404, 410] {
            assert!(matches!(judge(code), Made::Never(_)), "{code}");
        }
    }
}

//! One request of a callback, to an address that was checked.
//!
//! The resolver of the connector checks every address that a name stands for, so nobody can have the name lead elsewhere
//! between the check and the connection. Each request has a client and a connection of its own, as a pooled connection
//! would be to an address that was allowed for another group.

use super::target::{NotAllowed, Target};
use crate::{protocol::callback as names, worker::handler::trusted_roots};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{HttpConnector, dns::Name},
    },
    rt::TokioExecutor,
};
use rustls::ClientConfig;
use std::{
    error::Error,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    vec,
};
use tokio::net::lookup_host;
use tower_service::Service;

/// Redirects that are followed, of those that keep method and body (307, 308).
const REDIRECTS: usize = 3;

/// How much of an answer is read before its connection is closed.
const READ: usize = 64 * 1024;

/// What came of a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// The other side took it.
    Yes,
    /// The callback may succeed later; what went wrong.
    NotYet(String),
    /// The callback can't succeed, and why.
    Never(String),
}

/// Sends a callback to the URL among its headers. It may go to public addresses, and to those that `allow` names.
pub async fn send(headers: &[(String, String)], body: &Bytes, allow: &Arc<[String]>) -> Made {
    let url = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(names::URL))
        .map_or("", |(_, url)| url.as_str());
    let mut target = match Target::read(url) {
        Ok(target) => target,
        Err(why) => return Made::Never(why.to_string()),
    };
    let tls = match trusted_roots() {
        Ok(tls) => tls,
        Err(error) => return Made::NotYet(format!("TLS: {error}")),
    };
    for _ in 0..=REDIRECTS {
        let request = request(&target, headers, body.clone());
        let (status, location) = match exchange(&target, request, allow, tls.clone()).await {
            Ok(answer) => answer,
            Err(made) => return made,
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

fn request(target: &Target, headers: &[(String, String)], body: Bytes) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = target.url.clone();
    let map = request.headers_mut();
    for (name, value) in headers {
        let is_own = name.eq_ignore_ascii_case(names::URL);
        if let (false, Ok(name), Ok(value)) = (is_own, name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            map.insert(name, value);
        }
    }
    for (name, value) in [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::USER_AGENT, concat!("taskgroup/", env!("CARGO_PKG_VERSION"))),
    ] {
        if let Ok(value) = value.parse() {
            map.insert(name, value);
        }
    }
    request
}

/// Sends one request, and returns the status and `Location` of the answer.
async fn exchange(
    target: &Target,
    request: Request<Full<Bytes>>,
    allow: &Arc<[String]>,
    tls: ClientConfig,
) -> Result<(StatusCode, Option<String>), Made> {
    // The connector has nothing to resolve in an address, so that would pass the resolver by.
    if let Ok(address) = target.host.parse::<IpAddr>() {
        let allowed = target.allowed(&[address], allow);
        allowed.map_err(|why| Made::Never(why.to_string()))?;
    }
    let mut tcp = HttpConnector::new_with_resolver(Resolver {
        target: target.clone(),
        allow: allow.clone(),
    });
    tcp.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .wrap_connector(tcp);
    let client = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(0)
        .build(connector);
    let answer = client.request(request).await.map_err(|error| failed(target, &error))?;
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
}

/// Resolves the host of one target, to the addresses that it may be reached at.
#[derive(Clone)]
struct Resolver {
    target: Target,
    allow: Arc<[String]>,
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Self { target, allow } = self.clone();
        Box::pin(async move {
            let found: Vec<IpAddr> = lookup_host((name.as_str(), target.port))
                .await?
                .map(|found| found.ip())
                .collect();
            let allowed = target.allowed(&found, &allow)?.into_iter();
            let allowed: Vec<_> = allowed.map(|address| SocketAddr::new(address, target.port)).collect();
            Ok(allowed.into_iter())
        })
    }
}

/// Tells an address that is not allowed from a failure that may pass.
fn failed(target: &Target, error: &(dyn Error + 'static)) -> Made {
    let mut root = error;
    loop {
        if let Some(refused) = root.downcast_ref::<NotAllowed>() {
            return Made::Never(refused.to_string());
        }
        // An io::Error does not name what it wraps as its source.
        let wrapped = root.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let next = wrapped.map(|wrapped| wrapped as &(dyn Error + 'static));
        match next.or_else(|| root.source()) {
            Some(next) => root = next,
            None => return Made::NotYet(format!("{}:{}: {root}", target.host, target.port)),
        }
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

    /// A server on localhost with a certificate for `name`, and a client that trusts it.
    async fn server(name: &str) -> (u16, ClientConfig) {
        let signed = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        let provider = || Arc::new(rustls::crypto::ring::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .with_no_client_auth()
            .with_single_cert(
                vec![signed.cert.der().clone()],
                signed.signing_key.serialize_der().try_into().expect("a key"),
            )
            .expect("a server");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(signed.cert.der().clone()).expect("a root");
        let client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = tokio::net::TcpListener::bind("localhost:0").await.expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        tokio::spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    let mut request = [0; 1024];
                    let _ = stream.read(&mut request).await;
                    let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
                    let _ = stream.shutdown().await;
                }
            }
        });
        (port, client)
    }

    async fn answer(certificate: &str, host: &str, allow: &str) -> Result<StatusCode, Made> {
        let (port, tls) = server(certificate).await;
        let target = Target::read(&format!("https://{host}:{port}/")).expect("a URL");
        let request = request(&target, &[], Bytes::new());
        let answer = exchange(&target, request, &Arc::from([allow.to_owned()]), tls).await;
        answer.map(|(status, _)| status)
    }

    #[tokio::test]
    async fn the_certificate_must_be_for_the_host_of_the_url() {
        assert_eq!(
            answer("localhost", "LocalHost.", "localhost").await,
            Ok(StatusCode::NO_CONTENT)
        );
        let Err(Made::NotYet(why)) = answer("other.example.com", "localhost", "localhost").await else {
            panic!("the certificate is another host's");
        };
        assert!(why.contains("certificate"), "{why}");
    }

    #[tokio::test]
    async fn every_address_of_a_name_is_checked_before_a_connection_is_made() {
        for (host, allow) in [("localhost", "hooks.acme.svc"), ("127.0.0.1", "hooks.acme.svc")] {
            let refused = answer("localhost", host, allow).await;
            let Err(Made::Never(why)) = refused else {
                panic!("{host} is inside: {refused:?}");
            };
            assert!(why.contains("not on the public internet"), "{why}");
        }
    }

    #[tokio::test]
    async fn a_host_that_is_not_there_may_be_there_later() {
        let target = Target::read("http://127.0.0.1:1/").expect("a URL");
        let refused = exchange(
            &target,
            request(&target, &[], Bytes::new()),
            &Arc::from(["127.0.0.0/8".to_owned()]),
            trusted_roots().expect("TLS"),
        )
        .await;
        assert!(matches!(refused, Err(Made::NotYet(_))), "{refused:?}");
    }
}

//! Connections to a handler that listens for HTTP: kept open between tasks, HTTP/1.1 or HTTP/2, with TLS
//! by its own CA or a public one.

use super::HandlerArgs;
use super::{gate::Absent, roots};
use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{
    error, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tower_service::Service;

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections unused for longer are closed. Shorter than the keep-alive of usual servers (2 s and
/// more), so that a request does not meet a server that is just closing its end.
const IDLE_TIMEOUT: Duration = Duration::from_millis(1500);

/// Requests in one lane at once. Servers let so many (RFC 9113, 6.5.2 recommends no fewer) share one
/// HTTP/2 connection; one more would wait for its turn while its time runs.
const PER_LANE: usize = 100;

/// Lanes: for as many tasks as a pod may run at once.
const LANES: usize = 10;

/// How long an HTTP/2 connection with requests on it may be silent before it is asked for a sign of life,
/// and how long it has for that. Without it, all requests would go to a dead one for minutes.
const SILENCE: Duration = Duration::from_secs(10);
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// The way to one handler.
pub struct HttpClient {
    url: Uri,
    connector: HttpsConnector<HttpConnector>,
    lanes: Vec<Lane>,
}

/// Connections of its own; with HTTP/2, one.
struct Lane {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    busy: AtomicUsize,
}

/// An answer. For as long as it lives, its lane is in use.
pub struct Answer<'a> {
    /// Status, headers and the body to come.
    pub response: Response<Incoming>,
    _place: Place<'a>,
}

/// A place in a lane.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl HttpClient {
    /// A client for the handler at `url` (http or https), as `args` say.
    ///
    /// # Errors
    /// A URL that is none, or certificates that can't be read.
    pub fn new(url: &str, args: &HandlerArgs) -> anyhow::Result<Self> {
        let bad = || format!("--handler-url: {url:?} can't be used; write for example http://127.0.0.1:8080/");
        let uri: Uri = url.parse().with_context(bad)?;
        let secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => anyhow::bail!("{}: it must begin with http:// or https://", bad()),
        };
        anyhow::ensure!(
            secure || args.handler_ca.is_none(),
            "--handler-ca: is for a --handler-url that begins with https://, not {url:?}; change that, or leave it out"
        );
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(secure, args.handler_ca.as_deref())?)
            .https_or_http();
        // What is offered in the TLS handshake; without TLS, HTTP/2 is begun without asking.
        let connector = if args.handler_http2 {
            connector.enable_http2().wrap_connector(tcp)
        } else {
            connector.enable_all_versions().wrap_connector(tcp)
        };
        let lane = || Lane {
            client: Client::builder(TokioExecutor::new())
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE_TIMEOUT)
                .pool_max_idle_per_host(PER_LANE)
                .http2_only(args.handler_http2)
                .http2_keep_alive_interval(SILENCE)
                .http2_keep_alive_timeout(SIGN_OF_LIFE)
                .build(connector.clone()),
            busy: AtomicUsize::new(0),
        };
        let lanes = (0..LANES).map(|_| lane()).collect();
        Ok(Self {
            url: uri,
            connector,
            lanes,
        })
    }

    /// Where the handler is.
    pub fn url(&self) -> &Uri {
        &self.url
    }

    /// For finding out whether the handler is there.
    pub fn door(&self) -> Door {
        Door {
            url: self.url.clone(),
            connector: self.connector.clone(),
        }
    }

    /// Sends a request.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer<'_>, Error> {
        let (lane, place) = self.place();
        Ok(Answer {
            response: lane.client.request(request).await?,
            _place: place,
        })
    }

    /// A place in the first lane that has room, so that few tasks need few connections; in the last one
    /// where none has.
    fn place(&self) -> (&Lane, Place<'_>) {
        let mut lanes = self.lanes.iter().peekable();
        loop {
            let lane = lanes.next().unwrap_or(&self.lanes[0]);
            let before = lane.busy.fetch_add(1, Ordering::Relaxed);
            let place = Place(&lane.busy);
            if before < PER_LANE || lanes.peek().is_none() {
                return (lane, place);
            }
        }
    }
}

fn tls(secure: bool, ca: Option<&Path>) -> anyhow::Result<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    let config = match ca {
        Some(file) => config.with_root_certificates(certificates(file)?),
        None if secure => return Ok(roots::client_config()?),
        None => config.with_root_certificates(RootCertStore::empty()),
    };
    Ok(config.with_no_client_auth())
}

fn certificates(file: &Path) -> anyhow::Result<RootCertStore> {
    let place = || format!("--handler-ca: {} can't be used", file.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).with_context(place)? {
        roots.add(certificate.with_context(place)?).with_context(place)?;
    }
    anyhow::ensure!(
        !roots.is_empty(),
        "{}: it has no certificate; it must be PEM, beginning with -----BEGIN CERTIFICATE-----",
        place()
    );
    Ok(roots)
}

/// Connects to a handler and does no more: to find out whether it is there.
pub struct Door {
    url: Uri,
    connector: HttpsConnector<HttpConnector>,
}

impl Door {
    /// Whether it takes a connection and, with TLS, has the right certificate.
    pub async fn knock(&self) -> Result<(), Absent> {
        // No need to ask for its readiness: it has no limit of its own.
        match self.connector.clone().call(self.url.clone()).await {
            Ok(_) => Ok(()),
            Err(error) if certificate_error(error.as_ref()).is_some() => Err(Absent::Wrong(innermost(error.as_ref()))),
            Err(error) => Err(Absent::NotYet(innermost(error.as_ref()))),
        }
    }

    /// Host and port, for people.
    pub fn place(&self) -> String {
        let default = if self.url.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        let port = self.url.port_u16().unwrap_or(default);
        format!("{}:{port}", self.url.host().unwrap_or_default())
    }
}

/// The error at the root, as "connection refused" says more than "client error (Connect)"; with what to do
/// where it is about certificates.
pub fn innermost(error: &(dyn error::Error + 'static)) -> String {
    if let Some(error) = certificate_error(error) {
        return format!(
            "{error}: the handler's certificate must be for the host in its URL, and by a public CA or by the one in \
             spec.upstream.caFrom of the TaskHandler (--handler-ca)"
        );
    }
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}

/// What is wrong with the handler's certificate, if that is the error.
fn certificate_error<'a>(error: &'a (dyn error::Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(error @ rustls::Error::InvalidCertificate(_)) = error.downcast_ref() {
        return Some(error);
    }
    // An io::Error does not name what it wraps as its source.
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    match wrapped {
        Some(wrapped) => certificate_error(wrapped),
        None => certificate_error(error.source()?),
    }
}

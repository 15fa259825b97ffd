//! The ways to talk to a handler over HTTP: kept connections, HTTP/2, TLS, large bodies.

use crate::{
    bed::{Bed, Group, until},
    handler::{Handler, ok},
    process::Worker,
};
use axum::{Router, extract::State, http::Version};
use bytes::Bytes;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

/// What a server saw.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    requests: Mutex<Vec<(Version, usize)>>,
    running: AtomicUsize,
}

impl Seen {
    fn versions(&self) -> Vec<Version> {
        let requests = self.requests.lock().expect("requests");
        requests.iter().map(|(version, _)| *version).collect()
    }
}

#[derive(Clone)]
struct App {
    seen: Arc<Seen>,
    answer: Bytes,
    /// As many requests are answered as it has permits.
    hold: Option<Arc<Semaphore>>,
}

/// A server of one or both versions of HTTP, with or without TLS.
struct Server {
    addr: SocketAddr,
    seen: Arc<Seen>,
    serving: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Which versions a server speaks.
#[derive(Clone, Copy)]
enum Speaks {
    Both,
    OnlyHttp1,
    OnlyHttp2,
}

impl Server {
    async fn start(speaks: Speaks, tls: Option<TlsAcceptor>, answer: Bytes, hold: Option<Arc<Semaphore>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let seen: Arc<Seen> = Arc::default();
        let app = App {
            seen: seen.clone(),
            answer,
            hold,
        };
        let router = Router::new().fallback(take).with_state(app);
        let books = seen.clone();
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                tokio::spawn(connection(stream, tls.clone(), speaks, router.clone(), books.clone()));
            }
        });
        Self { addr, seen, serving }
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://localhost:{}/tasks", self.addr.port())
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, speaks: Speaks, router: Router, seen: Arc<Seen>) {
    let service = TowerToHyperService::new(router);
    let server = auto::Builder::new(TokioExecutor::new());
    let server = match speaks {
        Speaks::Both => server,
        Speaks::OnlyHttp1 => server.http1_only(),
        Speaks::OnlyHttp2 => server.http2_only(),
    };
    // Connections that bring nothing are the worker's looks whether the handler is there.
    match tls {
        None => {
            if stream.peek(&mut [0]).await.is_ok_and(|bytes| bytes > 0) {
                seen.connections.fetch_add(1, SeqCst);
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            }
        }
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                seen.connections.fetch_add(1, SeqCst);
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            }
        }
    }
}

async fn take(State(app): State<App>, request: axum::extract::Request) -> Bytes {
    let version = request.version();
    let body = axum::body::to_bytes(request.into_body(), usize::MAX)
        .await
        .expect("a body");
    app.seen.requests.lock().expect("requests").push((version, body.len()));
    app.seen.running.fetch_add(1, SeqCst);
    if let Some(hold) = &app.hold {
        hold.acquire().await.expect("the hold is never closed").forget();
    }
    app.seen.running.fetch_sub(1, SeqCst);
    app.answer
}

/// A CA of this test's own, with its certificate as a file.
struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a CA");
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).expect("it takes a file");
        Self { issuer, dir }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A server's end of TLS with a certificate for `host`, that offers these protocols.
    fn server(&self, host: &str, protocols: &[&str]) -> TlsAcceptor {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![host.to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("a key and its certificate");
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

async fn worker(bed: &Bed, args: &[&str]) -> Worker {
    let worker = Worker::start_with(&bed.nats.url(), &bed.queue, args, &[]).await;
    worker.ready().await;
    worker
}

#[tokio::test]
async fn tasks_one_after_another_share_a_connection() {
    let bed = Bed::with(&Group::default().concurrency(1)).await;
    for (speaks, args) in [
        (Speaks::OnlyHttp1, vec![]),
        (Speaks::OnlyHttp2, vec!["--handler-http2"]),
    ] {
        let server = Server::start(speaks, None, "ok".into(), None).await;
        let url = server.url("http");
        let mut all = vec!["--handler-url", &url];
        all.extend(&args);
        let mut worker = worker(&bed, &all).await;
        bed.publish_many(50).await;
        bed.empty_queue().await;
        assert_eq!(server.seen.versions().len(), 50);
        assert_eq!(server.seen.connections.load(SeqCst), 1, "{args:?}");
        worker.kill();
    }
}

#[tokio::test]
async fn http2_without_tls_is_spoken_where_it_is_asked_for_and_only_there() {
    let bed = Bed::with(&Group::default()).await;
    let server = Server::start(Speaks::Both, None, "ok".into(), None).await;
    let url = server.url("http");
    let mut plain = worker(&bed, &["--handler-url", &url]).await;
    bed.publish("plain", "").await;
    bed.empty_queue().await;
    plain.kill();
    let _h2c = worker(&bed, &["--handler-url", &url, "--handler-http2"]).await;
    bed.publish("h2c", "").await;
    bed.empty_queue().await;
    assert_eq!(server.seen.versions(), [Version::HTTP_11, Version::HTTP_2]);
}

#[tokio::test]
async fn more_tasks_run_at_once_than_one_http2_connection_takes() {
    // The server lets 200 share a connection; the other hundred must not wait for those.
    let mut group = Group::default().concurrency(300);
    group.settings.max_inflight = 300;
    let bed = Bed::with(&group).await;
    let hold = Arc::new(Semaphore::new(0));
    let server = Server::start(Speaks::OnlyHttp2, None, "ok".into(), Some(hold.clone())).await;
    let url = server.url("http");
    let _worker = worker(&bed, &["--handler-url", &url, "--handler-http2"]).await;
    bed.publish_many(300).await;
    until("all run", async || server.seen.running.load(SeqCst) == 300).await;
    // A hundred on each; one more where a connection was made twice at the same moment.
    let connections = server.seen.connections.load(SeqCst);
    assert!((3..=4).contains(&connections), "{connections}");
    hold.add_permits(300);
    bed.empty_queue().await;
}

#[tokio::test]
async fn a_handler_with_tls_is_trusted_by_its_own_ca_and_chooses_the_version() {
    let bed = Bed::with(&Group::default()).await;
    let ca = Ca::new("own");
    let file = ca.file().display().to_string();
    for (protocols, args, version) in [
        (vec!["h2", "http/1.1"], vec![], Version::HTTP_2),
        (vec!["http/1.1"], vec![], Version::HTTP_11),
        (vec![], vec![], Version::HTTP_11),
        (vec!["h2", "http/1.1"], vec!["--handler-http2"], Version::HTTP_2),
    ] {
        let tls = ca.server("localhost", &protocols);
        let server = Server::start(Speaks::Both, Some(tls), "ok".into(), None).await;
        let url = server.url("https");
        let mut all = vec!["--handler-url", &url, "--handler-ca", &file];
        all.extend(&args);
        let mut worker = worker(&bed, &all).await;
        bed.publish("a", "").await;
        bed.empty_queue().await;
        assert_eq!(server.seen.versions(), [version], "{protocols:?} {args:?}");
        worker.kill();
    }
}

#[tokio::test]
async fn a_handler_with_the_wrong_certificate_gets_no_task_and_the_worker_says_what_to_do() {
    let bed = Bed::with(&Group::default()).await;
    bed.publish("a", "").await;
    let (trusted, other) = (Ca::new("trusted"), Ca::new("other"));
    let (forged, file) = (Ca::new("trusted"), trusted.file().display().to_string());
    for (tls, wrong) in [
        (other.server("localhost", &[]), "UnknownIssuer"),
        (forged.server("localhost", &[]), "BadSignature"),
        (trusted.server("elsewhere", &[]), "not valid for name"),
    ] {
        let server = Server::start(Speaks::Both, Some(tls), "ok".into(), None).await;
        let args = ["--handler-url", &server.url("https"), "--handler-ca", &file];
        let worker = Worker::start_with(&bed.nats.url(), &bed.queue, &args, &[]).await;
        worker
            .not_ready("takes no connections (invalid peer certificate: ")
            .await;
        let (_, reason) = worker.get("/readyz").await;
        assert!(
            reason.contains(wrong) && reason.contains("or by the one in spec.upstream.caFrom of the TaskHandler"),
            "{reason}"
        );
        assert!(server.seen.versions().is_empty());
    }
    let server = Server::start(Speaks::Both, Some(trusted.server("localhost", &[])), "ok".into(), None).await;
    let _worker = worker(&bed, &["--handler-url", &server.url("https"), "--handler-ca", &file]).await;
    bed.empty_queue().await;
    assert_eq!(server.seen.versions().len(), 1, "the first attempt");
}

#[tokio::test]
async fn bodies_of_a_mebibyte_go_both_ways() {
    const SIZE: usize = 1 << 20;
    let bed = Bed::with(&Group::default().concurrency(2)).await;
    // NATS takes 1 MiB with the headers, of which there are none here.
    let payload = "x".repeat(SIZE);
    for (speaks, args) in [
        (Speaks::OnlyHttp1, vec![]),
        (Speaks::OnlyHttp2, vec!["--handler-http2"]),
    ] {
        let server = Server::start(speaks, None, vec![b'y'; SIZE].into(), None).await;
        let url = server.url("http");
        let mut all = vec!["--handler-url", &url];
        all.extend(&args);
        let mut worker = worker(&bed, &all).await;
        for id in ["a", "b", "c", "d"] {
            bed.publish(id, &payload).await;
        }
        bed.empty_queue().await;
        let sizes: Vec<_> = server
            .seen
            .requests
            .lock()
            .expect("requests")
            .iter()
            .map(|(_, size)| *size)
            .collect();
        assert_eq!(sizes, [SIZE; 4]);
        assert_eq!(
            worker.metric(r#"taskgroup_worker_tasks_total{outcome="done"}"#).await,
            4.0
        );
        worker.kill();
    }
}

#[tokio::test]
async fn every_attempt_is_a_step_of_one_trace_that_the_log_names() {
    let bed = Bed::with_relay(&Group::default()).await;
    let handler = Handler::start(|call| async move {
        if call.attempt() == 1 {
            (axum::http::StatusCode::SERVICE_UNAVAILABLE, String::new())
        } else {
            ok()
        }
    })
    .await;
    let worker = bed.ready_worker(&handler.url()).await;
    let headers = [
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "vendor=1"),
    ];
    bed.publish_with("a", &headers, "").await;
    bed.empty_queue().await;
    let calls = handler.books.calls();
    let steps: Vec<_> = calls.iter().map(|call| call.header("traceparent")).collect();
    assert_eq!(steps.len(), 2);
    assert_ne!(steps[0], steps[1]);
    for (call, step) in calls.iter().zip(&steps) {
        assert!(step.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{step}");
        assert_eq!(call.header("tracestate"), "vendor=1");
    }
    until("both attempts are logged", async || {
        let logged = worker.log_entries();
        let named = logged
            .iter()
            .filter(|entry| entry["trace_id"] == "0af7651916cd43dd8448eb211c80319c");
        named.count() == 2
    })
    .await;
    // A task without a trace begins one, which nobody has recorded yet.
    bed.publish_with("b", &[("tracestate", "vendor=1")], "").await;
    bed.empty_queue().await;
    let calls = handler.books.calls();
    let last = calls.last().expect("a call");
    let parent = last.header("traceparent");
    assert!(parent.len() == 55 && parent.ends_with("-00"), "{parent}");
    assert_eq!(last.header("tracestate"), "");
}

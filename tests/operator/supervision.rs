//! An operator does not go on without one of its services.

use crate::{bed::Bed, support::nats::NatsServer};
use futures::future::BoxFuture;
use http::{Request, Response};
use kube::{Client, client::Body};
use serde_json::json;
use std::{
    convert::Infallible,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_util::sync::CancellationToken;
use tower_service::Service;

/// A Kubernetes API that lists metadata and makes whoever asks for anything else panic.
struct PanicsAtWatches;

impl Service<Request<Body>> for PanicsAtWatches {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(async move {
            let query = request.uri().query().unwrap_or_default();
            let is_first_look = query.split('&').any(|part| part == "limit=1");
            assert!(is_first_look, "a watch begins");
            let list = json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList",
                "metadata": {}, "items": [],
            });
            Ok(Response::new(Body::from(list.to_string().into_bytes())))
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_whose_controller_panics_ends_with_an_error_that_names_it() {
    let bed = Bed::without_operator(NatsServer::start().await).await;
    let client = Client::new(PanicsAtWatches, bed.namespace.clone());
    let shutdown = CancellationToken::new();
    let error = taskgroup::operator::run_with(client, bed.operator_args(), shutdown.clone())
        .await
        .expect_err("the controller panicked");
    assert!(error.to_string().contains("\"controller\" failed"), "{error:#}");
    assert!(shutdown.is_cancelled());
    let live = bed.admin("/livez").unwrap_or_default();
    assert!(!live.contains("200 OK"), "{live}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_connection_to_the_admin_server_does_not_keep_the_operator_from_stopping() {
    let mut bed = Bed::new().await;
    bed.made("acme", json!({"concurrency": 1})).await;
    let mut half_a_request = TcpStream::connect(bed.admin).await.unwrap();
    half_a_request.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), bed.stop_operator())
        .await
        .expect("the operator stops");
}

//! A watch that breaks for good lists everything anew. What changed or vanished meanwhile counts as if it had been seen.

use crate::{
    bed::{Bed, http_handler, workers},
    support::nats::NatsServer,
};
use futures::future::BoxFuture;
use http::{Request, Response, Uri};
use kube::{
    Client,
    api::{DeleteParams, ListParams},
    client::Body,
};
use serde_json::json;
use std::{
    task::{Context, Poll},
    time::Duration,
};
use tokio::{sync::watch, time};
use tower_service::Service;

/// What becomes of the watches of one kind.
#[derive(Clone, Copy, PartialEq)]
enum Sight {
    /// They show all.
    Clear,
    /// They end, and the next ones show nothing.
    Blind,
}

/// The Kubernetes API, except that the watches of one kind end each second, and that they are told to list anew where they
/// were blind. Lists come in pages of one object.
#[derive(Clone)]
struct Blindfold {
    api: Client,
    plural: &'static str,
    sight: watch::Receiver<Sight>,
}

impl Service<Request<Body>> for Blindfold {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, kube::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), kube::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let mut this = self.clone();
        Box::pin(async move {
            let uri = request.uri().to_string();
            let uri = uri
                .replace("limit=200", "limit=1")
                .replace("timeoutSeconds=30", "timeoutSeconds=1");
            let is_watch = uri.contains("watch=true") && uri.contains(this.plural);
            *request.uri_mut() = uri.parse::<Uri>().unwrap();
            if is_watch && *this.sight.borrow() == Sight::Blind {
                this.sight.wait_for(|sight| *sight == Sight::Clear).await.unwrap();
                let expired = json!({"type": "ERROR", "object": {
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "message": "too old resource version", "reason": "Expired", "code": 410,
                }});
                return Ok(Response::new(Body::from(format!("{expired}\n").into_bytes())));
            }
            this.api.send(request).await
        })
    }
}

/// An operator whose watch of `plural` can be blinded, with the groups `a`, `b`, and `c`.
async fn bed(plural: &'static str) -> (Bed, watch::Sender<Sight>) {
    let mut bed = Bed::without_operator(NatsServer::start().await).await;
    bed.make_handler("default", http_handler()).await;
    let (sender, sight) = watch::channel(Sight::Clear);
    let api = bed.api.client_named(&bed.user_agent());
    let client = Client::new(Blindfold { api, plural, sight }, bed.namespace.clone());
    bed.start_operator_with(client, bed.operator_args());
    for name in ["a", "b", "c"] {
        bed.made(name, json!({"concurrency": 3})).await;
    }
    (bed, sender)
}

async fn blind(sight: &watch::Sender<Sight>) {
    sight.send_replace(Sight::Blind);
    time::sleep(Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_changed_while_the_watch_was_away_is_brought_in_step_on_whichever_page_it_is() {
    let (bed, sight) = bed("/taskgroups").await;
    blind(&sight).await;
    for name in ["a", "b", "c"] {
        bed.patch_spec(name, json!({"concurrency": 7})).await;
    }
    sight.send_replace(Sight::Clear);
    for name in ["c", "b", "a"] {
        bed.until_consumer(name, "max_ack_pending", json!(7)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_changed_while_the_watch_was_away_reaches_its_groups() {
    let (bed, sight) = bed("/taskhandlers").await;
    bed.make_handler("z", http_handler()).await;
    blind(&sight).await;
    bed.handlers()
        .delete("default", &DeleteParams::default())
        .await
        .unwrap();
    sight.send_replace(Sight::Clear);
    let is_told = |group: &taskgroup::api::TaskGroup| {
        let conditions = group.status.iter().flat_map(|status| &status.conditions);
        conditions
            .into_iter()
            .any(|condition| condition.type_ == "HandlerFound" && condition.status == "False")
    };
    bed.until("all groups say so", || async {
        let groups = bed.groups().list(&ListParams::default()).await.unwrap();
        groups.iter().all(is_told).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_vanished_while_the_watch_was_away_is_made_again() {
    let (bed, sight) = bed("/deployments").await;
    blind(&sight).await;
    bed.deployments()
        .delete(&workers("b"), &DeleteParams::default())
        .await
        .unwrap();
    sight.send_replace(Sight::Clear);
    bed.until("its Deployment is made again", || async {
        bed.deployments().get_opt(&workers("b")).await.unwrap()
    })
    .await;
}

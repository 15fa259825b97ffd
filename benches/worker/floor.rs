//! The floor: the same client library, and the same HTTP library, in bare loops.

use crate::bed::Group;
use bytes::Bytes;
use futures::{StreamExt, future::BoxFuture};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::sync::Arc;
use tokio::{
    net::TcpStream,
    sync::mpsc,
    task::{JoinHandle, JoinSet},
};

/// What is done with a message before it is acknowledged.
pub type Work = Arc<dyn Fn(Bytes) -> BoxFuture<'static, ()> + Send + Sync>;

/// As many pulls at once as the worker has, so that batches are of the same size.
const MAX_PULLS: usize = 2;

/// Runs something in the background until it is dropped.
pub struct Running(Vec<JoinHandle<()>>);

impl Drop for Running {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// A bare pull and ack loop: one inbox, never more than `slots` messages, a tokio task for each, and a
/// plain ack that nobody waits for.
pub async fn pull_loop(group: &Group<'_>, slots: usize, work: Work) -> Running {
    let client = group.client().await;
    let (stream, consumer) = (group.queue.stream(), group.queue.consumer());
    Running(vec![tokio::spawn(async move {
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        let inbox = client.new_inbox();
        let mut messages = client.subscribe(inbox.clone()).await.unwrap();
        let (sender, mut done) = mpsc::unbounded_channel();
        let (mut running, mut pulls) = (0, Vec::<usize>::new());
        loop {
            let free = slots - running - pulls.iter().sum::<usize>();
            if free > 0 && pulls.len() < MAX_PULLS {
                let pull = json!({"batch": free, "expires": 60_000_000_000_u64}).to_string();
                client
                    .publish_with_reply(subject.clone(), inbox.clone(), pull.into())
                    .await
                    .unwrap();
                pulls.push(free);
            }
            tokio::select! {
                Some(()) = done.recv() => {
                    running -= 1;
                    while done.try_recv().is_ok() {
                        running -= 1;
                    }
                }
                Some(message) = messages.next() => {
                    assert!(message.status.is_none(), "{:?}", message.description);
                    running += 1;
                    pulls[0] -= 1;
                    pulls.retain(|left| *left > 0);
                    let (client, work, sender) = (client.clone(), work.clone(), sender.clone());
                    tokio::spawn(async move {
                        work(message.payload).await;
                        client.publish(message.reply.unwrap(), "+ACK".into()).await.unwrap();
                        let _ = sender.send(());
                    });
                }
            }
        }
    })])
}

/// `connections` connections to the handler, each with one empty POST after another.
pub async fn http_loop(handler: std::net::SocketAddr, connections: usize) -> Running {
    let mut running = Vec::new();
    for _ in 0..connections {
        let mut connection = Connection::open(handler).await;
        running.push(tokio::spawn(async move {
            loop {
                connection.post(Bytes::new()).await;
            }
        }));
    }
    Running(running)
}

/// Work that is an HTTP request: on a connection that is free, of as many as run at once.
pub async fn http_work(handler: std::net::SocketAddr, connections: usize) -> Work {
    let (sender, receiver) = async_channel(connections);
    let mut opening = JoinSet::new();
    for _ in 0..connections {
        opening.spawn(Connection::open(handler));
    }
    for connection in opening.join_all().await {
        sender.send(connection).await.unwrap();
    }
    Arc::new(move |payload| {
        let (sender, receiver) = (sender.clone(), receiver.clone());
        Box::pin(async move {
            let mut connection = receiver.lock().await.recv().await.unwrap();
            connection.post(payload).await;
            sender.send(connection).await.unwrap();
        })
    })
}

type Shared<T> = Arc<tokio::sync::Mutex<mpsc::Receiver<T>>>;

fn async_channel<T>(room: usize) -> (mpsc::Sender<T>, Shared<T>) {
    let (sender, receiver) = mpsc::channel(room);
    (sender, Arc::new(tokio::sync::Mutex::new(receiver)))
}

struct Connection {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    async fn open(handler: std::net::SocketAddr) -> Self {
        let stream = TcpStream::connect(handler).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        // Ends when the sender is dropped.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Self {
            sender,
            host: handler.to_string(),
        }
    }

    async fn post(&mut self, payload: Bytes) {
        let request = http::Request::post("/").header("host", &self.host);
        self.sender.ready().await.unwrap();
        let answer = self
            .sender
            .send_request(request.body(Full::new(payload)).unwrap())
            .await
            .unwrap();
        assert!(answer.status().is_success());
        answer.into_body().collect().await.unwrap();
    }
}

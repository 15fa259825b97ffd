//! A handler in the test process: does with a task what the test says, and keeps the books.

use crate::{
    bed::{Bed, Group, until},
    process::Worker,
};
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{AppendHeaders, IntoResponse},
};
use bytes::Bytes;
use jiff::Timestamp;
use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle};

/// One request.
#[derive(Clone, Debug)]
pub struct Call {
    pub arrived: Timestamp,
    pub headers: HeaderMap,
    pub payload: String,
}

impl Call {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    pub fn task(&self) -> &str {
        self.header("X-Call-Id")
    }

    pub fn attempt(&self) -> u32 {
        self.header("X-Attempt").parse().expect("a number")
    }
}

/// What several handlers have seen together.
#[derive(Default)]
pub struct Books {
    calls: Mutex<Vec<Call>>,
    running: AtomicUsize,
    peak: AtomicUsize,
    aborted: AtomicUsize,
}

impl Books {
    /// All requests so far, in order of arrival.
    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("calls").clone()
    }

    /// The tasks of all requests so far, in order of arrival.
    pub fn tasks(&self) -> Vec<String> {
        self.calls().iter().map(|call| call.task().to_owned()).collect()
    }

    /// Requests that run now.
    pub fn running(&self) -> usize {
        self.running.load(SeqCst)
    }

    /// Most requests that ran at once.
    pub fn peak(&self) -> usize {
        self.peak.load(SeqCst)
    }

    /// Requests that the worker gave up before they were answered.
    pub fn aborted(&self) -> usize {
        self.aborted.load(SeqCst)
    }
}

/// Status, headers and body.
pub type FullAnswer = (StatusCode, Vec<(String, String)>, String);

type Answer = Pin<Box<dyn Future<Output = FullAnswer> + Send>>;
type Act = Arc<dyn Fn(Call) -> Answer + Send + Sync>;

#[derive(Clone)]
struct Shared {
    act: Act,
    books: Vec<Arc<Books>>,
}

/// A server that takes tasks until it is dropped.
pub struct Handler {
    addr: SocketAddr,
    pub books: Arc<Books>,
    server: JoinHandle<()>,
}

impl Handler {
    /// A handler that does `act` with each task.
    pub async fn start<F>(act: impl Fn(Call) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = (StatusCode, String)> + Send + 'static,
    {
        Self::start_on("127.0.0.1:0".parse().expect("an address"), Arc::default(), act).await
    }

    /// One on a certain address that writes into `joint` books, beside its own.
    pub async fn start_on<F>(
        addr: SocketAddr,
        joint: Arc<Books>,
        act: impl Fn(Call) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = (StatusCode, String)> + Send + 'static,
    {
        let act: Act = Arc::new(move |call| {
            let answer = act(call);
            Box::pin(async move {
                let (status, body) = answer.await;
                (status, Vec::new(), body)
            })
        });
        Self::serve(addr, joint, act).await
    }

    /// A handler that sets headers, too.
    pub async fn start_with_headers<F>(act: impl Fn(Call) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = FullAnswer> + Send + 'static,
    {
        let act: Act = Arc::new(move |call| Box::pin(act(call)));
        Self::serve("127.0.0.1:0".parse().expect("an address"), Arc::default(), act).await
    }

    async fn serve(addr: SocketAddr, joint: Arc<Books>, act: Act) -> Self {
        let books: Arc<Books> = Arc::default();
        let listener = TcpListener::bind(addr).await.expect("a port");
        let addr = listener.local_addr().expect("an address");
        let app = Router::new().fallback(take).with_state(Shared {
            act,
            books: vec![books.clone(), joint],
        });
        let server = tokio::spawn(async move { axum::serve(listener, app).await.expect("the handler serves") });
        Self { addr, books, server }
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.addr)
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State(shared): State<Shared>, headers: HeaderMap, payload: Bytes) -> impl IntoResponse {
    let call = Call {
        arrived: Timestamp::now(),
        headers,
        payload: String::from_utf8_lossy(&payload).into_owned(),
    };
    let mut running = Running::new(shared.books, &call);
    let (status, headers, body) = (shared.act)(call).await;
    running.answered = true;
    (status, AppendHeaders(headers), body)
}

/// Counted for as long as it lives. Dropped early when the worker closes the connection.
struct Running {
    books: Vec<Arc<Books>>,
    answered: bool,
}

impl Running {
    fn new(books: Vec<Arc<Books>>, call: &Call) -> Self {
        for books in &books {
            books.calls.lock().expect("calls").push(call.clone());
            let running = books.running.fetch_add(1, SeqCst) + 1;
            books.peak.fetch_max(running, SeqCst);
        }
        Self { books, answered: false }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for books in &self.books {
            books.running.fetch_sub(1, SeqCst);
            books.aborted.fetch_add(usize::from(!self.answered), SeqCst);
        }
    }
}

/// Holds tasks until the test lets them go.
#[derive(Clone)]
pub struct Hold(Arc<Semaphore>);

impl Hold {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Returns when the test lets a task go.
    pub async fn wait(&self) {
        self.0.acquire().await.expect("the hold is never closed").forget();
    }

    /// Lets so many tasks go, of those that wait or will.
    pub fn release(&self, tasks: usize) {
        self.0.add_permits(tasks);
    }
}

/// The answer of a task that went well.
pub fn ok() -> (StatusCode, String) {
    (StatusCode::OK, "done\n".to_owned())
}

/// A handler that answers each task at once.
pub async fn quick() -> Handler {
    Handler::start(|_| async { ok() }).await
}

/// A handler that answers each task once `hold` lets it go.
pub async fn held(hold: &Hold) -> Handler {
    held_with(hold, Arc::default()).await
}

/// One that writes into `joint` books, beside its own.
pub async fn held_with(hold: &Hold, joint: Arc<Books>) -> Handler {
    let hold = hold.clone();
    let act = move |_| {
        let hold = hold.clone();
        async move {
            hold.wait().await;
            ok()
        }
    };
    Handler::start_on("127.0.0.1:0".parse().expect("an address"), joint, act).await
}

/// Two of these, with books of their own and joint ones.
pub async fn two_held(hold: &Hold) -> (Arc<Books>, Handler, Handler) {
    let joint: Arc<Books> = Arc::default();
    let (one, other) = (
        held_with(hold, joint.clone()).await,
        held_with(hold, joint.clone()).await,
    );
    (joint, one, other)
}

/// A group with a rate whose first task is done and whose second waits in its worker's hand for its start.
pub async fn one_waits(group: &Group, tasks: usize) -> (Bed, Handler, Worker) {
    let bed = Bed::with_relay(group).await;
    let handler = quick().await;
    let worker = bed.ready_worker(&handler.url()).await;
    bed.publish_many(tasks).await;
    until("the first is done, and the second waits", async || {
        handler.books.calls().len() == 1 && bed.consumer_info().await["num_ack_pending"] == 1
    })
    .await;
    (bed, handler, worker)
}

//! A handler over HTTP, in a process of its own: the bench starts itself again as this.

use crate::{
    bed::until,
    servers::{process::Process, scratch::Scratch},
};
use axum::{
    Router,
    extract::State,
    routing::{get, post},
};
use std::{
    env, fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// The argument that makes the bench be the handler; the next one is the file for its address.
pub const BE_THE_HANDLER: &str = "be-the-handler";

type Count = State<Arc<AtomicU64>>;

/// Serves until it is killed.
pub async fn serve(file: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let count: Arc<AtomicU64> = Arc::default();
    let app = Router::new()
        .route(
            "/count",
            get(async |State(count): Count| count.load(Relaxed).to_string()),
        )
        .route(
            "/hold",
            post(async |State(count): Count| {
                count.fetch_add(1, Relaxed);
                std::future::pending::<()>().await;
            }),
        )
        .fallback(async |State(count): Count| {
            count.fetch_add(1, Relaxed);
        })
        .with_state(count);
    // Whole or not at all, as it is being waited for.
    fs::write(format!("{file}.new"), addr).unwrap();
    fs::rename(format!("{file}.new"), file).unwrap();
    axum::serve(listener, app).await.unwrap();
}

/// The handler's process.
pub struct Handler {
    pub addr: SocketAddr,
    _process: Process,
    _dir: Scratch,
}

impl Handler {
    pub async fn start() -> Self {
        let dir = Scratch::new();
        let file = dir.path().join("addr");
        let args = [BE_THE_HANDLER.to_owned(), file.display().to_string()];
        let process = Process::start(&env::current_exe().unwrap(), &args, &dir.path().join("log"));
        let mut addr = None;
        until("the handler says its address", async || {
            addr = fs::read_to_string(&file).ok();
            addr.is_some()
        })
        .await;
        Self {
            addr: addr.unwrap().parse().unwrap(),
            _process: process,
            _dir: dir,
        }
    }

    /// Answers every task at once.
    pub fn url(&self) -> String {
        format!("http://{}/", self.addr)
    }

    /// Takes tasks and never answers.
    pub fn hold_url(&self) -> String {
        format!("http://{}/hold", self.addr)
    }

    /// Tasks that it got so far.
    pub async fn count(&self) -> u64 {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let request = "GET /count HTTP/1.1\r\nHost: handler\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.rsplit_once("\r\n\r\n").unwrap().1.parse().unwrap()
    }
}

//! What all other tests rely on: the servers they start are gone when they are.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::doc_markdown,
    reason = "a test that can't go on panics"
)]

mod support;

use std::{
    env,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use support::{process::Process, proxy::Proxy, scratch::Scratch};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Stands in for a server: says its process id, and goes on for ever.
const SERVER: &str = "echo $$ > \"$0\"; exec sleep 1000000";

/// Not a test: what the test below runs in a process of its own, and kills.
#[test]
#[ignore = "it never ends"]
fn holds_a_server_for_ever() {
    let dir = Scratch::new();
    let pid = dir.path().join("pid");
    let args = ["-c", SERVER, pid.to_str().unwrap()].map(str::to_owned);
    let _server = Process::start(Path::new("/bin/sh"), &args, &dir.path().join("log"));
    println!("\ndirectory {}", dir.path().display());
    loop {
        thread::park();
    }
}

#[test]
fn no_server_and_no_file_outlives_a_test_that_is_killed() {
    let mut test = Command::new(env::current_exe().unwrap())
        .args(["--ignored", "--exact", "holds_a_server_for_ever", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(test.stdout.take().unwrap()).lines().map(Result::unwrap);
    let directory = output
        .find_map(|line| line.strip_prefix("directory ").map(str::to_owned))
        .unwrap();
    let directory = Path::new(&directory);
    let server = until(|| {
        let pid = std::fs::read_to_string(directory.join("pid")).ok()?;
        pid.trim().parse::<u32>().ok()
    });
    let server = format!("/proc/{server}");
    assert!(Path::new(&server).exists(), "the server does not run");

    test.kill().unwrap();
    test.wait().unwrap();
    until(|| (!Path::new(&server).exists()).then_some(()));
    until(|| (!directory.exists()).then_some(()));
}

/// A server that answers each byte with the next one.
async fn counting_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                while let Ok(byte) = client.read_u8().await {
                    client.write_u8(byte + 1).await.unwrap();
                }
            });
        }
    });
    url
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.url().trim_start_matches("nats://"))
        .await
        .unwrap()
}

/// Sends a byte and returns the answer; an error where the connection is closed.
async fn ask(stream: &mut TcpStream, byte: u8) -> std::io::Result<u8> {
    stream.write_u8(byte).await?;
    stream.read_u8().await
}

#[tokio::test]
async fn a_cut_proxy_closes_every_connection_and_takes_new_ones_once_it_is_restored() {
    let proxy = Proxy::start(&counting_server().await).await;
    let mut old = connect(&proxy).await;
    assert_eq!(ask(&mut old, 1).await.unwrap(), 2);
    proxy.cut();
    assert!(ask(&mut old, 3).await.is_err(), "an answer after the cut");
    assert!(
        ask(&mut connect(&proxy).await, 3).await.is_err(),
        "a connection during the cut"
    );
    proxy.restore();
    assert_eq!(ask(&mut connect(&proxy).await, 5).await.unwrap(), 6);
    // A cut that is over before anybody looked was a cut all the same.
    let mut unaware = connect(&proxy).await;
    assert_eq!(ask(&mut unaware, 7).await.unwrap(), 8);
    proxy.cut();
    proxy.restore();
    assert!(ask(&mut unaware, 9).await.is_err(), "an answer across a cut");
}

#[tokio::test]
async fn a_frozen_proxy_holds_bytes_back_and_delivers_them_when_it_thaws() {
    let proxy = Proxy::start(&counting_server().await).await;
    let mut old = connect(&proxy).await;
    assert_eq!(ask(&mut old, 1).await.unwrap(), 2);
    proxy.freeze();
    let mut new = connect(&proxy).await;
    old.write_u8(3).await.unwrap();
    new.write_u8(5).await.unwrap();
    tokio::select! {
        biased;
        _ = old.read_u8() => panic!("a byte came through"),
        _ = new.read_u8() => panic!("a byte came through"),
        // A connection of its own to the same kind of server shows that bytes sent before it have had their time.
        () = round_trips(100) => {}
    }
    proxy.thaw();
    assert_eq!(old.read_u8().await.unwrap(), 4);
    assert_eq!(new.read_u8().await.unwrap(), 6);
}

async fn round_trips(count: usize) {
    let open = Proxy::start(&counting_server().await).await;
    let mut stream = connect(&open).await;
    for _ in 0..count {
        assert_eq!(ask(&mut stream, 1).await.unwrap(), 2);
    }
}

/// Waits for a condition.
fn until<T>(mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain");
        thread::sleep(Duration::from_millis(10));
    }
}

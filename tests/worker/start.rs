//! What a worker needs is waited for, and named.

use crate::{
    bed::{Bed, Group, until},
    handler::{Handler, ok},
};
use std::{net::SocketAddr, process::Command, sync::Arc};
use taskgroup::protocol::keys;

#[tokio::test]
async fn a_worker_waits_for_its_consumer_and_for_settings_it_can_read() {
    let bed = Bed::empty().await;
    let handler = Handler::start(|_| async { ok() }).await;
    let worker = bed.worker(&handler.url()).await;
    worker
        .not_ready("NATS has no stream tg_crawl_acme with a consumer workers-crawl yet: the operator makes them; look at the TaskGroup of queue crawl/acme")
        .await;
    bed.create_stream().await;
    bed.publish("early", "").await;
    let bare =
        taskgroup::broker::ConsumerConfig::workers("workers-crawl".into(), 1, Group::default().ack_wait, [].into());
    bed.broker
        .create_consumer(&bed.stream(), &bare)
        .await
        .expect("a consumer");
    worker
        .not_ready(&format!("has no {} in its metadata", keys::SETTINGS))
        .await;
    bed.change(&Group::default()).await;
    worker.ready().await;
    bed.empty_queue().await;
    assert_eq!(handler.books.tasks(), ["early"]);
}

#[tokio::test]
async fn a_worker_waits_for_nats() {
    let bed = Bed::with(&Group::default()).await;
    bed.publish("early", "").await;
    bed.nats.stop();
    let handler = Handler::start(|_| async { ok() }).await;
    let worker = bed.worker(&handler.url()).await;
    worker.not_ready("can't be reached").await;
    assert_eq!(worker.get("/livez").await.0, 200, "waiting is no reason to be killed");
    bed.nats.resume().await;
    bed.connected().await;
    worker.ready().await;
    bed.empty_queue().await;
}

#[tokio::test]
async fn a_handler_that_still_starts_costs_no_task_an_attempt() {
    let bed = Bed::with(&Group::default()).await;
    let addr: SocketAddr = ([127, 0, 0, 1], crate::support::tools::free_port()).into();
    bed.publish_many(20).await;
    let worker = bed.worker(&format!("http://{addr}/")).await;
    worker
        .not_ready(&format!("waiting for the handler to take connections on {addr}"))
        .await;
    until("the worker tried", async || {
        worker.logged("takes no connections yet") >= 3
    })
    .await;
    let handler = Handler::start_on(addr, Arc::default(), |_| async { ok() }).await;
    bed.empty_queue().await;
    assert!(handler.books.calls().iter().all(|call| call.attempt() == 1));
    assert_eq!(handler.books.calls().len(), 20);
}

#[test]
fn certificates_that_can_not_be_used_are_refused_with_what_to_do() {
    let not_pem = tempfile::NamedTempFile::new().expect("a file");
    let empty = not_pem.path().display().to_string();
    for (url, file, says) in [
        (
            "https://a/",
            "/no/such/ca.pem",
            "--handler-ca: /no/such/ca.pem can't be used",
        ),
        (
            "https://a/",
            empty.as_str(),
            "it has no certificate; it must be PEM, beginning with -----BEGIN CERTIFICATE-----",
        ),
        (
            "http://a/",
            empty.as_str(),
            "--handler-ca: is for a --handler-url that begins with https://",
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_taskgroup-worker"))
            .args([
                "worker",
                "--namespace",
                "a",
                "--queue",
                "a",
                "--handler-url",
                url,
                "--handler-ca",
                file,
            ])
            .output()
            .expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(says), "{error}");
    }
}

#[test]
fn arguments_that_can_not_be_used_are_refused_with_what_to_write() {
    for (args, says) in [
        (
            ["--namespace", "Crawl", "--queue", "a", "--handler-url", "http://a/"],
            r#"--namespace: "Crawl" is no DNS label; write at most 63 of a-z"#,
        ),
        (
            ["--namespace", "a", "--queue", "a.b", "--handler-url", "http://a/"],
            r#"--queue: "a.b" is no DNS label"#,
        ),
        (
            ["--namespace", "a", "--queue", "a", "--handler-url", "a:80"],
            r#"--handler-url: "a:80" can't be used; write for example http://127.0.0.1:8080/"#,
        ),
        (
            ["--namespace", "a", "--queue", "a", "--log", "info"],
            "exactly one of --handler-url (HANDLER_URL) and --handler-exec (HANDLER_EXEC) says what runs the tasks",
        ),
        (
            ["--namespace", "a", "--queue", "a", "--handler-exec", "/app/run"],
            r#"write a program and its arguments as JSON, for example ["/app/run", "--fast"]"#,
        ),
        (
            ["--namespace", "a", "--queue", "a", "--handler-exec", "[]"],
            r#"write a program and its arguments as JSON, for example ["/app/run", "--fast"]"#,
        ),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_taskgroup-worker"))
            .arg("worker")
            .args(args)
            .output()
            .expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(says), "{error}");
    }
}

//! kubectl, speaking to a test's own API server.

use super::apiserver::ApiServer;
use std::{
    io::Write,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

/// Runs kubectl to its end, with `input` as its standard input.
pub fn run(server: &ApiServer, args: &[&str], input: &str) -> Output {
    let mut kubectl = server.kubectl();
    kubectl
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = kubectl.spawn().unwrap();
    // Not read to its end where kubectl refuses its arguments.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// What kubectl prints, or what it complains about.
pub fn kubectl(server: &ApiServer, args: &[&str], input: &str) -> Result<String, String> {
    let output = run(server, args, input);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() {
        Ok(text(output.stdout))
    } else {
        Err(text(output.stderr))
    }
}

/// Waits until kubectl can explain our kinds and find unknown fields in them: the server publishes
/// what it needs for that a moment after it serves them.
pub async fn knows_our_kinds(server: &ApiServer) {
    let client = server.client();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let request = http::Request::get("/openapi/v2").body(Vec::new()).unwrap();
        let published = client.request_text(request).await.unwrap();
        if ["TaskGroup\"", "TaskHandler\""]
            .iter()
            .all(|kind| published.contains(&format!("io.taskgroup.v1alpha1.{kind}")))
        {
            return;
        }
        assert!(Instant::now() < deadline, "the server publishes no schema of ours");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

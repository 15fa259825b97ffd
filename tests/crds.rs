//! The `CustomResourceDefinitions` as users and API servers meet them.

mod support;

use support::apiserver::ApiServer;

#[tokio::test]
async fn the_api_server_serves_both_kinds() {
    let server = ApiServer::shared_with_crds().await;
    let output = server.kubectl().args(["get", "tg,th", "--all-namespaces"]).output();
    let output = output.expect("kubectl runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

//! The servers that the CRDs are tried on, old and current, and requests to them as kubectl would send them.

use super::support::{apiserver::ApiServer, crd_server::CrdServer};
use http::Method;
use kube::Client;
use serde_json::Value;

/// A server with our CRDs.
pub struct Server {
    /// For messages.
    pub name: &'static str,
    pub client: Client,
    /// `None` for the CRD server, where namespaces need not exist.
    api: Option<&'static ApiServer>,
}

/// Every server that is here: the API server, and the CRD server where it could be built.
pub async fn servers() -> Vec<Server> {
    let api = ApiServer::shared_with_crds().await;
    let old = Server {
        name: "the API server",
        client: api.client(),
        api: Some(api),
    };
    let mut servers = vec![old];
    servers.extend(current().await);
    servers
}

/// The current CRD server, where it could be built.
pub async fn current() -> Option<Server> {
    Some(Server {
        name: "the current CRD server",
        client: CrdServer::shared().await?.client(),
        api: None,
    })
}

impl Server {
    /// A namespace of which nobody else knows.
    pub async fn namespace(&self) -> String {
        match self.api {
            Some(api) => api.namespace().await,
            None => format!("test-{:016x}", rand::random::<u64>()),
        }
    }

    /// Creates the object of the manifest.
    pub async fn create(&self, namespace: &str, manifest: &Value, check: UnknownFields) -> Result<Value, String> {
        let path = format!("{}?{}", collection(namespace, manifest), check.query());
        self.send(Method::POST, &path, manifest.to_string()).await
    }

    /// Replaces the object of the manifest's name, which exists.
    pub async fn replace(&self, namespace: &str, manifest: &Value, check: UnknownFields) -> Result<Value, String> {
        let path = object(namespace, manifest);
        let exists = self.send(Method::GET, &path, String::new()).await?;
        let mut manifest = manifest.clone();
        manifest["metadata"]["resourceVersion"] = exists["metadata"]["resourceVersion"].clone();
        let path = format!("{path}?{}", check.query());
        self.send(Method::PUT, &path, manifest.to_string()).await
    }

    /// Applies the manifest as `kubectl apply --server-side --field-manager=MANAGER`, with more options as a query.
    pub async fn apply(
        &self,
        namespace: &str,
        manifest: &Value,
        manager: &str,
        options: &str,
    ) -> Result<Value, String> {
        let path = format!(
            "{}?fieldManager={manager}&{}{options}",
            object(namespace, manifest),
            UnknownFields::Refused.query()
        );
        self.send(Method::PATCH, &path, manifest.to_string()).await
    }

    /// Sends a request. The error is the server's message.
    ///
    /// # Panics
    /// Where the server answers anything else than yes or a refusal.
    pub async fn send(&self, method: Method, path: &str, body: String) -> Result<Value, String> {
        let content = if method == Method::PATCH {
            "application/apply-patch+yaml"
        } else {
            "application/json"
        };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, content)
            .body(body.into_bytes())
            .unwrap();
        match self.client.request(request).await {
            Ok(answer) => Ok(answer),
            Err(kube::Error::Api(status)) if matches!(status.code, 400 | 409 | 422) => Err(status.message.clone()),
            Err(error) => panic!("{} on {path}: {error}", self.name),
        }
    }
}

/// What the server does with fields that the schema does not have. An old server always drops them.
#[derive(Clone, Copy)]
pub enum UnknownFields {
    Dropped,
    Refused,
}

impl UnknownFields {
    fn query(self) -> &'static str {
        match self {
            Self::Dropped => "fieldValidation=Ignore",
            Self::Refused => "fieldValidation=Strict",
        }
    }
}

/// The path of all objects of the manifest's kind in a namespace.
pub fn collection(namespace: &str, manifest: &Value) -> String {
    let plural = manifest["kind"].as_str().unwrap().to_lowercase();
    format!("/apis/taskgroup.io/v1alpha1/namespaces/{namespace}/{plural}s")
}

/// The path of the manifest's object.
pub fn object(namespace: &str, manifest: &Value) -> String {
    let name = manifest["metadata"]["name"].as_str().unwrap();
    format!("{}/{name}", collection(namespace, manifest))
}

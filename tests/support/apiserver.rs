//! A real Kubernetes API server with its etcd. There are no nodes and no controllers, so nothing starts pods, and nothing
//! collects what a deleted owner leaves behind.

use super::{
    process::Process,
    requests::{self, Request},
    scratch::Scratch,
    tools::{Tool, free_port},
};
use http::HeaderValue;
use k8s_openapi::{
    api::core::v1::Namespace, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::PostParams,
    runtime::wait::{await_condition, conditions},
};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;

/// The operator's own client waits as long.
const READ_TIMEOUT: Duration = taskgroup::operator::READ_TIMEOUT;

/// A server becomes ready within this time. On an idle machine it takes 3 s.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// etcd and kube-apiserver on loopback ports. Both are killed when this is dropped or the test process ends.
pub struct ApiServer {
    port: u16,
    etcd_port: u16,
    token: String,
    servers: Mutex<Servers>,
    /// Holds certificates, keys, data and logs. Dropped last, as the servers write to it.
    dir: Scratch,
}

struct Servers {
    kube_apiserver: Process,
    etcd: Process,
}

impl Servers {
    /// An error with the last log lines of a server that ended.
    fn last_words(&mut self) -> Result<(), String> {
        for (name, server) in [("etcd", &mut self.etcd), ("kube-apiserver", &mut self.kube_apiserver)] {
            if let Some(status) = server.ended() {
                return Err(format!("{name} ended ({status}):\n{}", server.last_words()));
            }
        }
        Ok(())
    }
}

impl ApiServer {
    /// The server that all tests of this binary share. Each test takes an [`ApiServer::namespace`] of its own. It also
    /// takes an [`ApiServer::client`] of its own, because a client belongs to the runtime that it was made in.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<ApiServer> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// The shared server, with our CRDs.
    pub async fn shared_with_crds() -> &'static Self {
        static INSTALLED: OnceCell<()> = OnceCell::const_new();
        let server = Self::shared().await;
        INSTALLED.get_or_init(|| server.install_crds()).await;
        server
    }

    /// Starts etcd and kube-apiserver, and returns when both are ready.
    ///
    /// # Panics
    /// Without their programs (see [`Tool::path`]), or if they do not become ready.
    pub async fn start() -> Self {
        // Another process may have taken a free port meanwhile.
        for _ in 0..2 {
            match Self::try_start().await {
                Ok(server) => return server,
                Err(error) => eprintln!("trying other ports: {error}"),
            }
        }
        Self::try_start().await.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn try_start() -> Result<Self, String> {
        let dir = Scratch::new();
        let token = format!("{:032x}", rand::random::<u128>());
        let (port, etcd_port) = (free_port(), free_port());
        prepare(dir.path(), &token, port);
        let servers = Servers {
            etcd: start_etcd(dir.path(), etcd_port),
            kube_apiserver: start_kube_apiserver(dir.path(), port, etcd_port),
        };
        let server = Self {
            port,
            etcd_port,
            token,
            servers: Mutex::new(servers),
            dir,
        };
        server.ready().await.map(|()| server)
    }

    /// Waits until the server reports that it is ready.
    async fn ready(&self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while let Err(problem) = self.is_ready().await {
            self.servers.lock().unwrap().last_words()?;
            if Instant::now() > deadline {
                let log = self.servers.lock().unwrap().kube_apiserver.last_words();
                return Err(format!("kube-apiserver is not ready ({problem}):\n{log}"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn is_ready(&self) -> Result<(), String> {
        if !self.certificate().exists() {
            return Err("it has made no certificate".into());
        }
        let mut config = self.config();
        config.default_retry = false;
        let client = Client::try_from(config).map_err(|error| error.to_string())?;
        let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
        let answer = client.request_text(request).await;
        answer.map(|_ok| ()).map_err(|error| error.to_string())
    }

    /// Kills kube-apiserver. etcd and the data stay.
    pub fn stop(&self) {
        self.servers.lock().unwrap().kube_apiserver.kill();
    }

    /// Starts kube-apiserver again after [`ApiServer::stop`], on the same port, and waits until it is ready.
    pub async fn resume(&self) {
        let again = start_kube_apiserver(self.dir.path(), self.port, self.etcd_port);
        self.servers.lock().unwrap().kube_apiserver = again;
        self.ready().await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Kills kube-apiserver and starts it again, on the same port and with the same data.
    pub async fn restart(&self) {
        self.stop();
        self.resume().await;
    }

    /// A client that may do everything.
    pub fn client(&self) -> Client {
        Client::try_from(self.config()).unwrap()
    }

    /// A client that may do everything. [`ApiServer::requests_of`] finds its requests.
    pub fn client_named(&self, user_agent: &str) -> Client {
        let mut config = self.config();
        let agent = HeaderValue::from_str(user_agent).unwrap();
        config.headers.push((http::header::USER_AGENT, agent));
        Client::try_from(config).unwrap()
    }

    /// A client with the rights of `user`, for example
    /// `system:serviceaccount:taskgroup-system:taskgroup-operator`.
    pub fn client_as(&self, user: &str) -> Client {
        let mut config = self.config();
        let header = |name, value: &str| {
            (
                http::HeaderName::from_static(name),
                HeaderValue::from_str(value).unwrap(),
            )
        };
        config.headers.push(header("impersonate-user", user));
        // Impersonation leaves out the groups that the server itself gives to a service account.
        let mut groups = vec!["system:authenticated".to_owned()];
        if let Some((namespace, _)) = user
            .strip_prefix("system:serviceaccount:")
            .and_then(|rest| rest.split_once(':'))
        {
            groups.push("system:serviceaccounts".to_owned());
            groups.push(format!("system:serviceaccounts:{namespace}"));
        }
        config
            .headers
            .extend(groups.iter().map(|group| header("impersonate-group", group)));
        Client::try_from(config).unwrap()
    }

    /// The configuration of [`ApiServer::client`].
    pub fn config(&self) -> Config {
        let mut config = Config::new(self.url().parse().unwrap());
        config.root_cert_file = Some(self.certificate());
        config.auth_info.token = Some(self.token.clone().into());
        config.read_timeout = Some(READ_TIMEOUT);
        config
    }

    /// The URL that kube-apiserver listens on.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// The URL that etcd listens on.
    pub fn etcd_url(&self) -> String {
        etcd_url(self.etcd_port)
    }

    /// The kubeconfig file of a user who may do everything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// A `kubectl` for this server. Caches stay out of the user's home.
    pub fn kubectl(&self) -> Command {
        let mut command = Command::new(Tool::Kubectl.path());
        command
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.dir.path())
            .env_remove("KUBECTL_COMMAND_HEADERS");
        command
    }

    fn certificate(&self) -> PathBuf {
        self.dir.path().join("certificates/apiserver.crt")
    }

    /// Installs our CRDs, or brings them up to date, and returns when the server serves them.
    pub async fn install_crds(&self) {
        self.install(taskgroup::api::crds().into_iter().map(|(_, crd)| crd).collect())
            .await;
    }

    /// Installs our CRDs with a schema that accepts anything.
    pub async fn install_loose_crds(&self) {
        let mut crds: Vec<_> = taskgroup::api::crds().into_iter().map(|(_, crd)| crd).collect();
        for version in crds.iter_mut().flat_map(|crd| &mut crd.spec.versions) {
            // It would check the type of `spec.concurrency`.
            if let Some(subresources) = &mut version.subresources {
                subresources.scale = None;
            }
            version.schema = serde_json::from_value(json!({
                "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            }))
            .unwrap();
        }
        self.install(crds).await;
    }

    async fn install(&self, crds: Vec<CustomResourceDefinition>) {
        let api: Api<CustomResourceDefinition> = Api::all(self.client());
        for mut crd in crds {
            let name = crd.name_any();
            // A server that knows no CEL rules drops them here, and refuses them in a server-side apply.
            if let Some(installed) = api.get_opt(&name).await.unwrap() {
                crd.metadata.resource_version = installed.resource_version();
                api.replace(&name, &PostParams::default(), &crd).await.unwrap();
            } else {
                api.create(&PostParams::default(), &crd).await.unwrap();
            }
            await_condition(api.clone(), &name, conditions::is_crd_established())
                .await
                .unwrap();
        }
    }

    /// Makes a fresh namespace and returns its name.
    pub async fn namespace(&self) -> String {
        let api: Api<Namespace> = Api::all(self.client());
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"generateName": "test-"}})).unwrap();
        api.create(&PostParams::default(), &namespace).await.unwrap().name_any()
    }

    /// Every request answered so far, once, ordered by its end (for a watch, by its start). A request whose answer is
    /// large may be missing for a moment after the answer has arrived.
    pub fn requests(&self) -> Vec<Request> {
        requests::read(&self.dir.path().join("audit.log"))
    }

    /// The requests of the client that [`ApiServer::client_named`] made.
    pub fn requests_of(&self, user_agent: &str) -> Vec<Request> {
        let mut requests = self.requests();
        requests.retain(|request| request.user_agent == user_agent);
        requests
    }
}

/// Writes the files that kube-apiserver reads at start, and a kubeconfig.
fn prepare(dir: &Path, token: &str, port: u16) {
    let write = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
    write("tokens.csv", &format!("{token},admin,admin,\"system:masters\"\n"));
    let policy = json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata"}],
    });
    write("audit-policy.yaml", &policy.to_string());
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://127.0.0.1:{port}"),
            "certificate-authority": dir.join("certificates/apiserver.crt"),
        }}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    });
    write("kubeconfig", &kubeconfig.to_string());
    let made = Command::new("openssl")
        .args(["genrsa", "-out"])
        .arg(dir.join("service-accounts.key"))
        .arg("2048")
        .output()
        .expect("openssl is not here: install it");
    assert!(
        made.status.success(),
        "openssl: {}",
        String::from_utf8_lossy(&made.stderr)
    );
}

fn etcd_url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn start_etcd(dir: &Path, port: u16) -> Process {
    let url = etcd_url(port);
    // A single member needs no peers. With port 0, etcd chooses one.
    let peer = "http://127.0.0.1:0";
    let args = [
        format!("--data-dir={}", dir.join("etcd").display()),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
    ];
    Process::start(&Tool::Etcd.path(), &args, &dir.join("etcd.log"))
}

fn start_kube_apiserver(dir: &Path, port: u16, etcd_port: u16) -> Process {
    let key = dir.join("service-accounts.key");
    let args = [
        format!("--etcd-servers={}", etcd_url(etcd_port)),
        format!("--cert-dir={}", dir.join("certificates").display()),
        format!("--secure-port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        "--authorization-mode=RBAC".to_owned(),
        format!("--token-auth-file={}", dir.join("tokens.csv").display()),
        format!("--service-account-key-file={}", key.display()),
        format!("--service-account-signing-key-file={}", key.display()),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        // A controller manager would make the tokens of service accounts, and there is none.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        format!("--audit-policy-file={}", dir.join("audit-policy.yaml").display()),
        format!("--audit-log-path={}", dir.join("audit.log").display()),
        // A rotated log would lose requests.
        "--audit-log-maxsize=4096".to_owned(),
    ];
    Process::start(&Tool::KubeApiserver.path(), &args, &dir.join("kube-apiserver.log"))
}

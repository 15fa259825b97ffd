//! A current CRD server: the part of kube-apiserver that stores and validates custom resources. It knows CEL rules and
//! strict field validation, which Kubernetes 1.20 does not.
//!
//! It keeps its objects in the etcd of the test's API server, under a prefix of its own, and asks that server who a user
//! is and what the user may do. It serves no `/api` and no `/apis`, so kubectl can't speak to it, and namespaces need
//! not exist.

use super::{
    apiserver::{ApiServer, PATIENCE},
    process::Process,
    scratch::Scratch,
    tools::{Tool, free_port, from_tools_env},
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Config, ResourceExt,
    api::{Patch, PatchParams},
    runtime::wait::{await_condition, conditions},
};
use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;

/// These admission plugins read objects that Kubernetes 1.20 does not have. With them, the server waits for such objects
/// forever.
const WITHOUT_PLUGINS: &str = "--disable-admission-plugins=NamespaceLifecycle,MutatingAdmissionWebhook,\
     ValidatingAdmissionWebhook,ValidatingAdmissionPolicy,MutatingAdmissionPolicy";

/// A CRD server on a loopback port, killed when the test process ends.
pub struct CrdServer {
    config: Config,
    process: Mutex<Process>,
    /// Holds certificates and the log. Dropped last, as the server writes to it.
    dir: Scratch,
}

impl CrdServer {
    /// The server that all tests of this binary share, with our CRDs. `None` where the program could not be built; a
    /// notice says why.
    pub async fn shared() -> Option<&'static Self> {
        static SHARED: OnceCell<Option<CrdServer>> = OnceCell::const_new();
        let start = async || {
            let Some(program) = Tool::CrdServer.find() else {
                skipped();
                return None;
            };
            let server = Self::start(&program, ApiServer::shared().await).await;
            server.install_crds().await;
            Some(server)
        };
        SHARED.get_or_init(start).await.as_ref()
    }

    async fn start(program: &Path, api: &ApiServer) -> Self {
        // Another process may have taken a free port meanwhile.
        for _ in 0..2 {
            match Self::try_start(program, api).await {
                Ok(server) => return server,
                Err(error) => eprintln!("trying another port: {error}"),
            }
        }
        Self::try_start(program, api)
            .await
            .unwrap_or_else(|error| panic!("{error}"))
    }

    async fn try_start(program: &Path, api: &ApiServer) -> Result<Self, String> {
        let dir = Scratch::new();
        let port = free_port();
        let kubeconfig = api.kubeconfig();
        let mut args = vec![
            format!("--etcd-servers={}", api.etcd_url()),
            "--etcd-prefix=/crd-server".to_owned(),
            format!("--secure-port={port}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--cert-dir={}", dir.path().display()),
            "--authentication-skip-lookup=true".to_owned(),
            "--enable-priority-and-fairness=false".to_owned(),
            WITHOUT_PLUGINS.to_owned(),
        ];
        for of in ["", "authentication-", "authorization-"] {
            args.push(format!("--{of}kubeconfig={}", kubeconfig.display()));
        }
        let process = Process::start(program, &args, &dir.path().join("crd-server.log"));
        let mut config = api.config();
        config.cluster_url = format!("https://127.0.0.1:{port}").parse().unwrap();
        config.root_cert_file = Some(certificate(dir.path()));
        let server = Self {
            config,
            process: Mutex::new(process),
            dir,
        };
        server.ready().await.map(|()| server)
    }

    async fn ready(&self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while let Err(problem) = self.is_ready().await {
            let ended = self.process.lock().unwrap().ended();
            if ended.is_some() || Instant::now() > deadline {
                let log = self.process.lock().unwrap().last_words();
                return Err(format!("the CRD server is not ready ({problem}, {ended:?}):\n{log}"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    async fn is_ready(&self) -> Result<(), String> {
        if !certificate(self.dir.path()).exists() {
            return Err("it has made no certificate".into());
        }
        let mut config = self.config.clone();
        config.default_retry = false;
        let client = Client::try_from(config).map_err(|error| error.to_string())?;
        let request = http::Request::get("/readyz").body(Vec::new()).unwrap();
        let answer = client.request_text(request).await;
        answer.map(|_ok| ()).map_err(|error| error.to_string())
    }

    /// A client that may do everything.
    pub fn client(&self) -> Client {
        Client::try_from(self.config.clone()).unwrap()
    }

    /// Installs our CRDs as `kubectl apply --server-side --validate=strict` does, and returns when they are served.
    async fn install_crds(&self) {
        let api: Api<CustomResourceDefinition> = Api::all(self.client());
        let params = PatchParams::apply("tests").validation_strict();
        for (_, crd) in taskgroup::api::crds() {
            let name = crd.name_any();
            api.patch(&name, &params, &Patch::Apply(&crd)).await.unwrap();
            await_condition(api.clone(), &name, conditions::is_crd_established())
                .await
                .unwrap();
        }
    }
}

fn certificate(dir: &Path) -> PathBuf {
    dir.join("apiserver.crt")
}

/// Says that tests are skipped, past the test runner, which shows only what failed tests print.
fn skipped() {
    let why = from_tools_env("NO_CRD_SERVER").unwrap_or_else(|| "run `tests/cluster/tools crd`".into());
    let notice = format!("\nSKIPPED: the tests against a current CRD server: {why}\n");
    let _ = std::io::stderr().write_all(notice.as_bytes());
}

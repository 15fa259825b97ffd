//! Where the servers' programs lie, and the ports they get.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
};

/// A program that `make tools` provides.
#[derive(Clone, Copy)]
pub enum Tool {
    Etcd,
    KubeApiserver,
    Kubectl,
    NatsServer,
}

impl Tool {
    /// Its key in the environment and in `target/cluster/tools.env`, and its file name.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Etcd => ("ETCD", "etcd"),
            Self::KubeApiserver => ("KUBE_APISERVER", "kube-apiserver"),
            Self::Kubectl => ("KUBECTL", "kubectl"),
            Self::NatsServer => ("NATS_SERVER", "nats-server"),
        }
    }

    /// Its path: from its own environment variable, `KUBEBUILDER_ASSETS`, `make tools`, or `PATH`.
    pub fn path(self) -> PathBuf {
        let (key, file) = self.names();
        let own = env::var_os(key).map(PathBuf::from);
        let assets = || Some(PathBuf::from(env::var_os("KUBEBUILDER_ASSETS")?).join(file));
        let on_path = || {
            let path = env::var_os("PATH")?;
            env::split_paths(&path)
                .map(|dir| dir.join(file))
                .find(|program| program.is_file())
        };
        own.or_else(|| assets().filter(|program| program.is_file()))
            .or_else(|| from_tools_env(key))
            .or_else(on_path)
            .filter(|program| program.is_file())
            .unwrap_or_else(|| panic!("{file} is not here: run `make tools`, or set {key} to its path"))
    }
}

/// What `make tools` wrote down.
fn from_tools_env(key: &str) -> Option<PathBuf> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cluster/tools.env");
    let text = fs::read_to_string(file).ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .map(PathBuf::from)
}

/// A loopback port that nobody listens on now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

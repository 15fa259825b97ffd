//! Finds the programs of the servers, and ports for them.

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
    CrdServer,
    Kubectl,
    NatsServer,
}

impl Tool {
    /// The key in the environment and in `target/cluster/tools.env`, and the file name.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Etcd => ("ETCD", "etcd"),
            Self::KubeApiserver => ("KUBE_APISERVER", "kube-apiserver"),
            Self::CrdServer => ("CRD_SERVER", "apiextensions-apiserver"),
            Self::Kubectl => ("KUBECTL", "kubectl"),
            Self::NatsServer => ("NATS_SERVER", "nats-server"),
        }
    }

    /// Looks for the program in its own environment variable, `KUBEBUILDER_ASSETS`, `make tools`, and `PATH`.
    pub fn find(self) -> Option<PathBuf> {
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
            .or_else(|| from_tools_env(key).map(PathBuf::from))
            .or_else(on_path)
            .filter(|program| program.is_file())
    }

    /// The program's path.
    ///
    /// # Panics
    /// Where [`Tool::find`] finds none.
    pub fn path(self) -> PathBuf {
        let (key, file) = self.names();
        self.find()
            .unwrap_or_else(|| panic!("{file} is not here: run `make tools`, or set {key} to its path"))
    }
}

/// A value that `make tools` wrote down.
pub fn from_tools_env(key: &str) -> Option<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/cluster/tools.env");
    let text = fs::read_to_string(file).ok()?;
    let mut values = text
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.next().filter(|value| !value.is_empty()).map(str::to_owned)
}

/// A loopback port on which nobody listens now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

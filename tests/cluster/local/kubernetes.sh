# shellcheck shell=bash
# Kubernetes' servers. All of them use the administrator's certificate: this cluster has nothing to protect.

start_control_plane() {
  serve etcd etcd --data-dir /var/lib/etcd --listen-client-urls http://127.0.0.1:2379 \
    --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
  serve kube-apiserver kube-apiserver --etcd-servers http://127.0.0.1:2379 \
    --bind-address "$NODE_IP" --advertise-address "$NODE_IP" --secure-port "$API_PORT" \
    --tls-cert-file "$certificates/apiserver.crt" --tls-private-key-file "$certificates/apiserver.key" \
    --client-ca-file "$certificates/ca.crt" --authorization-mode RBAC --allow-privileged \
    --kubelet-client-certificate "$certificates/admin.crt" --kubelet-client-key "$certificates/admin.key" \
    --kubelet-preferred-address-types InternalIP --service-cluster-ip-range "$SERVICE_CIDR" \
    --service-account-key-file "$certificates/service-accounts.key" \
    --service-account-signing-key-file "$certificates/service-accounts.key" \
    --service-account-issuer https://kubernetes.default.svc.cluster.local
  until_answers "$KUBECTL" get --raw /readyz -- etcd kube-apiserver
  say "kube-apiserver is ready"
  serve kube-controller-manager kube-controller-manager --kubeconfig "$KUBECONFIG" --leader-elect=false \
    --bind-address 127.0.0.1 --port 0 --root-ca-file "$certificates/ca.crt" \
    --service-account-private-key-file "$certificates/service-accounts.key"
  serve kube-scheduler kube-scheduler --kubeconfig "$KUBECONFIG" --leader-elect=false --bind-address 127.0.0.1 --port 0
}

start_node_programs() {
  cat >"$LOCAL/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NODE_IP
healthzBindAddress: 127.0.0.1
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $certificates/ca.crt}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP
clusterDNS: [$NODE_IP]
clusterDomain: cluster.local
resolvConf: $LOCAL/resolv.conf
volumePluginDir: /var/lib/kubelet/volume-plugins
maxPods: 250
# The node says that it is ready within a second, not within ten.
nodeStatusUpdateFrequency: 1s
failSwapOn: false
oomScoreAdj: 0
# The machine's disk and memory are not ours to guard, and an image that is thrown away cannot be pulled again.
enforceNodeAllocatable: []
evictionHard: {}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
END
  serve kubelet kubelet --config "$LOCAL/kubelet.yaml" --kubeconfig "$KUBECONFIG" --hostname-override "$NODE_NAME" \
    --node-ip "$NODE_IP" --root-dir /var/lib/kubelet --cert-dir /var/lib/kubelet/pki \
    --container-runtime remote --container-runtime-endpoint unix:///run/containerd/containerd.sock \
    --pod-infra-container-image "$PAUSE_IMAGE"
  # The limits on connections are the machine's, not the node's to change: 0 leaves them.
  serve kube-proxy kube-proxy --kubeconfig "$KUBECONFIG" --hostname-override "$NODE_NAME" --proxy-mode iptables \
    --cluster-cidr "$POD_CIDR" --bind-address "$NODE_IP" --metrics-bind-address 127.0.0.1 --oom-score-adj 0 \
    --conntrack-max-per-core 0 --conntrack-tcp-timeout-established 0s --conntrack-tcp-timeout-close-wait 0s
}

# shellcheck shell=bash
# Keys and certificates of the local cluster: one authority, one certificate for the API server, one for whoever
# administers the cluster (the user, the node's own programs, and the API server towards the kubelet).

# make_certificates DIR
make_certificates() {
  local dir=$1
  mkdir -p "$dir"
  chmod 700 "$dir"
  sign() { openssl x509 -req -sha256 -days 365 -CA "$dir/ca.crt" -CAkey "$dir/ca.key" -CAcreateserial "$@" 2>/dev/null; }
  new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

  new_key "$dir/ca.key"
  openssl req -x509 -new -sha256 -days 365 -key "$dir/ca.key" -subj /CN=taskgroup-test-cluster -out "$dir/ca.crt"

  new_key "$dir/apiserver.key"
  openssl req -new -key "$dir/apiserver.key" -subj /CN=kube-apiserver |
    sign -out "$dir/apiserver.crt" -extfile <(
      echo "subjectAltName=IP:$NODE_IP,IP:$API_SERVICE,IP:127.0.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
    )

  new_key "$dir/admin.key"
  openssl req -new -key "$dir/admin.key" -subj /O=system:masters/CN=admin | sign -out "$dir/admin.crt"

  # Service account tokens: RSA is what every version takes.
  openssl genrsa -out "$dir/service-accounts.key" 2048 2>/dev/null
}

# write_kubeconfig CERTIFICATES FILE: complete in one file.
write_kubeconfig() {
  local encoded=()
  local file
  for file in ca.crt admin.crt admin.key; do encoded+=("$(base64 -w0 "$1/$file")"); done
  (umask 077 && cat >"$2") <<END
apiVersion: v1
kind: Config
clusters:
- name: taskgroup
  cluster: {server: "https://$NODE_IP:$API_PORT", certificate-authority-data: ${encoded[0]}}
users:
- name: admin
  user: {client-certificate-data: ${encoded[1]}, client-key-data: ${encoded[2]}}
contexts:
- name: taskgroup
  context: {cluster: taskgroup, user: admin}
current-context: taskgroup
END
}

# shellcheck shell=bash
# The container runtime and the pods' network.

start_containerd() {
  local snapshotter=overlayfs
  # Inside a container whose own file system is an overlay, overlays cannot be stacked.
  overlay_works || snapshotter=native
  cat >"$LOCAL/containerd.toml" <<END
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
# It would make /opt/containerd.
disabled_plugins = ["io.containerd.internal.v1.opt"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE_IMAGE"
  # A machine without CAP_SYS_RESOURCE may not lower oom_score_adj, and runc fails where it tries to.
  restrict_oom_score_adj = true
  # A loaded profile would stay behind.
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "$snapshotter"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$CNI_PLUGINS"
    conf_dir = "$LOCAL/cni"
END
  mkdir -p "$LOCAL/cni"
  cat >"$LOCAL/cni/bridge.conflist" <<END
{
  "cniVersion": "0.4.0",
  "name": "taskgroup",
  "plugins": [{
    "type": "bridge",
    "bridge": "tg-pods",
    "isGateway": true,
    "hairpinMode": true,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "$POD_CIDR"}]], "routes": [{"dst": "0.0.0.0/0"}]}
  }]
}
END
  serve containerd containerd --config "$LOCAL/containerd.toml"
  until_answers ctr version -- containerd
  say "containerd is up ($snapshotter)"
  ctr -n k8s.io images import --snapshotter "$snapshotter" "$STATE/images/pause.tar" >/dev/null
}

overlay_works() {
  local dir=/var/lib/overlay-probe works=0
  mkdir -p $dir/{lower,upper,work,merged}
  mount -t overlay overlay -o lowerdir=$dir/lower,upperdir=$dir/upper,workdir=$dir/work $dir/merged 2>/dev/null || works=1
  [ $works -ne 0 ] || umount $dir/merged
  rm -rf $dir
  return $works
}

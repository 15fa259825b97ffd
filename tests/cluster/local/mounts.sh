# shellcheck shell=bash
# The node's own view of the file system. What these programs write at fixed places ends up below target/cluster/local.

prepare_mounts() {
  mount -t proc proc /proc
  # Pods' mounts must be seen by containerd and kubelet alike, but never leave the node.
  mount --make-rshared /
  mount --bind "$LOCAL/root/run" /run
  mount --bind "$LOCAL/root/var/lib" /var/lib
  mount --bind "$LOCAL/root/var/log" /var/log
  pin_sysctls
  prepare_cgroups
  echo 1 >/proc/sys/net/ipv4/ip_forward
}

# The kubelet insists on these values, which belong to the whole machine. It is shown them, and the machine keeps its own.
pin_sysctls() {
  local setting value
  while read -r setting value; do
    [ -e "/proc/sys/$setting" ] || continue
    echo "$value" >"$LOCAL/sysctl-${setting//\//-}"
    mount --bind "$LOCAL/sysctl-${setting//\//-}" "/proc/sys/$setting"
  done <<'END'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
END
}

# Pods' control groups lie below one of our own.
prepare_cgroups() {
  local hierarchy
  if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    mkdir -p "/sys/fs/cgroup/$CGROUP"
    local controllers
    controllers=$(sed 's/\([a-z_]*\)/+\1/g' /sys/fs/cgroup/cgroup.controllers)
    echo "$controllers" >/sys/fs/cgroup/cgroup.subtree_control
    echo "$controllers" >"/sys/fs/cgroup/$CGROUP/cgroup.subtree_control"
    return
  fi
  for hierarchy in /sys/fs/cgroup/*/; do
    [ -f "$hierarchy/cgroup.procs" ] || continue
    mkdir -p "$hierarchy/$CGROUP"
    # A new cpuset is empty and would hold no process.
    if [ -f "$hierarchy/cpuset.cpus" ]; then
      cat "$hierarchy/cpuset.cpus" >"$hierarchy/$CGROUP/cpuset.cpus"
      cat "$hierarchy/cpuset.mems" >"$hierarchy/$CGROUP/cpuset.mems"
    fi
  done
}

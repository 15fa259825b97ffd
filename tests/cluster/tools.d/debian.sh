# shellcheck shell=bash
# Debian packages without installing them: apt with lists and settings of its own, and the files unpacked into the
# cache. It needs no root, leaves the machine's own apt alone, and starts no service (Debian's etcd-server would).

SCRATCH=$CACHE/scratch

# The scratch area outlives an interrupted run, so that the next one goes on where it stopped. Deleting it takes long, so
# that other runs get the lock before.
rm_scratch_and_unlock() {
  local finished=$CACHE/finished.$$
  [ ! -d "$SCRATCH" ] || mv "$SCRATCH" "$finished"
  exec 8>&-
  # Also what a killed run left. Another run may be deleting the same. Go marks its module cache read-only.
  chmod -Rf u+w "$CACHE"/finished.* || true
  rm -rf "$CACHE"/finished.* || true
}

# The machine's own mirror of the main archive. A fresh machine has read no lists yet, so that the origin is unknown:
# then the address decides.
debian_mirror() {
  if [ -n "${TASKGROUP_DEBIAN_MIRROR:-}" ]; then
    echo "$TASKGROUP_DEBIAN_MIRROR"
  elif grep -qs '^ID=debian' /etc/os-release; then
    # shellcheck disable=SC2016  # these are apt's variables
    apt-get indextargets --format '$(ORIGIN)/$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
      awk '$1 == "Debian/Debian" || ($1 == "/" && $2 ~ /\/debian\/?$/) { print $2; exit }'
  fi
}

# explain_no_build WHY: why nothing can be built here, and the other ways to a cluster.
explain_no_build() {
  die "$1" \
    "Three other ways:" \
    "  KUBEBUILDER_ASSETS=DIR     a directory with etcd and kube-apiserver (for example from setup-envtest)" \
    "  CLUSTER=existing           a cluster of your own, by KUBECONFIG (for the end-to-end test and the demo)" \
    "  docker and kind on PATH    the end-to-end test and the demo then run in kind"
}

private_apt() {
  local command=$1
  shift
  "$command" -o "Dir::Etc::sourcelist=$SCRATCH/apt/sources.list" -o Dir::Etc::sourceparts=- \
    -o "Dir::State::lists=$SCRATCH/apt/lists" -o "Dir::Cache=$SCRATCH/apt/cache" \
    -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User=root "$@"
}

# debian_source TYPE SUITE: the line of a sources.list, TYPE being deb or deb-src.
debian_source() {
  local mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  have apt-get && have dpkg-deb || explain_no_build "this is no Debian or Ubuntu: there are no Debian packages to build from"
  mirror=$(debian_mirror)
  [ -n "$mirror" ] || explain_no_build "no Debian mirror is known on this machine: set TASKGROUP_DEBIAN_MIRROR to one's URL"
  [ -f "$keyring" ] || with_progress "apt-get install debian-archive-keyring" apt_install debian-archive-keyring >&2
  printf '%s [signed-by=%s] %s %s main\n' "$1" "$keyring" "$mirror" "$2"
}

private_apt_ready() {
  [ ! -f "$SCRATCH/apt/ready" ] || return 0
  mkdir -p "$SCRATCH/apt/lists/partial" "$SCRATCH/apt/cache/archives/partial"
  debian_source deb "$DEBIAN_SUITE" >"$SCRATCH/apt/sources.list"
  debian_source deb-src "$DEBIAN_SUITE" >>"$SCRATCH/apt/sources.list"
  with_progress "reading Debian's package lists ($DEBIAN_SUITE)" private_apt apt-get update
  touch "$SCRATCH/apt/ready"
}

# unpack_debs DIR PACKAGE=VERSION...: unpacks the packages into DIR.
unpack_debs() {
  local dir=$1
  shift
  private_apt_ready
  rm -rf "$SCRATCH/debs"
  mkdir -p "$SCRATCH/debs" "$dir"
  (cd "$SCRATCH/debs" && with_progress "downloading $*" private_apt apt-get download "$@")
  local deb
  for deb in "$SCRATCH"/debs/*.deb; do dpkg-deb -x "$deb" "$dir"; done
}

# publish FILE NAME-VERSION PATH: puts a finished file into the cache in one step.
publish() {
  mkdir -p "$(dirname "$CACHE/$2")"
  cp "$1" "$CACHE/$2.new"
  chmod 755 "$CACHE/$2.new"
  mv "$CACHE/$2.new" "$CACHE/$2"
}

# shellcheck shell=bash
# A current CRD server: the part of kube-apiserver that stores and validates custom resources, with CEL rules and strict
# field validation, which Kubernetes 1.20 lacks. Only Debian sid packages its source, so that is where it is built from.

CRD_SERVER=apiextensions-apiserver
CRD_SERVER_PACKAGE=golang-k8s-apiextensions-apiserver-dev
SID=$SCRATCH/sid

# The tests that need this server are skipped where it cannot be built, so that nothing here ends the script.
set_crd() {
  local program status=0 why=$CACHE/.no-crd-server
  program=$(newest_crd_server)
  if [ -z "$program" ]; then
    rm -f "$why"
    # Not in a condition, where a subshell would ignore its own `set -e`.
    set +e
    (
      set -e
      die() { echo "$1" >"$why"; exit 1; }
      build_crd_server
    )
    status=$?
    set -e
    # Interrupted.
    [ "$status" -lt 129 ] || exit "$status"
    program=$(newest_crd_server)
  fi
  env_set CRD_SERVER "$program"
  env_set NO_CRD_SERVER ""
  [ -z "$program" ] || return 0
  env_set NO_CRD_SERVER "$(cat "$why" 2>/dev/null || echo "it could not be built, look at $STATE/logs")"
  rm -f "$why"
  say "SKIPPED: the tests against a current CRD server: $(env_get NO_CRD_SERVER)"
}

# Sid keeps no old versions. Whatever was built stays in use until CRD_SERVER_MINIMUM is raised.
newest_crd_server() {
  local newest
  newest=$(cd "$CACHE" && printf '%s\n' crd-server-*/"$CRD_SERVER" | sort -V | tail -n1)
  newest=${newest%/*}
  [ ! -x "$CACHE/$newest/$CRD_SERVER" ] || ! version_at_least "${newest#crd-server-}" "$CRD_SERVER_MINIMUM" ||
    echo "$CACHE/$newest/$CRD_SERVER"
}

build_crd_server() {
  local version
  sid_ready
  version=$(sid_apt apt-cache show --no-all-versions "$CRD_SERVER_PACKAGE" 2>/dev/null | sed -n 's/^Version: //p')
  [ -n "$version" ] || die "Debian sid has no package $CRD_SERVER_PACKAGE"
  version_at_least "$version" "$CRD_SERVER_MINIMUM" ||
    die "Debian sid's $CRD_SERVER_PACKAGE is $version, older than $CRD_SERVER_MINIMUM"
  say "to be built, once for this cache: a CRD server of $version; about 3 minutes on 2 cores"
  unpack_crd_server_source "$version"
  with_progress "building the CRD server $version" sid_go build -o "$SID/$CRD_SERVER" -ldflags '-s -w' \
    "k8s.io/$CRD_SERVER"
  publish "$SID/$CRD_SERVER" "crd-server-$version/$CRD_SERVER"
}

# apt with sid's lists and the status of a machine that has nothing installed, so that it names every dependency.
sid_apt() {
  local command=$1
  shift
  "$command" -o "Dir::Etc::sourcelist=$SID/apt/sources.list" -o Dir::Etc::sourceparts=- \
    -o Dir::Etc::preferences=/dev/null -o "Dir::Etc::preferencesparts=$SID/apt/preferences.d" \
    -o "Dir::State=$SID/apt/state" -o "Dir::State::status=$SID/apt/status" -o "Dir::Cache=$SID/apt/cache" \
    -o Acquire::Languages=none -o Acquire::Retries=3 -o APT::Sandbox::User=root -o APT::Install-Recommends=false \
    -o APT::Default-Release= "$@"
}

sid_ready() {
  mkdir -p "$SID/apt/state/lists/partial" "$SID/apt/cache/archives/partial" "$SID/apt/preferences.d"
  : >"$SID/apt/status"
  debian_source deb sid >"$SID/apt/sources.list"
  with_progress "reading Debian's package lists (sid)" sid_apt apt-get update
}

# The Go compiler is among the packages; those of other languages are not needed.
unpack_crd_server_source() {
  local packages deb
  [ ! -f "$SID/root/$1" ] || return 0
  rm -rf "$SID/root" "$SID/debs"
  mkdir -p "$SID/root" "$SID/debs"
  # From "'URL' golang-golang-x-net-dev_1%3a0.62.0-1_all.deb SIZE HASH" to golang-golang-x-net-dev=1:0.62.0-1.
  sid_apt apt-get install -qq --print-uris "$CRD_SERVER_PACKAGE" golang-go >"$SID/packages" ||
    die "the dependencies of Debian sid's $CRD_SERVER_PACKAGE cannot be resolved"
  mapfile -t packages < <(awk '$2 ~ /^golang-/ { split($2, part, "_"); sub("%3a", ":", part[2]); print part[1] "=" part[2] }' "$SID/packages")
  (cd "$SID/debs" && with_progress "downloading ${#packages[@]} packages of Go source" \
    sid_apt apt-get download -qq "${packages[@]}")
  with_progress "unpacking them" unpack_all "$SID/root" "$SID"/debs/*.deb
  rm -rf "$SID/debs"
  touch "$SID/root/$1"
}

unpack_all() {
  local dir=$1 deb
  shift
  for deb in "$@"; do dpkg-deb -x "$deb" "$dir" || return; done
}

sid_go() (
  local goroot
  goroot=$(printf '%s\n' "$SID"/root/usr/lib/go-[0-9]* | sort -V | tail -n1)
  export GOROOT=$goroot GOPATH=$SID/root/usr/share/gocode GOCACHE=$SID/go-build XDG_CONFIG_HOME=$SID/config
  export GO111MODULE=off GOTOOLCHAIN=local GOENV=off GOFLAGS= CGO_ENABLED=0
  "$GOROOT/bin/go" "$@"
)

# shellcheck shell=bash
# Kubernetes' servers, built from Debian's source package with Debian's Go: there is no other place on a machine
# without a container registry.

KUBERNETES_BIN=kubernetes-$KUBERNETES_VERSION-$KUBERNETES_BUILD

# build_kubernetes PROGRAM...: builds what is not in the cache yet, for example: build_kubernetes kube-apiserver
build_kubernetes() {
  local missing=() program
  for program in "$@"; do
    [ -x "$CACHE/$KUBERNETES_BIN/$program" ] || missing+=("$program")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "to be built, once for this cache: ${missing[*]}; on 2 cores about 3 minutes for the first, 10 to 40 s for each other"
  unpack_go
  unpack_kubernetes_source
  replace_reflect2
  allow_empty_strings
  generate_openapi
  local done=0
  for program in "${missing[@]}"; do
    done=$((done + 1))
    with_progress "building $program $KUBERNETES_VERSION ($done of ${#missing[@]})" go_build "$SCRATCH/built-$program" "./cmd/$program"
    publish "$SCRATCH/built-$program" "$KUBERNETES_BIN/$program"
  done
}

unpack_go() {
  GO_DIR=$SCRATCH/go-$GO_VERSION
  [ ! -f "$GO_DIR/ready" ] || return 0
  rm -rf "$GO_DIR"
  unpack_debs "$GO_DIR" "golang-$GO_VERSION-go" "golang-$GO_VERSION-src"
  touch "$GO_DIR/ready"
}

unpack_kubernetes_source() {
  # GOPATH mode: module mode refuses the old go.mod.
  KUBERNETES_TREE=$SCRATCH/gopath/src/k8s.io/kubernetes
  [ ! -f "$KUBERNETES_TREE/.unpacked" ] || return 0
  private_apt_ready
  local version
  # Debian calls 1.20.2 "1.20.5+really1.20.2-1.1+deb12u1".
  version=$(private_apt apt-cache showsrc kubernetes |
    sed -n "s/^Version: \(.*really\)\{0,1\}\($KUBERNETES_VERSION-.*\)/\1\2/p" | sort -V | tail -n1)
  [ -n "$version" ] || explain_no_build "Debian $DEBIAN_SUITE has no source package of Kubernetes $KUBERNETES_VERSION any more"
  rm -rf "$SCRATCH/source" "$KUBERNETES_TREE"
  mkdir -p "$SCRATCH/source" "$(dirname "$KUBERNETES_TREE")"
  (cd "$SCRATCH/source" && with_progress "downloading the source of Kubernetes $version (34 MB)" \
    private_apt apt-get source --download-only "kubernetes=$version")
  have dpkg-source && have patch && have xz || install_package dpkg-source dpkg-dev patch xz-utils
  with_progress "unpacking the source" dpkg-source --no-check -x "$SCRATCH"/source/*.dsc "$SCRATCH/source/tree"
  mv "$SCRATCH/source/tree" "$KUBERNETES_TREE"
  touch "$KUBERNETES_TREE/.unpacked"
}

# The source brings reflect2 1.0.1, which from Go 1.18 on overwrites memory when it walks a map: the API server crashes
# on one custom resource or the other. Debian has the release that knows the newer Go.
replace_reflect2() {
  local package=github.com/modern-go/reflect2 unpacked=$SCRATCH/reflect2
  [ ! -f "$KUBERNETES_TREE/.reflect2" ] || return 0
  unpack_debs "$unpacked" golang-github-modern-go-reflect2-dev
  rm -rf "${KUBERNETES_TREE:?}/vendor/$package"
  cp -r "$unpacked/usr/share/gocode/src/$package" "$KUBERNETES_TREE/vendor/$package"
  touch "$KUBERNETES_TREE/.reflect2"
}

# Go 1.16 made a comparison in this validation of custom resources true that never was: an empty string became a null,
# and was refused. Kubernetes took the comparison out (kube-openapi #230).
allow_empty_strings() {
  local file=$KUBERNETES_TREE/vendor/k8s.io/kube-openapi/pkg/validation/validate/type.go
  sed -i 's/if data == nil || reflect.DeepEqual(.*{$/if data == nil {/' "$file"
  grep -q 'if data == nil {' "$file" || die "$file is not as expected: an API server built from it would refuse empty strings"
}

# The one generated file that the source package lacks.
generate_openapi() {
  local package=k8s.io/kubernetes/pkg/generated/openapi inputs
  local generated=$KUBERNETES_TREE/pkg/generated/openapi/zz_generated.openapi.go
  [ ! -f "$generated" ] || return 0
  with_progress "building the OpenAPI generator" go_build "$SCRATCH/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
  # Capital R: vendor/k8s.io/* are symlinks.
  inputs=$(cd "$KUBERNETES_TREE" &&
    grep -Rl --include='*.go' '+k8s:openapi-gen=' pkg cmd plugin vendor/k8s.io |
    grep -v -e code-generator -e sample-apiserver -e _test.go -e /testdata/ |
      xargs -n1 dirname | sort -u | sed 's|^|k8s.io/kubernetes/|' | paste -sd,)
  with_progress "generating the OpenAPI definitions" in_go_tree "$SCRATCH/openapi-gen" -i "$inputs" -p "$package" \
    -O zz_generated.openapi -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$SCRATCH/openapi-report" \
    -o "$SCRATCH/openapi-output"
  cp "$SCRATCH/openapi-output/$package/zz_generated.openapi.go" "$generated.new"
  mv "$generated.new" "$generated"
}

in_go_tree() (
  cd "$KUBERNETES_TREE"
  export PATH=$GO_DIR/usr/lib/go-$GO_VERSION/bin:$PATH GOROOT=$GO_DIR/usr/lib/go-$GO_VERSION
  export GOPATH=$SCRATCH/gopath GOCACHE=$SCRATCH/go-build GO111MODULE=off GOTOOLCHAIN=local GOFLAGS=
  export CGO_ENABLED=0
  "$@"
)

# The version is stamped in, as clients and the kubelet read it.
go_build() {
  local stamp="-X k8s.io/kubernetes/vendor/k8s.io/component-base/version"
  in_go_tree go build -o "$1" -ldflags "-s -w $stamp.gitVersion=v$KUBERNETES_VERSION $stamp.gitMajor=1 $stamp.gitMinor=20" "$2"
}

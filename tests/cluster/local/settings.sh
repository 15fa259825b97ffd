# shellcheck shell=bash disable=SC2034  # sourced; the variables are used by the scripts that source it
# Names and addresses of the local single-node cluster.

# Everything the cluster writes.
LOCAL=$STATE/local

# The cluster takes 10.197.0.0-10.197.32.3. Where that network is in use, or for a second cluster on one machine:
# TASKGROUP_NET=10.198 make cluster-up. What is up stays with what it was started with.
NET=$(cat "$LOCAL/net" 2>/dev/null || echo "${TASKGROUP_NET:-10.197}")
POD_CIDR=$NET.0.0/20
SERVICE_CIDR=$NET.16.0/20
API_SERVICE=$NET.16.1
# The cable between this machine and the node.
HOST_IP=$NET.32.1
NODE_IP=$NET.32.2
HOST_LINK=tg-${NET/./-}
NODE_LINK=eth0
CGROUP=taskgroup-${NET/./-}

API_PORT=6443
NODE_NAME=taskgroup
PAUSE_IMAGE=localhost/taskgroup-pause:1

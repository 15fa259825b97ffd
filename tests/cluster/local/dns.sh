# shellcheck shell=bash
# The cluster's DNS: dnsmasq, told of every Service that has an address. (Headless Services have no name here.)

start_dns() {
  mkdir -p /run/dns
  # A hangup, by which follow_services has it read the names again, would end it before it is ready for one.
  serve dns sh -c 'trap "" HUP; exec "$@"' sh dnsmasq --keep-in-foreground --no-hosts --addn-hosts=/run/dns --bind-interfaces --listen-address="$NODE_IP" \
    --resolv-file="$LOCAL/resolv.conf" --local=/cluster.local/ --user=root --pid-file= --log-facility=-
  serve dns-services follow_services
}

follow_services() {
  local event namespace name address
  # A watch ends after some time; the next one starts with all Services again.
  while :; do
    "$KUBECTL" get services -A --watch --output-watch-events \
      -o jsonpath='{.type} {.object.metadata.namespace} {.object.metadata.name} {.object.spec.clusterIP}{"\n"}' |
      while read -r event namespace name address; do
        if [ "$event" = DELETED ] || [ "$address" = None ]; then
          rm -f "/run/dns/$namespace.$name"
        else
          printf '%s %s\n' "$address" "$name.$namespace.svc.cluster.local" >"/run/dns/$namespace.$name"
        fi
        kill -HUP "${pid_of[dns]}"
      done || true
    sleep 1
  done
}

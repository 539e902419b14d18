#!/bin/sh
# Makes a Redis Cluster of the nodes named, half of them replicas, and keeps it together: containers that come back may
# have other addresses, and a node looks for the others only where they were.
# usage: keep-cluster.sh NODE...    for ever; needs redis-cli and getent
set -u
trap 'exit 0' TERM INT

address() { getent hosts "$1" | cut -d ' ' -f 1; }
ask() { node=$1; shift; redis-cli -h "$node" "$@" 2>/dev/null; }
state() { ask "$1" cluster info | tr -d '\r' | sed -n "s/^$2://p"; }

for node in "$@"; do
	until [ "$(ask "$node" ping)" = PONG ]; do sleep 1; done
done

if [ "$(state "$1" cluster_slots_assigned)" = 0 ]; then
	echo "making a cluster of $*"
	set -- "$@" --
	for node in "$@"; do
		[ "$node" = -- ] && break
		set -- "$@" "$(address "$node"):6379"
	done
	names=""
	while [ "$1" != -- ]; do names="$names $1"; shift; done
	shift
	redis-cli --cluster create "$@" --cluster-replicas 1 --cluster-yes || exit 1
	# shellcheck disable=SC2086
	set -- $names
fi

known=""
while :; do
	now=$(state "$1" cluster_state)
	if [ "$now" != ok ]; then
		for node in "$@"; do ask "$1" cluster meet "$(address "$node")" 6379 >/dev/null; done
	fi
	[ "$now" = "$known" ] || echo "cluster_state: ${now:-unknown}"
	known=$now
	sleep 5 &
	wait $!
done

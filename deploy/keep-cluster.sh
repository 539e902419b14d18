#!/bin/sh
# Makes a Redis Cluster of the nodes named, half of them replicas, and keeps it together: containers that come back may
# have other addresses, and a node looks for the others only where they were.
# usage: keep-cluster.sh NODE...            for ever; needs redis-cli and getent
#        keep-cluster.sh --check NODE...    status 0 where every slot is served, as one of the nodes tells
set -u
trap 'exit 0' TERM INT

address() { getent hosts "$1" | cut -d ' ' -f 1; }
ask() { node=$1; shift; timeout 3 redis-cli -h "$node" "$@" 2>/dev/null; }
state() { ask "$1" cluster info | tr -d '\r' | sed -n "s/^$2://p"; }

# Without cluster-require-full-coverage a node finds itself well while slots belong to nobody.
is_whole() { [ "$(state "$1" cluster_state)" = ok ] && [ "$(state "$1" cluster_slots_ok)" = 16384 ]; }

first_that_answers() {
	for node in "$@"; do
		if [ "$(ask "$node" ping)" = PONG ]; then echo "$node"; return; fi
	done
}

if [ "$1" = --check ]; then
	shift
	is_whole "$(first_that_answers "$@")"
	exit
fi

until speaker=$(first_that_answers "$@") && [ -n "$speaker" ]; do sleep 1; done

if [ "$(state "$speaker" cluster_slots_assigned)" = 0 ]; then
	for node in "$@"; do
		until [ "$(ask "$node" ping)" = PONG ]; do sleep 1; done
	done
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
	speaker=$(first_that_answers "$@")
	now=broken
	if [ -n "$speaker" ] && is_whole "$speaker"; then now=whole; fi
	if [ "$now" = broken ] && [ -n "$speaker" ]; then
		for node in "$@"; do ask "$speaker" cluster meet "$(address "$node")" 6379 >/dev/null; done
	fi
	[ "$now" = "$known" ] || echo "the cluster is $now"
	known=$now
	sleep 5 &
	wait $!
done

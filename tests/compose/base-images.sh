#!/usr/bin/env bash
# Makes docker-compose.yml testable where no image registry can be reached, as root on Debian: installs a Docker engine and
# compose from Debian's packages, starts the engine where none answers, and provides the base images named: pulled where
# a registry answers, else stand-ins made of Debian's packages under exactly those names. So Dockerfile and
# docker-compose.yml stay what everybody uses.
#
#   base-images.sh python:3.13.15-slim-bookworm redis:7.2.16-bookworm     (python:3.X*, redis:* and valkey/valkey:* names)
#   base-images.sh --clean     removes the stand-ins, and stops the engine if it was started by this script
#
# Stand-ins are Debian bookworm: python:3.X* with that CPython from the machine's pyenv in /usr/local; redis:* and
# valkey/valkey:* with Debian's redis-server, 7.0 whatever the name says, under the official images' names, port, /data
# volume and entry point. Unpacked file systems are kept in COMPOSE_IMAGES_CACHE (/var/cache/compose-images).
set -euo pipefail

cache=${COMPOSE_IMAGES_CACHE:-/var/cache/compose-images}
engine_pid=$cache/dockerd.pid
stand_in=penstock.stand-in
export DEBIAN_FRONTEND=noninteractive

have() { command -v "$1" >/dev/null 2>&1; }

fail() {
  echo "base-images: $1" >&2
  exit 1
}

install_engine() {
  if have dockerd && have docker-compose && have debootstrap; then return; fi
  apt-get update -q >/dev/null
  apt-get install -y -q docker.io docker-compose debootstrap >/dev/null
}

start_engine() {
  if docker info >/dev/null 2>&1; then return; fi
  mkdir -p "$cache"
  setsid dockerd >"$cache/dockerd.log" 2>&1 </dev/null &
  echo $! >"$engine_pid"
  for _ in $(seq 60); do
    if docker info >/dev/null 2>&1; then return; fi
    sleep 0.5
  done
  fail "the engine did not start; see $cache/dockerd.log"
}

clean() {
  # What was built on a stand-in bears its label too; an image goes when what was built on it is gone.
  for _ in 1 2 3 4 5; do
    docker image ls --all --quiet --filter "label=$stand_in" 2>/dev/null | sort -u |
      xargs --no-run-if-empty docker image rm --force >/dev/null 2>&1 || true
  done
  if [ -f "$engine_pid" ]; then
    pid=$(cat "$engine_pid")
    rm "$engine_pid"
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" != dockerd ]; then return; fi
    kill "$pid"
    for _ in $(seq 60); do
      if [ ! -d "/proc/$pid" ]; then return; fi
      sleep 0.5
    done
    fail "the engine, process $pid, did not stop"
  fi
}

root_filesystem() { # name, packages -> path of an unpacked Debian with them
  local root=$cache/$1
  if [ ! -f "$root.done" ]; then
    rm -rf "$root"
    mkdir -p "$cache"
    debootstrap --variant=minbase --include="ca-certificates,$2" bookworm "$root" >"$cache/$1.log" 2>&1
    # Behind a proxy that ends TLS, what the machine trusts.
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    touch "$root.done"
  fi
  echo "$root"
}

python_image() {
  local image=$1 minor prefix root
  local libraries=libssl3,libffi8,libsqlite3-0,libbz2-1.0,liblzma5,libreadline8,zlib1g,libncursesw6,libexpat1,libuuid1
  minor=$(sed -E 's/^python:(3\.[0-9]+).*/\1/' <<<"$image")
  prefix=$(find "${PYENV_ROOT:-$HOME/.pyenv}/versions" -maxdepth 1 -name "$minor.*" 2>/dev/null | sort -V | tail -n 1)
  [ -n "$prefix" ] || fail "no CPython $minor under pyenv for $image"
  root=$(root_filesystem python "$libraries")
  rm -rf "$root/usr/local"
  mkdir -p "$root/usr/local"
  tar -C "$prefix" --exclude='*/test' --exclude='*/__pycache__' --exclude='*.a' -c . | tar -C "$root/usr/local" -x
  ln -sf "python$minor" "$root/usr/local/bin/python3"
  ln -sf python3 "$root/usr/local/bin/python"
  printf '#!/bin/sh\nexec python -m pip "$@"\n' >"$root/usr/local/bin/pip"
  chmod +x "$root/usr/local/bin/pip"
  chroot "$root" ldconfig
  tar -C "$root" -c . | docker import \
    --change "LABEL $stand_in=1" \
    --change 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8' \
    --change 'ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt' \
    --change 'CMD ["python3"]' - "$image" >/dev/null
}

redis_image() {
  local image=$1 root tool
  root=$(root_filesystem redis redis-server,redis-tools)
  for tool in server cli benchmark sentinel; do
    if [ -e "$root/usr/bin/redis-$tool" ]; then
      ln -sf "/usr/bin/redis-$tool" "$root/usr/local/bin/redis-$tool"
      ln -sf "/usr/bin/redis-$tool" "$root/usr/local/bin/valkey-$tool"
    fi
  done
  mkdir -p "$root/data"
  chown 999:999 "$root/data"
  cat >"$root/usr/local/bin/docker-entrypoint.sh" <<'ENTRY'
#!/bin/sh
set -e
if [ "${1#-}" != "$1" ] || [ "${1%.conf}" != "$1" ]; then set -- redis-server "$@"; fi
case " $* " in *" --protected-mode "*|*sentinel*|*cli*) ;; " redis-server "*|" valkey-server "*) set -- "$@" --protected-mode no ;; esac
cd /data
exec "$@"
ENTRY
  chmod +x "$root/usr/local/bin/docker-entrypoint.sh"
  tar -C "$root" -c . | docker import \
    --change "LABEL $stand_in=1" \
    --change 'ENTRYPOINT ["docker-entrypoint.sh"]' --change 'EXPOSE 6379' \
    --change 'ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'VOLUME /data' --change 'WORKDIR /data' --change 'CMD ["redis-server"]' - "$image" >/dev/null
}

[ $# -gt 0 ] || { sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 2; }
if [ "$1" = --clean ]; then
  clean
  exit
fi
install_engine
start_engine
for image in "$@"; do
  if docker image inspect "$image" >/dev/null 2>&1; then continue; fi
  if timeout 120 docker pull --quiet "$image" >/dev/null 2>&1; then continue; fi
  case $image in
    python:3.*) python_image "$image" ;;
    redis:* | valkey/valkey:*) redis_image "$image" ;;
    *) fail "no stand-in for $image" ;;
  esac
done

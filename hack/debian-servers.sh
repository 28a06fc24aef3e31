#!/usr/bin/env bash
# Finds the servers that come from Debian's packages, and installs those that are missing. Without arguments all of
# them: postgres, mariadb, rabbitmq and ldap. Exit code 3: one is not installed and cannot be installed.
set -euo pipefail

# Packages by server. Recommended packages are not needed.
declare -A packages=([postgres]=postgresql [mariadb]=mariadb-server [rabbitmq]=rabbitmq-server [ldap]=slapd)

find_server() {
  local dir
  case $1 in
    postgres)
      for dir in ${POSTGRES_BIN:-} $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV); do
        [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ] && echo "PostgreSQL: $dir" && return
      done
      return 1
      ;;
    mariadb) find_programs MariaDB mariadbd mariadb-install-db ;;
    rabbitmq) [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ] && find_programs RabbitMQ epmd ;;
    ldap) find_programs OpenLDAP slapd ;;
    *) echo "unknown server $1" >&2 && exit 2 ;;
  esac
}

find_programs() {
  local name=$1 program
  shift
  for program in "$@"; do
    PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || return 1
  done
  echo "$name: installed"
}

# Packages must not start servers of their own: those would use the machine's memory, and PostgreSQL's port 5432.
forbid_services() {
  mkdir -p /etc/postgresql-common
  [ -e /etc/postgresql-common/createcluster.conf ] ||
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
  [ -e /usr/sbin/policy-rc.d ] && return
  printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
  chmod +x /usr/sbin/policy-rc.d
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
}

install_packages() {
  command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || return 1
  forbid_services
  export DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1
  local attempt
  for attempt in 1 2 3; do
    echo "installing $* with apt-get (attempt $attempt)" >&2
    if apt-get update -q >&2 && apt-get install -q -y --no-install-recommends "$@" >&2; then
      return 0
    fi
    sleep $((attempt * 5))
  done
  return 1
}

wanted=("$@")
[ $# -gt 0 ] || wanted=(postgres mariadb rabbitmq ldap)
missing=()
for server in "${wanted[@]}"; do
  find_server "$server" >/dev/null || missing+=("${packages[$server]}")
done
[ ${#missing[@]} -eq 0 ] || install_packages "${missing[@]}" || true
for server in "${wanted[@]}"; do
  find_server "$server" && continue
  echo "$server is not installed and could not be installed." >&2
  echo "On Debian, as root: apt-get update && apt-get install ${packages[$server]}" >&2
  [ "$server" != postgres ] || echo "Otherwise, set POSTGRES_BIN to the directory of initdb and postgres." >&2
  exit 3
done

#!/usr/bin/env bash
# Prints the directory of PostgreSQL's server programs, after installing them if necessary. Exit code 3: PostgreSQL is
# not installed and cannot be installed.
set -euo pipefail

find_postgres() {
  local dir
  for dir in ${POSTGRES_BIN:-} $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV); do
    if [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then
      echo "$dir"
      return 0
    fi
  done
  return 1
}

install_postgres() {
  command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || return 1
  # Keep Debian's package from starting a server on port 5432.
  mkdir -p /etc/postgresql-common
  [ -e /etc/postgresql-common/createcluster.conf ] ||
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
  export DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1
  local attempt
  for attempt in 1 2 3; do
    echo "installing PostgreSQL with apt-get (attempt $attempt)" >&2
    if apt-get update -q >&2 && apt-get install -q -y --no-install-recommends postgresql >&2; then
      return 0
    fi
    sleep $((attempt * 5))
  done
  return 1
}

if ! find_postgres && ! { install_postgres && find_postgres; }; then
  echo "PostgreSQL is not installed and could not be installed." >&2
  echo "On Debian, as root: apt-get update && apt-get install postgresql" >&2
  echo "Otherwise, set POSTGRES_BIN to the directory of initdb and postgres." >&2
  exit 3
fi

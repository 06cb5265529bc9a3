#!/bin/sh
# A PostgreSQL server on loopback for the tests, in a folder of its own:
#
#     eval "$(tests/services/postgres.sh start /tmp/bench-postgres)"    sets BENCH_TEST_POSTGRES
#     tests/services/postgres.sh stop /tmp/bench-postgres
#
# Debian: apt-get install postgresql. As root, the server runs as the user `postgres`, which that package makes.
set -eu
what=${1:?start or stop}
folder=${2:?a folder}
port=${3:-54329}
mode=${4:-fast} # of stopping: fast, or immediate, which is a crash
bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1 || true)
if [ -z "$bin" ]; then
    command -v pg_ctl >/dev/null || { echo "PostgreSQL is not installed" >&2; exit 69; }
    bin=$(dirname "$(command -v pg_ctl)")
fi

as_server() {
    if [ "$(id -u)" = 0 ]; then
        (cd / && setpriv --reuid=postgres --regid=postgres --clear-groups "$@")
    else
        "$@"
    fi
}

case $what in
start)
    if [ ! -d "$folder/data" ]; then
        mkdir -p "$folder"
        [ "$(id -u)" != 0 ] || chown postgres "$folder"
        as_server "$bin/initdb" -D "$folder/data" -U bench --auth=trust -E UTF8 >"$folder.initdb.log" 2>&1
    fi
    as_server "$bin/pg_ctl" -D "$folder/data" -l "$folder/server.log" -w \
        -o "-p $port -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off -c max_connections=200" \
        start >&2
    echo "export BENCH_TEST_POSTGRES=postgresql://bench@127.0.0.1:$port/postgres"
    ;;
stop)
    as_server "$bin/pg_ctl" -D "$folder/data" -m "$mode" -w stop >&2
    ;;
*)
    echo "expected start or stop, found $what" >&2
    exit 64
    ;;
esac

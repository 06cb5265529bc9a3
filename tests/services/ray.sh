#!/bin/sh
# A Ray cluster of one node for the tests, with two pretended GPUs, in a folder of its own:
#
#     eval "$(tests/services/ray.sh start /tmp/bench-ray)"    sets BENCH_TEST_RAY and its token
#     tests/services/ray.sh stop /tmp/bench-ray
#
# pip install 'purification-bench[ray]'. `ray stop` would end all of Ray on this machine: this ends its own.
set -eu
what=${1:?start or stop}
folder=${2:?a folder}
port=${3:-26379}
command -v ray >/dev/null || { echo "ray is not installed" >&2; exit 69; }

case $what in
start)
    mkdir -p "$folder"
    RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
    export RAY_AUTH_MODE RAY_AUTH_TOKEN
    ray start --head --block --port="$port" --node-ip-address=127.0.0.1 --num-cpus=4 --num-gpus=2 \
        --include-dashboard=false --object-store-memory=100000000 --disable-usage-stats >"$folder/log" 2>&1 &
    echo $! >"$folder/pid"
    for _ in $(seq 150); do
        ray health-check --address="127.0.0.1:$port" >/dev/null 2>&1 && break
        kill -0 "$(cat "$folder/pid")" 2>/dev/null || { echo "Ray does not start: $folder/log" >&2; exit 1; }
        sleep 0.2
    done
    echo "export BENCH_TEST_RAY=127.0.0.1:$port RAY_AUTH_MODE=$RAY_AUTH_MODE RAY_AUTH_TOKEN=$RAY_AUTH_TOKEN"
    ;;
stop)
    kill "$(cat "$folder/pid")" 2>/dev/null || true
    ;;
*)
    echo "expected start or stop, found $what" >&2
    exit 64
    ;;
esac

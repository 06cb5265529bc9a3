#!/bin/sh
# A Slurm cluster of one node on loopback for the tests, in a folder of its own:
#
#     eval "$(tests/services/slurm.sh start /tmp/bench-slurm)"    sets SLURM_CONF and BENCH_TEST_SLURM
#     tests/services/slurm.sh stop /tmp/bench-slurm
#
# Debian: apt-get install slurm-wlm munge. Needs root, because slurmd does. The node pretends to have 16 cores, so that
# several workers run at once; jobs in the partition `spare` are preempted, and requeued, by those in `main`.
set -eu
what=${1:?start or stop}
folder=${2:?a folder}
port=${3:-26817}
for program in munged slurmctld slurmd sbatch; do
    command -v "$program" >/dev/null || { echo "$program is not installed" >&2; exit 69; }
done

end() { # the process whose number a file holds
    [ -s "$1" ] || return 0
    pid=$(cat "$1")
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    rm -f "$1"
}

case $what in
start)
    [ "$(id -u)" = 0 ] || { echo "slurmd has to be started by root" >&2; exit 77; }
    mkdir -p "$folder/state" "$folder/spool" "$folder/munge"
    chmod 755 "$folder" "$folder/munge"
    node=$(hostname -s)
    [ -s "$folder/munge/key" ] || (umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key")
    munged --force --key-file="$folder/munge/key" --socket="$folder/munge/socket" --pid-file="$folder/munge/pid" \
        --log-file="$folder/munge/log" --seed-file="$folder/munge/seed" >&2
    cat >"$folder/slurm.conf" <<END
ClusterName=bench
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=5,batch_sched_delay=1,bf_interval=5
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
ReturnToService=2
MpiDefault=none
MailProg=/bin/true
NodeName=$node NodeAddr=127.0.0.1 CPUs=16 RealMemory=1024 State=UNKNOWN
PartitionName=main Nodes=$node Default=YES MaxTime=INFINITE State=UP PriorityTier=10
PartitionName=spare Nodes=$node MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
END
    export SLURM_CONF="$folder/slurm.conf"
    slurmctld -c >&2
    slurmd >&2
    for _ in $(seq 100); do
        [ "$(sinfo -h -p main -o %T 2>/dev/null)" = idle ] && break
        sleep 0.2
    done
    [ "$(sinfo -h -p main -o %T)" = idle ] || { echo "the node does not come up: $folder/slurmd.log" >&2; exit 1; }
    echo "export SLURM_CONF=$folder/slurm.conf BENCH_TEST_SLURM=main"
    ;;
stop)
    [ ! -e "$folder/slurm.conf" ] || SLURM_CONF="$folder/slurm.conf" scancel --user="$(id -un)" 2>/dev/null || true
    end "$folder/slurmd.pid"
    end "$folder/slurmctld.pid"
    end "$folder/munge/pid"
    ;;
*)
    echo "expected start or stop, found $what" >&2
    exit 64
    ;;
esac

#!/usr/bin/env bash
# Start Slurm with this machine as its one node, run a command, and end what was started.
#   scripts/slurm_node.sh sinfo
# As root, with Debian's packages: apt-get install --no-install-recommends slurm-wlm munge
# All files lie in a temporary folder; a Slurm or munge that runs already is left alone.
set -euo pipefail
for program in munged slurmctld slurmd sbatch; do
  command -v "$program" >/dev/null || { echo "no $program: apt-get install slurm-wlm munge" >&2; exit 77; }
done
[ "$(id -u)" = 0 ] || { echo "Slurm's daemons need root" >&2; exit 77; }

folder=$(mktemp -d)
started=()
finish() {
  for ((i = ${#started[@]} - 1; i >= 0; i--)); do kill "${started[i]}" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$folder"
}
trap finish EXIT
trap 'exit 143' TERM
chmod 755 "$folder"

mkdir -m 700 "$folder/munge"
mkdir -m 755 "$folder/socket" "$folder/spool" "$folder/state"
head -c 1024 /dev/urandom >"$folder/munge/key"
chmod 600 "$folder/munge/key"
munged --foreground --force --key-file "$folder/munge/key" --socket "$folder/socket/munge" \
  --pid-file "$folder/munge/pid" --seed-file "$folder/munge/seed" --log-file "$folder/munge/log" \
  >/dev/null 2>&1 &
started+=($!)

name=$(hostname -s)
cat >"$folder/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$name(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/socket/munge
SlurmctldPort=36817
SlurmdPort=36818
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
ReturnToService=2
MpiDefault=none
SchedulerParameters=sched_interval=1,batch_sched_delay=1
NodeName=$name NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
PartitionName=main Nodes=$name Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$folder/slurm.conf"
until [ -S "$folder/socket/munge" ]; do sleep 0.1; done
slurmctld -D >"$folder/slurmctld.out" 2>&1 &
started+=($!)
slurmd -D >"$folder/slurmd.out" 2>&1 &
started+=($!)
for _ in $(seq 60); do
  sinfo --noheader --format=%t 2>/dev/null | grep -q idle && break
  sleep 0.5
done
if ! sinfo --noheader --format=%t 2>/dev/null | grep -q idle; then
  echo "Slurm did not start:" >&2
  tail -n 20 "$folder"/*.out "$folder"/*.log >&2
  exit 1
fi
"$@"

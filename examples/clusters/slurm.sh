#!/bin/bash
#SBATCH --job-name=synthmill
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --no-kill
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
# sbatch slurm.sh run synthesize --config /shared/run.yaml --store /shared/store
# Ray starts on every node, synthmill on the first. Five minutes before the time is up it receives what is in flight, seals,
# and ends; the same line again continues from there.
set -euo pipefail

source "${SYNTHMILL_HOME:-/shared/synthmill}/.venv/bin/activate"
HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
IP=$(srun --nodes=1 --ntasks=1 --nodelist="$HEAD" hostname --ip-address | awk '{print $1}')
export IP PORT=6379 RAY_AUTH_MODE=token
ray get-auth-token --generate > /dev/null # into the home folder, which the nodes share: others of the machine stay out

srun --kill-on-bad-exit=0 bash -c '
  if [ "$SLURM_NODEID" = 0 ]; then exec ray start --head --node-ip-address="$IP" --port="$PORT" --block; fi
  for _ in {1..150}; do true 2> /dev/null < "/dev/tcp/$IP/$PORT" && break; sleep 2; done
  exec ray start --address "$IP:$PORT" --block' &
CLUSTER=$!
for _ in {1..150}; do true 2> /dev/null < "/dev/tcp/$IP/$PORT" && break; sleep 2; done

synthmill "$@" --ray-address "$IP:$PORT" &
RUN=$!
trap 'kill -TERM $RUN' TERM
CODE=0
wait $RUN || CODE=$?
while kill -0 $RUN 2> /dev/null; do CODE=0; wait $RUN || CODE=$?; done # the signal ended the first wait only
kill $CLUSTER || true
exit $CODE

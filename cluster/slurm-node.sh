#!/usr/bin/env bash
# One grid on one node of Slurm, or on a part of it:
#
#   sbatch cluster/slurm-node.sh jobs/papers/sa2.yaml s3://lab/sa2
#   sbatch --exclusive --mem=0 --gpus=4 --cpus-per-task=32 cluster/slurm-node.sh jobs/papers/sa2.yaml s3://lab/sa2
#   sbatch --array=1-8 cluster/slurm-node.sh jobs/papers/sa2.yaml s3://lab/sa2     eight parts of nodes, a shard of the grid each
#
# `freqbench run` starts a Ray of its own, which listens on loopback alone, has its own token and takes the cores, memory and
# GPUs that Slurm gives this job: several jobs and users may share a node. Further arguments are those of `freqbench run`.
# Submit with the environment active that has freqbench; OUT is a URI or a folder that the nodes share.
#
# Four minutes before the time limit the run is told to finish what is in flight and to store it, and the job queues itself
# again, as in slurm.sh.
#SBATCH --job-name=freqbench
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus=1
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --output=freqbench-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
# To this script alone: a signal to the whole step would end the workers before their units are done. Not TERM, which says
# that the job was cancelled.
#SBATCH --signal=B:USR1@240
set -euo pipefail

FLUSH_S=200 # what is in flight takes a minute at most

fail() {
  echo "error: $*" >&2
  exit 2
}

[ $# -ge 2 ] || fail "expected JOB and OUT, got '$*': sbatch $0 jobs/papers/sa2.yaml s3://lab/sa2"
job=$1 out=$2
shift 2
[ -f "$job" ] || fail "expected a job file, got '$job': submit from the folder that it is relative to"
command -v python > /dev/null || fail "expected 'python' on PATH, got nothing: activate the environment before sbatch"

shard=()
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  # Arrays begin at 0 or at 1; shards at 1.
  # shellcheck disable=SC2153 # Slurm sets these
  [ $((SLURM_ARRAY_TASK_MAX - SLURM_ARRAY_TASK_MIN + 1)) -eq "$SLURM_ARRAY_TASK_COUNT" ] \
    || fail "expected an array without gaps such as --array=1-8, got $SLURM_ARRAY_TASK_COUNT tasks from $SLURM_ARRAY_TASK_MIN to" \
      "$SLURM_ARRAY_TASK_MAX: submit all of it again, finished shards end at once"
  shard=(--shard "$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN + 1))/$SLURM_ARRAY_TASK_COUNT")
fi

unset RAY_ADDRESS RAY_AUTH_TOKEN
# Of this job alone: what another user's Ray left in /tmp/ray may not be writable.
RAY_TMPDIR=$(mktemp -d "/tmp/freqbench-$SLURM_JOB_ID.XXXXXX")
export RAY_TMPDIR
trap 'rm -rf -- "$RAY_TMPDIR"' EXIT

limit="" stopping=""
python -m freqbench run "$job" --out "$out" "${shard[@]}" "$@" &
driver=$!

# shellcheck disable=SC2329 # by the traps
stop_driver() {
  stopping=yes
  kill -TERM "$driver" 2> /dev/null || true
}
trap 'limit=yes; stop_driver' USR1
trap stop_driver TERM

status=0
wait "$driver" || status=$?
if [ -n "$stopping" ]; then # the wait was cut short
  deadline=$((SECONDS + FLUSH_S))
  while kill -0 "$driver" 2> /dev/null && [ $SECONDS -lt $deadline ]; do sleep 0.2; done
  status=124
  if ! kill -0 "$driver" 2> /dev/null; then
    status=0
    wait "$driver" || status=$?
  fi
fi

# 0: done, 1: done but for failed cells, 2: a mistake in the job, which stays one.
if [ -n "$limit" ] && [ "$status" -gt 2 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

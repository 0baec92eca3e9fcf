#!/usr/bin/env bash
# One grid on the nodes of a Slurm allocation:
#
#   sbatch cluster/slurm.sh jobs/papers/sa2.yaml s3://lab/sa2
#   sbatch --array=1-8 cluster/slurm.sh jobs/papers/sa2.yaml s3://lab/sa2     eight allocations, a shard of the grid each
#
# Further arguments are those of `freqbench run` (--set, --limit-cases). Submit from a folder that all nodes share, with the
# environment active that has freqbench. OUT is a URI or a folder that all nodes share.
#
# Four minutes before the time limit the run is told to finish what is in flight and to store it, and the job queues itself
# again; a lost node makes Slurm queue it again. Either way it goes on where the store ends. A finished run, and one that a
# user's mistake or failed cells ended, is not queued again; nor is one that was cancelled.
#SBATCH --job-name=freqbench
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --output=freqbench-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
# To this script alone: a signal to the whole step would end the workers before their units are done. Not TERM, which says
# that the job was cancelled.
#SBATCH --signal=B:USR1@240
# Whole nodes: `ray symmetric-run` refuses a node that has another Ray, and ends with `ray stop`, which stops all of them.
#SBATCH --exclusive
set -euo pipefail

# What is in flight takes a minute at most, then nodes without a head need another one to notice.
FLUSH_S=200

fail() {
  echo "error: $*" >&2
  exit 2
}

[ $# -ge 2 ] || fail "expected JOB and OUT, got '$*': sbatch $0 jobs/papers/sa2.yaml s3://lab/sa2"
job=$1 out=$2
shift 2
[ -f "$job" ] || fail "expected a job file, got '$job': submit from the folder that it is relative to"
for program in ray python srun scontrol; do
  command -v "$program" > /dev/null || fail "expected '$program' on PATH, got nothing: activate the environment before sbatch"
done

shard=()
if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
  # Arrays begin at 0 or at 1; shards at 1.
  # shellcheck disable=SC2153 # Slurm sets these
  [ $((SLURM_ARRAY_TASK_MAX - SLURM_ARRAY_TASK_MIN + 1)) -eq "$SLURM_ARRAY_TASK_COUNT" ] \
    || fail "expected an array without gaps such as --array=1-8, got $SLURM_ARRAY_TASK_COUNT tasks from $SLURM_ARRAY_TASK_MIN to" \
      "$SLURM_ARRAY_TASK_MAX: submit all of it again, finished shards end at once"
  shard=(--shard "$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN + 1))/$SLURM_ARRAY_TASK_COUNT")
fi

work=$(umask 077 && mktemp -d "$SLURM_SUBMIT_DIR/.freqbench-$SLURM_JOB_ID.XXXXXX")
trap 'rm -rf -- "$work"' EXIT
(umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$work/token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$work/token" RAY_USAGE_STATS_ENABLED=0
# Of this job alone: what another user's Ray left in /tmp/ray may not be writable, or answer for ours.
export RAY_TMPDIR="/tmp/freqbench-$SLURM_JOB_ID"
unset RAY_AUTH_TOKEN RAY_ADDRESS

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${hosts%%$'\n'*}
port=$((20000 + SLURM_JOB_ID % 10000)) # between the ports of Ray's workers and those that Linux gives out by itself

# shellcheck disable=SC2016 # expanded on the nodes
on_node='mkdir -p -m 700 "$RAY_TMPDIR"; trap "rm -rf -- $RAY_TMPDIR" EXIT; "$@"'
# shellcheck disable=SC2016
driver='echo "$$" > "$0" && exec "$@"'
limit="" stopping=""

# shellcheck disable=SC2329 # by the traps
stop_driver() {
  stopping=yes
  # The batch script runs on the first node, as the driver does.
  if [ -s "$work/driver.pid" ]; then kill -TERM "$(cat "$work/driver.pid")" 2> /dev/null || true; fi
}
trap 'limit=yes; stop_driver' USR1
trap stop_driver TERM

srun --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c "$on_node" bash \
  ray symmetric-run --address "$head:$port" --min-nodes "$SLURM_JOB_NUM_NODES" --num-cpus "$SLURM_CPUS_PER_TASK" -- \
  bash -c "$driver" "$work/driver.pid" \
  python -m freqbench run "$job" --address auto --out "$out" "${shard[@]}" "$@" &
step=$!

status=0
wait "$step" || status=$?
if [ -n "$stopping" ]; then # the wait was cut short
  deadline=$((SECONDS + FLUSH_S))
  while kill -0 "$step" 2> /dev/null && [ $SECONDS -lt $deadline ]; do sleep 0.2; done
  status=124
  if ! kill -0 "$step" 2> /dev/null; then
    status=0
    wait "$step" || status=$?
  fi
fi

# 0: done, 1: done but for failed cells, 2: a mistake in the job, which stays one.
if [ -n "$limit" ] && [ "$status" -gt 2 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"

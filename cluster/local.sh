#!/usr/bin/env bash
# Several Ray nodes on this machine (Linux), to try a cluster before renting one.
#
#   cluster/local.sh up [--nodes 4] [--gpus 1] [--cpus 2]   a head and further nodes; each says it has so many cards and cores
#   eval "$(cluster/local.sh env)"                          this shell's `cluster submit` and `run` use it
#   cluster/local.sh status                                 which nodes are alive
#   cluster/local.sh kill N                                 kill -9 of all of node N, as a pre-emption does (1 is the head)
#   cluster/local.sh add                                    one node more
#   cluster/local.sh down                                   all of it is gone
#
# --folder DIR (any command) holds token, logs and pids; clusters in two folders live side by side. PYTHON=... names another
# interpreter than `python`. Everything listens on 127.0.0.1 only and wants the token.
set -euo pipefail

START_S=120
STOP_S=10
OBJECT_STORE_BYTES=$((200 << 20))
# Ray replaces 127.0.0.1 by the host's own address, and then listens on all interfaces. Its switch for systems without
# clusters leaves 127.0.0.1 alone, but refuses further nodes: so it is set for what a node starts, not for its own start.
LAUNCH='
import os, ray._private.services as services
services.resolve_ip_for_localhost = lambda host: host
from ray.scripts.scripts import main
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
main()
'

fail() {
  echo "error: $*" >&2
  exit 2
}

usage() {
  sed -n '4,9s/^#  //p' "$0"
}

main() {
  [ $# -gt 0 ] || { usage >&2; exit 2; }
  local command=$1 nodes=4 gpus=1 cpus=2 number=""
  folder=${TMPDIR:-/tmp}/freqbench-local-$UID
  shift
  while [ $# -gt 0 ]; do
    case $command:$1 in
      up:--nodes) nodes=$(whole "$@") ;;
      up:--gpus) gpus=$(whole "$@") ;;
      up:--cpus) cpus=$(whole "$@") ;;
      *:--folder) [ $# -gt 1 ] || fail "--folder: expected a folder, got nothing"; folder=$2 ;;
      kill:[0-9]*) number=$1; shift; continue ;;
      *) fail "expected an option of '$command', got '$1': see the head of $0" ;;
    esac
    shift 2
  done
  case $folder in /*) ;; *) folder=$PWD/$folder ;; esac
  case $command in
    up) up "$nodes" "$gpus" "$cpus" ;;
    add) require_cluster; require_head; start_node "$(($(cat "$folder/count") + 1))" ;;
    kill) require_cluster; kill_node "$number" ;;
    env) require_cluster; environment ;;
    status) status ;;
    down) down ;;
    help | -h | --help) usage ;;
    *) fail "expected up, env, status, kill, add or down, got '$command'" ;;
  esac
}

whole() {
  [[ ${2:-} =~ ^[0-9]{1,4}$ ]] || fail "$1: expected a whole number, got '${2:-nothing}'"
  echo "$2"
}

require_cluster() {
  [ -f "$folder/mark" ] || fail "expected a cluster in $folder, got none: cluster/local.sh up first"
}

require_head() {
  [ -n "$(processes 1)" ] || fail "expected a head in $folder, got one that is gone: cluster/local.sh down, then up"
}

up() {
  local nodes=$1 node
  [ "$nodes" -ge 1 ] || fail "--nodes: expected 1 or more, got $nodes"
  claim_folder
  write_settings "$2" "$3"
  trap end_processes EXIT
  for ((node = 1; node <= nodes; node++)); do start_node "$node"; done
  trap - EXIT
  echo "$nodes nodes are up, dashboard http://127.0.0.1:$(cat "$folder/dashboard_port") (with the token). Next: eval \"\$($0 env --folder $folder)\""
}

# The folder is made anew, or what is left in it of a cluster that is gone goes.
claim_folder() {
  if [ -f "$folder/mark" ] && [ -n "$(all_processes)" ]; then
    fail "expected no cluster in $folder, got one that is up: cluster/local.sh down --folder $folder, or another --folder"
  fi
  if [ -f "$folder/mark" ]; then clear_folder; fi
  mkdir -p "$folder"
  [ -O "$folder" ] || fail "$folder: expected a folder of yours, got another user's: name another with --folder"
  [ -z "$(ls -A "$folder")" ] || fail "$folder: expected an empty folder, got one with files: name another with --folder"
  chmod 700 "$folder"
  (umask 077 && set -o noclobber && random_hex > "$folder/mark") || fail "$folder: another 'up' is under way"
}

write_settings() {
  local python ports head dashboard client
  python=$(command -v "${PYTHON:-python}") || {
    clear_folder
    fail "expected '${PYTHON:-python}' on PATH, got nothing: activate the environment, or set PYTHON"
  }
  ports=$("$python" - << 'PORTS'
import random
import socket
import sys

try:
    import ray.scripts.scripts
except ImportError as error:
    sys.exit(f"error: expected Ray in {sys.executable}, got {error}: pip install -e '.[cluster]'")
free = []
while len(free) < 3:  # below the ports that Linux gives out by itself, which the nodes take for everything else
    with socket.socket() as candidate:
        port = random.randrange(20_000, 32_000)
        if port not in free and candidate.connect_ex(("127.0.0.1", port)) != 0:
            free.append(port)
print(*free)
PORTS
  ) || {
    clear_folder
    exit 2
  }
  read -r head dashboard client <<< "$ports"
  mkdir "$folder/logs"
  echo "$python" > "$folder/python"
  "$python" -c 'import os, sys; print(os.path.dirname(sys.executable))' > "$folder/bin"
  echo "$head" > "$folder/port"
  echo "$dashboard" > "$folder/dashboard_port"
  echo "$client" > "$folder/client_port"
  echo "$1 $2" > "$folder/resources"
  echo 0 > "$folder/count"
  (umask 077 && random_hex > "$folder/token")
  # Ray's sockets stand no longer path than this.
  mktemp -d /tmp/ray-local.XXXXXX > "$folder/temp"
}

random_hex() {
  od -An -N32 -tx1 /dev/urandom | tr -d ' \n'
}

# One node after the other, as two that start at once may choose the same socket; and again, as Ray gives a node 30 s to be
# seen by the head, which is too little where the machine is busy.
start_node() {
  local attempt
  echo "$1" > "$folder/count"
  for attempt in 1 2 3; do
    launch_node "$1"
    if await_node "$1"; then return; fi
    kill_until_gone processes "$1" || true
    echo "node $1: start $attempt of 3 failed" >&2
  done
  tail -n 3 "$folder/logs/node-$1.log" >&2
  fail "node $1 did not start: the machine may be too busy, or its log knows: $folder/logs/node-$1.log"
}

# A node is a session of its own, and all that it starts carries its mark in the environment.
launch_node() {
  local node=$1 python gpus cpus port bin
  python=$(cat "$folder/python")
  port=$(cat "$folder/port")
  read -r gpus cpus < "$folder/resources"
  local options=(--block --node-ip-address 127.0.0.1 --num-cpus "$cpus" --num-gpus "$gpus"
    --object-store-memory "$OBJECT_STORE_BYTES" --temp-dir "$(cat "$folder/temp")"
    --min-worker-port 0 --max-worker-port 0 --dashboard-agent-listen-port 0 --disable-usage-stats)
  if [ "$node" -eq 1 ]; then
    options+=(--head --port "$port" --dashboard-host 127.0.0.1 --dashboard-port "$(cat "$folder/dashboard_port")"
      --include-dashboard true --ray-client-server-port "$(cat "$folder/client_port")")
  else
    options+=(--address "127.0.0.1:$port" --include-log-monitor false)
  fi
  (
    unset RAY_ADDRESS RAY_API_SERVER_ADDRESS RAY_AUTH_TOKEN RAY_TMPDIR
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$folder/token" RAY_USAGE_STATS_ENABLED=0 RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=1
    export RAY_worker_niceness=0 # the default of 15 starves workers on a machine that does anything else
    bin=$(cat "$folder/bin")
    export PATH="$bin:$PATH" # `python` in a job's entrypoint is this one
    export "$(mark_of "$node")"
    exec setsid "$python" -c "$LAUNCH" start "${options[@]}"
  ) < /dev/null > "$folder/logs/node-$node.log" 2>&1 &
  echo "$!" > "$folder/node-$node.pid"
  disown
}

mark_of() {
  echo "FREQBENCH_LOCAL_NODE=$(cat "$folder/mark")-$1"
}

# Whether node $1 says in its log that it is up.
await_node() {
  local deadline=$((SECONDS + START_S)) leader
  leader=$(cat "$folder/node-$1.pid")
  until grep -qs "Ray runtime started" "$folder/logs/node-$1.log"; do
    if [ ! -d "/proc/$leader" ] || [ $SECONDS -ge $deadline ]; then return 1; fi
    sleep 0.2
  done
}

numbers() {
  find "$folder" -maxdepth 1 -name 'node-*.pid' | sed 's/.*node-\([0-9]*\)\.pid/\1/' | sort -n
}

# What belongs to node $1 and is alive: what carries its mark, and its session, as some of Ray's processes overwrite their
# environment by their title. A session whose number went to somebody else has neither mark nor such titles.
processes() {
  local leader
  leader=$(cat "$folder/node-$1.pid" 2> /dev/null) || return 0
  {
    grep -lzsxF "$(mark_of "$1")" /proc/[0-9]*/environ | cut -d/ -f3 || true
    ps -eo pid=,sid=,args= | awk -v sid="$leader" '$2 == sid && $3 ~ /^ray(::|-dashboard)/ {print $1}'
  } | sort -un | while read -r pid; do
    case $(ps -o stat= -p "$pid") in "" | Z*) ;; *) echo "$pid" ;; esac
  done
}

all_processes() {
  local node
  for node in $(numbers); do processes "$node"; done
}

kill_node() {
  [ -n "$1" ] && [ -f "$folder/node-$1.pid" ] || fail "kill: expected one of the nodes $(numbers | paste -sd' '), got '${1:-nothing}'"
  kill_until_gone processes "$1" || fail "node $1: processes are left: $(processes "$1" | paste -sd' ')"
  rm -f "$folder/node-$1.pid"
}

# Kills what the command given lists, again and again, as what is dying may still start something.
kill_until_gone() {
  local left deadline=$((SECONDS + STOP_S))
  while left=$("$@") && [ -n "$left" ]; do
    # shellcheck disable=SC2086 # several pids
    kill -KILL $left 2> /dev/null || true
    [ $SECONDS -lt $deadline ] || return 1
    sleep 0.1
  done
}

end_processes() {
  local node deadline=$((SECONDS + STOP_S)) leader
  for node in $(numbers | sort -nr); do
    leader=$(cat "$folder/node-$node.pid")
    case $'\n'$(processes "$node")$'\n' in *$'\n'"$leader"$'\n'*) kill -TERM "$leader" 2> /dev/null || true ;; esac
  done
  while [ -n "$(all_processes)" ] && [ $SECONDS -lt $deadline ]; do sleep 0.2; done
  kill_until_gone all_processes || fail "processes are left: $(all_processes | paste -sd' ')"
}

clear_folder() {
  local temp
  temp=$(cat "$folder/temp" 2> /dev/null || true)
  case $temp in /tmp/ray-local.*) rm -rf -- "$temp" ;; esac
  rm -rf -- "$folder/logs"
  rm -f -- "$folder"/{mark,token,python,bin,port,dashboard_port,client_port,resources,count,temp} "$folder"/node-*.pid
}

down() {
  [ -f "$folder/mark" ] || { echo "no cluster in $folder"; return; }
  end_processes
  clear_folder
  rmdir "$folder" 2> /dev/null || true
}

status() {
  local node count alive=0 all=0
  [ -f "$folder/mark" ] || { echo "no cluster in $folder"; exit 1; }
  for node in $(numbers); do
    count=$(processes "$node" | wc -l)
    all=$((all + 1))
    if [ "$count" -gt 0 ]; then alive=$((alive + 1)); fi
    echo "node $node: $([ "$count" -gt 0 ] && echo "alive, $count processes" || echo dead)"
  done
  [ "$all" -gt 0 ] && [ "$alive" -eq "$all" ]
}

environment() {
  printf 'unset RAY_AUTH_TOKEN\n'
  printf 'export %s=%q\n' \
    RAY_ADDRESS "127.0.0.1:$(cat "$folder/port")" \
    RAY_API_SERVER_ADDRESS "http://127.0.0.1:$(cat "$folder/dashboard_port")" \
    RAY_AUTH_MODE token \
    RAY_AUTH_TOKEN_PATH "$folder/token" \
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER 0 \
    RAY_USAGE_STATS_ENABLED 0
}

main "$@"

#!/usr/bin/env bash
# Train on several machines that ssh reaches without a password.
#
#   ssh.sh "node1 node2" 8 /shared/runs/coco yolox-x data.root=/shared/coco-shards
#
# 8 is the number of devices of each machine. All machines see this folder, the output and the data
# under the same paths, and have Oculox installed alike. Ctrl-C saves the state and ends the run.
set -euo pipefail
read -ra hosts <<<"$1"
devices=$2
shift 2
settings=(
  "PET_NNODES=${#hosts[@]}" "PET_NPROC_PER_NODE=$devices"
  "PET_RDZV_ENDPOINT=${hosts[0]}:29400" "PET_RDZV_ID=oculox-$$"
)
script=$(cd "$(dirname "$0")" && pwd)/node.sh
command="cd $(printf %q "$PWD") && exec env $(printf '%q ' "PATH=$PATH" "${settings[@]}" bash "$script" "$@")"
started=()
for host in "${hosts[@]}"; do
  # With a terminal of its own (-tt) the other side ends with this one.
  ssh -tt "$host" "$command" </dev/null &
  started+=("$!")
done
trap 'kill "${started[@]}" 2>/dev/null || true' INT TERM HUP
code=0
for process in "${started[@]}"; do
  wait "$process" || code=$?
done
exit "$code"
